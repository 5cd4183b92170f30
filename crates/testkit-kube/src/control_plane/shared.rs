//! One control plane for all tests of a test program.

use tokio::sync::OnceCell;

use super::assets::Assets;
use super::{ControlPlane, Options};

/// The control plane of this process, with our CRDs; started by the first test that asks. It ends with the process.
///
/// None, and a line on standard error, where etcd and kube-apiserver are not built yet: the test is to pass then. Use
/// a namespace and a kubelet of your own, and never stop its API server: other tests use it at the same time.
///
/// # Panics
/// When it can't be started, and with `CI=true` also when the programs are missing.
pub async fn shared() -> Option<&'static ControlPlane> {
    static SHARED: OnceCell<ControlPlane> = OnceCell::const_new();
    if !can_start() {
        return None;
    }
    let plane = SHARED
        .get_or_init(async || {
            let plane = ControlPlane::start(Options::default()).await;
            let plane = plane.unwrap_or_else(|error| panic!("the control plane starts: {error:#}"));
            let installed = plane.install_crds().await;
            installed.unwrap_or_else(|error| panic!("the CRDs are installed: {error:#}"));
            plane
        })
        .await;
    Some(plane)
}

/// Whether a control plane can be started here; says so where it can't.
///
/// # Panics
/// When `KUBEBUILDER_ASSETS` is set but incomplete, and with `CI=true` when the programs are missing.
pub fn can_start() -> bool {
    let found = Assets::find().unwrap_or_else(|error| panic!("{error:#}"));
    if found.is_some() {
        return true;
    }
    let needed =
        "it needs etcd and kube-apiserver: run `make kube-assets`, which takes minutes once";
    let on_build_machine = std::env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(!on_build_machine, "{needed}");
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    crate::tell(&format!("SKIPPED {test}: {needed}"));
    false
}
