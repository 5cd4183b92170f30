//! What the agent has acknowledged, and what must therefore be true. Pure: it only books
//! requests, answers and faults, and judges what is shown.

use std::collections::BTreeMap;

use serde_json::Value;

use super::work::{Dialect, End, Plan, RUN};

/// A question to which a lost answer leaves no certain reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tri {
    No,
    Maybe,
    Yes,
}

/// How a request went.
#[derive(Debug, Clone)]
pub(super) enum Outcome {
    /// It was answered.
    Answered(u16, Value),
    /// It can't have reached the agent.
    NotSent,
    /// It may have been obeyed; the answer did not come.
    Lost,
}

/// Something that must not be.
#[derive(Debug, Clone)]
pub(super) struct Violation {
    /// One word, to count by.
    pub(super) kind: &'static str,
    pub(super) detail: String,
}

/// What the killing of processes did to a run.
#[derive(Debug, Clone, Copy, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one independent fact"
)]
pub(super) struct Hurt {
    /// Its shim was killed before the end was recorded, so that may be `Unknown`.
    pub(super) shim: bool,
    /// Its leading process was killed, so SIGKILL may be its end.
    pub(super) leader: bool,
    /// Its shim was killed at some time, be it after the end.
    pub(super) shim_ever: bool,
    /// Its postStop hook may have been cut off.
    pub(super) hook: bool,
}

/// What damage did to the records of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Records {
    Sound,
    /// Its end may be `Unknown`.
    Damaged,
    /// Without the one that was damaged it is not known; it may be set aside.
    MayBeSetAside,
}

/// What is booked of one run.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) plan: Plan,
    pub(super) accepted: Tri,
    pub(super) deleted: Tri,
    pub(super) uid: Option<String>,
    pub(super) hurt: Hurt,
    pub(super) records: Records,
    /// The disk was full at some time of its life.
    pub(super) disk_was_full: bool,
    /// The end that was shown; it must never change.
    shown_end: Option<Value>,
    running_shown: bool,
}

impl Run {
    /// Whether this run is the one that its name should have now.
    pub(super) fn is_wanted(&self) -> bool {
        self.accepted != Tri::No && self.deleted == Tri::No
    }

    fn allows(&self, code: i64, signal: Option<i64>, reason: &str) -> bool {
        let exact = match self.plan.end() {
            End::Never => false,
            End::Exact {
                code: c,
                signal: s,
                reason: r,
            } => (i64::from(c), s.map(i64::from), r) == (code, signal, reason),
        };
        let unknown = (code, signal, reason) == (255, None, "Unknown")
            && (self.hurt.shim || self.records > Records::Sound);
        let killed = self.hurt.leader
            && (code, signal) == (137, Some(9))
            && (reason == "Failed"
                || (reason == "TaskTimeout" && self.plan.times_out())
                || (reason == "PreStartHookFailed" && self.plan.pre.is_some()));
        exact || unknown || killed
    }
}

/// Where a task stands in an answer.
#[derive(Debug, Clone)]
pub(super) enum Shown<'a> {
    Waiting(&'a str),
    Running,
    Terminated(&'a Value),
}

/// Reads the state of a task in either dialect.
pub(super) fn state(task: &Value) -> Option<(Dialect, Shown<'_>)> {
    let (dialect, state) = if task["process"].is_object() {
        (Dialect::Flat, &task["processStatus"])
    } else {
        (Dialect::Nested, &task["status"]["state"])
    };
    let shown = if state["terminated"].is_object() {
        Shown::Terminated(&state["terminated"])
    } else if state["running"].is_object() {
        Shown::Running
    } else if state["waiting"].is_object() {
        Shown::Waiting(state["waiting"]["reason"].as_str().unwrap_or_default())
    } else {
        return None;
    };
    Some((dialect, shown))
}

/// The run that a task in an answer is, from the environment in its spec.
pub(super) fn run_of(task: &Value) -> Option<&str> {
    [&task["process"]["env"], &task["spec"]["process"]["env"]]
        .into_iter()
        .filter_map(Value::as_array)
        .flatten()
        .find_map(|entry| (entry["name"] == RUN).then(|| entry["value"].as_str())?)
}

/// Everything that is booked in one round.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) runs: BTreeMap<String, Run>,
    pub(super) violations: Vec<Violation>,
    /// Whether the disk is or was full in this round: then 507 is a right answer.
    pub(super) disk_was_full: bool,
    next: usize,
    holding: bool,
    held: Vec<SeenEnd>,
}

