//! Sidecar mode in real containers: a pause container, a main one with one file in its root, and
//! the agent, with one PID namespace for the three, under a containerd of the test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};
use testkit::agent::{PATIENCE, free_address};
use testkit::http::{Answer, Client};
use testkit::{eventually, place};

const PROGRAM: &str = env!("CARGO_BIN_EXE_task-executor");

/// The only file of the main container: sleeps, or tells where it is.
const ONLY: &str = r#"fn main() {
    match std::env::args().nth(1) {
        None => std::thread::sleep(std::time::Duration::from_secs(1_000_000)),
        Some(link) => println!("{}", std::fs::read_link(link).expect("is a link").display()),
    }
}"#;

/// The capabilities of config/samples/sidecar-pod.yaml, and none besides.
const CAPABILITIES: [&str; 8] = [
    "SYS_ADMIN",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SETUID",
    "SETGID",
    "KILL",
    "SETPCAP",
    "CHOWN",
];

/// What `ctr` gives to each container without being asked.
const DEFAULTS: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// A containerd with its own directories and socket. Dropping it ends what it runs, and itself.
struct Containerd {
    dir: PathBuf,
    daemon: Child,
}

impl Containerd {
    fn start(dir: &Path) -> Self {
        let config = format!(
            "version = 2\nroot = \"{0}/root\"\nstate = \"{0}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = \"{0}/socket\"\n",
            dir.display()
        );
        let file = dir.join("config.toml");
        fs::write(&file, config).expect("is written");
        let log = fs::File::create(dir.join("log")).expect("is made");
        let daemon = Command::new("containerd")
            .arg("--config")
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("containerd starts");
        let containerd = Self {
            dir: dir.to_owned(),
            daemon,
        };
        eventually("containerd answers", PATIENCE, || {
            containerd.ctr(&["version"]).status.success().then_some(())
        });
        containerd
    }

    fn ctr(&self, words: &[&str]) -> Output {
        Command::new("ctr")
            .arg("--address")
            .arg(self.dir.join("socket"))
            .args(["--namespace", &namespace()])
            .args(words)
            .stdin(Stdio::null())
            .output()
            .expect("ctr starts")
    }

    /// Starts a container and gives the pid of its process.
    fn run(&self, name: &str, options: &[&str], root: &Path, command: &[&str]) -> String {
        let root = root.to_str().expect("is UTF-8");
        let words = [
            &["run", "-d", "--net-host"],
            options,
            &["--rootfs", root, name],
            command,
        ];
        let output = self.ctr(&words.concat());
        let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        assert!(output.status.success(), "{name}: {output:?}\n{log}");
        let list = self.ctr(&["task", "ls"]).stdout;
        let list = String::from_utf8_lossy(&list).into_owned();
        let mut lines = list.lines().map(|line| line.split_ascii_whitespace());
        let line = lines.find_map(|mut line| (line.next() == Some(name)).then(|| line.next()));
        line.flatten().expect("it is listed").to_owned()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        for name in ["agent", "main", "pause"] {
            // It may not have been started, or have ended.
            self.ctr(&["task", "kill", "--signal", "SIGKILL", name]);
            self.ctr(&["task", "rm", "--force", name]);
            self.ctr(&["container", "rm", name]);
        }
        self.daemon.kill().expect("is killed");
        self.daemon.wait().expect("is reaped");
        // It leaves the groups of its namespace where it found the hierarchies.
        let top = Path::new("/sys/fs/cgroup");
        let hierarchies = fs::read_dir(top).into_iter().flatten().flatten();
        let tops = hierarchies
            .map(|entry| entry.path())
            .chain([top.to_owned()]);
        for group in tops.map(|top| top.join(namespace())) {
            // On most of these there is none.
            let _ = fs::remove_dir(group);
        }
    }
}

/// The name under which containerd keeps what this test starts.
fn namespace() -> String {
    format!("sidecar-test-{}", std::process::id())
}

/// A Pod of three containers: pause, main and agent.
struct Pod {
    containerd: Containerd,
    /// Pid of the main container's process.
    main: String,
    client: Client,
}

impl Pod {
    /// Starts the three; the program of the main container is there already.
    fn start(dir: &Path) -> Self {
        let containerd = Containerd::start(dir);
        let root = dir.join("main-root");
        let pause = containerd.run("pause", &[], &root, &["/only"]);
        let pids = format!("pid:/proc/{pause}/ns/pid");
        let options = ["--with-ns", &pids, "--env", "SANDBOX_MAIN_CONTAINER=main"];
        let main = containerd.run("main", &options, &root, &["/only"]);
        let address = free_address();
        let options = agent_options(dir, &pids);
        let options: Vec<_> = options.iter().map(String::as_str).collect();
        let listen = format!("-listen-addr={address}");
        let command = [
            "/agent/task-executor",
            "-enable-sidecar-mode=true",
            "-main-container-name=main",
            "-data-dir=/data/tasks",
            &listen,
        ];
        containerd.run("agent", &options, &dir.join("agent-root"), &command);
        let mut client = Client::new(address).with_patience(PATIENCE);
        eventually("the agent is ready", PATIENCE, || {
            let answer = client.request("GET", "/readyz", b"").ok()?;
            (answer.code == 200).then_some(())
        });
        Self {
            containerd,
            main,
            client,
        }
    }

