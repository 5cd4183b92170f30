//! A real agent: the program itself, on a free loopback port, with its own data directory.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::eventually;
use crate::http::{Answer, Client};

/// How long a test waits for anything before it fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What is to be started.
#[derive(Debug, Clone)]
pub struct Setup {
    program: PathBuf,
    flags: Vec<OsString>,
    env: Vec<(String, String)>,
    wrapper: Vec<OsString>,
    dir: Option<PathBuf>,
    place: Option<PathBuf>,
    token: Option<String>,
    log: Option<PathBuf>,
}

impl Setup {
    /// The agent at `program`, with no flags but those that every test needs.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            flags: Vec::new(),
            env: Vec::new(),
            wrapper: Vec::new(),
            dir: None,
            place: None,
            token: None,
            log: None,
        }
    }

    /// The agent that was built beside the test which is running. Cargo builds it by itself only
    /// for the tests of its own crate.
    pub fn built() -> Self {
        let test = std::env::current_exe().expect("a test has a path");
        // The test is target/debug/deps/NAME-HASH, the agent target/debug/task-executor.
        let beside = |dir: &Path| dir.join("task-executor");
        let program = test.ancestors().skip(1).take(2).map(beside);
        let found = program.into_iter().find(|program| program.is_file());
        Self::new(found.expect("build the agent first: cargo build -p task-executor"))
    }

    /// Adds a flag, such as `--max-tasks=3`.
    #[must_use]
    pub fn flag(mut self, flag: impl Into<OsString>) -> Self {
        self.flags.push(flag.into());
        self
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs the agent by way of another program, such as `unshare --pid --fork`.
    #[must_use]
    pub fn wrapper<S: Into<OsString>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.wrapper = words.into_iter().map(Into::into).collect();
        self
    }

    /// Uses this data directory instead of a temporary one; it is not removed.
    #[must_use]
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Makes the temporary data directory below this one, for the sake of its file system.
    #[must_use]
    pub fn place(mut self, place: impl Into<PathBuf>) -> Self {
        self.place = Some(place.into());
        self
    }

    /// The bearer token that this agent asks for.
    #[must_use]
    pub fn token(mut self, token: &str) -> Self {
        self.token = Some(token.to_owned());
        self
    }

    /// Appends the agent's own log to this file instead of the test's standard error.
    #[must_use]
    pub fn log(mut self, file: impl Into<PathBuf>) -> Self {
        self.log = Some(file.into());
        self
    }

    /// Starts the agent and waits until it is healthy.
    pub fn start(self) -> Agent {
        let place = self.place.clone().unwrap_or_else(std::env::temp_dir);
        let temporary = match &self.dir {
            Some(_) => None,
            None => Some(tempfile::tempdir_in(place).expect("a temporary directory")),
        };
        let dir = match (&self.dir, &temporary) {
            (Some(dir), _) => dir.clone(),
            (None, Some(temporary)) => temporary.path().join("tasks"),
            (None, None) => unreachable!("one of the two is there"),
        };
        let address = free_address();
        let mut agent = Agent {
            setup: self,
            address,
            dir,
            temporary,
            init: None,
        };
        agent.launch();
        agent.wait_healthy();
        agent
    }
}

/// A loopback address whose port is free at the moment.
pub fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
}

/// A running agent. Dropping it ends all of its tasks, then the agent.
#[derive(Debug)]
pub struct Agent {
    setup: Setup,
    address: SocketAddr,
    dir: PathBuf,
    temporary: Option<tempfile::TempDir>,
    init: Option<Child>,
}

