//! The table of recovery case by case, then every path through a small world of a server
//! and its shims that are killed at any step.

use std::collections::{BTreeSet, VecDeque};

use task_shim::record::{Identity, Outcome, Phase as RunPhase};

use super::*;

fn scope(boot: &str) -> Scope {
    Scope {
        boot: boot.to_owned(),
        pid_namespace: 1,
    }
}

fn run() -> RunRecord {
    let leader = Identity {
        boot: "b".to_owned(),
        pid_namespace: 1,
        pid: 7,
        start_ticks: 9,
    };
    RunRecord {
        uid: "u".to_owned(),
        leader,
        phase: RunPhase::Main,
        started_at: 5,
    }
}

fn exit(outcome: Outcome) -> ExitRecord {
    ExitRecord {
        uid: "u".to_owned(),
        outcome,
        code: 7,
        signal: None,
        started_at: Some(5),
        finished_at: 6,
        message: String::new(),
    }
}

fn situation(scope: &Scope) -> Situation<'_> {
    Situation {
        phase: Phase::Idle,
        deleting: false,
        has_post_stop: false,
        launches: 0,
        orphans_ended: false,
        scope,
    }
}

fn seen(shim: Holder) -> Seen {
    Seen {
        shim,
        run: Found::Nothing,
        run_at: None,
        exit: Found::Nothing,
        post: Found::Nothing,
    }
}

const HOLDERS: [Holder; 4] = [
    Holder::Nobody,
    Holder::Left,
    Holder::Process(Pid::from_raw(3)),
    Holder::Elsewhere,
];

/// Every combination of what can be found, with every situation.
fn all(mut check: impl FnMut(&Seen, &Situation<'_>)) {
    let scope = scope("b");
    let runs = [Found::Nothing, Found::Record(run()), Found::Unreadable];
    let ended = exit(Outcome::Ended);
    let exits = [Found::Nothing, Found::Record(ended), Found::Unreadable];
    let posts = [
        Found::Nothing,
        Found::Record(PostRecord::Started),
        Found::Record(PostRecord::Done),
        Found::Unreadable,
    ];
    for (shim, run) in HOLDERS
        .iter()
        .flat_map(|s| runs.iter().map(move |r| (s, r)))
    {
        for (exit, post) in exits.iter().flat_map(|e| posts.iter().map(move |p| (e, p))) {
            let seen = Seen {
                shim: *shim,
                run: run.clone(),
                run_at: (*run == Found::Unreadable).then_some(4),
                exit: exit.clone(),
                post: post.clone(),
            };
            for phase in [Phase::Idle, Phase::Launching, Phase::Supervised] {
                for bits in 0..16_u8 {
                    let situation = Situation {
                        phase,
                        deleting: bits & 1 > 0,
                        has_post_stop: bits & 2 > 0,
                        launches: if bits & 4 > 0 { LAUNCHES_MAX } else { 0 },
                        orphans_ended: bits & 8 > 0,
                        scope: &scope,
                    };
                    check(&seen, &situation);
                }
            }
        }
    }
}

fn has(actions: &[Action], pick: fn(&Action) -> bool) -> bool {
    actions.iter().any(pick)
}

#[test]
fn nothing_is_removed_or_given_up_while_anything_of_it_may_run() {
    all(|seen, situation| {
        let actions = plan(seen, situation);
        let ends = has(&actions, |a| {
            matches!(
                a,
                Action::Remove | Action::RecordLost(..) | Action::GiveUp | Action::RunPostStop
            )
        });
        if ends {
            assert!(!is_alive(seen, situation), "{seen:?} {situation:?}");
            assert!(!has_orphans(seen, situation), "{seen:?} {situation:?}");
        }
    });
}

#[test]
fn an_end_is_shown_only_from_a_readable_exit_record() {
    all(|seen, situation| {
        let shown = has(&plan(seen, situation), |a| matches!(a, Action::ShowOver(_)));
        assert!(!shown || matches!(seen.exit, Found::Record(_)), "{seen:?}");
    });
}

#[test]
fn a_deletion_always_has_a_next_step() {
    all(|seen, situation| {
        if situation.deleting {
            assert!(!plan(seen, situation).is_empty(), "{seen:?} {situation:?}");
        }
    });
}

#[test]
fn a_task_may_be_started_only_if_no_trace_of_a_start_is_there() {
    all(|seen, situation| {
        if may_start(seen) {
            let untouched = (Found::Nothing, Found::Nothing);
            assert_eq!((seen.run.clone(), seen.exit.clone()), untouched);
            assert!(!is_alive(seen, situation) || situation.phase != Phase::Idle);
        }
    });
}

#[test]
fn a_loss_says_whether_the_shim_or_its_whole_scope_has_ended() {
    let lost = Seen {
        run: Found::Record(run()),
        ..seen(Holder::Left)
    };
    for (boot, why) in [("b", SHIM_KILLED), ("c", SCOPE_ENDED)] {
        let scope = scope(boot);
        let before = situation(&scope);
        assert_eq!(
            plan(&lost, &before),
            [Action::ShowRunning(5), Action::EndOrphans(Some(run()))],
            "first whatever is left"
        );
        let after = Situation {
            orphans_ended: true,
            ..before
        };
        assert_eq!(
            plan(&lost, &after),
            [Action::ShowRunning(5), Action::RecordLost(why, Some(run()))]
        );
    }
}

#[test]
fn what_a_finished_task_left_behind_lives_until_its_deletion_even_without_a_shim() {
    let scope = scope("b");
    let over = Seen {
        run: Found::Record(run()),
        exit: Found::Record(exit(Outcome::Ended)),
        ..seen(Holder::Left)
    };
    let shown = Action::ShowOver(Box::new(exit(Outcome::Ended)));
    assert_eq!(
        plan(&over, &situation(&scope)),
        std::slice::from_ref(&shown)
    );
    let deleting = Situation {
        deleting: true,
        ..situation(&scope)
    };
    assert_eq!(
        plan(&over, &deleting),
        [shown, Action::EndOrphans(Some(run()))]
    );
}

#[test]
fn a_damaged_exit_record_is_an_end_though_the_shim_looks_after_what_was_left() {
    let scope = scope("b");
    let torn = Seen {
        run: Found::Record(run()),
        exit: Found::Unreadable,
        ..seen(Holder::Process(Pid::from_raw(3)))
    };
    let supervised = Situation {
        phase: Phase::Supervised,
        deleting: true,
        ..situation(&scope)
    };
    let recorded = [
        Action::ShowRunning(5),
        Action::RecordTorn(Some(run())),
        Action::Stop,
    ];
    assert_eq!(plan(&torn, &supervised), recorded);
}

/// How far a shim is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Spawned,
    Locked,
    Running,
    Ended,
    InPostStop,
    Lingering,
}

