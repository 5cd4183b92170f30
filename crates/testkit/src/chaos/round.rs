//! One round: an agent of its own, random requests, faults in between, checks at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Value;

use super::damage;
use super::disk::Disk;
use super::faults::{self, Fault, Hit, Moment, Struck};
use super::model::{Model, Outcome, Violation};
use super::points::Watcher;
use super::victim::{Down, Victim};
use super::work::Plan;
use crate::http::{Answer, Client};
use crate::random::Random;
use crate::target::Layout;

/// Few names, so that they are used again and again.
const NAMES: usize = 6;

/// What a round is to do.
#[derive(Debug, Clone)]
pub(super) struct Order {
    pub(super) program: PathBuf,
    pub(super) seed: u64,
    /// Tells the rounds of a campaign apart.
    pub(super) index: u64,
    /// The faults to choose from.
    pub(super) faults: Vec<Fault>,
    /// Whether tasks run in a main container.
    pub(super) sidecar: bool,
}

/// What a round did.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) tasks: usize,
    pub(super) requests: usize,
    /// How often each fault struck, and how often at a fault point.
    pub(super) faults: BTreeMap<String, usize>,
    pub(super) violations: Vec<Violation>,
    /// What happened, step by step.
    pub(super) journal: Vec<String>,
}

/// A round under way.
#[derive(Debug)]
pub(super) struct Round {
    pub(super) victim: Victim,
    pub(super) model: Model,
    pub(super) report: Report,
    pub(super) ledgers: PathBuf,
    /// `--max-concurrent-tasks` of this agent.
    pub(super) running_max: Option<usize>,
    /// Open descriptors of a server that has nothing to do.
    pub(super) idle_descriptors: usize,
    /// Whether litter or damage was put into the data directory.
    pub(super) data_dir_was_touched: bool,
    /// Control groups that tasks were seen in.
    pub(super) groups: BTreeSet<PathBuf>,
    random: Random,
    client: Client,
    peers: Vec<TcpStream>,
    disk: Option<Disk>,
    began: Instant,
}

/// The round can't go on; why it can't is a violation already.
#[derive(Debug)]
pub(super) struct Stop;

/// Does one round from its beginning to its end.
pub(super) fn run(order: &Order) -> io::Result<Report> {
    let root = tempfile::Builder::new().prefix("agent-chaos-").tempdir()?;
    let mut round = Round::prepare(order, root.path())?;
    let faults = round.choose(&order.faults);
    if faults.contains(&Fault::DiskFull) {
        round.disk = Some(Disk::mount(&root.path().join("disk"))?);
    }
    let stopped = round.play(&faults).is_err();
    if stopped || !round.model.violations.is_empty() {
        let words = round.victim.last_words();
        round.note(format!("the agent's last words:\n{words}"));
    }
    let left = round.victim.kill_everything();
    round.note(format!("{} processes cleaned up", left.len()));
    let accepted = |run: &&super::model::Run| run.accepted != super::model::Tri::No;
    round.report.tasks = round.model.runs.values().filter(accepted).count();
    round.report.violations = std::mem::take(&mut round.model.violations);
    Ok(std::mem::take(&mut round.report))
}

impl Round {
    fn prepare(order: &Order, root: &Path) -> io::Result<Self> {
        let mut random = Random::new(order.seed);
        let running_max = random.chance(15).then_some(3);
        let mut flags = vec![
            "--termination-grace-period=1s".to_owned(),
            "--log-level=warn".to_owned(),
        ];
        flags.extend(running_max.map(|max| format!("--max-concurrent-tasks={max}")));
        if random.chance(10) {
            flags.push("--durability=sync".to_owned());
        }
        let ledgers = root.join("ledgers");
        std::fs::create_dir_all(&ledgers)?;
        std::fs::create_dir_all(root.join("disk"))?;
        let mut victim = Victim::new(&order.program, root, order.index, flags);
        if order.sidecar {
            victim.add_container(*random.pick(&Layout::ALL));
        }
        let client = victim.client();
        Ok(Self {
            victim,
            model: Model::default(),
            report: Report::default(),
            ledgers,
            running_max,
            idle_descriptors: 0,
            data_dir_was_touched: false,
            groups: BTreeSet::new(),
            random,
            client,
            peers: Vec::new(),
            disk: None,
            began: Instant::now(),
        })
    }

    fn choose(&mut self, from: &[Fault]) -> Vec<Fault> {
        let count = 1 + self.random.below(3);
        (0..count).map(|_| *self.random.pick(from)).collect()
    }

