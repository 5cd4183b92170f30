//! Carrying out changes, each as a whole or not at all.
//!
//! Every step has two halves. *Staging* writes under a name that nobody reads; *commit*
//! renames. All that is likely to fail (a full disk above all) fails while staging, and
//! between the two lies the flush that makes sure that a name never shows a torn file,
//! whatever happens to the host.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use sandbox_api::{TaskName, TaskUid};
use task_shim::lock::{Lock, Mark, TASK_FILE};
use task_shim::record::{self, PostRecord};

use super::files::{DELETE_FILE, encode_mark, encode_task};
use super::{After, Change, Newcomer, Op, RECORDS, Store};

/// Up to so many steps are flushed file by file; with more, one syncfs(2) is cheaper.
const FLUSHED_EACH_MAX: usize = 8;

const STAGED_MARK: &str = "delete.rec.new";

impl Store {
    /// Carries out changes in order. The answers are in the same order.
    pub(super) fn carry_out(&self, changes: &[Change]) -> Vec<io::Result<()>> {
        let steps: usize = changes.iter().map(Vec::len).sum();
        let each = self.sync && steps <= FLUSHED_EACH_MAX;
        let mut results: Vec<io::Result<()>> =
            changes.iter().map(|c| self.stage_all(c, each)).collect();
        let flushed = self.flush(each);
        for (change, result) in changes.iter().zip(&mut results) {
            if result.is_ok() {
                *result = match &flushed {
                    Ok(()) => self.commit_all(change, each),
                    Err(error) => Err(again(error)),
                };
                if result.is_err() {
                    self.unstage_all(change);
                }
            }
        }
        if results.iter().any(|r| r.as_ref().is_err_and(is_full)) {
            self.spares.drop_all();
        }
        if let Err(error) = self.flush(each) {
            for result in results.iter_mut().filter(|r| r.is_ok()) {
                *result = Err(again(&error));
            }
        }
        results
    }

    fn flush(&self, each: bool) -> io::Result<()> {
        if !self.sync {
            return Ok(());
        }
        let root = File::open(self.root())?;
        if each {
            root.sync_all()
        } else {
            nix::unistd::syncfs(&root).map_err(io::Error::from)
        }
    }

    fn stage_all(&self, change: &Change, sync: bool) -> io::Result<()> {
        for op in change {
            if let Err(error) = self.stage(op, sync) {
                self.unstage_all(change);
                return Err(error);
            }
        }
        Ok(())
    }

    fn stage(&self, op: &Op, sync: bool) -> io::Result<()> {
        match op {
            Op::Create(task) => {
                self.spares.take(&self.half_made(&task.0));
                self.stage_task(task, sync)
            }
            // Of this only the record is used.
            Op::Remove(_, _, Some(task)) => self.stage_task(task, sync),
            Op::Mark(name, at, next) => {
                let bytes = encode_mark(*at, next.as_ref());
                let path = self.dir(name).join(STAGED_MARK);
                match write(&path, &bytes, sync) {
                    // What fills the disk can still be deleted: a mark needs no room.
                    Err(error) if is_full(&error) && next.is_none() => remove_if_there(&path),
                    other => other,
                }
            }
            Op::Probe => {
                let path = self.root().join(".agent/probe");
                write(&path, &[0; 4096], sync)?;
                fs::remove_file(path)
            }
            // The room for these was reserved, or nothing is written.
            Op::Remove(_, _, None) | Op::Exit(..) | Op::NoPostStop(_) => Ok(()),
        }
    }

    fn stage_task(&self, (uid, created, task): &Newcomer, sync: bool) -> io::Result<()> {
        let half = self.half_made(uid);
        match fs::create_dir(&half) {
            // A spare; or a removal that is tried again finds its own half-made successor.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        write(
            &half.join(TASK_FILE),
            &encode_task(uid, *created, task),
            sync,
        )?;
        if sync {
            File::open(&half)?.sync_all()?;
        }
        Ok(())
    }

    /// Takes back what staging a change has left behind, whatever of it was done.
    fn unstage_all(&self, change: &Change) {
        for op in change {
            // What can't be removed now is removed at the next start.
            let _ = match op {
                Op::Create((uid, ..)) | Op::Remove(_, _, Some((uid, ..))) => {
                    fs::remove_dir_all(self.half_made(uid))
                }
                Op::Mark(name, ..) => fs::remove_file(self.dir(name).join(STAGED_MARK)),
                Op::Remove(_, _, None) | Op::Exit(..) | Op::NoPostStop(_) | Op::Probe => Ok(()),
            };
        }
    }