/// A task as it was shown, and what was known of its deletion then.
#[derive(Debug)]
struct SeenEnd {
    run: String,
    task: Value,
    deleted: Tri,
}

impl Model {
    pub(super) fn violate(&mut self, kind: &'static str, detail: impl Into<String>) {
        let detail = detail.into();
        let known = |v: &Violation| v.kind == kind && v.detail == detail;
        if !self.violations.iter().any(known) {
            self.violations.push(Violation { kind, detail });
        }
    }

    /// A name for a run that is not yet used.
    pub(super) fn next_run(&mut self) -> String {
        self.next += 1;
        format!("r{:03}", self.next)
    }

    /// Books a run that is about to be sent.
    pub(super) fn add(&mut self, plan: Plan) {
        let run = Run {
            plan,
            accepted: Tri::No,
            deleted: Tri::No,
            uid: None,
            hurt: Hurt::default(),
            records: Records::Sound,
            disk_was_full: self.disk_was_full,
            shown_end: None,
            running_shown: false,
        };
        self.runs.insert(run.plan.run.clone(), run);
    }

    /// The run that a name should have now, and that may be sent again without being run
    /// again: one that may have been set aside would be new to the agent.
    pub(super) fn wanted(&self, name: &str) -> Option<&Run> {
        let mut of_name = self.runs.values().filter(|run| run.plan.name == name);
        of_name.rfind(|run| run.is_wanted() && run.records < Records::MayBeSetAside)
    }

    /// All runs that were sent under a name.
    pub(super) fn of_name(&mut self, name: &str) -> impl Iterator<Item = &mut Run> {
        self.runs
            .values_mut()
            .filter(move |run| run.plan.name == name)
    }

    /// The runs that a fault has hit: the one with that uid, or all that may have it.
    pub(super) fn hit(&mut self, name: &str, uid: Option<&str>) -> impl Iterator<Item = &mut Run> {
        let uid = uid.map(str::to_owned);
        self.of_name(name).filter(move |run| {
            let same = |known: &String| uid.as_ref().is_none_or(|uid| uid == known);
            run.uid.as_ref().is_none_or(same)
        })
    }

    /// Books that a record of a task was damaged. Without an `essential` one the task is
    /// not known any more, and may be set aside.
    pub(super) fn damaged(&mut self, name: &str, uid: Option<&str>, essential: bool) {
        let to = if essential {
            Records::MayBeSetAside
        } else {
            Records::Damaged
        };
        for run in self.hit(name, uid) {
            run.records = run.records.max(to);
            run.hurt.hook = true;
            run.shown_end = None;
        }
    }

    /// What comes after the disk was filled may be answered with 507.
    pub(super) fn disk_filled(&mut self) {
        self.disk_was_full = true;
        for run in self.runs.values_mut() {
            run.disk_was_full = true;
        }
    }