    pub(super) fn note(&mut self, text: impl AsRef<str>) {
        let at = self.began.elapsed().as_millis();
        self.report
            .journal
            .push(format!("{at:6} ms  {}", text.as_ref()));
    }

    fn play(&mut self, faults: &[Fault]) -> Result<(), Stop> {
        self.note(format!("faults: {faults:?}"));
        self.launch();
        self.come_up()?;
        self.idle_descriptors = super::checks::settled_descriptors(&self.victim);
        for fault in faults {
            for _ in 0..=self.random.below(3) {
                self.step();
            }
            self.fault(*fault)?;
        }
        for _ in 0..self.random.below(3) {
            self.step();
        }
        self.check_all()
    }

    pub(super) fn launch(&mut self) {
        if let Err(error) = self.victim.launch() {
            self.model
                .violate("harness", format!("the agent can't be started: {error}"));
        }
    }

    /// Waits until the agent is up; starts it again where it died with its init.
    pub(super) fn come_up(&mut self) -> Result<(), Stop> {
        self.client = self.victim.client();
        for _ in 0..3 {
            match self.victim.wait_up() {
                Ok(()) => return Ok(()),
                // The fault itself has hit it.
                Err(Down::Ended(status)) if status.signal() == Some(nix::libc::SIGKILL) => {
                    self.note("the agent was killed while it came up");
                }
                Err(Down::Ended(status)) if self.victim.lock_owner().is_some() => {
                    let text = "the old server outlived its init, and the new agent does not \
                                take over from it";
                    self.model.violate("init-killed", text);
                    self.note(format!("{text}: {status}"));
                    self.victim.kill_lock_owner();
                }
                Err(Down::Ended(status)) => {
                    self.note(format!("the agent ended: {status}"));
                    let words = self.victim.last_words();
                    self.model
                        .violate("start", format!("the agent ended ({status}): {words}"));
                }
                Err(Down::Stuck(reached)) => {
                    let kind = if reached.contains("not a child of init") {
                        "init-killed"
                    } else {
                        "start"
                    };
                    self.model.violate(kind, reached);
                    return Err(Stop);
                }
            }
            self.launch();
        }
        Err(Stop)
    }

    /// Sends one request and says how it went.
    pub(super) fn request(&mut self, method: &str, path: &str, body: &Value) -> Outcome {
        self.report.requests += 1;
        let text = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        match self.client.request(method, path, text.as_bytes()) {
            Ok(Answer { code, body, .. }) => {
                let value = serde_json::from_slice(&body).unwrap_or(Value::Null);
                Outcome::Answered(code, value)
            }
            Err(error) => {
                if error.kind() == io::ErrorKind::WouldBlock && self.victim.server_is_alive() {
                    let text = format!("{method} {path} is not answered by a live server");
                    self.model.violate("stuck", text);
                }
                if error.kind() == io::ErrorKind::ConnectionRefused {
                    Outcome::NotSent
                } else {
                    Outcome::Lost
                }
            }
        }
    }

    fn random_name(&mut self) -> String {
        format!("n{}", self.random.below(NAMES))
    }

    /// A new run for a name, booked and ready to be sent.
    fn plan(&mut self, name: String) -> (String, Value) {
        let run = self.model.next_run();
        let plan = Plan::random(&mut self.random, run.clone(), name);
        let body = plan.body(&self.ledgers.join(&run));
        self.note(format!(
            "{run} is {} {:?} {:?} pre {:?} post {}",
            plan.name, plan.work, plan.dialect, plan.pre, plan.post
        ));
        self.model.add(plan);
        (run, body)
    }

    /// One random request.
    fn step(&mut self) {
        match self.random.below(100) {
            0..=44 => self.post(1),
            45..=64 => self.set(1),
            65..=84 => self.delete(1),
            85..=94 => self.list(),
            _ => self.wait(),
        }
        std::thread::sleep(self.random.within(15));
    }

    fn post(&mut self, times: usize) {
        let name = self.random_name();
        let (run, body) = self.plan(name);
        for _ in 0..times {
            let mut outcome = self.request("POST", "/tasks", &body);
            self.note(format!("POST {run}: {}", short(&outcome)));
            self.model.posted(&run, &outcome);
            if matches!(outcome, Outcome::Lost) && self.random.chance(50) {
                // What a client does that wants to know.
                outcome = self.request("POST", "/tasks", &body);
                self.note(format!("POST {run} again: {}", short(&outcome)));
                self.model.posted(&run, &outcome);
            }
        }
    }

