//! A real control plane: etcd and kube-apiserver as child processes, on loopback addresses of their own.
//!
//! There is no controller-manager and no scheduler: nothing makes service accounts, collects garbage or places Pods,
//! except what [`crate::kubelet`] does. Users are client certificates; RBAC holds for all but `admin`.

pub mod assets;
pub mod audit;
mod pki;
pub mod shared;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{fs, io};

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, GetParams, ObjectMeta, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Client, ResourceExt as _};
use serde_json::json;
use tokio::time::Instant;

use crate::loopback;
use crate::process::{Program, Running};
use crate::workdir::WorkDir;
use assets::Assets;
use audit::Audit;
use pki::Authority;

const ETCD_PORT: u16 = 2379;
const ETCD_PEER_PORT: u16 = 2380;
const API_PORT: u16 = 6443;
/// How long the API server may take to end its requests when it is stopped.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// How a control plane is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// More arguments for kube-apiserver, such as `--feature-gates=…`.
    pub api_server_args: Vec<String>,
    /// How long each start may take.
    pub patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            api_server_args: Vec::new(),
            patience: Duration::from_mins(1),
        }
    }
}

/// A running control plane. Dropping it ends it and removes what it has stored; should that not happen, because it
/// is a static or the process was killed, its processes end with this one and the files go with the next start of one.
#[derive(Debug)]
pub struct ControlPlane {
    // Fields are dropped in this order: the server before its store, the files last.
    api_server: Mutex<Option<Running>>,
    etcd: Mutex<Running>,
    options: Options,
    assets: Assets,
    address: Ipv4Addr,
    authority: Authority,
    dir: WorkDir,
}

