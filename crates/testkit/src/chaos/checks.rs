//! What must hold when a round is over, against the model of what was acknowledged.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::cgroups;
use super::model::{Outcome, Records, Run, Shown, Tri, run_of, state};
use super::procs;
use super::round::{Round, Stop, brief};
use super::victim::{PATIENCE, Victim};
use super::work::{End, Work};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);
/// For what happens at once when it is done right.
const SOON: Duration = Duration::from_secs(5);

/// Waits until `check` finds nothing to complain about; gives its last complaint.
fn calm<T>(within: Duration, mut check: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + within;
    loop {
        let complaint = check()?;
        if Instant::now() > end {
            return Some(complaint);
        }
        std::thread::sleep(PAUSE);
    }
}

/// The lowest number of descriptors that an idle server settles at.
pub(super) fn settled_descriptors(victim: &Victim) -> usize {
    let count = || victim.lock_owner().and_then(procs::descriptors);
    let mut lowest = usize::MAX;
    for _ in 0..5 {
        lowest = lowest.min(count().unwrap_or(usize::MAX));
        std::thread::sleep(PAUSE);
    }
    lowest
}

impl Round {
    /// All checks, in the order in which they can be made.
    pub(super) fn check_all(&mut self) -> Result<(), Stop> {
        let before = self.settle()?;
        self.check_runs(&before);
        self.check_survivors(&before);
        // An orderly end waits for requests that are under way; that was tried before.
        self.hang_up();
        self.restart()?;
        let after = self.settle()?;
        self.check_same(&before, &after);
        self.check_runs(&after);
        self.check_leftovers();
        self.clear()?;
        self.check_runs(&json!([]));
        self.check_survivors(&json!([]));
        self.check_groups();
        self.check_spares();
        self.check_server();
        self.check_stop();
        Ok(())
    }

