//! The usage guide, replayed: its requests as they are printed, its answers member by member.

use serde_json::{Value, json};
use testkit::agent::{Agent, PATIENCE, Setup};
use testkit::eventually;

fn agent() -> Agent {
    Setup::new(env!("CARGO_BIN_EXE_task-executor")).start()
}

/// The names of an object's members, in the order of the text.
fn members(value: &Value) -> Vec<&str> {
    let object = value.as_object().expect("an object");
    object.keys().map(String::as_str).collect()
}

/// The one member that an object has.
fn only(value: &Value) -> (&str, &Value) {
    let object = value.as_object().expect("an object");
    assert_eq!(object.len(), 1, "{value}");
    let (name, member) = object.iter().next().expect("one member");
    (name, member)
}

/// Whether a value is a time in RFC 3339, in UTC, as in `2025-12-17T10:00:00Z`.
fn is_time(value: &Value) -> bool {
    let text = value.as_str().unwrap_or_default();
    let shape: String = text
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    shape == "0000-00-00T00:00:00Z"
}

/// Checks that the members of a JSON text come in this order.
fn in_order(text: &str, names: &[&str]) {
    let mut from = 0;
    for name in names {
        let key = format!("\"{name}\":");
        let at = text[from..].find(&key);
        from += at.unwrap_or_else(|| panic!("{name} is missing or out of order in {text}"));
    }
}

/// Section 1 and 2 of the guide's endpoints, and section 3.
#[test]
fn the_first_task_is_created_shown_and_deleted() {
    let agent = agent();
    // What the shell passes on of the guide's first curl.
    let body = r#"{
  "name": "my-first-task",
  "spec": {
    "process": {
      "command": ["sh", "-c"],
      "args": ["echo \"Hello from my task!\" && sleep 5 && echo \"Task finished.\""]
    }
  }
}"#;
    let created = agent.call("POST", "/tasks", body);
    assert_eq!(created.code, 201, "{}", created.text());
    assert_eq!(created.header("content-type"), Some("application/json"));
    in_order(
        &created.text(),
        &[
            "name", "uid", "spec", "process", "command", "args", "status", "state", "waiting",
            "reason",
        ],
    );
    let asked: Value = serde_json::from_str(body).expect("is JSON");
    let task = created.json();
    assert_eq!(members(&task).len(), 4, "{task}");
    assert_eq!(task["name"], "my-first-task");
    assert_eq!(task["spec"], asked["spec"]);
    assert_eq!(
        task["status"],
        json!({"state": {"waiting": {"reason": "Initialized"}}})
    );

    let running = agent.running("my-first-task");
    assert_eq!(running["spec"], asked["spec"]);
    let (state, inside) = only(&running["status"]["state"]);
    assert_eq!(state, "running");
    assert_eq!(members(inside), ["startedAt"]);
    assert!(is_time(&inside["startedAt"]), "{inside}");

    let end = agent.ended("my-first-task");
    assert_eq!(end["exitCode"], 0);
    assert_eq!(end["startedAt"], inside["startedAt"]);
    assert_eq!(
        agent.stdout("my-first-task"),
        "Hello from my task!\nTask finished.\n"
    );

    let deleted = agent.call("DELETE", "/tasks/my-first-task", "");
    assert_eq!((deleted.code, deleted.body.len()), (204, 0));
    agent.gone("my-first-task");
}

/// The same task with the quotes of the JSON example instead of the curl's.
#[test]
fn the_first_task_of_the_json_example_can_be_deleted_while_it_runs() {
    let agent = agent();
    let body = r#"{
      "name": "my-first-task",
      "spec": {
        "process": {
          "command": ["sh", "-c"],
          "args": ["echo 'Hello from my task!' && sleep 5 && echo 'Task finished.'"]
        }
      }
    }"#;
    assert_eq!(agent.call("POST", "/tasks", body).code, 201);
    agent.running("my-first-task");
    assert_eq!(agent.delete("/tasks/my-first-task"), 204);
    agent.gone("my-first-task");
    assert!(!agent.dir().join("my-first-task").exists());
}

/// Sections 4 and 5 of the guide's endpoints.
#[test]
fn two_tasks_are_set_and_listed() {
    let agent = agent();
    let body = r#"[
  {
    "name": "task-alpha",
    "spec": { "process": { "command": ["sleep", "10"] } }
  },
  {
    "name": "task-beta",
    "spec": { "process": { "command": ["ls", "-l", "/tmp"] } }
  }
]"#;
    let set = agent.call("POST", "/setTasks", body);
    assert_eq!(set.code, 200, "{}", set.text());
    let asked: Value = serde_json::from_str(body).expect("is JSON");
    let list = set.json();
    for (index, name) in ["task-alpha", "task-beta"].into_iter().enumerate() {
        assert_eq!(list[index]["name"], name);
        assert_eq!(list[index]["spec"], asked[index]["spec"]);
        let (state, inside) = only(&list[index]["status"]["state"]);
        assert_eq!(
            (state, inside),
            ("waiting", &json!({"reason": "Initialized"}))
        );
    }
    let beta = agent.ended("task-beta");
    assert_eq!(
        (members(&beta).len(), &beta["exitCode"], &beta["reason"]),
        (4, &json!(0), &json!("Succeeded"))
    );
    assert!(is_time(&beta["startedAt"]) && is_time(&beta["finishedAt"]));
    agent.running("task-alpha");
    let listed = agent.call("GET", "/getTasks", "");
    assert_eq!(listed.code, 200);
    in_order(
        &listed.text(),
        &[
            "running",
            "startedAt",
            "terminated",
            "exitCode",
            "reason",
            "startedAt",
            "finishedAt",
        ],
    );
    let list = listed.json();
    assert_eq!(only(&list[0]["status"]["state"]).0, "running");
    assert_eq!(only(&list[1]["status"]["state"]), ("terminated", &beta));
    assert!(!agent.stdout("task-beta").is_empty());
}