    fn call(&mut self, method: &str, path: &str, body: &Value) -> Answer {
        let answer = self
            .client
            .request(method, path, body.to_string().as_bytes());
        answer.unwrap_or_else(|e| panic!("{method} {path} is answered: {e}"))
    }

    fn create(&mut self, name: &str, command: &[&str]) {
        let task = json!({"name": name, "spec": {"process": {"command": command}}});
        let answer = self.call("POST", "/tasks", &task);
        assert_eq!(answer.code, 201, "{}", answer.text());
    }

    fn ended(&mut self, name: &str) -> Value {
        let path = format!("/tasks/{name}?wait=20s");
        let task = self.call("GET", &path, &Value::Null).json();
        task["status"]["state"]["terminated"].clone()
    }
}

fn agent_options(dir: &Path, pids: &str) -> Vec<String> {
    let program = Path::new(PROGRAM).parent().expect("has one");
    let mount = |from: &Path, to: &str, how: &str| {
        let from = from.display();
        format!("type=bind,src={from},dst={to},options=rbind:{how}")
    };
    // What a program that is not static needs of an image.
    let libraries = ["/usr", "/lib", "/lib64"].map(|path| mount(Path::new(path), path, "ro"));
    let own = [
        mount(program, "/agent", "ro"),
        mount(&dir.join("data"), "/data", "rw"),
    ];
    let mut options = vec!["--with-ns".to_owned(), pids.to_owned()];
    for mount in libraries.into_iter().chain(own) {
        options.extend(["--mount".to_owned(), mount]);
    }
    for name in CAPABILITIES {
        options.extend(["--cap-add".to_owned(), format!("CAP_{name}")]);
    }
    for name in DEFAULTS.iter().filter(|name| !CAPABILITIES.contains(name)) {
        options.extend(["--cap-drop".to_owned(), format!("CAP_{name}")]);
    }
    options
}

/// Fills the roots of the containers. False where there is no compiler for that.
fn prepare(dir: &Path) -> bool {
    let source = dir.join("only.rs");
    fs::write(&source, ONLY).expect("is written");
    for root in ["main-root", "agent-root", "data"] {
        fs::create_dir(dir.join(root)).expect("is made");
    }
    let compiled = Command::new("rustc")
        .args(["-C", "target-feature=+crt-static", "-o"])
        .args([&dir.join("main-root/only"), &source])
        .status();
    compiled.is_ok_and(|compiled| compiled.success())
}

#[test]
fn a_task_runs_in_a_real_container_that_holds_nothing_but_its_program() {
    let tools = ["containerd", "ctr", "runc"];
    let works = |tool: &&str| place::need_command(&[tool, "--version"]);
    if !place::need_root() || !tools.iter().all(works) {
        return;
    }
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let dir = temporary.path();
    if !place::need("rustc and a static C library", prepare(dir)) {
        return;
    }
    let mut pod = Pod::start(dir);
    for kind in ["mnt", "pid", "ipc", "uts", "net", "cgroup"] {
        pod.create(kind, &["/only", &format!("/proc/self/ns/{kind}")]);
        let end = pod.ended(kind);
        assert_eq!(end["exitCode"], 0, "{end}");
        let told = fs::read_to_string(dir.join(format!("data/tasks/{kind}/stdout.log")));
        let theirs = fs::read_link(format!("/proc/{}/ns/{kind}", pod.main)).expect("has one");
        assert_eq!(told.expect("reads").trim(), theirs.to_string_lossy());
    }
    for _ in 0..2 {
        pod.create("long", &["/only"]);
        assert_eq!(pod.call("DELETE", "/tasks/long", &Value::Null).code, 204);
        eventually("the task is gone", PATIENCE, || {
            (pod.call("GET", "/tasks/long", &Value::Null).code == 404).then_some(())
        });
    }
    pod.create("long", &["/only"]);
    eventually("the task runs", PATIENCE, || {
        let task = pod.call("GET", "/tasks/long", &Value::Null).json();
        task["status"]["state"]["running"].is_object().then_some(())
    });
    let kill = ["task", "kill", "--signal", "SIGKILL", "main"];
    pod.containerd.ctr(&kill);
    let end = pod.ended("long");
    assert_eq!(end["reason"], "Failed", "{end}");
    let message = end["message"].to_string();
    assert!(message.contains("main container ended"), "{end}");
}