impl ControlPlane {
    /// Starts etcd and kube-apiserver and waits until they are ready.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let assets =
            Assets::find()?.context("there is no kube-apiserver: run `make kube-assets`")?;
        let dir = WorkDir::new()?;
        let address = loopback::address();
        let authority = Authority::new(&dir.path().join("pki"))?;
        authority.make_server(address)?;
        let audit_policy = json!({
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived"],
            "rules": [{"level": "Metadata"}],
        });
        fs::write(
            dir.path().join("audit-policy.json"),
            audit_policy.to_string(),
        )?;
        let etcd = etcd(&assets, address, dir.path()).start()?;
        let plane = Self {
            api_server: Mutex::new(None),
            etcd: Mutex::new(etcd),
            options,
            assets,
            address,
            authority,
            dir,
        };
        plane.start_api_server().await?;
        Ok(plane)
    }

    /// A client of `admin`, who may do everything. A client works as long as the runtime that it was made on.
    pub async fn admin(&self) -> anyhow::Result<Client> {
        self.client_as("admin", &["system:masters"]).await
    }

    /// A client of a user with at most two groups; those of a service account, `system:serviceaccount:NS:NAME`, come by
    /// themselves. It repeats no request by itself.
    pub async fn client_as(&self, user: &str, groups: &[&str]) -> anyhow::Result<Client> {
        client_of(&self.kubeconfig_file(user, groups)?).await
    }

    /// A kubeconfig file for the same, for programs.
    pub fn kubeconfig_file(&self, user: &str, groups: &[&str]) -> anyhow::Result<PathBuf> {
        let server = format!("https://{}:{API_PORT}", self.address);
        let account = user
            .strip_prefix("system:serviceaccount:")
            .and_then(|rest| rest.split_once(':'));
        match account {
            Some((namespace, _)) if groups.is_empty() => {
                let of_namespace = format!("system:serviceaccounts:{namespace}");
                let groups = ["system:serviceaccounts", of_namespace.as_str()];
                self.authority.kubeconfig(&server, user, &groups)
            }
            _ => self.authority.kubeconfig(&server, user, groups),
        }
    }

    /// Where the programs are, such as kubectl.
    pub fn assets(&self) -> &Assets {
        &self.assets
    }

    /// Installs the CRDs of `sandbox-api`, or renews them, and waits until they are established.
    pub async fn install_crds(&self) -> anyhow::Result<()> {
        let api: Api<CustomResourceDefinition> = Api::all(self.admin().await?);
        for crd in sandbox_api::crd::all() {
            let name = crd.name_any();
            let params = kube::api::PatchParams::apply("testkit-kube").force();
            api.patch(&name, &params, &kube::api::Patch::Apply(&crd))
                .await
                .with_context(|| name.clone())?;
            let established = await_condition(api.clone(), &name, conditions::is_crd_established());
            let in_time = tokio::time::timeout(self.options.patience, established).await;
            in_time.with_context(|| format!("{name} is not established"))??;
        }
        Ok(())
    }

    /// Makes a namespace that nobody else uses; its name.
    pub async fn temp_namespace(&self) -> anyhow::Result<String> {
        let namespace = Namespace {
            metadata: ObjectMeta {
                generate_name: Some("test-".to_owned()),
                ..ObjectMeta::default()
            },
            ..Namespace::default()
        };
        let api: Api<Namespace> = Api::all(self.admin().await?);
        Ok(api
            .create(&PostParams::default(), &namespace)
            .await?
            .name_any())
    }

    /// What the API server was asked so far. The end of a request may be logged a moment after its answer was seen.
    pub fn audit(&self) -> io::Result<Audit> {
        let log = fs::read(self.dir.path().join("audit.log"))?;
        Ok(Audit::read(&String::from_utf8_lossy(&log)))
    }

    /// Starts the API server, at the same address and on the same data as before, and waits until it is ready.
    pub async fn start_api_server(&self) -> anyhow::Result<()> {
        let program = self.api_server_program();
        *self.api_server() = Some(program.start()?);
        self.wait_ready().await
    }

    /// Stops the API server in an orderly way and waits for its end: connections are refused then.
    pub async fn stop_api_server(&self) -> anyhow::Result<()> {
        let Some(mut running) = self.api_server().take() else {
            return Ok(());
        };
        tokio::task::spawn_blocking(move || running.stop(STOP_PATIENCE)).await??;
        Ok(())
    }

    /// Kills the API server: whatever it was doing is torn off.
    pub fn kill_api_server(&self) -> anyhow::Result<()> {
        if let Some(mut running) = self.api_server().take() {
            running.kill()?;
        }
        Ok(())
    }

    fn api_server(&self) -> MutexGuard<'_, Option<Running>> {
        self.api_server
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn api_server_program(&self) -> Program {
        let dir = self.dir.path();
        let pki = |name: &str| self.authority.file(name);
        let address = self.address.to_string();
        let program = Program::new(
            "kube-apiserver",
            self.assets.program("kube-apiserver"),
            dir.join("kube-apiserver.log"),
        )
        .flag("etcd-servers", url(self.address, ETCD_PORT))
        .flag("bind-address", &address)
        .flag("advertise-address", &address)
        .flag("secure-port", API_PORT.to_string())
        // There is one server, and Endpoints may not hold a loopback address.
        .flag("endpoint-reconciler-type", "none")
        .flag("service-cluster-ip-range", "10.0.0.0/24")
        .flag("cert-dir", dir.join("pki"))
        .flag("tls-cert-file", pki("server.crt"))
        .flag("tls-private-key-file", pki("server.key"))
        .flag("client-ca-file", pki("ca.crt"))
        .flag("service-account-issuer", "https://kubernetes.default.svc")
        .flag("service-account-key-file", pki("sa.pub"))
        .flag("service-account-signing-key-file", pki("sa.key"))
        .flag("authorization-mode", "RBAC")
        // Nothing makes the accounts that this one would ask for.
        .flag("disable-admission-plugins", "ServiceAccount")
        .flag("allow-privileged", "true")
        .flag("audit-policy-file", dir.join("audit-policy.json"))
        .flag("audit-log-path", dir.join("audit.log"))
        // In megabytes: never begin a new file.
        .flag("audit-log-maxsize", "1000000");
        self.options
            .api_server_args
            .iter()
            .fold(program, Program::arg)
    }

    async fn wait_ready(&self) -> anyhow::Result<()> {
        let client = self.admin().await?;
        let end = Instant::now() + self.options.patience;
        loop {
            self.etcd
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .check()?;
            if let Some(running) = self.api_server().as_mut() {
                running.check()?;
            }
            let ready = kube::core::Request::new("").get("readyz", &GetParams::default())?;
            match client.request_text(ready).await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > end => {
                    bail!(
                        "kube-apiserver is not ready within {:?}: {error}",
                        self.options.patience
                    )
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

/// A client that repeats no request by itself: a test wants to see each.
pub(crate) async fn client_of(kubeconfig: &Path) -> anyhow::Result<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let options = KubeConfigOptions::default();
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await?;
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

fn url(address: Ipv4Addr, port: u16) -> String {
    format!("http://{address}:{port}")
}

fn etcd(assets: &Assets, address: Ipv4Addr, dir: &Path) -> Program {
    let (clients, peers) = (url(address, ETCD_PORT), url(address, ETCD_PEER_PORT));
    Program::new("etcd", assets.program("etcd"), dir.join("etcd.log"))
        .flag("name", "test")
        .flag("data-dir", dir.join("etcd"))
        .flag("listen-client-urls", &clients)
        .flag("advertise-client-urls", &clients)
        .flag("listen-peer-urls", &peers)
        .flag("initial-advertise-peer-urls", &peers)
        .flag("initial-cluster", format!("test={peers}"))
        // What it stores need not survive the machine.
        .arg("--unsafe-no-fsync")
}
