//! The seven laws, held against a model of a cluster in which everything goes wrong.
//!
//! Each run has a seed, which is printed when a law is broken: `LAWS_SEED=4711 cargo test -p sandbox-planner --test laws`
//! repeats it alone, with a journal. `LAWS_RUNS` sets how many runs each law has.
#![allow(clippy::print_stdout, reason = "the totals are for people")]
#![allow(clippy::disallowed_methods, reason = "a run can be chosen")]
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, reason = "a test")]

mod model {
    pub mod agents;
    pub mod api;
    pub mod book;
    pub mod fair;
    pub mod rng;
    pub mod spec_holds;
    pub mod user;
    pub mod world;
}

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::SignedDuration;
use sandbox_planner::engine::{Engine, Input, Output, Settings};
use sandbox_planner::plan::{Allocation, Seen, plan};

use model::spec_holds;
use model::world::{Weather, World};

/// Rounds of fair weather within which everything must be as wanted. A round does all that is due at once; the
/// longest chain is a deletion and a new life, with a pause of two seconds after each of a few failed writes, an
/// expiry, and an agent's two minutes.
const ROUNDS_MAX: usize = 100;

/// A bit of everything.
const ROUGH: Weather = Weather {
    deliver_batches: 12,
    deliver_pods: 14,
    execute: 14,
    answer: 14,
    hear: 14,
    kubelet: 8,
    poll: 10,
    tasks: 4,
    time: 4,
    user: 2,
    crash: 2,
    watch_breaks: 4,
    duplicate: 50,
    write_fails: 60,
    pod_fails: 60,
    agent_fails: 60,
};

static STEPS: AtomicU64 = AtomicU64::new(0);
static FAULTS: AtomicU64 = AtomicU64::new(0);
static VIOLATIONS: AtomicU64 = AtomicU64::new(0);

fn runs() -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match number("LAWS_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("LAWS_RUNS").unwrap_or(72),
    }
}

/// Runs a law with many seeds; `run` takes a world and says which rules were broken.
fn law(name: &str, run: impl Fn(&mut World) -> Vec<String>) {
    let (mut steps, mut faults, mut starts, mut writes) = (0, 0, 0, 0);
    let mut failed = BTreeMap::new();
    for seed in runs() {
        let mut world = World::new(seed);
        world.book.has_journal = std::env::var("LAWS_SEED").is_ok();
        let run = AssertUnwindSafe(|| run(&mut world));
        let panicked = |_| vec!["the engine panicked, see above".to_owned()];
        let mut broken = catch_unwind(run).unwrap_or_else(panicked);
        broken.extend(std::mem::take(&mut world.book.violations));
        steps += world.book.steps;
        faults += world.book.faults;
        starts += world.book.starts;
        writes += world.api.writes;
        if !broken.is_empty() {
            failed.insert(seed, broken);
        }
    }
    let violations = u64::try_from(failed.values().map(Vec::len).sum::<usize>()).unwrap();
    let all = |total: &AtomicU64, more| total.fetch_add(more, Ordering::Relaxed) + more;
    println!(
        "{name}: {steps} steps, {faults} faults, {starts} tasks started, {writes} writes, {violations} violations; \
         so far {} steps, {} faults, {} violations",
        all(&STEPS, steps),
        all(&FAULTS, faults),
        all(&VIOLATIONS, violations),
    );
    if let Some((seed, broken)) = failed.first_key_value() {
        let few: Vec<_> = broken.iter().take(5).cloned().collect();
        panic!(
            "{name} is broken with {} seeds, such as {seed}:\n{}",
            failed.len(),
            few.join("\n")
        );
    }
}

fn ticks(world: &mut World, weather: &Weather, count: usize) {
    for _ in 0..count {
        world.tick(weather);
        if !world.book.violations.is_empty() {
            return;
        }
    }
}

/// Lets the weather clear up, and says what is not as it should be then.
fn settle(world: &mut World) -> Vec<String> {
    match world.settle(ROUNDS_MAX) {
        Some(_) => spec_holds::broken(world),
        None => vec![format!(
            "is not done: {:?}, wake {:?} at {}",
            world.in_flight,
            world.engine.next_wake(),
            world.now
        )],
    }
}

#[test]
fn convergence_after_faults_stop_the_spec_holds_and_nothing_is_left_to_do() {
    law("convergence", |world| {
        let mut broken = Vec::new();
        for _ in 0..8 {
            ticks(world, &ROUGH, 400);
            broken.extend(settle(world));
        }
        broken
    });
}

