//! A control plane comes up, knows its users, keeps its data over a restart, and counts what it is asked.

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::Api;
use kube::api::{ListParams, ObjectMeta, PostParams};
use testkit_kube::control_plane::shared::can_start;
use testkit_kube::wait::{PATIENCE, eventually};
use testkit_kube::{ControlPlane, Options, shared};

fn config_map(name: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        ..ConfigMap::default()
    }
}

#[tokio::test]
async fn data_outlives_a_stop_and_a_kill_of_the_api_server() {
    if !can_start() {
        return;
    }
    let plane = ControlPlane::start(Options::default()).await.unwrap();
    let client = plane.admin().await.unwrap();
    let api: Api<ConfigMap> = Api::namespaced(client, "default");
    api.create(&PostParams::default(), &config_map("kept"))
        .await
        .unwrap();

    plane.stop_api_server().await.unwrap();
    api.get("kept").await.expect_err("nobody answers");
    plane.start_api_server().await.unwrap();
    api.get("kept").await.unwrap();

    plane.kill_api_server().unwrap();
    api.get("kept").await.expect_err("nobody answers");
    plane.start_api_server().await.unwrap();
    api.get("kept").await.unwrap();
}

#[tokio::test]
async fn a_service_account_is_known_by_its_name_and_may_do_nothing_by_default() {
    let Some(plane) = shared().await else { return };
    let user = "system:serviceaccount:sandbox-system:sandbox-operator";
    let client = plane.client_as(user, &[]).await.unwrap();
    let pods: Api<Pod> = Api::all(client);
    let error = pods
        .list(&ListParams::default())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("forbidden") && error.contains(user),
        "{error}"
    );
}

#[tokio::test]
async fn requests_are_counted_by_user_verb_and_resource() {
    let Some(plane) = shared().await else { return };
    let namespace = plane.temp_namespace().await.unwrap();
    let client = plane
        .client_as("counted", &["system:masters"])
        .await
        .unwrap();
    let api: Api<ConfigMap> = Api::namespaced(client, &namespace);
    let before = plane.audit().unwrap();
    for name in ["a", "b", "c"] {
        api.create(&PostParams::default(), &config_map(name))
            .await
            .unwrap();
    }
    api.list(&ListParams::default()).await.unwrap();
    eventually(
        "three writes and one read are counted",
        PATIENCE,
        async || {
            let audit = plane
                .audit()
                .unwrap()
                .since(&before)
                .of_user("counted")
                .in_namespace(&namespace);
            let creates = audit.count("counted", "create", "configmaps");
            let lists = audit.count("counted", "list", "configmaps");
            let all = audit.requests().len();
            ((creates, lists, all) == (3, 1, 4))
                .then_some(())
                .ok_or(audit)
        },
    )
    .await;
}