    /// Waits until nothing is under way any more, and gives the list as it is then.
    fn settle(&mut self) -> Result<Value, Stop> {
        let end = Instant::now() + PATIENCE;
        loop {
            let answer = self.request("GET", "/getTasks", &Value::Null);
            let Outcome::Answered(200, list) = answer else {
                self.model
                    .violate("answer", format!("getTasks was answered with {answer:?}"));
                return Err(Stop);
            };
            self.model.list(&list);
            self.note_groups();
            let unsettled = self.unsettled(&list);
            if unsettled.is_empty() {
                self.model.settled(&list);
                let tasks = list.as_array().map_or(0, Vec::len);
                self.note(format!("settled with {tasks} tasks"));
                return Ok(list);
            }
            if Instant::now() > end {
                let kind = self.why_unsettled(&unsettled);
                let text = format!("not settled in {PATIENCE:?}: {unsettled:?}");
                self.note(&text);
                self.model.violate(kind, text);
                self.model.settled(&list);
                return Ok(list);
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn why_unsettled(&self, unsettled: &[(String, String)]) -> &'static str {
        let all = |check: fn(&Run) -> bool| {
            let run = |name: &String| self.model.runs.get(name);
            unsettled
                .iter()
                .all(|(name, _)| run(name).is_some_and(check))
        };
        if all(|run| run.plan.post && run.disk_was_full) {
            "hook-on-full-disk"
        } else if all(|run| run.plan.post && run.hurt.shim) {
            "hook-after-loss"
        } else {
            "unsettled"
        }
    }

    /// The tasks that must still change: run, and how it is shown.
    fn unsettled(&self, list: &Value) -> Vec<(String, String)> {
        let tasks: Vec<_> = list.as_array().into_iter().flatten().collect();
        let runs = |task: &&&Value| matches!(state(task), Some((_, Shown::Running)));
        let running = tasks.iter().filter(runs).count();
        let full = self.running_max.is_some_and(|max| running >= max);
        let target = self.victim.target();
        let settled = |run: &Run, task: &Value| {
            if task["deletionTimestamp"].is_string() {
                return false;
            }
            let never_ends = || {
                run.plan.end() == End::Never
                    && target.shim_of(&run.plan.name).is_some()
                    && self.ledger(run).iter().any(|word| word == "start")
            };
            match state(task) {
                Some((_, Shown::Terminated(_))) => true,
                Some((_, Shown::Waiting("Queued"))) => full,
                Some((_, Shown::Running)) => never_ends(),
                Some((_, Shown::Waiting(_))) | None => false,
            }
        };
        let mut found = Vec::new();
        for task in tasks {
            let run = run_of(task).and_then(|run| self.model.runs.get(run));
            if let Some(run) = run.filter(|run| !settled(run, task)) {
                found.push((run.plan.run.clone(), brief(task)));
            }
        }
        found
    }

    /// What a run has written down.
    fn ledger(&self, run: &Run) -> Vec<String> {
        std::fs::read_to_string(self.ledgers.join(&run.plan.run))
            .unwrap_or_default()
            .lines()
            .map(str::to_owned)
            .collect()
    }

    /// Checks what every run has done against what is shown of it.
    fn check_runs(&mut self, list: &Value) {
        let mut found = Vec::new();
        for run in self.model.runs.values() {
            let task = find(list, &run.plan.run);
            let words = self.ledger(run);
            for (kind, text) in judge_words(run, task, &words) {
                let text = format!(
                    "{} ({:?}, pre {:?}, post {}) {text}: it wrote {words:?}, shown is {}",
                    run.plan.run,
                    run.plan.work,
                    run.plan.pre,
                    run.plan.post,
                    task.map_or_else(|| "nothing".to_owned(), brief),
                );
                found.push((kind, text));
            }
        }
        for (kind, text) in found {
            self.model.violate(kind, text);
        }
    }

    /// Checks that no process is left of what is over or gone, and ends those that are.
    fn check_survivors(&mut self, list: &Value) {
        let tag = self.victim.tag.clone();
        let survivors = || {
            let left: Vec<_> = procs::of_round(&tag)
                .into_iter()
                .filter(|process| {
                    let run = process
                        .run
                        .as_ref()
                        .and_then(|run| self.model.runs.get(run));
                    run.is_some_and(|run| !may_have_processes(run, find(list, &run.plan.run)))
                })
                .collect();
            (!left.is_empty()).then_some(left)
        };
        for process in calm(SOON, survivors).unwrap_or_default() {
            procs::kill(process.pid, &tag);
            let run = process
                .run
                .as_ref()
                .and_then(|run| self.model.runs.get(run));
            let Some(run) = run else { continue };
            let kind = if run.records == Records::MayBeSetAside {
                "survivor-of-set-aside"
            } else if run.records == Records::Damaged {
                "survivor-of-damaged"
            } else if run.hurt.shim_ever {
                "survivor-of-killed-shim"
            } else {
                "survivor"
            };
            let text = format!(
                "{} ({:?}, {:?}) has left process {} {}",
                run.plan.run, run.plan.work, run.hurt, process.pid, process.line
            );
            self.model.violate(kind, text);
        }
    }

    /// Checks that a restart has changed nothing.
    fn check_same(&mut self, before: &Value, after: &Value) {
        let names = |list: &Value| -> BTreeSet<String> {
            let tasks = list.as_array().into_iter().flatten();
            tasks.filter_map(run_of).map(str::to_owned).collect()
        };
        let (before, after) = (names(before), names(after));
        if before != after {
            let text = format!("before the restart {before:?}, after it {after:?}");
            self.model.violate("lost", text);
        }
    }

    /// Checks what a restarted agent leaves in its data directory.
    fn check_leftovers(&mut self) {
        let entries = |dir: &str| -> Vec<String> {
            std::fs::read_dir(self.victim.dir.join(dir))
                .into_iter()
                .flatten()
                .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                .collect()
        };
        let half = calm(SOON, || {
            let left = [entries(".new"), entries(".trash")].concat();
            (!left.is_empty()).then_some(left)
        });
        let aside = entries(".corrupt");
        if let Some(left) = half {
            self.model.violate(
                "litter",
                format!("in .new or .trash after a restart: {left:?}"),
            );
        }
        if !aside.is_empty() && !self.data_dir_was_touched {
            let text = format!("sound records were set aside: {aside:?}");
            self.model.violate("set-aside", text);
        }
    }

    /// Checks that what waits for tasks to come says nothing of those that were.
    fn check_spares(&mut self) {
        let spares = std::fs::read_dir(self.victim.dir.join(".spare"));
        let files = spares
            .into_iter()
            .flatten()
            .filter_map(|spare| std::fs::read_dir(spare.ok()?.path()).ok())
            .flatten()
            .filter_map(Result::ok);
        let told: Vec<_> = files
            .filter(|file| {
                let known = ["task.json", "run.rec.new", "exit.tmp"];
                let known = known.iter().any(|name| file.file_name() == *name);
                !known || file.metadata().is_ok_and(|file| file.len() > 0)
            })
            .map(|file| file.path())
            .collect();
        if !told.is_empty() {
            let text = format!("spares are not empty: {told:?}");
            self.model.violate("litter", text);
        }
    }

    /// Deletes everything and waits until it is gone.
    fn clear(&mut self) -> Result<(), Stop> {
        let outcome = self.request("POST", "/setTasks", &json!([]));
        self.model.set(&[], &outcome);
        if !matches!(outcome, Outcome::Answered(200, _)) {
            self.model.violate(
                "answer",
                format!("setTasks [] was answered with {outcome:?}"),
            );
            return Err(Stop);
        }
        let list = self.settle()?;
        // What is stuck was complained about already.
        if list != json!([]) && self.unsettled(&list).is_empty() {
            self.model
                .violate("undeleted", format!("after setTasks [] there is {list}"));
        }
        for run in self.model.runs.values_mut() {
            run.deleted = Tri::Yes;
        }
        let mut left = self.victim.target().task_names();
        // What isn't a task stays: it is somebody else's.
        left.retain(|name| !name.starts_with("litter"));
        if !left.is_empty() && list == json!([]) {
            self.model
                .violate("litter", format!("directories of deleted tasks: {left:?}"));
        }
        Ok(())
    }

    /// Checks the server itself: descriptors, zombies, health.
    fn check_server(&mut self) {
        let health = self.request("GET", "/health", &Value::Null);
        if !matches!(health, Outcome::Answered(200, _)) {
            self.model
                .violate("health", format!("/health was answered with {health:?}"));
        }
        self.hang_up();
        let target = self.victim.target();
        let (Some(init), Some(server)) = (&target.init, &target.server) else {
            return;
        };
        let idle = self.idle_descriptors;
        let more = calm(SOON, || {
            procs::descriptors(server.pid).filter(|count| *count > idle)
        });
        if let Some(count) = more {
            let open = procs::describe_descriptors(server.pid);
            let text = format!("the server has {count} descriptors, not {idle}: {open}");
            self.model.violate("descriptors", text);
        }
        for (role, pid) in [("init", init.pid), ("the server", server.pid)] {
            let zombies = calm(SOON, || {
                let zombies = procs::zombies_of(pid);
                (!zombies.is_empty()).then_some(zombies)
            });
            if let Some(zombies) = zombies {
                let text = format!("{role} does not reap {zombies:?}");
                self.model.violate("zombies", text);
            }
        }
    }

    /// Remembers the control groups that tasks are in.
    pub(super) fn note_groups(&mut self) {
        for process in procs::of_round(&self.victim.tag) {
            if process.run.is_some() {
                self.groups.extend(cgroups::own_groups(process.pid));
            }
        }
    }

    /// Checks that no control group of a task is left.
    fn check_groups(&mut self) {
        let left = calm(SOON, || {
            let left: Vec<_> = self.groups.iter().filter(|dir| dir.exists()).collect();
            (!left.is_empty()).then_some(left)
        });
        if let Some(left) = left {
            let text = format!("control groups of deleted tasks: {left:?}");
            self.model.violate("cgroups", text);
        }
    }

    /// Checks that the agent ends when it is asked to, and leaves nothing.
    fn check_stop(&mut self) {
        let target = self.victim.target();
        if let Some(init) = &target.init {
            init.signal(nix::libc::SIGTERM);
        }
        match self.victim.wait_end() {
            Some(status) if status.success() => {}
            other => self
                .model
                .violate("stop", format!("SIGTERM ends the agent with {other:?}")),
        }
        let tag = self.victim.tag.clone();
        let left = calm(SOON, || {
            let left = procs::of_round(&tag);
            (!left.is_empty()).then_some(left)
        });
        for process in left.unwrap_or_default() {
            let text = format!(
                "after the end of the agent: {} {}",
                process.pid, process.line
            );
            self.model.violate("survivor", text);
        }
    }
}

fn find<'a>(list: &'a Value, run: &str) -> Option<&'a Value> {
    let tasks = list.as_array().into_iter().flatten();
    tasks.into_iter().find(|task| run_of(task) == Some(run))
}