    fn set(&mut self, times: usize) {
        let mut runs = Vec::new();
        let mut bodies = Vec::new();
        for number in 0..NAMES {
            let name = format!("n{number}");
            let wanted = self.model.wanted(&name).map(|run| run.plan.clone());
            match (wanted, self.random.below(100)) {
                (Some(plan), 0..=69) => {
                    bodies.push(plan.body(&self.ledgers.join(&plan.run)));
                    runs.push(plan.run);
                }
                (Some(_), 70..=84) | (None, 0..=29) => {
                    let (run, body) = self.plan(name);
                    runs.push(run);
                    bodies.push(body);
                }
                _ => {}
            }
        }
        let body = Value::Array(bodies);
        for _ in 0..times {
            let outcome = self.request("POST", "/setTasks", &body);
            self.note(format!("setTasks {runs:?}: {}", short(&outcome)));
            self.model.set(&runs, &outcome);
        }
    }

    fn delete(&mut self, times: usize) {
        let name = self.random_name();
        for _ in 0..times {
            let outcome = self.request("DELETE", &format!("/tasks/{name}"), &Value::Null);
            self.note(format!("DELETE {name}: {}", short(&outcome)));
            self.model.deleted(&name, &outcome);
        }
    }

    fn list(&mut self) {
        let outcome = self.request("GET", "/getTasks", &Value::Null);
        if let Outcome::Answered(200, list) = &outcome {
            self.model.list(list);
        }
        self.note(format!("GET: {}", short(&outcome)));
    }

    fn wait(&mut self) {
        let name = self.random_name();
        let outcome = self.request("GET", &format!("/tasks/{name}?wait=1s"), &Value::Null);
        if let Outcome::Answered(200, task) = &outcome {
            self.model.show(task);
        }
        self.note(format!("GET {name} with wait: {}", short(&outcome)));
    }

    fn fault(&mut self, fault: Fault) -> Result<(), Stop> {
        self.note_groups();
        *self
            .report
            .faults
            .entry(fault.name().to_owned())
            .or_default() += 1;
        match fault {
            Fault::DiskFull => self.full_disk(),
            Fault::SlowPeer => self.slow_peers(),
            Fault::Duplicate => match self.random.below(3) {
                0 => self.post(2),
                1 => self.set(2),
                _ => self.delete(2),
            },
            _ => self.strike(fault),
        }
        self.recover(fault)
    }

    /// Lets a fault strike while requests are under way.
    fn strike(&mut self, fault: Fault) {
        let moment = Moment::random(&mut self.random);
        let watcher = match moment {
            Moment::At(_) => Watcher::new(&self.victim.dir).ok(),
            Moment::After(_) => None,
        };
        self.note(format!("{fault:?} {moment:?}"));
        let mut random = Random::new(self.random.bits());
        let steps = 1 + self.random.below(4);
        self.model.hold();
        let target = self.victim.target();
        let striker = std::thread::spawn(move || {
            faults::strike(&target, fault, moment, watcher, &mut random)
        });
        for _ in 0..steps {
            self.step();
        }
        let struck = striker.join().unwrap_or_default();
        self.book(&struck);
        self.model.release();
    }

    fn book(&mut self, struck: &Struck) {
        let text: Vec<_> = struck.hits.iter().map(|hit| format!("{hit:?}")).collect();
        let point = struck.point.map_or("no point", super::points::Point::name);
        self.note(format!("hit at {point}: {}", text.join(", ")));
        if let Some(point) = struck.point {
            let key = format!("at {}", point.name());
            *self.report.faults.entry(key).or_default() += 1;
        }
        for hit in &struck.hits {
            match hit {
                Hit::Init | Hit::Server => {}
                Hit::Shim {
                    name,
                    uid,
                    ended,
                    hook_begun,
                } => {
                    for run in self.model.hit(name, uid.as_deref()) {
                        run.hurt.shim |= !ended;
                        run.hurt.shim_ever = true;
                        run.hurt.hook |= hook_begun;
                    }
                }
                Hit::Leader { name, uid } => {
                    for run in self.model.hit(name, uid.as_deref()) {
                        run.hurt.leader = true;
                    }
                }
            }
        }
    }

