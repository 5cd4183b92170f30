//! A real operator: the program itself, under the role that the project ships.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, Patch, PatchParams};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::ControlPlane;
use crate::loopback;
use crate::manifests;
use crate::process::{Program, Running};
use crate::wait::{PATIENCE, eventually};

/// The user that the shipped role is bound to.
pub const USER: &str = "system:serviceaccount:sandbox-system:sandbox-operator";
/// The namespace of the operator itself.
pub const NAMESPACE: &str = "sandbox-system";

/// Installs what the operator needs to run: its namespace and its roles.
pub async fn install(plane: &ControlPlane) -> anyhow::Result<()> {
    let client = plane.admin().await?;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    let params = PatchParams::apply("testkit").force();
    namespaces
        .patch(NAMESPACE, &params, &Patch::Apply(namespace))
        .await?;
    for file in ["service_account", "role", "role_binding", "leader_election"] {
        let path = manifests::project().join(format!("config/rbac/{file}.yaml"));
        manifests::apply(&client, NAMESPACE, manifests::read(&path)?).await?;
    }
    Ok(())
}

/// A running operator. Dropping it kills it.
#[derive(Debug)]
pub struct Operator {
    program: Program,
    log: PathBuf,
    health: SocketAddr,
    metrics: SocketAddr,
    running: Option<Running>,
}

impl Operator {
    /// Starts the operator's program for a control plane, with more flags, such as `--namespace=x`. What it logs goes
    /// to the end of `log`.
    pub fn start(
        plane: &ControlPlane,
        program: PathBuf,
        flags: &[&str],
        log: PathBuf,
    ) -> anyhow::Result<Self> {
        let groups = [
            "system:serviceaccounts",
            "system:serviceaccounts:sandbox-system",
        ];
        let kubeconfig = plane.kubeconfig_file(USER, &groups)?;
        let (health, metrics) = (free_address()?, free_address()?);
        let program = Program::new("sandbox-operator", program, &log)
            .flag("kubeconfig", kubeconfig)
            .flag("health-addr", health.to_string())
            .flag("metrics-addr", metrics.to_string());
        let mut operator = Self {
            program: flags
                .iter()
                .fold(program, |program, flag| program.arg(*flag)),
            log,
            health,
            metrics,
            running: None,
        };
        operator.launch()?;
        Ok(operator)
    }

    /// Starts it again after it has ended.
    pub fn launch(&mut self) -> anyhow::Result<()> {
        self.running = Some(self.program.start().context("start the operator")?);
        Ok(())
    }

    /// Waits until it says that it is ready.
    pub async fn wait_ready(&self) {
        eventually("the operator is ready", PATIENCE, async || {
            let answer = self.readyz().await;
            answer.map_err(|error| format!("{error:#}; its log: {}", self.log()))
        })
        .await;
    }

    /// What its probe of readiness says; an error with its words unless that is 200.
    pub async fn readyz(&self) -> anyhow::Result<String> {
        self.get(self.health, "/readyz").await
    }

    /// The same of its probe of liveness.
    pub async fn livez(&self) -> anyhow::Result<String> {
        self.get(self.health, "/livez").await
    }

    /// Its metrics as text.
    pub async fn metrics(&self) -> anyhow::Result<String> {
        self.get(self.metrics, "/metrics").await
    }

    /// The body of an answer with code 200.
    async fn get(&self, at: SocketAddr, path: &str) -> anyhow::Result<String> {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::TcpStream::connect(at).await?;
        let request = format!("GET {path} HTTP/1.0\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer);
        tokio::time::timeout(Duration::from_secs(5), read).await??;
        let (head, body) = answer.split_once("\r\n\r\n").context("an answer")?;
        anyhow::ensure!(head.contains(" 200 "), "{path}: {head} {body}");
        Ok(body.to_owned())
    }

    /// Its process id.
    pub fn pid(&self) -> anyhow::Result<Pid> {
        let running = self.running.as_ref().context("the operator runs")?;
        Ok(Pid::from_raw(i32::try_from(running.pid())?))
    }

    /// Sends it a signal, such as SIGSTOP.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(kill(self.pid()?, signal)?)
    }

    /// Kills it, so that it can't do anything in order.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let mut running = self.running.take().context("the operator runs")?;
        running.kill()?;
        Ok(())
    }

    /// Asks it to stop and waits until it has.
    pub async fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        let status = eventually("the operator has ended", PATIENCE, async || {
            self.ended().ok_or("it runs")
        })
        .await;
        self.running = None;
        Ok(status)
    }

    /// Its exit status, if it has ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.running.as_mut()?.wait(Duration::ZERO).ok()?
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        // One that was stopped by SIGSTOP would not follow SIGTERM.
        let _ = self.kill();
    }
}

/// A port that is free, at an address of our own, so that nobody else takes it before it is used.
fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((loopback::address(), 0))?.local_addr()?)
}