/// A server, a task and its processes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts that are independent of each other"
)]
struct World {
    // What is on disk and in the process table.
    shim: Option<(Stage, bool)>,
    /// A shim that an earlier server has started and that has not come to life yet.
    stale: bool,
    left: bool,
    run: bool,
    exit: Option<bool>,
    post: u8,
    orphans: bool,
    removed: bool,
    // What the server remembers.
    phase: u8,
    deleting: bool,
    launches: u32,
    over: bool,
    // What is counted.
    runs: u8,
    posts: u8,
    kills: u8,
    restarts: u8,
    has_post_stop: bool,
}

impl World {
    fn new(has_post_stop: bool) -> Self {
        Self {
            shim: None,
            stale: false,
            left: false,
            run: false,
            exit: None,
            post: 0,
            orphans: false,
            removed: false,
            phase: 0,
            deleting: false,
            launches: 0,
            over: false,
            runs: 0,
            posts: 0,
            kills: 0,
            restarts: 0,
            has_post_stop,
        }
    }

    fn seen(&self) -> Seen {
        let holder = match self.shim {
            Some((stage, _)) if stage > Stage::Spawned => Holder::Process(Pid::from_raw(3)),
            _ if self.left => Holder::Left,
            _ => Holder::Nobody,
        };
        Seen {
            shim: holder,
            run: if self.run {
                Found::Record(run())
            } else {
                Found::Nothing
            },
            run_at: None,
            exit: self.exit.map_or(Found::Nothing, |exact| {
                let outcome = if exact { Outcome::Ended } else { Outcome::Lost };
                Found::Record(exit(outcome))
            }),
            post: match self.post {
                0 => Found::Nothing,
                1 => Found::Record(PostRecord::Started),
                _ => Found::Record(PostRecord::Done),
            },
        }
    }

    /// One step of the shim.
    fn advance(&self) -> Option<Self> {
        let (stage, post_only) = self.shim?;
        let mut next = self.clone();
        let mut go = |stage| next.shim = Some((stage, post_only));
        match stage {
            Stage::Spawned => {
                go(Stage::Locked);
                next.left = true;
            }
            Stage::Locked if post_only && self.post == 0 => {
                go(Stage::InPostStop);
                (next.post, next.posts) = (1, self.posts + 1);
            }
            Stage::Locked if post_only || self.run || self.exit.is_some() || self.removed => {
                next.shim = None;
            }
            Stage::Locked => {
                go(Stage::Running);
                (next.run, next.runs) = (true, self.runs + 1);
            }
            Stage::Running => {
                go(Stage::Ended);
                next.exit = Some(true);
            }
            Stage::Ended if self.has_post_stop => {
                go(Stage::InPostStop);
                (next.post, next.posts) = (1, self.posts + 1);
            }
            Stage::InPostStop => {
                go(Stage::Lingering);
                next.post = 2;
            }
            Stage::Ended | Stage::Lingering => {
                next.shim = None;
                next.left = false;
            }
        }
        Some(next)
    }

    /// The stale shim comes to life, takes the lock and looks whether it is still wanted.
    fn wake_stale(&self) -> Option<Self> {
        let is_free = self.shim.is_none_or(|(stage, _)| stage == Stage::Spawned);
        (self.stale && is_free).then(|| {
            let mut next = self.clone();
            next.stale = self.shim.is_some();
            if !self.run && self.exit.is_none() && !self.removed {
                (next.shim, next.left) = (Some((Stage::Locked, false)), true);
            } else {
                next.stale = false;
            }
            next
        })
    }

