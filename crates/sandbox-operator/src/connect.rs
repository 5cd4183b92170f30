//! The client of the API server.

use std::time::Duration;

use anyhow::Context;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// A client by the kubeconfig at a path, or by what the environment has.
///
/// # Errors
/// When there is no configuration, or it can't be used.
pub async fn client(kubeconfig: Option<&str>) -> anyhow::Result<Client> {
    let mut config = match kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).with_context(|| format!("read {path}"))?;
            let options = KubeConfigOptions::default();
            let config = Config::from_custom_kubeconfig(file, &options).await;
            config.with_context(|| format!("use {path}"))?
        }
        None => Config::infer().await.context(
            "find a cluster: give --kubeconfig, set KUBECONFIG, or run in a Pod with a service account",
        )?,
    };
    // Off: it repeats every request, creations too, for up to a quarter of an hour. The engine has its own pauses.
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(5));
    Client::try_from(config).context("make a client of the API server")
}