/// Whether processes of a run may be there while it is shown like this.
fn may_have_processes(run: &Run, task: Option<&Value>) -> bool {
    match task.and_then(state) {
        None => false,
        Some((_, Shown::Waiting(_) | Shown::Running)) => true,
        Some((_, Shown::Terminated(end))) => {
            // With a damaged record an unknown end may have been the task's own.
            let ended_by_agent = end["reason"] == "TaskTimeout"
                || (end["reason"] == "Unknown" && run.records == Records::Sound);
            let to_be_killed = matches!(run.plan.work, Work::Leaver { kill: true, .. });
            !ended_by_agent && !to_be_killed
        }
    }
}

/// Judges what a run wrote down: nothing twice, all in order, nothing left out.
fn judge_words(
    run: &Run,
    task: Option<&Value>,
    words: &[String],
) -> Vec<(&'static str, &'static str)> {
    let count = |word: &str| words.iter().filter(|w| *w == word).count();
    let (pre, start, post) = (count("pre"), count("start"), count("post"));
    let mut found = Vec::new();
    if pre > 1 || start > 1 {
        found.push(("twice", "was run more than once"));
    }
    if post > 1 {
        let kind = if run.hurt.shim {
            "hook-after-loss"
        } else {
            "twice"
        };
        found.push((kind, "has run its postStop hook more than once"));
    }
    if !words.is_sorted_by_key(|word| ["pre", "start", "post"].iter().position(|w| w == word)) {
        found.push(("hooks", "did things in the wrong order"));
    }
    if run.accepted == Tri::No && !words.is_empty() {
        found.push(("stranger", "was run although it was not accepted"));
    }
    if start > 0 && (!run.plan.starts() || (run.plan.pre.is_some() && pre == 0)) {
        found.push(("hooks", "was run without its preStart hook"));
    }
    let over = match task.and_then(state) {
        Some((_, Shown::Terminated(end))) => {
            let ran = !["Unknown", "StartError"]
                .iter()
                .any(|why| end["reason"] == *why);
            if end["reason"] == "StartError" && start > 0 {
                found.push((
                    "given-up",
                    "was run although it is said to have failed to start",
                ));
            }
            let exact = ran && !run.hurt.leader;
            if exact && run.deleted == Tri::No && run.plan.starts() && start == 0 {
                found.push(("not-run", "was not run although it is said to have ended"));
            }
            true
        }
        Some((_, Shown::Running)) => {
            if run.plan.end() != End::Never && run.records == Records::Damaged {
                found.push(("damaged-state", "has ended although it is said to run"));
            }
            if run.plan.end() == End::Never && start == 0 {
                found.push(("not-run", "was not run although it is said to run"));
            }
            false
        }
        Some((_, Shown::Waiting(_))) => {
            if start > 0 {
                let damaged = run.records > Records::Sound;
                let kind = if damaged { "damaged-state" } else { "changed" };
                found.push((kind, "was run although it is said to wait"));
            }
            false
        }
        None => true,
    };
    if over && run.plan.post && start > 0 && post == 0 && !run.hurt.hook {
        let kind = if run.disk_was_full {
            "hook-on-full-disk"
        } else if run.hurt.shim {
            "hook-after-loss"
        } else {
            "hooks"
        };
        found.push((kind, "has ended without its postStop hook"));
    }
    found
}
