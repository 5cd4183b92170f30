//! TLS and mutual TLS, with certificates that change.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Client, Server, soon};
use crate::config::TlsFiles;
use crate::tls::{Tls, TlsError};

struct Authority(CertifiedIssuer<'static, KeyPair>);

struct Leaf {
    cert: String,
    key: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn leaf(&self) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let cert = params.signed_by(&key, &self.0).unwrap();
        Leaf {
            cert: cert.pem(),
            key: key.serialize_pem(),
        }
    }

    /// A client that trusts this authority and shows `leaf`.
    async fn connect(&self, server: &Server, leaf: Option<&Leaf>) -> std::io::Result<Client> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match leaf {
            None => builder.with_no_client_auth(),
            Some(leaf) => {
                let chain = vec![CertificateDer::from_pem_slice(leaf.cert.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        let socket = TcpStream::connect(server.addr).await?;
        let name = ServerName::try_from("localhost").unwrap();
        let connecting = TlsConnector::from(Arc::new(config)).connect(name, socket);
        soon(connecting).await.map(Client::over)
    }
}

impl Leaf {
    fn write_to(&self, dir: &Path) -> TlsFiles {
        let (cert, key) = (dir.join("tls.crt"), dir.join("tls.key"));
        fs::write(&cert, &self.cert).unwrap();
        fs::write(&key, &self.key).unwrap();
        TlsFiles {
            cert,
            key,
            client_ca: None,
        }
    }
}

async fn start(files: TlsFiles) -> Server {
    let tls = Tls::load(files).unwrap();
    Server::with_tls(|_| {}, Some(Arc::new(tls))).await
}

#[tokio::test]
async fn requests_are_served_over_tls() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let server = start(authority.leaf().write_to(dir.path())).await;
    let mut client = authority.connect(&server, None).await.unwrap();
    assert_eq!(client.ask("GET", "/health", "").await.status, 200);
    assert_eq!(client.ask("POST", "/setTasks", "[]").await.status, 200);
    // Another authority's client does not trust it, and plain HTTP is no TLS.
    assert!(Authority::new().connect(&server, None).await.is_err());
    let mut plain = server.client().await;
    plain.send("GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(!plain.rest().await.contains("HTTP/1.1 200"));
    assert_eq!(client.ask("GET", "/health", "").await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn a_new_certificate_is_used_for_new_connections() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (Authority::new(), Authority::new());
    let server = start(old.leaf().write_to(dir.path())).await;
    let mut before = old.connect(&server, None).await.unwrap();
    assert_eq!(before.ask("GET", "/health", "").await.status, 200);
    new.leaf().write_to(dir.path());
    assert!(old.connect(&server, None).await.is_err());
    let mut after = new.connect(&server, None).await.unwrap();
    assert_eq!(after.ask("GET", "/health", "").await.status, 200);
    assert_eq!(before.ask("GET", "/health", "").await.status, 200);
    // A key of another certificate, no PEM, no file: the last good ones stay in force.
    let spoilers: [&dyn Fn(); 3] = [
        &|| fs::write(dir.path().join("tls.key"), new.leaf().key).unwrap(),
        &|| fs::write(dir.path().join("tls.crt"), "no certificate").unwrap(),
        &|| fs::remove_file(dir.path().join("tls.crt")).unwrap(),
    ];
    for spoil in spoilers {
        spoil();
        assert_eq!(
            new.connect(&server, None)
                .await
                .unwrap()
                .ask("GET", "/health", "")
                .await
                .status,
            200
        );
    }
    old.leaf().write_to(dir.path());
    assert_eq!(
        old.connect(&server, None)
            .await
            .unwrap()
            .ask("GET", "/health", "")
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn mutual_tls_wants_a_certificate_of_the_authority() {
    let dir = tempfile::tempdir().unwrap();
    let (authority, clients) = (Authority::new(), Authority::new());
    let mut files = authority.leaf().write_to(dir.path());
    let ca = dir.path().join("ca.crt");
    fs::write(&ca, clients.0.pem()).unwrap();
    files.client_ca = Some(ca);
    let server = start(files).await;
    let known = clients.leaf();
    let mut client = authority.connect(&server, Some(&known)).await.unwrap();
    assert_eq!(client.ask("GET", "/health", "").await.status, 200);
    let stranger = Authority::new().leaf();
    for leaf in [None, Some(&stranger)] {
        // With TLS 1.3 the client learns of it only when it reads.
        if let Ok(mut client) = authority.connect(&server, leaf).await {
            assert_eq!(client.rest().await, "");
        }
    }
}

#[tokio::test]
async fn a_handshake_that_does_not_come_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let tls = Tls::load(authority.leaf().write_to(dir.path())).unwrap();
    let short = std::time::Duration::from_millis(50);
    let server = Server::with_tls(
        |options| options.timeouts.handshake = short,
        Some(Arc::new(tls)),
    )
    .await;
    let mut client = server.client().await;
    client.send("\x16").await;
    assert_eq!(client.rest().await, "");
}

#[test]
fn bad_files_at_start_are_errors_that_name_them() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let good = authority.leaf().write_to(dir.path());
    let missing = TlsFiles {
        cert: dir.path().join("none"),
        ..good.clone()
    };
    assert!(
        matches!(Tls::load(missing), Err(TlsError::Read { path, .. }) if path.ends_with("none"))
    );
    let no_ca = TlsFiles {
        client_ca: Some(good.key.clone()),
        ..good.clone()
    };
    assert!(
        matches!(Tls::load(no_ca), Err(TlsError::NoCertificate(path)) if path.ends_with("tls.key"))
    );
    fs::write(&good.key, authority.leaf().key).unwrap();
    assert!(matches!(Tls::load(good), Err(TlsError::Pair { .. })));
}
