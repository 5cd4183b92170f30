//! Where etcd and kube-apiserver are. `scripts/kube-assets.sh` decides, here as for people.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

/// The directory with the programs of a control plane.
#[derive(Clone, Debug)]
pub struct Assets(PathBuf);

impl Assets {
    /// Those of `KUBEBUILDER_ASSETS`, else those that `make kube-assets` has built; none when there are none yet.
    ///
    /// # Errors
    /// When `KUBEBUILDER_ASSETS` is set but something is missing there.
    pub fn find() -> anyhow::Result<Option<Self>> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/kube-assets.sh");
        let output = Command::new(script)
            .arg("--path-only")
            .output()
            .with_context(|| script.to_owned())?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim_end());
        }
        let path = String::from_utf8(output.stdout).context("the path of the assets")?;
        let assets = Self(PathBuf::from(path.trim_end()));
        Ok(assets.program("kube-apiserver").is_file().then_some(assets))
    }

    /// The path of one of them.
    pub fn program(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The directory, for a `PATH`.
    pub fn dir(&self) -> &Path {
        &self.0
    }
}
