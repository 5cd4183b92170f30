//! Tasks that were set aside since their record can't be read: nothing of them runs on.
//!
//! What they were to do is not known, so all of it is ended: by their shim while there is one,
//! else like the orphans of any killed shim. What is found closed is done with for good.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::Pid;
use sandbox_api::TaskUid;
use sandbox_sys::PidFd;
use task_shim::lock::{self, Holder, Mark, TASK_FILE};
use task_shim::record::{self, RunRecord};

use super::Owner;

/// What may be left of a task that was set aside.
enum Left {
    Nothing,
    /// A shim that is to end it.
    Shim(Pid),
    /// Whatever a killed shim had to look after.
    Orphans(Option<RunRecord>),
    /// Something that can't be reached from here.
    Unreachable,
}

impl Owner {
    /// Ends what is left of tasks that were set aside, as far as it can be done now.
    pub(super) fn attend_asides(&mut self) {
        for dir in std::mem::take(&mut self.asides) {
            match left(&dir) {
                Ok(Left::Nothing) => {}
                Ok(Left::Orphans(run)) if self.launcher.has_room() => {
                    let uid = run.as_ref().and_then(|run| TaskUid::parse(&run.uid).ok());
                    if let Some(uid) = uid {
                        self.launcher.cgroups().kill(uid.as_str());
                    }
                    self.launcher.end_aside(&dir, run.as_ref());
                }
                Ok(Left::Shim(shim)) => {
                    stop(&dir, shim);
                    self.attend_aside_later(dir);
                }
                Ok(Left::Orphans(_) | Left::Unreachable) => self.attend_aside_later(dir),
                // Somebody has taken it away, or the disk is broken: looked at again at the next start.
                Err(error) => tracing::warn!(dir = %dir.display(), %error, "aside.unreadable"),
            }
        }
    }

    fn attend_aside_later(&mut self, dir: PathBuf) {
        self.asides.insert(dir);
        self.look_later();
    }

    /// A search for orphans of a task that was set aside is over.
    pub(super) fn aside_searched(&mut self, dir: PathBuf, all_gone: bool) {
        if !all_gone {
            self.attend_aside_later(dir);
            return;
        }
        if let Err(error) = File::open(&dir).and_then(|handle| Mark::Closed.set(handle)) {
            // It is searched for once more at the next start.
            tracing::debug!(dir = %dir.display(), %error, "aside.not_closed");
        }
        let known = self.tasks.values().map(|task| task.uid.as_str());
        self.launcher.cgroups().sweep(known);
    }
}

fn left(dir: &Path) -> io::Result<Left> {
    let dir = File::open(dir)?;
    Ok(match lock::holder(&dir, TASK_FILE)? {
        Holder::Process(shim) => Left::Shim(shim),
        Holder::Elsewhere => Left::Unreachable,
        Holder::Nobody if record::exists(&dir, TASK_FILE) => Left::Nothing,
        // Without a record, or with an open one, only a run record tells that it was started.
        Holder::Nobody | Holder::Left => match record::read(&dir, record::RUN_FILE)? {
            Some(bytes) => Left::Orphans(RunRecord::decode(&bytes).ok()),
            None => Left::Nothing,
        },
    })
}

/// Has a shim end its task, if it still is the one that holds the lock.
fn stop(dir: &Path, shim: Pid) {
    let stopped = PidFd::open(shim).and_then(|fd| {
        // Asked again once the reference is held: now the pid can't be another's.
        let holder = lock::holder(File::open(dir)?, TASK_FILE)?;
        if holder == Holder::Process(shim) {
            fd.signal(nix::libc::SIGTERM)?;
        }
        Ok(())
    });
    if let Err(error) = stopped {
        tracing::debug!(%error, "shim.not_signalled");
    }
}
