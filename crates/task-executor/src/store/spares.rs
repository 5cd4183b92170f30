//! Spares: emptied directories of removed tasks, which new tasks take over with their files.
//!
//! A journaling file system pays for each file that is made or removed. Ext4 pays twice: for
//! a minute or more it passes over the inodes that were freed, one by one, whenever it looks
//! for a free one. So the directory of a removed task is kept, with its records emptied and
//! under the temporary names at which the records of the next task begin anyway: whoever
//! writes them opens a file instead of making one, and a crash leaves what a crash may
//! always leave. Only files that no task has open are kept, so no logs.
//!
//! A spare is made under `.trash/` and becomes a task under `.new/`, so what is half done is
//! removed at the next start. So are all spares: no later life of the agent relies on them.

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::libc;
use task_shim::lock::TASK_FILE;
use task_shim::record;

/// Name of the directory that holds them.
pub(super) const SPARES_DIR: &str = ".spare";

/// So many are kept: enough for an agent that starts and deletes all the time, and on ext4
/// half a mebibyte of directories.
const SPARES_MAX: usize = 128;

/// A directory grows with the files that a task makes in it and never shrinks.
const DIR_BYTES_MAX: u64 = 4096;

/// The files that are kept, and the names that they get.
const KEPT: [(&str, &str); 3] = [
    (TASK_FILE, TASK_FILE),
    (record::RUN_FILE, record::RUN_NEW),
    (record::EXIT_FILE, record::EXIT_SLOT),
];

/// The spares of a data directory, a stack: those below the count are there.
#[derive(Debug, Clone)]
pub(super) struct Spares {
    dir: PathBuf,
    count: Arc<AtomicUsize>,
}

impl Spares {
    /// There are none yet.
    pub(super) fn none(root: &Path) -> Self {
        Self {
            dir: root.join(SPARES_DIR),
            count: Arc::default(),
        }
    }

    fn path(&self, number: usize) -> PathBuf {
        self.dir.join(number.to_string())
    }

    /// Makes a spare of the directory of a removed task; false when it is better removed.
    pub(super) fn put(&self, trash: &Path) -> bool {
        let count = self.count.load(Ordering::Relaxed);
        let put = count < SPARES_MAX
            && clear(trash).is_ok_and(|suits| suits)
            && fs::rename(trash, self.path(count)).is_ok();
        if put {
            self.count.store(count + 1, Ordering::Relaxed);
        }
        put
    }

    /// Moves a spare to a path, if there is one.
    pub(super) fn take(&self, to: &Path) -> bool {
        let Some(last) = self.count.load(Ordering::Relaxed).checked_sub(1) else {
            return false;
        };
        self.count.store(last, Ordering::Relaxed);
        fs::rename(self.path(last), to).is_ok()
    }

    /// Removes all of them: a full disk has better use for their room.
    pub(super) fn drop_all(&self) {
        for number in 0..self.count.swap(0, Ordering::Relaxed) {
            if let Err(error) = fs::remove_dir_all(self.path(number)) {
                tracing::debug!(%error, "spare.not_removed");
            }
        }
    }
}

/// Empties a task's directory but for the files that are kept. False if it is not fit for another task.
fn clear(dir: &Path) -> io::Result<bool> {
    if fs::metadata(dir)?.len() > DIR_BYTES_MAX {
        return Ok(false);
    }
    let names: Vec<OsString> = fs::read_dir(dir)?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<io::Result<_>>()?;
    let kept = |name: &OsString| KEPT.iter().find(|(from, _)| name == from);
    // First what goes, since it may have one of the names that are given after.
    for name in names.iter().filter(|name| kept(name).is_none()) {
        fs::remove_file(dir.join(name))?;
    }
    for (from, to) in names.iter().filter_map(kept) {
        let path = dir.join(from);
        if !empty(&path)? {
            fs::remove_file(path)?;
        } else if from != to {
            fs::rename(path, dir.join(to))?;
        }
    }
    Ok(true)
}

