//! Lifecycle hooks: preStart before the command, postStop after it, each once.

use std::io;

use nix::libc;

use super::{Cause, SWEEP_MS, Shim, code_of};
use crate::clock::boot_ms;
use crate::launch::Hook;
use crate::record::{self, ExitRecord, Outcome, Phase, PostRecord};
use crate::{spawn, tree};

/// How long a postStop hook without `timeoutSeconds` may take, so that it can't hold a deletion up for ever.
const POST_STOP_MS_DEFAULT: u64 = 30_000;

impl Shim<'_> {
    /// Runs the preStart hook. `Some` is the end of a task that must not start.
    pub(super) fn pre_start(&mut self) -> io::Result<Option<ExitRecord>> {
        let Some(hook) = &self.launch.pre_start else {
            return Ok(None);
        };
        let status = match self.start(&hook.argv, hook.mode, Phase::PreStart)? {
            Err(error) => {
                return Ok(Some(
                    self.never_ran(error.code(), format!("preStart hook: {error}")),
                ));
            }
            Ok(pid) => self.watch(Some(pid), hook.timeout_ms.map(|ms| boot_ms() + ms)),
        };
        let ended = status.status.or_else(|| self.end_by_namespace());
        let (code, signal) = code_of(ended);
        let why = match self.ending.map(|e| e.cause) {
            Some(Cause::Deadline) => {
                let text = format!("{} in its preStart hook", self.timeout_text());
                return Ok(Some(ExitRecord {
                    outcome: Outcome::TimedOut,
                    signal,
                    ..self.never_ran(code, text)
                }));
            }
            Some(_) => "ended during its preStart hook".to_owned(),
            None if status.hook_timed_out => "preStart hook exceeded its timeout".to_owned(),
            None if code != 0 => format!("preStart hook ended with code {code}"),
            None => return Ok(None),
        };
        let text = self.with_stderr(why);
        Ok(Some(ExitRecord {
            signal,
            ..self.never_ran(code, text)
        }))
    }

    /// Runs the postStop hook, unless it was started before.
    pub(super) fn post_stop(&mut self) {
        let Some(hook) = &self.launch.post_stop else {
            return;
        };
        if record::exists(&self.dir, record::POST_FILE) {
            return;
        }
        let [before, after] = record::POST_SLOTS;
        if self.put(before, PostRecord::Started).is_ok() {
            self.run_hook(hook);
        }
        // Without this record the hook counts as interrupted, and is not run again either.
        let _ = self.put(after, PostRecord::Done);
    }

    fn put(&self, slot: &str, state: PostRecord) -> io::Result<()> {
        let bytes = state.encode();
        record::fill(&self.dir, slot, record::POST_FILE, &bytes, self.launch.sync)
    }

    /// Makes room for what is written around the hook.
    pub(super) fn reserve_post_stop(&self) -> io::Result<()> {
        record::POST_SLOTS
            .iter()
            .try_for_each(|slot| self.reserve(slot))
    }

    fn run_hook(&mut self, hook: &Hook) {
        let Ok(mut held) = spawn::hold(&self.in_place(&hook.argv, hook.mode)) else {
            return;
        };
        let pid = held.pid;
        self.interior.follow(pid, held.relay.take());
        if held.release().is_err() {
            return;
        }
        let until = boot_ms() + hook.timeout_ms.unwrap_or(POST_STOP_MS_DEFAULT);
        let mut status = None;
        while self.reap(Some(pid), &mut status)
            && status.is_none()
            && !self.interior.is_lost(Some(pid))
        {
            let now = boot_ms();
            if now >= until {
                tree::kill_descendants(pid, &self.interior.relay_pids(), &[]);
                self.signal_leader(pid, libc::SIGKILL);
            }
            self.sleep(now, Some(until.max(now + SWEEP_MS)));
        }
    }
}