#[test]
fn a_set_without_a_task_deletes_it() {
    let agent = agent();
    let both = json!([
        {"name": "task-alpha", "spec": {"process": {"command": ["sleep", "10"]}}},
        {"name": "task-beta", "spec": {"process": {"command": ["ls", "-l", "/tmp"]}}},
    ]);
    assert_eq!(agent.post("/setTasks", &both).0, 200);
    agent.running("task-alpha");
    agent.ended("task-beta");
    assert_eq!(agent.post("/setTasks", &json!([both[1]])).0, 200);
    agent.gone("task-alpha");
    let (_, list) = agent.get("/getTasks");
    assert_eq!(list.as_array().map(Vec::len), Some(1), "{list}");
    assert_eq!(list[0]["name"], "task-beta");
}

#[test]
fn the_empty_agent_is_healthy_and_lists_nothing() {
    let agent = agent();
    let health = agent.call("GET", "/health", "");
    assert_eq!(
        (health.code, health.text().trim_end()),
        (200, r#"{"status":"healthy"}"#)
    );
    let list = agent.call("GET", "/getTasks", "");
    assert_eq!((list.code, list.text().trim_end()), (200, "[]"));
}

/// "Process Task Example", with a script that is there.
#[test]
fn the_process_task_example_gets_its_env_args_and_directory() {
    let agent = agent();
    let place = tempfile::tempdir().expect("a temporary directory");
    let script = place.path().join("my_script.sh");
    std::fs::write(&script, "echo \"$DEBUG_MODE $* $PWD\"\n").expect("writes");
    let process = json!({
        "command": ["sh", "my_script.sh"],
        "args": ["--config", "/etc/app/config.yaml"],
        "env": [{"name": "DEBUG_MODE", "value": "true"}],
        "workingDir": place.path(),
    });
    let created = agent.create("my-process-task", &json!({"process": process}));
    assert_eq!(created["spec"]["process"], process);
    assert_eq!(agent.ended("my-process-task")["reason"], "Succeeded");
    let expected = format!(
        "true --config /etc/app/config.yaml {}\n",
        place.path().display()
    );
    assert_eq!(agent.stdout("my-process-task"), expected);
}

/// "Container Task Example": without its flag it is refused, and the answer names the flag.
#[test]
fn the_container_task_example_is_refused_with_the_flag_that_it_needs() {
    let agent = agent();
    let (code, error) = agent.post(
        "/tasks",
        &json!({
          "name": "my-container-task",
          "spec": {
            "container": {
              "image": "ubuntu:latest",
              "command": ["/bin/bash", "-c"],
              "args": ["apt update && apt install -y curl"],
              "env": [{ "name": "http_proxy", "value": "http://myproxy.com:5758" }],
              "volumeMounts": [{ "name": "data-volume", "mountPath": "/data" }]
            }
          }
        }),
    );
    assert_eq!(code, 400, "{error}");
    let message = error["message"].as_str().unwrap_or_default();
    assert!(message.contains("--enable-container-mode"), "{error}");
    assert_eq!(agent.get("/getTasks").1, json!([]));
}

/// The example scenario's command, in the mode that needs no main container.
#[test]
fn the_namespace_check_lists_namespaces() {
    let agent = agent();
    let body = r#"{
  "name": "sidecar-namespace-check",
  "spec": {
    "process": {
      "command": ["ls", "/proc/self/ns"]
    }
  }
}"#;
    assert_eq!(agent.call("POST", "/tasks", body).code, 201);
    assert_eq!(
        agent.ended("sidecar-namespace-check")["reason"],
        "Succeeded"
    );
    let listed = agent.stdout("sidecar-namespace-check");
    for namespace in ["mnt", "net", "pid", "uts"] {
        assert!(listed.lines().any(|line| line == namespace), "{listed}");
    }
}

/// "Task Status Structure": a task is in exactly one state, and goes through them in order.
#[test]
fn a_task_waits_runs_and_terminates_in_that_order() {
    let agent = agent();
    let task = json!({"name": "t", "spec": {"process": {"command": ["sleep", "0.3"]}}});
    let (_, created) = agent.post("/tasks", &task);
    let order = ["waiting", "running", "terminated"];
    let place = |task: &Value| {
        let (state, _) = only(&task["status"]["state"]);
        order.iter().position(|name| *name == state)
    };
    let mut last = place(&created).expect("a known state");
    eventually("it has terminated", PATIENCE, || {
        let now = place(&agent.get("/tasks/t").1).expect("a known state");
        assert!(now >= last, "a task never goes back");
        last = now;
        (now == 2).then_some(())
    });
}
