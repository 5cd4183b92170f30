//! Reading the data directory at start.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sandbox_api::TaskName;
use task_shim::ASIDE_DIR;
use task_shim::lock::{Mark, TASK_FILE};
use task_shim::record;

use super::files::{DELETE_FILE, decode_mark, decode_task, encode_mark, encode_task};
use super::spares::{SPARES_DIR, Spares};
use super::{Newcomer, RECORDS, Store, Stored};

/// Files that only this agent makes: a directory with one of them was a task.
const OURS: [&str; 4] = [TASK_FILE, DELETE_FILE, "run.rec", "exit.rec"];

/// What a data directory holds.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    /// Tasks in the order in which they were accepted.
    pub(crate) tasks: Vec<Stored>,
    /// What could not be read, by its name in `.corrupt`.
    pub(crate) corrupt: Vec<String>,
    /// Directories of tasks that are set aside, now or earlier: nothing of them is to run on.
    pub(crate) asides: BTreeSet<PathBuf>,
}

impl Store {
    /// Opens a data directory, making what is missing, and removes what was half done.
    pub(crate) fn open(root: &Path, sync: bool) -> io::Result<Self> {
        for dir in [".agent", ".new", ".trash", SPARES_DIR, ASIDE_DIR] {
            fs::create_dir_all(root.join(dir))?;
        }
        for half in [".new", ".trash", SPARES_DIR] {
            for entry in fs::read_dir(root.join(half))? {
                fs::remove_dir_all(entry?.path())?;
            }
        }
        Ok(Self {
            root: root.to_owned(),
            sync,
            spares: Spares::none(root),
        })
    }

    /// Reads all tasks. What can't be read is set aside and named; what isn't ours stays.
    pub(crate) fn load(&self) -> io::Result<Loaded> {
        let mut loaded = Loaded::default();
        for entry in fs::read_dir(self.root())? {
            let entry = entry?;
            let path = entry.path();
            let file_name = entry.file_name();
            let Some(name) = file_name.to_str().and_then(|n| TaskName::parse(n).ok()) else {
                continue;
            };
            if !OURS.iter().any(|file| path.join(file).exists()) {
                tracing::warn!(name = %name, "data_dir.foreign_entry");
                continue;
            }
            match self.read(&path, &name, &mut loaded) {
                Ok(stored) => loaded.tasks.push(stored),
                Err(error) => {
                    tracing::error!(task = %name, %error, "record.set_aside");
                    self.set_aside(&path, name.as_str(), &mut loaded);
                }
            }
        }
        for entry in fs::read_dir(self.root().join(ASIDE_DIR))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                loaded.asides.insert(entry.path());
            }
        }
        loaded.tasks.sort_by_key(|stored| stored.created);
        Ok(loaded)
    }

    /// Moves what can't be read out of the way. If that fails too, it stays where it is and
    /// keeps nobody but its own name from being used.
    fn set_aside(&self, path: &Path, name: &str, loaded: &mut Loaded) {
        let aside = format!("{name:.200}.{}", uuid::Uuid::new_v4());
        if let Err(error) = fs::rename(path, self.root().join(ASIDE_DIR).join(&aside)) {
            tracing::error!(name, %error, "record.not_set_aside");
            if path.is_dir() {
                loaded.asides.insert(path.to_owned());
            }
        }
        loaded.corrupt.push(aside);
    }

    /// Ends a replacement that a crash has cut off.
    fn succeed(&self, path: &Path, (uid, created, task): &Newcomer) -> io::Result<()> {
        let bytes = encode_task(uid, *created, task);
        record::replace(fs::File::open(path)?, TASK_FILE, &bytes, self.sync)?;
        fs::remove_file(path.join(DELETE_FILE))
    }

    fn read(&self, path: &Path, name: &TaskName, loaded: &mut Loaded) -> io::Result<Stored> {
        // Not `record::read`: a task may be longer than any record of a shim.
        let (uid, created, task) = decode_task(&fs::read(path.join(TASK_FILE))?)?;
        if task.name != *name {
            return Err(io::Error::other("the record names another task"));
        }
        let mark = path.join(DELETE_FILE);
        let deletion = match fs::read(&mark) {
            Ok(bytes) => match decode_mark(&bytes) {
                Ok(deletion) => Some(deletion),
                Err(error) => {
                    // That it was to be deleted is certain; what was to follow is not known.
                    tracing::error!(task = %name, %error, "record.set_aside");
                    let since = fs::metadata(&mark)?.mtime();
                    self.set_aside(&mark, &format!("{name:.180}.{DELETE_FILE}"), loaded);
                    fs::write(&mark, encode_mark(since, None))?;
                    Some((since, None))
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let record = fs::metadata(path.join(TASK_FILE))?;
                Mark::Deleting
                    .is_in(record.mode())
                    .then(|| (record.ctime(), None))
            }
            Err(error) => return Err(error),
        };
        if let Some((_, Some(next))) = &deletion
            && is_cleared(path)?
        {
            match self.succeed(path, next) {
                Ok(()) => return Ok(Stored::new(next)),
                // The disk is full, most likely: it is tried again like any removal.
                Err(error) => tracing::warn!(task = %name, %error, "successor.not_put_in_place"),
            }
        }
        Ok(Stored {
            uid,
            created,
            task,
            deletion,
        })
    }
}

/// Whether the records of a closed task have been taken away for its successor. Without them
/// it would show as one that was never started, though it may have been seen to end.
fn is_cleared(path: &Path) -> io::Result<bool> {
    let closed = Mark::Closed.is_in(fs::metadata(path.join(TASK_FILE))?.mode());
    Ok(closed && !RECORDS.iter().any(|name| path.join(name).exists()))
}