impl Agent {
    /// Starts the program as this agent's init, without waiting for anything.
    pub fn launch(&mut self) {
        let mut words = self.setup.wrapper.clone();
        words.push(self.setup.program.clone().into());
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .arg(format!("--data-dir={}", self.dir.display()))
            .arg(format!("--listen-addr={}", self.address))
            .args(&self.setup.flags)
            .envs(self.setup.env.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        if let Some(log) = &self.setup.log {
            let file = File::options().append(true).create(true).open(log);
            command.stderr(file.expect("the agent's log can be opened"));
        }
        self.init = Some(command.spawn().expect("the agent starts"));
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its data directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A new client of it, on a connection of its own.
    pub fn client(&self) -> Client {
        let client = Client::new(self.address);
        match &self.setup.token {
            Some(token) => client.with_token(token),
            None => client,
        }
    }

    /// Waits until it answers `/health` with 200.
    pub fn wait_healthy(&self) {
        eventually("the agent is healthy", PATIENCE, || {
            (self.try_call("GET", "/health", "").ok()?.code == 200).then_some(())
        });
    }

    /// One request on a connection of its own; an error when nobody listens.
    pub fn try_call(&self, method: &str, path: &str, body: &str) -> io::Result<Answer> {
        self.client().request(method, path, body.as_bytes())
    }

    /// One request that must be answered.
    pub fn call(&self, method: &str, path: &str, body: &str) -> Answer {
        self.try_call(method, path, body)
            .unwrap_or_else(|e| panic!("{method} {path} is answered: {e}"))
    }

    /// GET, as code and JSON.
    pub fn get(&self, path: &str) -> (u16, Value) {
        let answer = self.call("GET", path, "");
        (answer.code, answer.json())
    }

    /// POST, as code and JSON.
    pub fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let answer = self.call("POST", path, &body.to_string());
        (answer.code, answer.json())
    }

    /// DELETE, as the code.
    pub fn delete(&self, path: &str) -> u16 {
        self.call("DELETE", path, "").code
    }

    /// Creates a process task in the nested dialect; `spec` is what goes into `spec`.
    pub fn create(&self, name: &str, spec: &Value) -> Value {
        let (code, task) = self.post("/tasks", &json!({"name": name, "spec": spec}));
        assert_eq!(code, 201, "{task}");
        task
    }

    /// Creates a process task and waits for its end: `status.state.terminated`.
    pub fn run(&self, name: &str, process: &Value) -> Value {
        self.create(name, &json!({"process": process}));
        self.ended(name)
    }

    /// The state of a task once it is over: `status.state.terminated`.
    pub fn ended(&self, name: &str) -> Value {
        let task = eventually(&format!("{name} is over"), PATIENCE, || {
            let answer = self
                .try_call("GET", &format!("/tasks/{name}?wait=5s"), "")
                .ok()?;
            let task = answer.json();
            task["status"]["state"]["terminated"]
                .is_object()
                .then_some(task)
        });
        task["status"]["state"]["terminated"].clone()
    }

    /// Waits until a task runs, and shows it.
    pub fn running(&self, name: &str) -> Value {
        eventually(&format!("{name} runs"), PATIENCE, || {
            let (_, task) = self.get(&format!("/tasks/{name}"));
            task["status"]["state"]["running"]
                .is_object()
                .then_some(task)
        })
    }

    /// Waits until there is no such task.
    pub fn gone(&self, name: &str) {
        eventually(&format!("{name} is gone"), PATIENCE, || {
            (self
                .try_call("GET", &format!("/tasks/{name}"), "")
                .ok()?
                .code
                == 404)
                .then_some(())
        });
    }

    /// What a task has written to its standard output.
    pub fn stdout(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.join(name).join("stdout.log")).unwrap_or_default()
    }

    /// Waits until a task has written so many lines that are pids, and gives these.
    pub fn told_pids(&self, name: &str, count: usize) -> Vec<Pid> {
        eventually(&format!("{name} has told {count} pids"), PATIENCE, || {
            let text = self.stdout(name);
            let lines = text.split_inclusive('\n').filter(|l| l.ends_with('\n'));
            let found: Vec<_> = lines
                .filter_map(|line| line.trim().parse().ok())
                .map(Pid::from_raw)
                .collect();
            (found.len() >= count).then_some(found)
        })
    }

    /// Pid of init, also when a wrapper has started it.
    pub fn init(&self) -> Pid {
        let started = self.started();
        let program = self.setup.program.as_os_str().as_encoded_bytes();
        if self.setup.wrapper.is_empty() {
            return started;
        }
        eventually("the wrapper has started init", PATIENCE, || {
            pids()
                .filter(|pid| role(*pid).as_deref() == Some(program))
                .find(|pid| descends(*pid, started.as_raw()))
                .map(Pid::from_raw)
        })
    }

    /// Pid of the process that was started: init, or the wrapper.
    fn started(&self) -> Pid {
        let id = self.init.as_ref().expect("the agent was started").id();
        Pid::from_raw(i32::try_from(id).expect("a pid fits"))
    }