    /// Books a POST of `run`.
    pub(super) fn posted(&mut self, run: &str, outcome: &Outcome) {
        let name = self.runs[run].plan.name.clone();
        match outcome {
            Outcome::NotSent => {}
            Outcome::Lost => self.accept(run, Tri::Maybe),
            Outcome::Answered(201, task) => {
                if self.runs[run].accepted == Tri::Yes {
                    self.violate("twice", format!("{run} was accepted twice"));
                }
                self.accept(run, Tri::Yes);
                let others: Vec<_> = self
                    .of_name(&name)
                    .filter(|other| other.plan.run != run)
                    .map(|other| {
                        let lost = other.accepted == Tri::Yes
                            && other.deleted == Tri::No
                            && other.records < Records::MayBeSetAside;
                        other.deleted = Tri::Yes;
                        (other.plan.run.clone(), lost)
                    })
                    .collect();
                for (other, _) in others.iter().filter(|(_, lost)| *lost) {
                    let text = format!("{run} was accepted as {name} although {other} exists");
                    self.violate("lost", text);
                }
                self.show(task);
            }
            Outcome::Answered(409, body) => {
                if self.of_name(&name).all(|other| other.accepted == Tri::No) {
                    self.violate("answer", format!("{run}: 409 for a new name: {body}"));
                }
            }
            Outcome::Answered(code, body) => self.refused(&format!("POST {run}"), *code, body),
        }
    }

    /// Books a setTasks of these runs.
    pub(super) fn set(&mut self, listed: &[String], outcome: &Outcome) {
        match outcome {
            Outcome::NotSent => {}
            Outcome::Lost => self.set_to(listed, Tri::Maybe),
            Outcome::Answered(200, list) => {
                self.set_to(listed, Tri::Yes);
                self.list(list);
            }
            Outcome::Answered(code, body) => self.refused("setTasks", *code, body),
        }
    }

    fn set_to(&mut self, listed: &[String], done: Tri) {
        for run in self.runs.values_mut() {
            if !listed.contains(&run.plan.run) {
                raise(&mut run.deleted, done);
            }
        }
        for run in listed {
            self.accept(run, done);
        }
    }

    /// Books a DELETE of a name.
    pub(super) fn deleted(&mut self, name: &str, outcome: &Outcome) {
        let done = match outcome {
            Outcome::NotSent => return,
            Outcome::Lost => Tri::Maybe,
            Outcome::Answered(204, _) => Tri::Yes,
            Outcome::Answered(code, body) => {
                self.refused(&format!("DELETE {name}"), *code, body);
                return;
            }
        };
        for run in self.of_name(name) {
            raise(&mut run.deleted, done);
        }
    }

    fn accept(&mut self, run: &str, done: Tri) {
        if let Some(run) = self.runs.get_mut(run) {
            raise(&mut run.accepted, done);
        }
    }

    fn refused(&mut self, what: &str, code: u16, body: &Value) {
        let allowed = code == 503 || (code == 507 && self.disk_was_full);
        if !allowed {
            self.violate("answer", format!("{what} was answered with {code} {body}"));
        }
    }

    /// Judges one task as it was shown.
    pub(super) fn show(&mut self, task: &Value) {
        let Some(name) = run_of(task).map(str::to_owned) else {
            self.violate("stranger", format!("a task that nobody sent: {task}"));
            return;
        };
        let Some(mut run) = self.runs.remove(&name) else {
            self.violate("stranger", format!("a run that nobody sent: {task}"));
            return;
        };
        for (kind, text) in judge(&mut run, task) {
            self.violate(kind, format!("{name} ({:?}) {text}: {task}", run.plan.work));
        }
        let deleted = run.deleted;
        self.runs.insert(name.clone(), run);
        let seen = SeenEnd {
            run: name,
            task: task.clone(),
            deleted,
        };
        if self.holding {
            self.held.push(seen);
        } else {
            self.judge_end(&seen);
        }
    }

    /// Puts off the judgement of ends while a fault is under way that may explain them.
    pub(super) fn hold(&mut self) {
        self.holding = true;
    }

    /// Judges what was put off, now that it is booked what the fault has hit.
    pub(super) fn release(&mut self) {
        self.holding = false;
        for seen in std::mem::take(&mut self.held) {
            self.judge_end(&seen);
        }
    }

