//! What the tasks of a round do, and how each must end.

use std::path::Path;

use serde_json::{Value, json};

use crate::random::Random;

/// The environment variable by which a process is known to belong to one run of a task.
pub(super) const RUN: &str = "CHAOS_RUN";

/// What a task does after it has written down that it was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// Sleeps a little and exits.
    Exit { code: i32, hundredths: u64 },
    /// Ends itself with a signal.
    Signal(i32),
    /// Sleeps until it is ended.
    Sleeper,
    /// Sleeps and ignores SIGTERM.
    Stubborn,
    /// Sleeps with children, grandchildren and a daemon in a session of its own.
    Family,
    /// Exits and leaves a daemon behind, which is to be kept or killed.
    Leaver { code: i32, kill: bool },
    /// Exceeds its timeout of a second and dies of SIGTERM.
    TimeoutPlain,
    /// Exceeds its timeout and ignores SIGTERM.
    TimeoutStubborn,
    /// Exceeds its timeout and exits with 9 on SIGTERM.
    TimeoutTrap,
    /// A program that does not exist.
    Missing,
    /// A file that can't be executed.
    NotExecutable,
}

/// How a task must end if nobody interferes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// With exactly this.
    Exact {
        code: i32,
        signal: Option<i32>,
        reason: &'static str,
    },
    /// Not by itself.
    Never,
}

/// The shape in which a task is sent and must be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Nested,
    Flat,
}

/// One run of one task: never sent again once it was deleted, so it runs once at most.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) run: String,
    pub(super) name: String,
    pub(super) dialect: Dialect,
    pub(super) work: Work,
    /// Exit code of its preStart hook.
    pub(super) pre: Option<i32>,
    pub(super) post: bool,
    grace_seconds: Option<u64>,
}

impl Plan {
    pub(super) fn random(random: &mut Random, run: String, name: String) -> Self {
        let work = match random.below(20) {
            0..=3 => Work::Exit {
                code: *random.pick(&[0, 0, 1, 7, 42, 143, 255]),
                hundredths: random.bits() % 30,
            },
            4..=5 => Work::Signal(*random.pick(&[1, 2, 9, 10, 15])),
            6..=7 => Work::Sleeper,
            8..=9 => Work::Stubborn,
            10..=12 => Work::Family,
            13..=14 => Work::Leaver {
                code: *random.pick(&[0, 3]),
                kill: random.chance(50),
            },
            15 => Work::TimeoutPlain,
            16 => Work::TimeoutStubborn,
            17 => Work::TimeoutTrap,
            18 => Work::Missing,
            _ => Work::NotExecutable,
        };
        let pre = random.chance(20).then(|| *random.pick(&[0, 0, 0, 5]));
        let timeout = matches!(
            work,
            Work::TimeoutPlain | Work::TimeoutStubborn | Work::TimeoutTrap
        );
        Self {
            run,
            name,
            dialect: *random.pick(&[Dialect::Nested, Dialect::Flat]),
            work,
            pre,
            post: random.chance(25),
            grace_seconds: (!timeout && random.chance(20)).then_some(0),
        }
    }

    /// The task as it is sent. `ledger` is the file in which it says that it was started.
    pub(super) fn body(&self, ledger: &Path) -> Value {
        let mut process = json!({
            "command": self.command(),
            "env": [
                {"name": RUN, "value": self.run},
                {"name": "CHAOS_LEDGER", "value": ledger.display().to_string()},
            ],
        });
        let hook = |word: &str, code: i32| {
            let script = format!("echo {word} >> \"$CHAOS_LEDGER\"; exit {code}");
            json!({"exec": {"command": ["/bin/sh", "-c", script]}})
        };
        if let Some(code) = self.pre {
            process["lifecycle"]["preStart"] = hook("pre", code);
        }
        if self.post {
            process["lifecycle"]["postStop"] = hook("post", 0);
        }
        if let Work::Leaver { kill: true, .. } = self.work {
            process["leftoverProcesses"] = "Kill".into();
        }
        let mut spec = json!({});
        let times = match self.dialect {
            Dialect::Nested => &mut spec,
            Dialect::Flat => &mut process,
        };
        if self.times_out() {
            times["timeoutSeconds"] = 1.into();
        }
        if let Some(seconds) = self.grace_seconds {
            times["terminationGracePeriodSeconds"] = seconds.into();
        }
        match self.dialect {
            Dialect::Nested => {
                spec["process"] = process;
                json!({"name": self.name, "spec": spec})
            }
            Dialect::Flat => json!({"name": self.name, "process": process}),
        }
    }

    pub(super) fn times_out(&self) -> bool {
        matches!(
            self.work,
            Work::TimeoutPlain | Work::TimeoutStubborn | Work::TimeoutTrap
        )
    }

    fn command(&self) -> Vec<String> {
        let rest = match self.work {
            Work::Exit { code, hundredths } => format!("sleep 0.{hundredths:02}; exit {code}"),
            Work::Signal(number) => format!("kill -{number} $$; sleep 1000"),
            Work::Sleeper | Work::TimeoutPlain => "exec sleep 1000".to_owned(),
            Work::Stubborn | Work::TimeoutStubborn => {
                "trap '' TERM; while :; do sleep 1000; done".to_owned()
            }
            Work::Family => "sleep 1000 & (sleep 1000 & sleep 1000 & wait) & \
                             setsid sleep 1000 & wait"
                .to_owned(),
            Work::Leaver { code, .. } => {
                format!("(setsid sleep 1000 &) ; sleep 1000 & exit {code}")
            }
            Work::TimeoutTrap => "trap 'exit 9' TERM; sleep 1000 & wait".to_owned(),
            Work::Missing => return vec!["/nonexistent/program".to_owned()],
            Work::NotExecutable => return vec!["/proc/version".to_owned()],
        };
        let script = format!("echo start >> \"$CHAOS_LEDGER\"; {rest}");
        ["/bin/sh", "-c", &script].map(str::to_owned).to_vec()
    }

    /// How it ends if nobody interferes.
    pub(super) fn end(&self) -> End {
        let exact = |code, signal, reason| End::Exact {
            code,
            signal,
            reason,
        };
        if let Some(code) = self.pre
            && code != 0
        {
            return exact(code, None, "PreStartHookFailed");
        }
        match self.work {
            Work::Exit { code: 0, .. } | Work::Leaver { code: 0, .. } => {
                exact(0, None, "Succeeded")
            }
            Work::Exit { code, .. } | Work::Leaver { code, .. } => exact(code, None, "Failed"),
            Work::Signal(number) => exact(128 + number, Some(number), "Failed"),
            Work::Sleeper | Work::Stubborn | Work::Family => End::Never,
            Work::TimeoutPlain => exact(143, Some(15), "TaskTimeout"),
            Work::TimeoutStubborn => exact(137, Some(9), "TaskTimeout"),
            Work::TimeoutTrap => exact(9, None, "TaskTimeout"),
            Work::Missing => exact(127, None, "StartError"),
            Work::NotExecutable => exact(126, None, "StartError"),
        }
    }

    /// Whether its own command runs at all.
    pub(super) fn starts(&self) -> bool {
        !matches!(self.work, Work::Missing | Work::NotExecutable)
            && self.pre.is_none_or(|code| code == 0)
    }
}
