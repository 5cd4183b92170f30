//! Whether the controller of a Pod is gone, as the garbage collector of Kubernetes decides it: by asking.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, ApiResource, GroupVersionKind, PartialObjectMeta};
use kube::core::DynamicObject;
use kube::{Client, ResourceExt as _};

/// The owner that is the Pod's controller.
pub(super) fn controller(pod: &Pod) -> Option<&OwnerReference> {
    pod.owner_references()
        .iter()
        .find(|owner| owner.controller == Some(true))
}

/// Whether this very owner is no longer there. An owner of a kind that the server does not know is not gone.
pub(super) async fn is_gone(
    client: Client,
    namespace: &str,
    owner: &OwnerReference,
) -> kube::Result<bool> {
    let (group, version) = owner
        .api_version
        .split_once('/')
        .unwrap_or(("", &owner.api_version));
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &owner.kind));
    let api: Api<DynamicObject> = Api::namespaced_with(client, namespace, &kind);
    let found: kube::Result<PartialObjectMeta<DynamicObject>> = api.get_metadata(&owner.name).await;
    match found {
        Ok(found) => Ok(found.uid().as_deref() != Some(&owner.uid)),
        Err(kube::Error::Api(status)) if status.code == 404 => {
            // For an unknown kind it names no object.
            Ok(status
                .details
                .is_some_and(|details| details.name == owner.name))
        }
        Err(error) => Err(error),
    }
}
