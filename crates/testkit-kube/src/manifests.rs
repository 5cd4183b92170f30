//! The project's own manifests, applied as `kubectl apply` does.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::ApiResource;
use kube::{Client, ResourceExt as _};
use serde_json::Value;

/// The directory of the project.
pub fn project() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// The objects of a YAML file with any number of documents.
pub fn read(path: &Path) -> anyhow::Result<Vec<Value>> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text)
        .with_context(|| format!("read {} as YAML", path.display()))?;
    Ok(documents
        .into_iter()
        .filter(|document| !document.is_null())
        .collect())
}

/// Applies objects by server-side apply; those without a namespace go to `namespace` if their kind has any.
pub async fn apply(client: &Client, namespace: &str, objects: Vec<Value>) -> anyhow::Result<()> {
    for value in objects {
        let object: DynamicObject = serde_json::from_value(value).context("read an object")?;
        let types = object.types.clone().context("apiVersion and kind")?;
        let (group, version) = types
            .api_version
            .rsplit_once('/')
            .unwrap_or(("", &types.api_version));
        let gvk = GroupVersionKind::gvk(group, version, &types.kind);
        let resource = ApiResource::from_gvk(&gvk);
        let api: Api<DynamicObject> = match (object.namespace(), types.kind.as_str()) {
            (Some(namespace), _) => Api::namespaced_with(client.clone(), &namespace, &resource),
            (None, "Namespace" | "ClusterRole" | "ClusterRoleBinding") => {
                Api::all_with(client.clone(), &resource)
            }
            (None, _) => Api::namespaced_with(client.clone(), namespace, &resource),
        };
        let name = object.name_any();
        let params = PatchParams::apply("testkit").force();
        let applied = api.patch(&name, &params, &Patch::Apply(&object)).await;
        applied.with_context(|| format!("apply {} {name}", types.kind))?;
    }
    Ok(())
}