    fn kill_shim(&self) -> Option<Self> {
        let (stage, _) = self.shim.filter(|_| self.kills < 2)?;
        let mut next = self.clone();
        next.shim = None;
        next.kills += 1;
        next.orphans |= stage >= Stage::Running;
        Some(next)
    }

    fn restart_server(&self) -> Option<Self> {
        (self.restarts < 2).then(|| Self {
            restarts: self.restarts + 1,
            phase: 0,
            launches: 0,
            ..self.clone()
        })
    }

    fn delete(&self) -> Option<Self> {
        (!self.deleting).then(|| Self {
            deleting: true,
            ..self.clone()
        })
    }

    /// The server's end of the pidfd: the shim that it supervises has ended.
    fn notice(&self) -> Option<Self> {
        (self.phase == 2 && self.shim.is_none()).then(|| Self {
            phase: 0,
            launches: self.launches + 1,
            ..self.clone()
        })
    }

    /// The server looks, plans, and carries out the first `prefix` actions.
    fn serve(&self, prefix: usize) -> Option<Self> {
        (!self.removed).then(|| self.serve_after_search(prefix, false))
    }

    fn serve_after_search(&self, prefix: usize, orphans_ended: bool) -> Self {
        let scope = scope("b");
        let situation = Situation {
            phase: [Phase::Idle, Phase::Launching, Phase::Supervised][usize::from(self.phase)],
            deleting: self.deleting,
            has_post_stop: self.has_post_stop,
            launches: self.launches,
            orphans_ended,
            scope: &scope,
        };
        let seen = self.seen();
        let actions = plan(&seen, &situation);
        let mut next = self.clone();
        let idle = self.phase == 0 && !self.deleting && !self.over && actions.is_empty();
        if idle && may_start(&seen) {
            next.stale |= self.shim.is_some();
            (next.shim, next.phase) = (Some((Stage::Spawned, false)), 2);
        }
        for action in actions.into_iter().take(prefix) {
            if let Action::EndOrphans(_) = action {
                next.orphans = false;
                return next.serve_after_search(prefix, true);
            }
            next.carry_out(action);
        }
        next
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Follow(_) => self.phase = 2,
            Action::LookAgain | Action::ShowRunning(_) => {}
            Action::ShowOver(exit) => {
                let exact = exit.outcome == Outcome::Ended;
                assert_eq!(Some(exact), self.exit, "shown as it was recorded");
                self.over = true;
            }
            Action::Stop => {
                if let Some((Stage::Running, post_only)) = self.shim {
                    self.shim = Some((Stage::Ended, post_only));
                    self.exit = Some(true);
                }
            }
            Action::EndOrphans(_) => unreachable!("done before"),
            Action::RecordTorn(_) => unreachable!("nothing is damaged here"),
            Action::RecordLost(..) | Action::GiveUp => {
                assert!(self.exit.is_none(), "a record is never written over");
                assert!(!self.orphans && self.shim.is_none_or(|(s, _)| s == Stage::Spawned));
                (self.exit, self.left) = (Some(false), false);
            }
            Action::RunPostStop => (self.shim, self.phase) = (Some((Stage::Spawned, true)), 2),
            Action::SkipPostStop => self.post = 2,
            Action::Remove => {
                assert!(!self.orphans, "nothing of it runs: {self:?}");
                let locked = self.shim.is_some_and(|(stage, _)| stage > Stage::Spawned);
                assert!(!locked, "no shim has it: {self:?}");
                self.removed = true;
            }
        }
    }

    fn is_settled(&self) -> bool {
        if self.deleting {
            self.removed
        } else {
            self.over
        }
    }
}

#[test]
fn whatever_is_killed_at_whatever_step_a_task_runs_at_most_once_and_comes_to_its_end() {
    for has_post_stop in [false, true] {
        let mut known = BTreeSet::new();
        let mut open = VecDeque::from([World::new(has_post_stop)]);
        while let Some(world) = open.pop_front() {
            if !known.insert(world.clone()) {
                continue;
            }
            assert!(world.runs <= 1, "never run twice: {world:?}");
            assert!(world.posts <= 1, "a hook runs once: {world:?}");
            comes_to_its_end(&world);
            let steps = [
                world.advance(),
                world.kill_shim(),
                world.wake_stale(),
                world.restart_server(),
                world.delete(),
                world.notice(),
                world.serve(usize::MAX),
                world.serve(1),
            ];
            open.extend(steps.into_iter().flatten());
        }
        assert!(known.len() > 500, "only {} states", known.len());
    }
}

/// Without further faults, in a bounded number of steps.
fn comes_to_its_end(start: &World) {
    let mut world = start.clone();
    for _ in 0..40 {
        if world.is_settled() {
            return;
        }
        world = world.serve(usize::MAX).unwrap_or(world);
        world = world.advance().unwrap_or(world);
        world = world.notice().unwrap_or(world);
    }
    panic!("from {start:?} it gets stuck at {world:?}");
}