/// Empties a record and takes its marks away. False if somebody else has a name for it, who
/// is to keep what it says.
fn empty(path: &Path) -> io::Result<bool> {
    let file = File::options()
        .write(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    let now = file.metadata()?;
    if !now.is_file() || now.nlink() != 1 {
        return Ok(false);
    }
    if now.len() > 0 {
        file.set_len(0)?;
    }
    if now.mode() & 0o7777 != 0o600 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A data directory with spares, and a task's directory with these files in its trash.
    fn place(files: &[&str]) -> (tempfile::TempDir, Spares, PathBuf) {
        let root = tempfile::tempdir().expect("a temp dir");
        let trash = root.path().join("trash");
        fs::create_dir(root.path().join(SPARES_DIR)).expect("is made");
        fs::create_dir(&trash).expect("is made");
        for file in files {
            fs::write(trash.join(file), "old").expect("is written");
        }
        let spares = Spares::none(root.path());
        (root, spares, trash)
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .expect("is there")
            .map(|entry| entry.expect("reads").file_name().into_string())
            .collect::<Result<_, _>>()
            .expect("is text");
        names.sort();
        names
    }

    const ALL: [&str; 9] = [
        "delete.rec",
        "exit.rec",
        "exit.tmp",
        "limits.rec",
        "post.rec",
        "run.rec",
        "stderr.log",
        "stdout.log",
        "task.json",
    ];

    #[test]
    fn a_spare_has_emptied_records_under_their_temporary_names_and_nothing_else() {
        let (root, spares, trash) = place(&ALL);
        let mode = |path: &Path| fs::metadata(path).expect("is there").mode() & 0o7777;
        fs::set_permissions(trash.join(TASK_FILE), Permissions::from_mode(0o710)).expect("is set");
        let inode = |path: &Path| fs::metadata(path).expect("is there").ino();
        let exit = inode(&trash.join("exit.rec"));
        assert!(spares.put(&trash));
        let taken = root.path().join("new");
        assert!(spares.take(&taken));
        assert_eq!(names(&taken), ["exit.tmp", "run.rec.new", "task.json"]);
        for name in names(&taken) {
            let file = taken.join(name);
            assert_eq!(fs::metadata(&file).expect("is there").len(), 0);
            assert_eq!(mode(&file), 0o600);
        }
        assert_eq!(inode(&taken.join("exit.tmp")), exit, "no file was made");
        assert!(
            !spares.take(&root.path().join("another")),
            "it was the last"
        );
    }

    #[test]
    fn a_record_that_somebody_has_linked_keeps_its_content() {
        let (root, spares, trash) = place(&["exit.rec", "task.json"]);
        let link = root.path().join("link");
        fs::hard_link(trash.join("exit.rec"), &link).expect("is linked");
        assert!(spares.put(&trash));
        assert_eq!(fs::read_to_string(link).expect("reads"), "old");
        assert_eq!(names(&spares.path(0)), ["task.json"]);
    }

    #[test]
    fn what_a_task_has_filled_with_more_than_files_is_no_spare() {
        let (root, spares, trash) = place(&["task.json"]);
        fs::create_dir(trash.join("sub")).expect("is made");
        assert!(!spares.put(&trash));
        let grown = root.path().join("grown");
        fs::create_dir(&grown).expect("is made");
        for number in 0..200 {
            fs::write(grown.join(format!("{number:0100}")), "").expect("is written");
        }
        // Some file systems do not count the entries in a directory's length.
        let large = fs::metadata(&grown).expect("is there").len() > DIR_BYTES_MAX;
        assert_eq!(spares.put(&grown), !large);
    }

    #[test]
    fn the_number_of_spares_is_bounded_and_all_can_be_given_up() {
        let (root, spares, _) = place(&[]);
        let made = (0..SPARES_MAX + 5).filter(|number| {
            let dir = root.path().join(format!("t{number}"));
            fs::create_dir(&dir).expect("is made");
            spares.put(&dir)
        });
        assert_eq!(made.count(), SPARES_MAX);
        spares.drop_all();
        assert!(names(&root.path().join(SPARES_DIR)).is_empty());
        assert!(!spares.take(&root.path().join("new")));
    }
}
