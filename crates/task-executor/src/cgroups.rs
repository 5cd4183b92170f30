//! Limits of tasks: gives each task that wants them its control groups, and takes those away again.
//!
//! All groups of this agent are below one directory per hierarchy, whose name carries an id
//! that is kept in the data directory. So a task's groups are found by its uid alone, also
//! by a later life of the agent, and those of another agent are never touched. Where such
//! directories may be is on record before the first one is made.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::Pid;
use sandbox_api::{Limits, TaskSpec, Work};
use task_shim::cgroup::{self, Controller, Homes, Missing, Version, group};
use task_shim::launch::Launch;
use task_shim::lock::{self, Holder};
use task_shim::record::{self, RunRecord, frame, unframe};

use crate::http::Cgroup;

/// In the data directory: which id, and where.
const PLACES_FILE: &str = "cgroups.rec";
/// In a task's directory: the limits that it runs without. Only there when there are any.
const WARNINGS_FILE: &str = "limits.rec";
/// The agent's own leaf on v2: no task's.
const LEAF: &str = "agent";
/// How often strays are looked at again at start, and how long after: half a second at most,
/// which is ample for processes that got SIGKILL. Others are left for the next start.
const STRAY_TRIES: u32 = 100;
const STRAY_PAUSE: Duration = Duration::from_millis(5);

/// The control groups of this agent.
#[derive(Debug)]
pub(crate) struct Cgroups {
    data_dir: PathBuf,
    sync: bool,
    /// Name of the directory that holds the groups of this agent's tasks.
    top: String,
    homes: Homes,
    /// Where directories of that name are, may be made, or were made by earlier lives.
    tops: Vec<PathBuf>,
    /// Why that is not on record, so that nothing must be made.
    not_on_record: Option<String>,
}

impl Cgroups {
    /// Finds the groups of this process and of earlier lives of this agent. Makes none.
    pub(crate) fn open(data_dir: &Path, sync: bool) -> io::Result<Self> {
        let agent_dir = File::open(data_dir.join(".agent"))?;
        let kept = record::read(&agent_dir, PLACES_FILE)?.and_then(|bytes| {
            let kept = decode("cgroups", &bytes);
            if kept.is_none() {
                tracing::warn!("the record of control groups is unreadable; starting a new one");
            }
            kept
        });
        let (id, known) = kept.unwrap_or_else(|| {
            let id = uuid::Uuid::new_v4().simple().to_string();
            (id, Vec::new())
        });
        let top = format!("task-executor-{id}");
        let homes = Homes::current(&top).unwrap_or_else(|error| {
            tracing::warn!(%error, "cgroups.not_found");
            Homes::parse("", "", &top)
        });
        let mut tops: Vec<_> = homes.dirs().iter().map(|home| home.join(&top)).collect();
        for path in known.iter().map(PathBuf::from) {
            // What is gone for good, like the groups of a container before this one, is forgotten.
            if !tops.contains(&path) && path.is_dir() {
                tops.push(path);
            }
        }
        let places: Vec<_> = tops.iter().map(|top| top.to_string_lossy()).collect();
        let written = if places == known {
            Ok(())
        } else {
            let bytes = encode("cgroups", &id, &places);
            record::replace(&agent_dir, PLACES_FILE, &bytes, sync)
        };
        let not_on_record = written.err().map(|error| {
            tracing::error!(%error, "cgroups.not_on_record");
            format!(
                "resources.limits are not enforced: {PLACES_FILE} could not be written: {error}"
            )
        });
        Ok(Self {
            data_dir: data_dir.to_owned(),
            sync,
            top,
            homes,
            tops,
            not_on_record,
        })
    }

    /// Makes the groups that a task's limits need, puts them into its launch order, and adds to
    /// `warnings` which limits it has to run without.
    pub(crate) fn prepare(
        &self,
        task_dir: &Path,
        order: &mut Launch,
        spec: &TaskSpec,
        mut warnings: Vec<String>,
    ) -> Vec<String> {
        match (limits(spec), &self.not_on_record) {
            (Some(limits), None) => warnings.extend(self.make(order, limits)),
            (Some(_), Some(problem)) => warnings.push(problem.clone()),
            (None, _) if order.remote.is_none() => return warnings,
            (None, _) => {}
        }
        if let Err(error) = self.keep(task_dir, &order.uid, &warnings) {
            tracing::warn!(uid = order.uid, %error, "warnings.not_kept");
        }
        warnings
    }

    fn make(&self, order: &mut Launch, limits: &Limits) -> Vec<String> {
        let limits = cgroup::Limits {
            cpu_millis: limits.cpu_millis,
            memory_bytes: limits.memory_bytes,
            pids: limits.pids,
        };
        let made = cgroup::make(&self.homes, &self.top, &order.uid, &limits);
        let text = |path: &PathBuf| path.to_string_lossy().into_owned();
        order.cgroups = made.dirs.iter().map(text).collect();
        order.oom_counters = made
            .oom_counters
            .iter()
            .map(|(path, count)| (text(path), *count))
            .collect();
        made.missing.iter().map(Missing::to_string).collect()
    }