#[test]
fn stability_time_and_duplicates_and_a_restart_cause_no_writes() {
    law("stability", |world| {
        ticks(world, &ROUGH, 1500);
        let mut broken = settle(world);
        for round in 0..30 {
            let writes = world.api.writes;
            world.now += SignedDuration::from_secs(round * 60);
            match round % 3 {
                0 => {
                    world.api.relist_batches();
                    world.api.relist_pods();
                }
                1 => world.crash(),
                _ => {}
            }
            while world.fair_round(false) {}
            for _ in 0..20 {
                world.step();
            }
            if world.engine.next_wake().is_some_and(|at| at <= world.now) {
                broken.push("wakes up for nothing".to_owned());
            }
            if world.api.writes != writes || !world.in_flight.is_empty() {
                broken.push(format!("writes in round {round}: {:?}", world.in_flight));
            }
        }
        broken
    });
}

#[test]
fn crash_safety_any_prefix_of_what_was_to_be_done_leads_to_the_same_end() {
    let weather = Weather { crash: 25, ..ROUGH };
    law("crash safety", |world| {
        let mut broken = Vec::new();
        for _ in 0..4 {
            ticks(world, &weather, 700);
            broken.extend(settle(world));
        }
        broken
    });
}

#[test]
fn staleness_an_old_picture_creates_nothing_twice_and_deletes_nothing_wrongly() {
    let weather = Weather {
        deliver_batches: 2,
        deliver_pods: 2,
        watch_breaks: 8,
        duplicate: 300,
        user: 4,
        ..ROUGH
    };
    law("staleness", |world| {
        let mut broken = Vec::new();
        for _ in 0..3 {
            ticks(world, &weather, 1000);
            broken.extend(settle(world));
        }
        broken
    });
}

#[test]
fn safety_no_pod_twice_no_task_twice_no_stranger_touched() {
    let weather = Weather {
        user: 8,
        pod_fails: 150,
        write_fails: 150,
        ..ROUGH
    };
    law("safety", |world| {
        ticks(world, &weather, 3000);
        settle(world)
    });
}

#[test]
fn truth_status_says_what_agents_hold_and_results_are_kept_before_pods_go() {
    let weather = Weather {
        agent_fails: 300,
        tasks: 20,
        time: 16,
        ..ROUGH
    };
    law("truth", |world| {
        let mut broken = Vec::new();
        for _ in 0..6 {
            ticks(world, &weather, 500);
            broken.extend(settle(world));
        }
        broken
    });
}

#[test]
fn order_freedom_shuffled_inputs_give_the_same_plan() {
    law("order freedom", |world| {
        let mut broken = Vec::new();
        for _ in 0..100 {
            ticks(world, &ROUGH, 30);
            broken.extend(shuffled(world));
        }
        broken.extend(settle(world));
        broken
    });
}

/// Two new engines, told the same in another order, and two plans for the same Pods in another order.
fn shuffled(world: &mut World) -> Vec<String> {
    let mut broken = Vec::new();
    let mut inputs: Vec<_> = world
        .api
        .batches
        .values()
        .map(|object| Input::Batch(Box::new(object.clone())))
        .collect();
    let pods = world.api.pods.values();
    inputs.extend(pods.map(|stored| Input::Pod {
        batch: model::api::key(&stored.batch),
        pod: stored.pod.clone(),
        version: stored.version,
    }));
    let one = decide(&inputs, world);
    world.rng.shuffle(&mut inputs);
    if decide(&inputs, world) != one {
        broken.push("two engines decide differently".to_owned());
    }
    broken.extend(shuffled_plans(world));
    broken
}

fn shuffled_plans(world: &mut World) -> Vec<String> {
    let mut broken = Vec::new();
    for object in world.api.batches.values() {
        let Ok(spec) = sandbox_planner::batch::Spec::read(object) else {
            continue;
        };
        let batch = sandbox_planner::batch::Batch {
            meta: sandbox_planner::batch::Meta::read(object),
            spec: spec.into(),
            status: object.status.clone().unwrap_or_default(),
        };
        let mut pods: Vec<_> = world.api.pods.values().map(|stored| &stored.pod).collect();
        let (agents, unkept, limits) = Default::default();
        let planned = |pods: &[&sandbox_planner::pod::Pod]| {
            let allocation = Allocation::direct(&batch.meta.uid, pods.iter().copied());
            let seen = Seen {
                batch: &batch,
                allocation: &allocation,
                agents: &agents,
                unkept: &unkept,
                limits: &limits,
            };
            plan(&seen, world.now)
        };
        let first = planned(&pods);
        world.rng.shuffle(&mut pods);
        if planned(&pods) != first {
            broken.push("two plans differ".to_owned());
        }
    }
    broken
}

fn decide(inputs: &[Input], world: &mut World) -> Vec<Output> {
    let mut engine = Engine::new(Settings::default());
    for input in inputs {
        engine.on(input.clone(), world.now);
    }
    let all = world.api.pods.values().map(|stored| stored.pod.uid.clone());
    engine.on(Input::PodsListed(all.collect()), world.now);
    world.book.steps += 1;
    engine.step(world.now)
}