    fn judge_end(&mut self, seen: &SeenEnd) {
        let Some((_, Shown::Terminated(end))) = state(&seen.task) else {
            return;
        };
        let Some(run) = self.runs.get(&seen.run) else {
            return;
        };
        let code = end["exitCode"].as_i64().unwrap_or(i64::MIN);
        let reason = end["reason"].as_str().unwrap_or_default();
        let right = run.allows(code, end["signal"].as_i64(), reason);
        // What a deletion does to a task depends on the moment; but it makes no success.
        if !right && (seen.deleted == Tri::No || reason == "Succeeded") {
            // It is said never to have been startable, though it is.
            let late_record = run.disk_was_full && run.plan.pre.is_some();
            let kind = match reason {
                "StartError" => "given-up",
                "Unknown" if late_record => "lost-on-full-disk",
                _ => "wrong-end",
            };
            let text = format!(
                "{} ({:?}, {:?}, {:?}) has not ended like that: {}",
                seen.run, run.plan.work, run.hurt, run.records, seen.task
            );
            self.violate(kind, text);
        }
    }

    /// Judges a list of tasks as it was shown.
    pub(super) fn list(&mut self, list: &Value) {
        let Some(tasks) = list.as_array() else {
            self.violate("answer", format!("the list of tasks is no list: {list}"));
            return;
        };
        let key = |task: &Value| {
            let deleting = task["deletionTimestamp"].is_string();
            (
                deleting,
                task["name"].as_str().unwrap_or_default().to_owned(),
            )
        };
        if !tasks.is_sorted_by_key(key) {
            self.violate("order", format!("the list is not in order: {list}"));
        }
        let mut names: Vec<_> = tasks.iter().map(|task| key(task).1).collect();
        names.sort();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            self.violate("order", format!("the list has a name twice: {list}"));
        }
        for task in tasks {
            self.show(task);
        }
    }

    /// Judges a list in which nothing is under way any more: what is not there is not there.
    pub(super) fn settled(&mut self, list: &Value) {
        let shown: Vec<_> = list
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(run_of)
            .map(str::to_owned)
            .collect();
        let mut lost = Vec::new();
        for run in self.runs.values_mut() {
            if shown.contains(&run.plan.run) {
                // Nothing is being deleted any more, so a request that was lost did not arrive.
                if run.deleted == Tri::Maybe {
                    run.deleted = Tri::No;
                }
                continue;
            }
            if run.is_wanted() && run.accepted == Tri::Yes && run.records < Records::MayBeSetAside {
                lost.push(run.plan.run.clone());
            }
            if run.is_wanted() {
                // It was never accepted, or it is set aside: either way it is no more.
                if run.accepted == Tri::Maybe && run.records < Records::MayBeSetAside {
                    run.accepted = Tri::No;
                }
                run.deleted = Tri::Yes;
            }
        }
        for run in lost {
            self.violate("lost", format!("{run} was acknowledged and is not there"));
        }
    }
}

fn raise(what: &mut Tri, to: Tri) {
    if *what != Tri::Yes {
        *what = to;
    }
}

