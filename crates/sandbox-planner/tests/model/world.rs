//! The whole of the model: a cluster, the operator's edges, time, and everything that goes wrong.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};

use jiff::{SignedDuration, Timestamp};
use sandbox_planner::agent::{Order, TaskSeen};
use sandbox_planner::engine::{BatchWrite, Settings};
use sandbox_planner::engine::{Engine, Failure, Heard, Input, Key, Output, PodOutcome, PodWrite};
use sandbox_planner::pod::{Restart, Trouble};

use super::agents::{ModelAgent, Run};
use super::api::Api;
use super::book::{Book, check_batch_write};
use super::rng::Rng;

/// How often what happens, as weights; and how often what goes wrong, in a thousand.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub deliver_batches: usize,
    pub deliver_pods: usize,
    pub execute: usize,
    pub answer: usize,
    pub hear: usize,
    pub kubelet: usize,
    pub poll: usize,
    pub tasks: usize,
    pub time: usize,
    pub user: usize,
    /// In a thousand of all ticks.
    pub crash: usize,
    pub watch_breaks: usize,
    /// In a thousand of what they strike.
    pub duplicate: usize,
    pub write_fails: usize,
    pub pod_fails: usize,
    pub agent_fails: usize,
}

pub const NAMES: [&str; 3] = ["a", "b", "c"];
pub const REPLICAS_MAX: usize = 4;

/// What the edges do for one agent.
#[derive(Clone, Debug)]
pub struct Driven {
    pub batch: Key,
    pub order: Order,
    pub round: u64,
    told: Option<Result<TaskSeen, ()>>,
}

