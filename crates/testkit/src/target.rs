//! A main container to run tasks in, made of namespaces of its own: no runtime, no image.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::agent::PATIENCE;
use crate::{eventually, place};

/// Whether containers share a PID namespace with the agent, as in a Pod with
/// `shareProcessNamespace`, or each has its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// The agent's PID namespace.
    Shared,
    /// One of the container's own.
    Own,
}

impl Layout {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Shared, Self::Own];
}

/// Where the container's main process is, a directory that only the container has.
pub const HOME: &str = "/mnt/inside";
/// Another such directory.
pub const ELSEWHERE: &str = "/mnt/elsewhere";
/// The container's host name.
pub const HOST_NAME: &str = "inside-of-main";

/// How to start a container.
#[derive(Debug, Clone)]
pub struct Plan {
    name: String,
    layout: Layout,
    shell: Vec<String>,
    wrapper: Vec<String>,
    env: Vec<String>,
}

/// Whether containers can be made here.
pub fn need_namespaces() -> bool {
    place::need_root() && place::need_command(&["unshare", "-muinCpf", "true"])
}

impl Plan {
    /// A container that is found under this name.
    pub fn new(name: &str, layout: Layout) -> Self {
        Self {
            name: name.to_owned(),
            layout,
            shell: Vec::new(),
            wrapper: Vec::new(),
            env: Vec::new(),
        }
    }

    /// Which layout it has.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// A line of shell that is run inside before the main process starts.
    #[must_use]
    pub fn shell(mut self, line: &str) -> Self {
        self.shell.push(line.to_owned());
        self
    }

    /// Words that the main process is started through, such as `setpriv --reuid=7`.
    #[must_use]
    pub fn wrapper(mut self, words: &[&str]) -> Self {
        self.wrapper = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// A variable of the main process.
    #[must_use]
    pub fn env(mut self, variable: &str) -> Self {
        self.env.push(variable.to_owned());
        self
    }

    /// Starts it and waits until its main process is what it will be.
    pub fn start(&self) -> Target {
        let script = format!(
            "set -e\nhostname {HOST_NAME}\nmount --make-rprivate /\nmount -t tmpfs none /mnt\n\
             mkdir {HOME} {ELSEWHERE}\nchmod 755 /mnt\n{proc}\ncd {HOME}\n{lines}\nexec \"$@\"",
            proc = match self.layout {
                Layout::Own => "mount -t proc proc /proc",
                Layout::Shared => "",
            },
            lines = self.shell.join("\n"),
        );
        let mut words = self.wrapper.clone();
        // Not earlier, or what it is started by would be older, and taken for it.
        words.extend(["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"].map(str::to_owned));
        words.push(format!("SANDBOX_MAIN_CONTAINER={}", self.name));
        words.extend(self.env.iter().cloned());
        words.extend(["sleep", "1000000"].map(str::to_owned));
        let mut command = Command::new("unshare");
        command.args(["--mount", "--uts", "--ipc", "--net", "--cgroup"]);
        if self.layout == Layout::Own {
            command.args(["--pid", "--fork", "--kill-child"]);
        }
        let child = command
            .args(["sh", "-c", &script, "sh"])
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("unshare starts");
        let started = Pid::from_raw(i32::try_from(child.id()).expect("a pid fits"));
        let pid = eventually("the main container runs", PATIENCE, || {
            let pid = match self.layout {
                Layout::Shared => Some(started),
                Layout::Own => first_child(started),
            };
            pid.filter(|pid| is_sleep(*pid))
        });
        Target { child, pid }
    }
}

fn first_child(of: Pid) -> Option<Pid> {
    let list = std::fs::read_to_string(format!("/proc/{of}/task/{of}/children")).ok()?;
    let first = list.split_ascii_whitespace().next()?;
    first.parse().ok().map(Pid::from_raw)
}

fn is_sleep(pid: Pid) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"sleep\0"))
}

/// A running container. Dropping it kills it.
#[derive(Debug)]
pub struct Target {
    child: Child,
    pid: Pid,
}

impl Target {
    /// A container whose root is `root` and holds what the caller has put there, and nothing else.
    /// It runs `words`, the first of which is a path inside.
    pub fn in_root(name: &str, root: &Path, words: &[&str]) -> Self {
        let mut command = Command::new("unshare");
        command
            .env_clear()
            .env("SANDBOX_MAIN_CONTAINER", name)
            .args(["--mount", "--uts", "--ipc", "--net", "--cgroup", "--root"])
            .arg(root)
            .arg("--")
            .args(words);
        let child = command
            .stdin(Stdio::null())
            .spawn()
            .expect("unshare starts");
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid fits"));
        eventually("the main container runs", PATIENCE, || {
            let program = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
            program.starts_with(root).then_some(())
        });
        Self { child, pid }
    }

    /// Its main process, as this process sees it.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// A line of its `/proc/PID/status`.
    pub fn status(&self, name: &str) -> String {
        place::status_line(self.pid, name).expect("the main container lives")
    }

    /// One of its namespaces, as `/proc/PID/ns/KIND` shows it.
    pub fn namespace(&self, kind: &str) -> String {
        namespace(&self.pid.to_string(), kind)
    }

    /// Kills its main process and waits until that has ended.
    pub fn stop(&mut self) {
        // It may have ended already.
        let _ = kill(self.pid, Signal::SIGKILL);
        self.child.kill().expect("is killed");
        self.child.wait().expect("is reaped");
        eventually("the main container is gone", PATIENCE, || {
            (!place::is_alive(self.pid)).then_some(())
        });
    }
}

/// A namespace of a process, or of this one with `self`.
pub fn namespace(pid: &str, kind: &str) -> String {
    let link = std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("has namespaces");
    link.to_string_lossy().into_owned()
}

impl Drop for Target {
    fn drop(&mut self) {
        self.stop();
    }
}