    /// Pid of the server, as this process sees it.
    pub fn server(&self) -> Pid {
        eventually("there is a server", PATIENCE, || self.try_server())
    }

    /// Pid of the server, if there is one right now.
    pub fn try_server(&self) -> Option<Pid> {
        self.processes("task-executor-server").into_iter().next()
    }

    /// Pid of the launcher of which shims are forked.
    pub fn launcher(&self) -> Pid {
        let server = self.server().as_raw();
        let is_launcher = |pid: &i32| {
            std::fs::read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|name| name.trim_end() == "task-launcher")
                && descends(*pid, server)
        };
        eventually("there is a launcher", PATIENCE, || {
            pids().find(is_launcher).map(Pid::from_raw)
        })
    }

    /// Pids of the shims.
    pub fn shims(&self) -> Vec<Pid> {
        // The launcher of which they are forked has the same arguments.
        let is_shim = |pid: &Pid| {
            std::fs::read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|name| name.trim_end() == "task-shim")
        };
        let mut found = self.processes("task-shim");
        found.retain(is_shim);
        found
    }

    /// Processes of this agent by role: those that it has started, and since these may have
    /// lost their parents, those that work in its data directory.
    fn processes(&self, wanted: &str) -> Vec<Pid> {
        let dir = self.dir.canonicalize().unwrap_or_else(|_| self.dir.clone());
        let started = self.init.is_some().then(|| self.started().as_raw());
        pids()
            .filter(|pid| role(*pid).as_deref() == Some(wanted.as_bytes()))
            .filter(|pid| {
                has_open_below(*pid, &dir) || started.is_some_and(|root| descends(*pid, root))
            })
            .map(Pid::from_raw)
            .collect()
    }

    /// Sends a signal to a process of this agent.
    pub fn signal(&self, pid: Pid, signal: Signal) {
        kill(pid, signal).expect("is signalled");
    }

    /// Asks the agent to stop, and waits until it has.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(self.init(), Signal::SIGTERM);
        self.wait()
    }

    /// Waits until the process that was started has ended.
    pub fn wait(&mut self) -> ExitStatus {
        let mut init = self.init.take().expect("the agent was started");
        eventually("the agent has ended", PATIENCE, || {
            init.try_wait().expect("is waited for")
        })
    }

    /// Stops the agent and starts it again, on the same data directory.
    pub fn restart(&mut self) {
        self.stop();
        self.launch();
        self.wait_healthy();
    }

    fn clear(&self) -> bool {
        (0..1000).any(|_| {
            let answer = self.try_call("POST", "/setTasks", "[]");
            std::thread::sleep(Duration::from_millis(20));
            answer.is_ok_and(|a| a.json() == json!([]))
        })
    }
}

fn pids() -> impl Iterator<Item = i32> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// What a process calls itself: the first word of its command line.
fn role(pid: i32) -> Option<Vec<u8>> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    line.split(|byte| *byte == 0).next().map(<[u8]>::to_vec)
}

/// Whether a process is another one or a descendant of it.
fn descends(pid: i32, ancestor: i32) -> bool {
    let parent = |pid: &i32| {
        let line = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, rest) = line.rsplit_once(')')?;
        rest.split_ascii_whitespace().nth(1)?.parse().ok()
    };
    // The bound keeps a chain that changes while it is read from going on for ever.
    std::iter::successors(Some(pid), parent)
        .take(64)
        .any(|pid| pid == ancestor)
}

fn has_open_below(pid: i32, dir: &Path) -> bool {
    std::fs::read_dir(format!("/proc/{pid}/fd")).is_ok_and(|fds| {
        fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok())
            .any(|target| target.starts_with(dir))
    })
}

impl Drop for Agent {
    fn drop(&mut self) {
        if self.init.is_none() && self.try_server().is_none() {
            return;
        }
        let cleared = self.clear();
        if self.init.is_some() {
            self.stop();
        }
        // One that has lost its init, or whose wrapper has gone before it.
        if let Some(server) = self.try_server() {
            self.signal(server, Signal::SIGTERM);
            eventually("the server has ended", PATIENCE, || {
                self.try_server().is_none().then_some(())
            });
        }
        drop(self.temporary.take());
        assert!(
            cleared || std::thread::panicking(),
            "the tasks of an agent could not be ended"
        );
    }
}