    /// Starts the agent again where it does not do so itself.
    fn recover(&mut self, fault: Fault) -> Result<(), Stop> {
        if fault == Fault::Term && self.victim.wait_end().is_none() {
            self.model
                .violate("stuck", "the agent does not end on SIGTERM");
            self.victim.kill_lock_owner();
        }
        if matches!(fault, Fault::Damage | Fault::KillAll) {
            self.victim.wait_end();
            self.victim.wait_server_end();
        }
        if fault == Fault::Damage {
            self.damage();
        }
        if !self.victim.init_is_alive() {
            self.victim.wait_end();
            self.launch();
        }
        self.come_up()
    }

    /// Damages records while the agent is down.
    fn damage(&mut self) {
        self.data_dir_was_touched = true;
        let root = self.victim.dir.clone();
        let names = self.victim.target().task_names();
        for _ in 0..=self.random.below(3) {
            if self.random.chance(25) {
                match damage::litter(&root, &mut self.random) {
                    Ok(text) => self.note(format!("litter: {text}")),
                    Err(error) => self.note(format!("no litter: {error}")),
                }
            } else if let Some(damage) = damage::one(&root, &names, &mut self.random) {
                self.note(format!("damage: {}", damage.text));
                let uid = damage.uid.as_deref();
                self.model.damaged(&damage.name, uid, damage.essential);
            }
        }
    }

    fn full_disk(&mut self) {
        let Some(disk) = &self.disk else { return };
        let filled = disk.fill();
        self.note(format!("disk filled: {filled:?}"));
        self.model.disk_filled();
        for _ in 0..2 + self.random.below(4) {
            self.step();
        }
        // Long enough for tasks to end and for the agent to try again.
        std::thread::sleep(self.random.within(700));
        if self.random.chance(30) {
            self.strike(Fault::KillServer);
        }
        let freed = self.disk.as_ref().map(Disk::free);
        self.note(format!("disk freed: {freed:?}"));
    }

    /// Opens connections that will never do anything useful, and keeps them open.
    fn slow_peers(&mut self) {
        let requests: [&[u8]; 5] = [
            b"POST /tasks HTTP/1.1\r\nHost: a\r\nContent-Length: 500\r\n\r\n{\"name\":",
            b"GET /getTa",
            b"GET /getTasks?watch=true HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /tasks/n0/logs?follow=true HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /tasks/n1?wait=1h HTTP/1.1\r\nHost: a\r\n\r\n",
        ];
        for request in requests {
            let opened = TcpStream::connect(self.victim.address);
            if let Ok(mut peer) = opened
                && peer.write_all(request).is_ok()
            {
                self.peers.push(peer);
            }
        }
        for _ in 0..2 {
            self.step();
        }
    }

    /// Closes what this round has opened.
    pub(super) fn hang_up(&mut self) {
        self.peers.clear();
        self.client = self.victim.client();
    }

    /// Asks the agent to stop, or kills it; then starts it again.
    pub(super) fn restart(&mut self) -> Result<(), Stop> {
        let orderly = self.random.chance(50);
        self.note(format!("restart, orderly: {orderly}"));
        self.client = self.victim.client();
        let target = self.victim.target();
        for known in target.init.iter().chain(&target.server) {
            if orderly {
                known.signal(nix::libc::SIGTERM);
                break;
            }
            known.kill();
        }
        if self.victim.wait_end().is_none() {
            self.model
                .violate("stuck", "the agent does not end on SIGTERM");
            self.victim.kill_lock_owner();
        }
        self.victim.wait_server_end();
        self.launch();
        self.come_up()
    }
}

fn short(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Answered(code, Value::Array(list)) => {
            let tasks: Vec<_> = list.iter().map(brief).collect();
            format!("{code} [{}]", tasks.join(", "))
        }
        Outcome::Answered(code, task) if task["name"].is_string() => {
            format!("{code} {}", brief(task))
        }
        Outcome::Answered(code, body) => format!("{code} {body}"),
        Outcome::NotSent => "not sent".to_owned(),
        Outcome::Lost => "lost".to_owned(),
    }
}

/// One task in a line of the journal.
pub(super) fn brief(task: &Value) -> String {
    use super::model::{Shown, run_of, state};
    let what = match state(task) {
        Some((_, Shown::Waiting(reason))) => reason.to_owned(),
        Some((_, Shown::Running)) => "runs".to_owned(),
        Some((_, Shown::Terminated(end))) => format!("{} {}", end["reason"], end["exitCode"]),
        None => "no state".to_owned(),
    };
    let deleting = if task["deletionTimestamp"].is_string() {
        ", deleting"
    } else {
        ""
    };
    format!("{}: {what}{deleting}", run_of(task).unwrap_or("?"))
}