    /// Keeps a task's warnings for later lives of the server.
    fn keep(&self, task_dir: &Path, uid: &str, warnings: &[String]) -> io::Result<()> {
        if warnings.is_empty() {
            return match fs::remove_file(task_dir.join(WARNINGS_FILE)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        let bytes = encode("limits", uid, warnings);
        record::replace(File::open(task_dir)?, WARNINGS_FILE, &bytes, self.sync)
    }

    /// The warnings of a task that an earlier life of the server has started.
    pub(crate) fn recall(task_dir: &Path, uid: &str) -> Vec<String> {
        File::open(task_dir)
            .and_then(|dir| record::read(dir, WARNINGS_FILE))
            .ok()
            .flatten()
            .and_then(|bytes| decode("limits", &bytes))
            .filter(|(of, _)| of == uid)
            .map_or_else(Vec::new, |(_, warnings)| warnings)
    }

    /// The groups of another process that tasks may join, those that are not the agent's anyway;
    /// else why they may not.
    pub(crate) fn of_process(&self, pid: Pid) -> Result<Vec<PathBuf>, String> {
        let read = |path: String| fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"));
        let mounts = read("/proc/self/mountinfo".to_owned())?;
        let theirs = Homes::parse(&mounts, &read(format!("/proc/{pid}/cgroup"))?, &self.top);
        let mut dirs = Vec::new();
        for controller in Controller::ALL {
            let dir = match theirs.of(controller) {
                Ok(home) => home.dir.clone(),
                Err(cgroup::Unavailable::NoController) => continue,
                Err(cgroup::Unavailable::Outside(_)) => {
                    return Err("its control group can't be seen from here".to_owned());
                }
                Err(why) => return Err(why.to_string()),
            };
            let is_own = self.homes.of(controller).is_ok_and(|own| own.dir == dir);
            if is_own || dirs.contains(&dir) {
                continue;
            }
            group::check_joinable(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
            dirs.push(dir);
        }
        Ok(dirs)
    }

    /// Kills all members of a task's groups.
    pub(crate) fn kill(&self, uid: &str) {
        for top in &self.tops {
            group::kill(&top.join(uid));
        }
    }

    /// Removes a task's groups with all that is in them. False when something is left, which
    /// has been killed by then: to be called again.
    pub(crate) fn release(&self, uid: &str, spec: &TaskSpec) -> bool {
        limits(spec).is_none() || self.release_groups(uid)
    }

    fn release_groups(&self, uid: &str) -> bool {
        let mut gone = true;
        for top in &self.tops {
            gone &= end(&top.join(uid));
            // Refused as long as others are in there.
            let _ = fs::remove_dir(top);
        }
        gone
    }

    /// Ends and removes the groups of tasks that are no longer on record.
    pub(crate) fn sweep<'a>(&self, known: impl Iterator<Item = &'a str>) {
        let mut strays: Vec<_> = self
            .tops
            .iter()
            .flat_map(|top| group::children(top))
            .collect();
        strays.retain(|dir| !dir.ends_with(LEAF));
        if strays.is_empty() {
            return;
        }
        let Some(mut spared) = self.supervised_without_record() else {
            tracing::warn!("a damaged task still runs: no control group is removed");
            return;
        };
        spared.extend(known.map(str::to_owned));
        strays.retain(|dir| {
            let name = dir.file_name().and_then(|name| name.to_str());
            name.is_none_or(|name| !spared.contains(name))
        });
        for _ in 0..STRAY_TRIES {
            strays.retain(|dir| !end(dir));
            if strays.is_empty() {
                break;
            }
            std::thread::sleep(STRAY_PAUSE);
        }
        for dir in strays {
            tracing::warn!(dir = %dir.display(), "cgroup.not_removed");
        }
        for top in &self.tops {
            // Refused as long as tasks are in there.
            let _ = fs::remove_dir(top);
        }
    }

    /// Uids of tasks that were set aside as damaged while their shims still live: nothing of
    /// them is touched. `None` when the uid of one can't be told.
    fn supervised_without_record(&self) -> Option<BTreeSet<String>> {
        let aside = group::children(&self.data_dir.join(task_shim::ASIDE_DIR));
        let dirs = aside.into_iter().filter_map(|dir| File::open(dir).ok());
        let lives = |holder| matches!(holder, Holder::Process(_) | Holder::Elsewhere);
        dirs.filter(|dir| lock::holder(dir, lock::TASK_FILE).is_ok_and(lives))
            .map(|dir| {
                let bytes = record::read(&dir, record::RUN_FILE).ok()??;
                RunRecord::decode(&bytes).ok().map(|run| run.uid)
            })
            .collect()
    }

    /// Whether whole groups can be killed at once.
    pub(crate) fn can_kill(&self) -> bool {
        let mut homes = self.tops.iter().filter_map(|top| top.parent());
        homes.any(|home| home.join("cgroup.kill").exists())
    }

    /// What can be had here, for `/capabilities`.
    pub(crate) fn capabilities(&self) -> Cgroup {
        let mut found = Cgroup::default();
        for controller in Controller::ALL {
            let home = self.homes.of(controller);
            let version = home.as_ref().map_or(0, |home| match home.version {
                Version::V1 => 1,
                Version::V2 => 2,
            });
            // Where both are in use, v1 is what a task's limits are bound by first.
            found.version = match (found.version, version) {
                (0, version) | (version, 0) => version,
                (one, other) => one.min(other),
            };
            match home.and_then(|home| home.check(controller)) {
                Ok(()) => found.controllers.push(controller.as_str().to_owned()),
                Err(why) => found
                    .unavailable
                    .push(Missing { controller, why }.to_string()),
            }
        }
        found.delegated = !found.controllers.is_empty();
        found
    }
}

/// The limits that a task asks for, if it asks for any.
pub(crate) fn limits(spec: &TaskSpec) -> Option<&Limits> {
    let limits = match &spec.work {
        Work::Process(process) => process.resources.as_ref(),
        Work::Container(_) | Work::Pod(_) => None,
    };
    limits.filter(|limits| !limits.is_empty())
}

/// Ends and removes one group. False when something is left for now.
fn end(dir: &Path) -> bool {
    let removed = group::remove(dir).and_then(|gone| {
        if gone {
            return Ok(true);
        }
        group::kill(dir);
        group::remove(dir)
    });
    removed.unwrap_or_else(|error| {
        tracing::warn!(dir = %dir.display(), %error, "cgroup.not_removed");
        // A directory that can't be removed must not hold a deletion up; a process does.
        group::members(dir).is_empty()
    })
}

/// A record of one key and any number of lines of text.
fn encode<S: AsRef<str>>(kind: &str, key: &str, lines: &[S]) -> Vec<u8> {
    let mut payload = key.to_owned();
    for line in lines {
        payload.push('\n');
        payload.push_str(&line.as_ref().replace('\n', " "));
    }
    frame(kind, 1, payload.as_bytes())
}

fn decode(kind: &str, bytes: &[u8]) -> Option<(String, Vec<String>)> {
    let (_, payload) = unframe(kind, 1, bytes).ok()?;
    let mut lines = std::str::from_utf8(payload).ok()?.split('\n');
    let key = lines.next().filter(|key| !key.is_empty())?.to_owned();
    Some((key, lines.map(str::to_owned).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn data_dir() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temp dir");
        fs::create_dir(dir.path().join(".agent")).expect("is made");
        dir
    }

    fn open(dir: &tempfile::TempDir) -> Cgroups {
        Cgroups::open(dir.path(), false).expect("opens")
    }

    #[test]
    fn an_agent_keeps_its_id_and_has_another_one_than_others() {
        let (one, two) = (data_dir(), data_dir());
        let first = open(&one);
        assert_eq!(open(&one).top, first.top);
        assert_ne!(open(&two).top, first.top);
        assert!(
            first.tops.iter().all(|top| !top.exists()),
            "nothing is made"
        );
        assert!(first.release_groups("u"), "there is nothing to remove");
    }

    #[test]
    fn places_of_earlier_lives_are_known_as_long_as_they_exist() {
        let dir = data_dir();
        let there = dir.path().join("task-executor-7");
        fs::create_dir(&there).expect("is made");
        let lines = [there.to_string_lossy(), "/nowhere/task-executor-7".into()];
        let file = dir.path().join(".agent").join(PLACES_FILE);
        fs::write(&file, encode("cgroups", "7", &lines)).expect("writes");
        let cgroups = open(&dir);
        assert_eq!(cgroups.top, "task-executor-7");
        assert!(cgroups.tops.contains(&there));
        assert!(
            !cgroups
                .tops
                .contains(&PathBuf::from("/nowhere/task-executor-7"))
        );
        fs::write(&file, "rubbish").expect("writes");
        assert_ne!(open(&dir).top, "task-executor-7");
    }

    #[test]
    fn warnings_are_kept_for_the_task_that_they_belong_to() {
        let dir = data_dir();
        let cgroups = open(&dir);
        let recall = |uid| Cgroups::recall(dir.path(), uid);
        let warnings = vec!["one".to_owned(), "two\nlines".to_owned()];
        cgroups.keep(dir.path(), "u", &warnings).expect("keeps");
        assert_eq!(recall("u"), ["one", "two lines"]);
        assert!(recall("v").is_empty());
        cgroups.keep(dir.path(), "u", &[]).expect("keeps");
        assert!(recall("u").is_empty());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode("limits", &bytes);
            let _ = decode("limits", &frame("limits", 1, &bytes));
        }
    }
}
