//! The certificates and keys of a control plane: whom it trusts, what it shows, who its users are.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::json;

/// The object identifier of the attribute "organization", as numbers.
const ORGANIZATION: [u64; 4] = [2, 5, 4, 10];

/// The authority of one control plane, and the directory with everything that it has signed.
#[derive(Debug)]
pub(crate) struct Authority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    /// Held while a user is made: of two at once, the key of one would get the certificate of the other.
    making: Mutex<()>,
}

impl Authority {
    /// Makes a new one; its certificate is `ca.crt`.
    pub(crate) fn new(dir: &Path) -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        params
            .distinguished_name
            .push(DnType::CommonName, "testkit-kube");
        fs::create_dir_all(dir)?;
        fs::write(dir.join("ca.crt"), params.self_signed(&key)?.pem())?;
        let authority = Self {
            dir: dir.to_owned(),
            issuer: Issuer::new(params, key),
            making: Mutex::new(()),
        };
        authority.make_service_account_key()?;
        Ok(authority)
    }

    /// The path of a file of ours, such as `ca.crt`.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The key that tokens of service accounts are signed with, `sa.key`, and its public half, `sa.pub`.
    fn make_service_account_key(&self) -> anyhow::Result<()> {
        let key = KeyPair::generate()?;
        fs::write(self.file("sa.key"), key.serialize_pem())?;
        fs::write(self.file("sa.pub"), key.public_key_pem())?;
        Ok(())
    }

    /// Makes `server.crt` and `server.key` for a server at this address.
    pub(crate) fn make_server(&self, address: Ipv4Addr) -> anyhow::Result<()> {
        let mut params = CertificateParams::new([address.to_string()])?;
        params
            .distinguished_name
            .push(DnType::CommonName, "kube-apiserver");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign("server", params)
    }

    /// Makes a client certificate for a user and a kubeconfig file that uses it; a second call finds the first's.
    pub(crate) fn kubeconfig(
        &self,
        server: &str,
        user: &str,
        groups: &[&str],
    ) -> anyhow::Result<PathBuf> {
        ensure!(
            groups.len() <= 2,
            "a user of a test has at most two groups, not {groups:?}"
        );
        let stem = file_stem(user, groups);
        let file = self.file(&format!("{stem}.kubeconfig"));
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if file.exists() {
            return Ok(file);
        }
        let mut params = CertificateParams::default();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let name = &mut params.distinguished_name;
        name.push(DnType::CommonName, user);
        // Each type of attribute is there once; the same identifier in numbers counts as another.
        let attributes = [
            DnType::OrganizationName,
            DnType::CustomDnType(ORGANIZATION.to_vec()),
        ];
        for (attribute, group) in attributes.into_iter().zip(groups) {
            name.push(attribute, *group);
        }
        self.sign(&stem, params)?;
        // JSON is YAML too.
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
            "clusters": [{"name": "test", "cluster": {
                "server": server,
                "certificate-authority": self.file("ca.crt"),
            }}],
            "users": [{"name": user, "user": {
                "client-certificate": self.file(&format!("{stem}.crt")),
                "client-key": self.file(&format!("{stem}.key")),
            }}],
        });
        // Whoever finds the file must find all of it.
        let unfinished = tempfile::NamedTempFile::new_in(&self.dir)?;
        fs::write(unfinished.path(), config.to_string())?;
        unfinished
            .persist(&file)
            .context("the kubeconfig gets its name")?;
        Ok(file)
    }

    fn sign(&self, stem: &str, mut params: CertificateParams) -> anyhow::Result<()> {
        let key = KeyPair::generate()?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let certificate = params.signed_by(&key, &self.issuer)?;
        fs::write(self.file(&format!("{stem}.key")), key.serialize_pem())?;
        fs::write(self.file(&format!("{stem}.crt")), certificate.pem())?;
        Ok(())
    }
}

/// A name for the files of a user that no other user has. It has no colon, which separates paths in `KUBECONFIG`.
fn file_stem(user: &str, groups: &[&str]) -> String {
    let all = [&[user], groups].concat().join("+");
    let plain = |letter: char| match letter {
        '/' => '%',
        ':' => '=',
        other => other,
    };
    format!("user-{}", all.chars().map(plain).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_that_many_ask_for_at_once_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new(dir.path()).unwrap();
        let ask = || {
            let file = authority
                .kubeconfig("https://127.0.0.1:1", "u", &["g"])
                .unwrap();
            ["crt", "key"].map(|end| fs::read(file.with_extension(end)).unwrap())
        };
        let all: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..16).map(|_| scope.spawn(ask)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert!(all.iter().all(|one| *one == all[0]));
    }
}