#[derive(Debug)]
pub struct World {
    pub rng: Rng,
    pub now: Timestamp,
    pub api: Api,
    pub engine: Engine,
    pub agents: BTreeMap<String, ModelAgent>,
    pub driven: BTreeMap<String, Driven>,
    pub in_flight: Vec<Output>,
    pub answers: Vec<Input>,
    pub heard: VecDeque<Input>,
    pub book: Book,
    pub tasks_made: usize,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut world = Self {
            rng: Rng::new(seed),
            now: Timestamp::from_second(1_700_000_000).unwrap(),
            api: Api::default(),
            engine: Engine::new(Settings::default()),
            agents: BTreeMap::new(),
            driven: BTreeMap::new(),
            in_flight: Vec::new(),
            answers: Vec::new(),
            heard: VecDeque::new(),
            book: Book::default(),
            tasks_made: 0,
        };
        world.api.relist_batches();
        world.api.relist_pods();
        world
    }

    /// One thing happens, and the engine decides.
    pub fn tick(&mut self, weather: &Weather) {
        if self.rng.chance(weather.crash) {
            self.crash();
        }
        if self.rng.chance(weather.watch_breaks) {
            self.book.faults += 1;
            match self.rng.below(2) {
                0 => self.api.relist_batches(),
                _ => self.api.relist_pods(),
            }
        }
        let weights = self.weights(weather);
        let mut at = self.rng.below(weights.iter().sum());
        let chosen = weights.iter().position(|weight| {
            let is_it = at < *weight;
            at = at.saturating_sub(*weight);
            is_it
        });
        match chosen.unwrap_or_default() {
            0 => self.deliver_batch(weather),
            1 => self.deliver_pod(weather),
            2 => self.execute_any(weather),
            3 => self.answer_any(),
            4 => self.hear_next(weather),
            5 => self.kubelet(weather),
            6 => self.poll_any(weather),
            7 => self.task_goes_on(),
            8 => self.time_passes(),
            _ => self.user(),
        }
        if self.rng.chance(700) {
            self.step();
        }
    }

    /// What can happen now, and how likely.
    fn weights(&self, weather: &Weather) -> [usize; 10] {
        let if_any = |count: usize, weight: usize| if count == 0 { 0 } else { weight };
        [
            if_any(self.api.batch_stream.len(), weather.deliver_batches),
            if_any(self.api.pod_stream.len(), weather.deliver_pods),
            if_any(self.in_flight.len(), weather.execute),
            if_any(self.answers.len(), weather.answer),
            if_any(self.heard.len(), weather.hear),
            if_any(self.api.pods.len(), weather.kubelet),
            if_any(self.driven.len(), weather.poll),
            if_any(self.agents.len(), weather.tasks),
            weather.time,
            weather.user,
        ]
    }

    pub fn feed(&mut self, input: Input) {
        self.book.journal(|| format!("{} {input:?}", self.now));
        match &input {
            Input::Batch(object)
            | Input::WroteBatch {
                outcome: Ok(Some(object)),
                ..
            } => self.book.see_batch(object),
            _ => {}
        }
        self.engine.on(input, self.now);
    }

    pub fn step(&mut self) -> usize {
        self.book.steps += 1;
        let outputs = self.engine.step(self.now);
        let count = outputs.len();
        for output in outputs {
            self.take(output);
        }
        count
    }

    fn take(&mut self, output: Output) {
        self.book.journal(|| format!("{} -> {output:?}", self.now));
        match output {
            Output::WriteBatch { .. } | Output::WritePods { .. } => {
                self.book.see_write(&output, &self.in_flight);
                self.in_flight.push(output);
            }
            Output::Assign {
                batch,
                pod_uid,
                assignment,
                round,
            } => {
                let pods = self.api.pods.values();
                let pod = pods
                    .map(|stored| &stored.pod)
                    .find(|pod| pod.uid == pod_uid);
                self.book.see_assignment(&assignment, pod, self.now);
                let order = assignment.order;
                let driven = Driven {
                    batch,
                    order,
                    round,
                    told: None,
                };
                self.driven.insert(pod_uid, driven);
            }
            Output::Forget { pod_uid } => {
                self.driven.remove(&pod_uid);
            }
            Output::Tell { uid, note, .. } => self.book.see_note(&uid, &note, self.now),
        }
    }

    /// The operator is killed: of what was under way, some was done and some was not, and nobody knows.
    pub fn crash(&mut self) {
        self.book.faults += 1;
        self.book.journal(|| "crash".to_owned());
        for output in std::mem::take(&mut self.in_flight) {
            if self.rng.chance(500) {
                self.execute(&output, 300);
            }
        }
        self.answers.clear();
        self.heard.clear();
        self.driven.clear();
        self.engine = Engine::new(Settings::default());
        self.book.operator_starts();
        self.api.relist_batches();
        self.api.relist_pods();
    }

    fn deliver(&mut self, input: Input, weather: &Weather) {
        if self.rng.chance(weather.duplicate) {
            self.book.faults += 1;
            self.feed(input.clone());
        }
        self.feed(input);
    }

    fn deliver_batch(&mut self, weather: &Weather) {
        if let Some(input) = self.api.batch_stream.pop_front() {
            self.deliver(input, weather);
        }
    }

    fn deliver_pod(&mut self, weather: &Weather) {
        if let Some(input) = self.api.pod_stream.pop_front() {
            self.deliver(input, weather);
        }
    }

    fn answer_any(&mut self) {
        if !self.answers.is_empty() {
            let at = self.rng.below(self.answers.len());
            let input = self.answers.swap_remove(at);
            self.feed(input);
        }
    }

    fn hear_next(&mut self, weather: &Weather) {
        if let Some(input) = self.heard.pop_front() {
            self.deliver(input, weather);
        }
    }

    fn execute_any(&mut self, weather: &Weather) {
        if self.in_flight.is_empty() {
            return;
        }
        let at = self.rng.below(self.in_flight.len());
        let output = self.in_flight.swap_remove(at);
        let answer = self.execute(&output, weather.write_fails);
        self.answers.push(answer);
    }

    /// Does a write; the answer may be lost, before or after it was done.
    pub fn execute(&mut self, output: &Output, fails: usize) -> Input {
        match output {
            Output::WriteBatch {
                batch,
                uid,
                resource_version,
                write,
            } => Input::WroteBatch {
                batch: batch.clone(),
                outcome: self.write_batch((&batch.name, uid, resource_version), write, fails),
            },
            Output::WritePods { batch, writes } => {
                let write = |one| self.write_pod(one, fails);
                Input::WrotePods {
                    batch: batch.clone(),
                    outcomes: writes.iter().map(write).collect(),
                }
            }
            Output::Assign { .. } | Output::Forget { .. } | Output::Tell { .. } => {
                unreachable!("not a write")
            }
        }
    }

    fn write_batch(
        &mut self,
        at: (&str, &str, &str),
        write: &BatchWrite,
        fails: usize,
    ) -> Result<Option<Box<sandbox_api::crd::BatchSandbox>>, Failure> {
        if self.rng.chance(fails) {
            self.book.faults += 1;
            return Err(self.failure());
        }
        let before = self.api.batches.get(at.0).cloned();
        let outcome = self.api.write_batch(at, write, self.now);
        if let (Ok(_), Some(before)) = (&outcome, before) {
            let broken = check_batch_write(&before, write, self);
            self.book.violations.extend(broken);
        }
        if self.rng.chance(fails) {
            self.book.faults += 1;
            return Err(Failure::Later("the answer was lost".to_owned()));
        }
        outcome
    }

    fn failure(&mut self) -> Failure {
        match self.rng.below(4) {
            0 => Failure::Refused("quota".to_owned()),
            _ => Failure::Later("the server is busy".to_owned()),
        }
    }

    fn write_pod(&mut self, write: &PodWrite, fails: usize) -> PodOutcome {
        if self.rng.chance(fails) {
            self.book.faults += 1;
            return PodOutcome::Failed(self.failure());
        }
        let outcome = match write {
            PodWrite::Create(made) => match self.api.create_pod(made) {
                Ok((pod, version)) => {
                    self.book.see_create(&pod, &self.api);
                    let pod = Box::new(pod);
                    PodOutcome::Created { pod, version }
                }
                Err(failure) => PodOutcome::Failed(failure),
            },
            PodWrite::Delete { name, uid, why } => {
                self.book.see_delete((name, uid, *why), &self.api);
                self.api.delete_pod(name, uid);
                let uid = uid.clone();
                PodOutcome::Deleted { uid, why: *why }
            }
        };
        if self.rng.chance(fails) {
            self.book.faults += 1;
            return PodOutcome::Failed(Failure::Later("the answer was lost".to_owned()));
        }
        outcome
    }

    fn any_pod(&mut self) -> Option<String> {
        let at = self.rng.below(self.api.pods.len());
        self.api.pods.keys().nth(at).cloned()
    }

    /// Something happens to a Pod.
    fn kubelet(&mut self, weather: &Weather) {
        self.api.collect_garbage();
        let Some(name) = self.any_pod() else { return };
        let pod = self.api.pods[&name].pod.clone();
        if pod.is_deleting {
            return self.remove_pod(&name);
        }
        if pod.lost.is_some() || pod.owner.is_none() {
            return;
        }
        if self.rng.chance(weather.pod_fails) {
            self.book.faults += 1;
            return self.pod_fails(&name);
        }
        if pod.address.is_none() {
            return self.give_address(&name);
        }
        let is_ready = self.rng.chance(900);
        self.api.edit_pod(&name, |pod| {
            pod.is_ready = is_ready;
            pod.trouble = None;
        });
    }

    pub fn remove_pod(&mut self, name: &str) {
        if let Some(stored) = self.api.pods.get(name) {
            self.agents.remove(&stored.pod.uid);
        }
        self.api.remove_pod(name);
    }

    pub fn give_address(&mut self, name: &str) {
        self.api.uids += 1;
        let low = u8::try_from(self.api.uids % 250).unwrap();
        let address = IpAddr::V4(Ipv4Addr::new(127, 1, 0, low));
        self.api.edit_pod(name, |pod| {
            pod.is_scheduled = true;
            pod.address = Some(address);
        });
        let uid = self.api.pods[name].pod.uid.clone();
        self.agents.insert(uid, ModelAgent::default());
    }

    fn pod_fails(&mut self, name: &str) {
        let what = self.rng.below(5);
        if what == 0 {
            self.remove_pod(name);
            return;
        }
        if what == 1 {
            let uid = self.api.pods[name].pod.uid.clone();
            self.api.delete_pod(name, &uid); // By some stranger.
            return;
        }
        let is_lost = what == 2;
        self.api.edit_pod(name, |pod| match what {
            2 => {
                pod.lost = Some("Evicted".to_owned());
                pod.is_ready = false;
            }
            3 => {
                pod.trouble = Some(Trouble {
                    reason: "CrashLoopBackOff".to_owned(),
                    message: "back-off".to_owned(),
                });
                pod.is_ready = false;
            }
            _ => {
                let count = pod.restart.as_ref().map_or(0, |old| old.count) + 1;
                pod.restart = Some(Restart {
                    container: "main".to_owned(),
                    count,
                    reason: "OOMKilled".to_owned(),
                });
            }
        });
        if is_lost {
            let uid = self.api.pods[name].pod.uid.clone();
            self.agents.remove(&uid);
        }
    }

    fn poll_any(&mut self, weather: &Weather) {
        let at = self.rng.below(self.driven.len());
        if let Some(uid) = self.driven.keys().nth(at).cloned() {
            self.poll(&uid, weather.agent_fails);
        }
    }

    /// The edges ask one agent and tell the engine what is new. The answer may be lost after the call was obeyed.
    pub fn poll(&mut self, uid: &str, fails: usize) -> bool {
        let mut driven = self.driven[uid].clone();
        if self.rng.chance(fails / 4)
            && let Some(agent) = self.agents.get_mut(uid)
        {
            self.book.faults += 1;
            agent.is_cut_off = !agent.is_cut_off;
        }
        let news = match self.agents.get_mut(uid) {
            Some(agent) if !agent.is_cut_off => {
                if let Some(started) = agent.set(&driven.order) {
                    self.book.see_start(uid, &started, &self.api);
                }
                let says = self.agents[uid].says_of(&driven.order);
                if self.rng.chance(fails) {
                    self.book.faults += 1;
                    Err(())
                } else {
                    Ok(says)
                }
            }
            Some(_) | None => Err(()),
        };
        let is_news = driven.told.as_ref() != Some(&news);
        if is_news || self.rng.chance(fails) {
            self.heard.push_back(Input::Heard(Heard {
                batch: driven.batch.clone(),
                pod_uid: uid.to_owned(),
                round: driven.round,
                news: news.clone().map_err(|()| "connection refused".to_owned()),
            }));
        }
        driven.told = Some(news);
        self.driven.insert(uid.to_owned(), driven);
        is_news
    }

    /// A task ends, or one that was being ended is gone.
    fn task_goes_on(&mut self) {
        let at = self.rng.below(self.agents.len());
        let Some(uid) = self.agents.keys().nth(at).cloned() else {
            return;
        };
        self.task_of(&uid, 400);
    }

    pub fn task_of(&mut self, uid: &str, ends: usize) {
        let exit_code = if self.rng.chance(700) { 0 } else { 3 };
        let does_end = self.rng.chance(ends);
        let Some(agent) = self.agents.get_mut(uid) else {
            return;
        };
        if let Some(started) = agent.end() {
            self.book.see_start(uid, &started, &self.api);
        } else if let Some(task) = agent.task.as_mut()
            && task.run == Run::Running
            && does_end
        {
            task.run = Run::Ended(exit_code);
            self.book.see_end(uid, exit_code, &self.api);
        }
    }

    fn time_passes(&mut self) {
        let step = match self.rng.below(20) {
            0 => SignedDuration::from_secs(15),
            1 => SignedDuration::from_secs(70),
            2..6 => SignedDuration::from_secs(1),
            _ => SignedDuration::from_millis(i64::try_from(self.rng.below(120)).unwrap()),
        };
        self.now += step;
    }
}
