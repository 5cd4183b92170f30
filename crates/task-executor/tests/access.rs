//! Who may talk to the agent: bearer token, TLS, mutual TLS.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::json;
use testkit::agent::{PATIENCE, Setup, free_address};
use testkit::eventually;
use testkit::http::Client;

const PROGRAM: &str = env!("CARGO_BIN_EXE_task-executor");

fn with_token(dir: &Path, token: &str) -> Setup {
    let file = dir.join("token");
    fs::write(&file, token).expect("writes");
    Setup::new(PROGRAM).flag(format!("--auth-token-file={}", file.display()))
}

#[test]
fn every_endpoint_but_the_probes_needs_the_token() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let agent = with_token(dir.path(), "s3cret\n").token("s3cret").start();
    agent.create("t", &json!({"process": {"command": ["sleep", "1000"]}}));
    let wrong = |token: Option<&str>| {
        let client = Client::new(agent.address());
        match token {
            Some(token) => client.with_token(token),
            None => client,
        }
    };
    for token in [
        None,
        Some("wrong"),
        Some("s3cret1"),
        Some("s3cre"),
        Some(""),
    ] {
        for (method, path) in [
            ("POST", "/tasks"),
            ("GET", "/tasks/t"),
            ("DELETE", "/tasks/t"),
            ("GET", "/tasks/t/logs"),
            ("POST", "/setTasks"),
            ("GET", "/getTasks"),
            ("GET", "/getTasks?watch=true"),
            ("GET", "/capabilities"),
            ("GET", "/metrics"),
            ("GET", "/version"),
            ("GET", "/openapi.json"),
            ("GET", "/nothing"),
            ("PATCH", "/tasks"),
        ] {
            let answer = wrong(token)
                .request(method, path, b"[]")
                .expect("is answered");
            assert_eq!(answer.code, 401, "{method} {path} {token:?}");
            assert_eq!(answer.json()["code"], "Unauthorized");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
            assert!(!answer.text().contains("s3cret"));
        }
        for path in ["/health", "/livez", "/readyz"] {
            let answer = wrong(token).request("GET", path, b"").expect("is answered");
            assert_eq!(answer.code, 200, "{path}");
        }
    }
    let (code, task) = agent.get("/tasks/t");
    assert_eq!((code, task["deletionTimestamp"].is_null()), (200, true));
}

#[test]
fn a_changed_token_takes_effect_without_a_restart() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let agent = with_token(dir.path(), "one").token("two").start();
    let code = |token: &str| {
        let mut client = Client::new(agent.address()).with_token(token);
        client
            .request("GET", "/getTasks", b"")
            .expect("is answered")
            .code
    };
    assert_eq!((code("one"), code("two")), (200, 401));
    // As Kubernetes does it: a new file takes the place of the old one.
    fs::write(dir.path().join("new"), "two\n").expect("writes");
    fs::rename(dir.path().join("new"), dir.path().join("token")).expect("renames");
    assert_eq!((code("one"), code("two")), (401, 200));
    fs::remove_file(dir.path().join("token")).expect("removes");
    assert_eq!((code("one"), code("two")), (401, 200));
}

struct Authority(CertifiedIssuer<'static, KeyPair>);

struct Leaf {
    cert: String,
    key: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("is signed"))
    }

    fn leaf(&self) -> Leaf {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        let cert = params.signed_by(&key, &self.0).expect("is signed");
        Leaf {
            cert: cert.pem(),
            key: key.serialize_pem(),
        }
    }

    /// One request over TLS, from a client that trusts this authority and shows `leaf`.
    fn ask(&self, address: SocketAddr, leaf: Option<&Leaf>, path: &str) -> io::Result<String> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).map_err(io::Error::other)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots);
        let config = match leaf {
            None => builder.with_no_client_auth(),
            Some(leaf) => {
                let cert = CertificateDer::from_pem_slice(leaf.cert.as_bytes());
                let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes());
                builder
                    .with_client_auth_cert(
                        vec![cert.map_err(io::Error::other)?],
                        key.map_err(io::Error::other)?,
                    )
                    .map_err(io::Error::other)?
            }
        };
        let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
        let connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
        let socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut stream = StreamOwned::new(connection, socket);
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }
}

/// An agent that serves TLS, which the fixture's client does not speak. Ended when dropped.
struct Secure {
    init: Child,
    address: SocketAddr,
}

impl Secure {
    fn start(dir: &Path, leaf: &Leaf, client_ca: Option<&Authority>) -> Self {
        write_leaf(dir, leaf);
        let address = free_address();
        let mut command = Command::new(PROGRAM);
        command
            .arg(format!("--data-dir={}", dir.join("tasks").display()))
            .arg(format!("--listen-addr={address}"))
            .arg(format!("--tls-cert-file={}", dir.join("tls.crt").display()))
            .arg(format!("--tls-key-file={}", dir.join("tls.key").display()))
            .stdin(Stdio::null());
        if let Some(authority) = client_ca {
            let file = dir.join("ca.crt");
            fs::write(&file, authority.0.pem()).expect("writes");
            command.arg(format!("--tls-client-ca-file={}", file.display()));
        }
        let init = command.spawn().expect("the agent starts");
        Self { init, address }
    }
}

impl Drop for Secure {
    fn drop(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.init.id()).expect("a pid fits"));
        // It may have ended already, which the wait shows.
        let _ = kill(pid, Signal::SIGTERM);
        self.init.wait().expect("is waited for");
    }
}

fn write_leaf(dir: &Path, leaf: &Leaf) {
    for (name, text) in [("tls.crt", &leaf.cert), ("tls.key", &leaf.key)] {
        fs::write(dir.join("new"), text).expect("writes");
        fs::rename(dir.join("new"), dir.join(name)).expect("renames");
    }
}

#[test]
fn the_api_is_served_over_tls_and_a_new_certificate_is_taken_up() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (old, new) = (Authority::new(), Authority::new());
    let agent = Secure::start(dir.path(), &old.leaf(), None);
    let answer = eventually("TLS is served", PATIENCE, || {
        old.ask(agent.address, None, "/getTasks").ok()
    });
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.contains("[]"),
        "{answer}"
    );
    assert!(new.ask(agent.address, None, "/getTasks").is_err());
    let plain = Client::new(agent.address).request("GET", "/health", b"");
    assert!(plain.is_err(), "{plain:?}");
    write_leaf(dir.path(), &new.leaf());
    let answer = new
        .ask(agent.address, None, "/health")
        .expect("the new one is used");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[test]
fn mutual_tls_lets_only_clients_of_the_authority_in() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (servers, clients) = (Authority::new(), Authority::new());
    let agent = Secure::start(dir.path(), &servers.leaf(), Some(&clients));
    let known = clients.leaf();
    let answer = eventually("TLS is served", PATIENCE, || {
        servers.ask(agent.address, Some(&known), "/getTasks").ok()
    });
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let stranger = Authority::new().leaf();
    for leaf in [None, Some(&stranger)] {
        let answer = servers.ask(agent.address, leaf, "/getTasks");
        assert!(
            answer
                .as_ref()
                .map_or(true, |text| !text.contains("HTTP/1.1")),
            "{answer:?}"
        );
    }
}