    /// Commits a change; if a step fails, those before it are undone.
    fn commit_all(&self, change: &Change, sync: bool) -> io::Result<()> {
        let mut before = Vec::new();
        for (done, op) in change.iter().enumerate() {
            before.push(self.marked(op));
            if let Err(error) = self.commit(op, sync) {
                for (op, mark) in change[..done].iter().zip(&before).rev() {
                    self.undo(op, mark.as_deref());
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// The mark that a step is going to replace.
    fn marked(&self, op: &Op) -> Option<Vec<u8>> {
        match op {
            Op::Mark(name, ..) => fs::read(self.dir(name).join(DELETE_FILE)).ok(),
            _ => None,
        }
    }

    fn undo(&self, op: &Op, mark: Option<&[u8]>) {
        let undone = match op {
            Op::Create((uid, _, task)) => fs::rename(self.dir(&task.name), self.half_made(uid)),
            Op::Mark(name, ..) => {
                let path = self.dir(name).join(DELETE_FILE);
                let cleared = File::open(self.dir(name)).and_then(|dir| Mark::Deleting.clear(dir));
                cleared.and_then(|()| match mark {
                    Some(bytes) => fs::write(path, bytes),
                    None => remove_if_there(&path),
                })
            }
            // These are always changes of their own.
            Op::Remove(..) | Op::Exit(..) | Op::NoPostStop(_) | Op::Probe => Ok(()),
        };
        if let Err(error) = undone {
            tracing::error!(%error, "change.not_undone");
        }
    }

    fn commit(&self, op: &Op, sync: bool) -> io::Result<()> {
        match op {
            Op::Create((uid, _, task)) => fs::rename(self.half_made(uid), self.dir(&task.name)),
            Op::Mark(name, ..) => {
                let dir = self.dir(name);
                let handle = File::open(&dir)?;
                match fs::rename(dir.join(STAGED_MARK), dir.join(DELETE_FILE)) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        Mark::Deleting.set(&handle)?;
                        remove_if_there(&dir.join(DELETE_FILE))?;
                    }
                    other => other?,
                }
                if sync { handle.sync_all() } else { Ok(()) }
            }
            Op::Remove(name, uid, next) => self.remove(name, uid, next.as_ref()),
            Op::Exit(name, exit, after) => {
                let dir = File::open(self.dir(name))?;
                record::write_exit(&dir, exit, self.sync)?;
                match after {
                    After::Nothing => Mark::Closed.set(&dir),
                    After::Leftovers => Ok(()),
                }
            }
            Op::NoPostStop(name) => record::replace(
                File::open(self.dir(name))?,
                record::POST_FILE,
                &PostRecord::Done.encode(),
                self.sync,
            ),
            Op::Probe => Ok(()),
        }
    }

    /// Removes a task. Holds its lock meanwhile, so that a shim that was just started
    /// finds either the lock taken or the directory gone.
    fn remove(&self, name: &TaskName, uid: &TaskUid, next: Option<&Newcomer>) -> io::Result<()> {
        let path = self.dir(name);
        let dir = match File::open(&path) {
            // It was moved away, but what followed failed.
            Err(error) if error.kind() == io::ErrorKind::NotFound && next.is_none() => {
                return Ok(());
            }
            other => other?,
        };
        let Some(_lock) = Lock::take_as_thread(&dir, TASK_FILE)? else {
            return Err(io::ErrorKind::ResourceBusy.into());
        };
        let Some((next, ..)) = next else {
            let trash = self.trash(uid);
            fs::rename(&path, &trash)?;
            if self.spares.put(&trash) {
                return Ok(());
            }
            // The task is gone; what is left of its files goes at the next start.
            if let Err(error) = fs::remove_dir_all(&trash) {
                tracing::warn!(%error, "trash.not_emptied");
            }
            return Ok(());
        };
        // In this order: what is left of the records after a crash must still say that the
        // old task is over, or nothing at all, and that for as short a time as can be.
        for file in fs::read_dir(&path)? {
            let file = file?;
            let stays = [TASK_FILE, DELETE_FILE].iter().chain(&RECORDS);
            if !stays.into_iter().any(|name| file.file_name() == *name) {
                fs::remove_file(file.path())?;
            }
        }
        for record in RECORDS {
            remove_if_there(&path.join(record))?;
        }
        // From here on the name is the successor's; the mark goes last, and a crash
        // before that only repeats this step.
        let ready = self.half_made(next);
        fs::rename(ready.join(TASK_FILE), path.join(TASK_FILE))?;
        fs::remove_file(path.join(DELETE_FILE))?;
        fs::remove_dir(&ready)
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The same error once more: an `io::Error` can't be cloned.
fn again(error: &io::Error) -> io::Error {
    error
        .raw_os_error()
        .map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

/// Writes a file of mode 0600: a new one, or one that is there and empty or left by a change that failed.
fn write(path: &Path, bytes: &[u8], sync: bool) -> io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    record::make_empty(&file)?;
    file.write_all(bytes)?;
    if sync { file.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;
    use std::sync::Arc;

    fn store(sync: bool) -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().expect("a temp dir");
        let store = Store::open(dir.path(), sync).expect("opens");
        (dir, store)
    }

    fn task(name: &str) -> Newcomer {
        let json = format!(r#"{{"name":"{name}","spec":{{"process":{{"command":["true"]}}}}}}"#);
        let task = sandbox_api::parse_one(json.as_bytes())
            .expect("is valid")
            .value;
        let uid = TaskUid::parse(&format!("u-{name}")).expect("is valid");
        (uid, 1, Arc::new(task))
    }

    fn name(text: &str) -> TaskName {
        TaskName::parse(text).expect("is valid")
    }

    /// Tasks that are on disk, and whether each is being deleted.
    fn kept(store: &Store) -> Vec<(String, bool)> {
        let mut tasks: Vec<_> = store
            .load()
            .expect("loads")
            .tasks
            .into_iter()
            .map(|stored| (stored.task.name.to_string(), stored.deletion.is_some()))
            .collect();
        tasks.sort();
        tasks
    }

    fn is_empty(dir: &Path) -> bool {
        fs::read_dir(dir).expect("is there").next().is_none()
    }

    #[test]
    fn a_change_that_fails_in_the_middle_leaves_nothing_behind() {
        for sync in [false, true] {
            let (dir, store) = store(sync);
            let old = vec![Op::Create(task("old"))];
            let marked = vec![Op::Mark(name("old"), 5, Some(task("next")))];
            let results = store.carry_out(&[old]);
            assert!(results.iter().all(Result::is_ok), "{results:?}");
            assert!(store.carry_out(&[marked])[0].is_ok());
            // A name that can't be had: the third step of four fails when it is put in place.
            fs::create_dir(dir.path().join("taken")).expect("is made");
            fs::write(dir.path().join("taken/file"), "x").expect("is written");
            let change = vec![
                Op::Create(task("a")),
                Op::Mark(name("old"), 9, None),
                Op::Create(task("taken")),
                Op::Create(task("b")),
            ];
            let alone = vec![Op::Create(task("c"))];
            let results = store.carry_out(&[change, alone]);
            assert!(results[0].is_err());
            assert!(results[1].is_ok(), "another change is not touched by it");
            assert_eq!(
                kept(&store),
                [("c".to_owned(), false), ("old".to_owned(), true)]
            );
            let mut old = store.load().expect("loads").tasks.into_iter();
            let mark = old.find_map(|stored| stored.deletion).expect("is marked");
            assert_eq!(mark.0, 5, "the earlier mark is back");
            assert_eq!(mark.1.expect("has one").2.name.as_str(), "next");
            assert!(is_empty(&dir.path().join(".new")));
        }
    }

    #[test]
    fn a_step_that_can_not_be_staged_fails_its_change_before_anything_is_visible() {
        let (dir, store) = store(false);
        let change = vec![
            Op::Create(task("a")),
            Op::Mark(name("no-such-task"), 1, None),
        ];
        assert!(store.carry_out(&[change])[0].is_err());
        assert_eq!(kept(&store), []);
        assert!(is_empty(&dir.path().join(".new")));
    }

    #[test]
    fn a_removal_waits_for_the_lock_and_gives_the_name_to_the_successor() {
        let (dir, store) = store(false);
        store.carry_out(&[vec![Op::Create(task("a"))]]);
        let successor = (TaskUid::parse("u-2").expect("is valid"), 2, task("a").2);
        let mark = Op::Mark(name("a"), 1, Some(successor.clone()));
        assert!(store.carry_out(&[vec![mark]])[0].is_ok());
        let removal = vec![Op::Remove(name("a"), task("a").0, Some(successor))];
        let held = File::open(dir.path().join("a"))
            .and_then(|dir| Lock::take_as_thread(dir, TASK_FILE))
            .expect("is asked")
            .expect("is free");
        let refused = store.carry_out(std::slice::from_ref(&removal));
        let kind = refused[0].as_ref().expect_err("it is held").kind();
        assert_eq!(kind, io::ErrorKind::ResourceBusy);
        drop(held);
        assert!(store.carry_out(&[removal])[0].is_ok());
        let now = store.load().expect("loads").tasks.remove(0);
        assert_eq!((now.uid.as_str(), now.deletion.is_none()), ("u-2", true));
    }

    #[test]
    fn a_replacement_that_a_crash_has_cut_off_is_ended_at_the_start() {
        for closed in [false, true] {
            let (dir, store) = store(false);
            store.carry_out(&[vec![Op::Create(task("a"))]]);
            let successor = (TaskUid::parse("u-2").expect("is valid"), 2, task("a").2);
            let mark = Op::Mark(name("a"), 1, Some(successor));
            assert!(store.carry_out(&[vec![mark]])[0].is_ok());
            if closed {
                let handle = File::open(dir.path().join("a")).expect("opens");
                Mark::Closed.set(handle).expect("is set");
            }
            for _ in 0..2 {
                let now = store.load().expect("loads").tasks.remove(0);
                let uid = if closed { "u-2" } else { "u-a" };
                assert_eq!((now.uid.as_str(), now.deletion.is_none()), (uid, closed));
            }
            let mode = fs::metadata(dir.path().join("a/task.json")).expect("is there");
            assert!(
                !Mark::Closed.is_in(mode.mode()),
                "the mark was the old one's"
            );
        }
    }
}
