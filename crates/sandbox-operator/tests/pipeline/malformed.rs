//! Objects that make no sense.

use serde_json::json;
use testkit_kube::wait::PATIENCE;

use crate::world::{World, condition};

/// A batch that is as it should be, made and over while others are not.
async fn others_go_on(world: &World<'_>) {
    world.create(world.draft("fine", 2).task("exit 0")).await;
    world.completed("fine", 2, 0).await;
}

#[tokio::test]
async fn a_wrong_task_template_is_told_of_and_goes_on_when_it_is_mended() {
    let Some(world) = World::new(&[]).await else {
        return;
    };
    let wrong = json!({"spec": {"process": {"args": ["no command"]}}});
    let created = world
        .create(world.draft("run", 2).set("spec.taskTemplate", wrong))
        .await;
    let malformed = world.condition("run", "Malformed").await;
    let message = malformed.message.unwrap_or_default();
    assert!(
        message.contains("spec.taskTemplate") && message.contains("command"),
        "{message}"
    );
    world.event(&created, "Malformed").await;
    others_go_on(&world).await;
    world.pods_of("run", 0).await;
    let process = world.draft("run", 2).process("exit 0");
    world
        .patch(
            "run",
            json!({"spec": {"taskTemplate": {"spec": {"process": process}}}}),
        )
        .await;
    let batch = world.completed("run", 2, 0).await;
    assert!(condition(&batch, "Malformed").is_none(), "{batch:?}");
    let told = world.events(&created).await;
    assert_eq!(
        told.iter()
            .filter(|(reason, _)| reason == "Malformed")
            .count(),
        1,
        "{told:?}"
    );
}

#[tokio::test]
async fn a_wrong_patch_of_a_running_batch_leaves_what_runs_alone() {
    let Some(world) = World::new(&[]).await else {
        return;
    };
    let script = "echo x >> $D/started; until test -e $D/go; do sleep 0.02; done";
    world.create(world.draft("run", 2).task(script)).await;
    world
        .status("run", "both run", |status| status.task_running == 2)
        .await;
    let wrong = json!([{"spec": {"containers": [{"image": "has:no-name"}]}}]);
    world
        .patch("run", json!({"spec": {"shardPatches": wrong}}))
        .await;
    let malformed = world.condition("run", "Malformed").await;
    let message = malformed.message.unwrap_or_default();
    assert!(message.contains("spec.shardPatches[0]"), "{message}");
    others_go_on(&world).await;
    world.pods_of("run", 2).await;
    world
        .patch("run", json!({"spec": {"shardPatches": null}}))
        .await;
    world.open("go");
    world.completed("run", 2, 0).await;
    world.has_lines("started", 2).await;
}

#[tokio::test]
async fn a_pod_that_the_api_server_refuses_is_told_of_once_and_goes_on_when_it_is_mended() {
    let Some(world) = World::new(&[]).await else {
        return;
    };
    let draft = world.draft("run", 2).task("exit 0");
    let created = world
        .create(draft.set("spec.template.spec", json!({"containers": []})))
        .await;
    let note = world.event(&created, "FailedCreate").await;
    assert!(note.contains("containers"), "{note}");
    others_go_on(&world).await;
    let spec = json!({"containers": [{"name": "main", "image": "sandbox:test"}]});
    world
        .patch("run", json!({"spec": {"template": {"spec": spec}}}))
        .await;
    world.completed("run", 2, 0).await;
    let told = world.events(&created).await;
    assert_eq!(
        told.iter()
            .filter(|(reason, _)| reason == "FailedCreate")
            .count(),
        1,
        "{told:?}"
    );
}

#[tokio::test]
async fn a_malformed_batch_can_be_deleted_also_in_mid_task() {
    let Some(world) = World::new(&[]).await else {
        return;
    };
    let wrong = json!({"spec": {"process": {"command": "not a list"}}});
    world
        .create(
            world
                .draft("never", 1)
                .set("spec.taskTemplate", wrong.clone()),
        )
        .await;
    let until_stopped = "trap 'echo x >> $D/stopped; exit 0' TERM; while :; do sleep 0.05; done";
    world
        .create(world.draft("later", 2).task(until_stopped))
        .await;
    world
        .status("later", "both run", |status| status.task_running == 2)
        .await;
    world
        .patch("later", json!({"spec": {"taskTemplate": wrong}}))
        .await;
    for name in ["never", "later"] {
        world.condition(name, "Malformed").await;
        world.delete(name).await;
        world.gone(name).await;
        world.pods_of(name, 0).await;
    }
    world.has_lines("stopped", 2).await;
}

#[tokio::test]
async fn a_pod_of_somebody_else_with_the_name_of_ours_is_left_alone_and_told_of() {
    let Some(world) = World::new(&[]).await else {
        return;
    };
    let foreign: k8s_openapi::api::core::v1::Pod = serde_json::from_value(json!({
        "metadata": {"name": "run-0"},
        "spec": {"containers": [{"name": "main", "image": "somebody:else"}]},
    }))
    .unwrap();
    let made = world
        .pods
        .create(&kube::api::PostParams::default(), &foreign)
        .await
        .unwrap();
    let created = world.create(world.draft("run", 2).task("exit 0")).await;
    world.event(&created, "PodNameTaken").await;
    world
        .status("run", "the other is over", |status| {
            status.task_succeed == 1
        })
        .await;
    let still = world.pods.get("run-0").await.unwrap();
    assert_eq!(made.metadata.uid, still.metadata.uid);
    world
        .pods
        .delete("run-0", &kube::api::DeleteParams::default())
        .await
        .unwrap();
    world.completed("run", 2, 0).await;
}

#[tokio::test]
async fn pods_beyond_a_quota_are_told_of_and_made_when_there_is_room() {
    let Some(world) = World::new(&[]).await else {
        return;
    };
    let world = world.may_be_refused();
    let api: kube::Api<k8s_openapi::api::core::v1::ResourceQuota> =
        kube::Api::namespaced(world.client.clone(), &world.namespace);
    let quota = serde_json::from_value(json!({
        "metadata": {"name": "few"}, "spec": {"hard": {"pods": "0"}},
    }));
    let params = kube::api::PostParams::default();
    api.create(&params, &quota.unwrap()).await.unwrap();
    // What holds is in the status, which the controller of quotas would fill.
    let status = json!({"status": {"hard": {"pods": "0"}, "used": {"pods": "0"}}});
    let (merge, status) = (
        kube::api::PatchParams::default(),
        kube::api::Patch::Merge(status),
    );
    api.patch_status("few", &merge, &status).await.unwrap();
    let probe = json!({
        "metadata": {"generateName": "probe-"},
        "spec": {"containers": [{"name": "main", "image": "sandbox:test"}]},
    });
    let probe = serde_json::from_value(probe).unwrap();
    testkit_kube::wait::eventually("it holds", PATIENCE, async || {
        match world.pods.create(&params, &probe).await {
            Err(kube::Error::Api(status)) if status.code == 403 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let created = world.create(world.draft("run", 2).task("exit 0")).await;
    let note = world.event(&created, "FailedCreate").await;
    assert!(note.contains("quota"), "{note}");
    api.delete("few", &kube::api::DeleteParams::default())
        .await
        .unwrap();
    world.completed("run", 2, 0).await;
}