/// Judges one shown task against its run, and books what it tells.
fn judge(run: &mut Run, task: &Value) -> Vec<(&'static str, &'static str)> {
    let mut found = Vec::new();
    let mut violate = |kind, text| found.push((kind, text));
    if run.accepted == Tri::No {
        let kind = if run.disk_was_full {
            "set-not-whole"
        } else {
            "stranger"
        };
        violate(kind, "is there although it was refused");
    }
    run.accepted = Tri::Yes;
    let deleting = task["deletionTimestamp"].is_string();
    match (run.deleted, deleting) {
        (Tri::No, true) => violate("lost", "is being deleted although nobody asked for it"),
        (Tri::Yes, false) => violate("undeleted", "is there although it was deleted"),
        (Tri::Maybe, true) => run.deleted = Tri::Yes,
        _ => {}
    }
    let uid = task["uid"].as_str().unwrap_or_default().to_owned();
    match &run.uid {
        Some(known) if *known != uid => violate("twice", "has another uid than before"),
        _ => run.uid = Some(uid),
    }
    if task["name"] != run.plan.name.as_str() {
        violate("stranger", "has another name");
    }
    let Some((dialect, shown)) = state(task) else {
        violate("answer", "has no state");
        return found;
    };
    if dialect != run.plan.dialect {
        violate("answer", "is answered in another dialect");
    }
    match shown {
        Shown::Terminated(end) => {
            if let Some(before) = &run.shown_end
                && before != end
            {
                violate("changed", "has another end than was shown before");
            }
            run.shown_end = Some(end.clone());
        }
        Shown::Running | Shown::Waiting(_) if run.shown_end.is_some() => {
            let unseen = |end: &Value| end["reason"] == "Unknown" || end["reason"] == "StartError";
            let hook = run.plan.post && run.shown_end.as_ref().is_some_and(unseen);
            let kind = if hook { "hook-after-loss" } else { "changed" };
            violate(kind, "had ended before");
        }
        Shown::Running => run.running_shown = true,
        Shown::Waiting(_) if run.running_shown && run.records == Records::Sound => {
            violate("changed", "was running before");
        }
        Shown::Waiting(_) => {}
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use serde_json::json;

    fn model() -> (Model, Value) {
        let mut model = Model::default();
        let mut plan = Plan::random(&mut Random::new(1), "r1".to_owned(), "n".to_owned());
        plan.work = super::super::work::Work::Exit {
            code: 7,
            hundredths: 0,
        };
        plan.pre = None;
        plan.dialect = Dialect::Flat;
        let mut task = plan.body(std::path::Path::new("ledger"));
        task["uid"] = "u".into();
        task["processStatus"] = json!({"waiting": {"reason": "Initialized"}});
        model.add(plan);
        (model, task)
    }

    fn kinds(model: &Model) -> Vec<&'static str> {
        model.violations.iter().map(|v| v.kind).collect()
    }

    #[test]
    fn an_acknowledged_task_must_be_there() {
        let (mut model, task) = model();
        model.posted("r1", &Outcome::Answered(201, task.clone()));
        model.list(&json!([task]));
        model.settled(&json!([task]));
        assert_eq!(kinds(&model), [""; 0]);
        model.settled(&json!([]));
        assert_eq!(kinds(&model), ["lost"]);
    }

    #[test]
    fn after_a_lost_answer_both_are_right() {
        let (mut model, task) = model();
        model.posted("r1", &Outcome::Lost);
        model.settled(&json!([]));
        assert_eq!(kinds(&model), [""; 0]);
        let (mut model, _) = self::model();
        model.posted("r1", &Outcome::Lost);
        model.list(&json!([task]));
        model.settled(&json!([task]));
        assert_eq!(kinds(&model), [""; 0]);
    }

    #[test]
    fn only_the_true_end_is_right_and_unknown_needs_a_killed_shim() {
        let check = |code: i32, reason: &str, shim_killed: bool| {
            let (mut model, mut task) = model();
            model.posted("r1", &Outcome::Answered(201, task.clone()));
            for run in model.of_name("n") {
                run.hurt.shim = shim_killed;
            }
            task["processStatus"] = json!({"terminated": {"exitCode": code, "reason": reason}});
            model.list(&json!([task]));
            kinds(&model)
        };
        assert_eq!(check(7, "Failed", false), [""; 0]);
        assert_eq!(check(255, "Unknown", true), [""; 0]);
        assert_eq!(check(255, "Unknown", false), ["wrong-end"]);
        assert_eq!(check(0, "Succeeded", true), ["wrong-end"]);
        assert_eq!(check(8, "Failed", false), ["wrong-end"]);
    }

    #[test]
    fn a_deleted_task_must_be_shown_as_such_and_an_end_never_changes() {
        let (mut model, mut task) = model();
        model.posted("r1", &Outcome::Answered(201, task.clone()));
        model.deleted("n", &Outcome::Answered(204, Value::Null));
        model.list(&json!([task]));
        assert_eq!(kinds(&model), ["undeleted"]);
        task["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        task["processStatus"] = json!({"terminated": {"exitCode": 7, "reason": "Failed"}});
        model.list(&json!([task]));
        task["processStatus"]["terminated"]["exitCode"] = 8.into();
        model.list(&json!([task]));
        assert_eq!(kinds(&model), ["undeleted", "changed"]);
    }
}
