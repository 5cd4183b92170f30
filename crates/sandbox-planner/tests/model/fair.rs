//! Fair weather: nothing fails any more, and everything that is due happens.

use super::world::World;

impl World {
    /// Runs in fair weather until nothing is left to be done; the number of rounds, or [`None`] beyond the bound.
    pub fn settle(&mut self, rounds_max: usize) -> Option<usize> {
        let strangers: Vec<_> = self
            .api
            .pods
            .values()
            .filter(|stored| stored.pod.owner.is_none())
            .map(|stored| stored.pod.name.clone())
            .collect();
        for name in strangers {
            self.book.see_stranger(&self.api, &name);
            self.api.remove_pod(&name);
        }
        for round in 0..rounds_max {
            if self.fair_round(round < 2) {
                continue;
            }
            match self.engine.next_wake() {
                Some(at) => {
                    self.now = self.now.max(at);
                    self.step();
                }
                None => return Some(round),
            }
        }
        None
    }

    /// Everything that is due happens; whether anything did.
    pub fn fair_round(&mut self, tasks_end: bool) -> bool {
        let version = self.api.version;
        self.api.collect_garbage();
        self.fair_kubelet();
        let uids: Vec<_> = self.agents.keys().cloned().collect();
        for uid in uids {
            self.agents.get_mut(&uid).unwrap().is_cut_off = false;
            self.task_of(&uid, if tasks_end { 300 } else { 0 });
        }
        let mut something = false;
        let polled: Vec<_> = self.driven.keys().cloned().collect();
        for uid in polled {
            something |= self.poll(&uid, 0);
        }
        for output in std::mem::take(&mut self.in_flight) {
            let answer = self.execute(&output, 0);
            self.answers.push(answer);
        }
        let mut inputs = std::mem::take(&mut self.answers);
        inputs.extend(std::mem::take(&mut self.heard));
        inputs.extend(std::mem::take(&mut self.api.batch_stream));
        inputs.extend(std::mem::take(&mut self.api.pod_stream));
        something |= !inputs.is_empty() || self.api.version != version;
        for input in inputs {
            self.feed(input);
        }
        self.step() > 0 || something
    }

    fn fair_kubelet(&mut self) {
        let names: Vec<_> = self.api.pods.keys().cloned().collect();
        for name in names {
            let pod = &self.api.pods[&name].pod;
            if pod.is_deleting {
                self.remove_pod(&name);
            } else if pod.lost.is_none() && pod.owner.is_some() {
                if pod.address.is_none() {
                    self.give_address(&name);
                }
                self.api.edit_pod(&name, |pod| {
                    pod.is_ready = true;
                    pod.trouble = None;
                });
            }
        }
    }
}
