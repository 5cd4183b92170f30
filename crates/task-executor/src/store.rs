//! Durable task records: one directory per task, made and removed in one step each.
//!
//! ```text
//! DATA_DIR/.agent/{lock,hints}     the server's own
//! DATA_DIR/.new/UID, .trash/UID    half made, half removed: emptied at start
//! DATA_DIR/.corrupt/               what could not be read
//! DATA_DIR/NAME/task.json          the accepted task, framed
//! DATA_DIR/NAME/delete.rec         being deleted; holds the successor, if one was set
//! ```

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use sandbox_api::{NewTask, TaskName, TaskUid};
use task_shim::lock::Lock;
use task_shim::record::{self, frame, unframe};

const TASK_FILE: &str = "task.json";
const DELETE_FILE: &str = "delete.rec";

/// A task as it is kept.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) uid: TaskUid,
    pub(crate) created: u64,
    pub(crate) task: NewTask,
    /// When its deletion was asked for, and what is to follow it.
    pub(crate) deletion: Option<(i64, Option<(TaskUid, NewTask)>)>,
}

/// The data directory.
#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
    sync: bool,
}

impl Store {
    /// Opens a data directory, making what is missing, and removes what was half done.
    pub(crate) fn open(root: &Path, sync: bool) -> io::Result<Self> {
        for dir in [".agent", ".new", ".trash", ".corrupt"] {
            fs::create_dir_all(root.join(dir))?;
        }
        for half in [".new", ".trash"] {
            for entry in fs::read_dir(root.join(half))? {
                fs::remove_dir_all(entry?.path())?;
            }
        }
        Ok(Self {
            root: root.to_owned(),
            sync,
        })
    }

    /// Path of a task's directory.
    pub(crate) fn dir(&self, name: &TaskName) -> PathBuf {
        self.root.join(name.as_str())
    }

    /// Path of the FIFO on which shims send hints.
    pub(crate) fn hints(&self) -> PathBuf {
        self.root.join(".agent/hints")
    }

    /// Makes a task's directory appear with its record in it.
    pub(crate) fn create(&self, uid: &TaskUid, created: u64, task: &NewTask) -> io::Result<()> {
        let half = self.root.join(".new").join(uid.as_str());
        fs::create_dir(&half)?;
        let written = self.fill(&half, uid, created, task);
        if written.is_err() {
            // What stays behind is removed at the next start.
            let _ = fs::remove_dir_all(&half);
        }
        written
    }

    fn fill(&self, half: &Path, uid: &TaskUid, created: u64, task: &NewTask) -> io::Result<()> {
        let dir = File::open(half)?;
        record::replace(&dir, TASK_FILE, &encode(uid, created, task), self.sync)?;
        fs::rename(half, self.dir(&task.name))?;
        if self.sync {
            File::open(&self.root)?.sync_all()
        } else {
            Ok(())
        }
    }

    /// Notes that a task is being deleted, and what follows it.
    pub(crate) fn mark(
        &self,
        name: &TaskName,
        at: i64,
        next: Option<&(TaskUid, NewTask)>,
    ) -> io::Result<()> {
        let mut payload = format!("{at}\n").into_bytes();
        if let Some((uid, task)) = next {
            payload.extend_from_slice(&encode(uid, 0, task));
        }
        let dir = File::open(self.dir(name))?;
        record::replace(&dir, DELETE_FILE, &frame("delete", 1, &payload), self.sync)
    }

    /// Removes a task of which nothing runs. Holds its lock meanwhile, so that a shim
    /// that was just started finds either the lock taken or the directory gone.
    pub(crate) fn remove(
        &self,
        name: &TaskName,
        uid: &TaskUid,
        next: Option<(&TaskUid, u64, &NewTask)>,
    ) -> io::Result<bool> {
        let path = self.dir(name);
        let dir = File::open(&path)?;
        let Some(_lock) = Lock::take(&dir)? else {
            return Ok(false);
        };
        // The successor's record is complete before its predecessor's goes.
        let ready = self.root.join(".new").join(uid.as_str());
        let trash = self.root.join(".trash").join(uid.as_str());
        if let Some((uid, created, task)) = next {
            fs::create_dir(&ready)?;
            record::replace(
                File::open(&ready)?,
                TASK_FILE,
                &encode(uid, created, task),
                self.sync,
            )?;
            for file in fs::read_dir(&path)? {
                let file = file?;
                if file.file_name() != TASK_FILE && file.file_name() != DELETE_FILE {
                    fs::remove_file(file.path())?;
                }
            }
            // From here on the name is the successor's; the mark goes last, and a crash
            // before that only repeats this step.
            fs::rename(ready.join(TASK_FILE), path.join(TASK_FILE))?;
            fs::remove_file(path.join(DELETE_FILE))?;
            fs::remove_dir(&ready)?;
        } else {
            fs::rename(&path, &trash)?;
            fs::remove_dir_all(&trash)?;
        }
        Ok(true)
    }

    /// Reads all tasks. What can't be read is set aside and named.
    pub(crate) fn load(&self) -> io::Result<(Vec<Stored>, Vec<String>)> {
        let (mut found, mut corrupt) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let Ok(task_name) = TaskName::parse(&name) else {
                continue;
            };
            match read(&entry.path(), &task_name) {
                Ok(stored) => found.push(stored),
                Err(error) => {
                    tracing::error!(task = name, %error, "record.set_aside");
                    let aside = format!("{name}.{}", uuid::Uuid::new_v4());
                    fs::rename(entry.path(), self.root.join(".corrupt").join(&aside))?;
                    corrupt.push(aside);
                }
            }
        }
        found.sort_by_key(|stored| stored.created);
        Ok((found, corrupt))
    }
}

fn encode(uid: &TaskUid, created: u64, task: &NewTask) -> Vec<u8> {
    let mut payload = format!("{uid} {created}\n").into_bytes();
    payload.extend_from_slice(&task.to_json());
    frame("task", 1, &payload)
}

fn bad(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn decode(bytes: &[u8]) -> io::Result<(TaskUid, u64, NewTask)> {
    let (_, payload) = unframe("task", 1, bytes).map_err(io::Error::other)?;
    let end = payload
        .iter()
        .position(|b| *b == b'\n')
        .ok_or_else(|| bad("no first line"))?;
    let head = std::str::from_utf8(&payload[..end]).map_err(io::Error::other)?;
    let (uid, created) = head.split_once(' ').ok_or_else(|| bad("no uid"))?;
    let uid = TaskUid::parse(uid).map_err(io::Error::other)?;
    let created = created.parse().map_err(io::Error::other)?;
    let task = sandbox_api::parse_one(&payload[end + 1..])
        .map_err(io::Error::other)?
        .value;
    Ok((uid, created, task))
}

fn read(path: &Path, name: &TaskName) -> io::Result<Stored> {
    // Not `record::read`: a task may be longer than any record of a shim.
    let (uid, created, task) = decode(&fs::read(path.join(TASK_FILE))?)?;
    if task.name != *name {
        return Err(bad("the record names another task"));
    }
    let deletion = match fs::read(path.join(DELETE_FILE)) {
        Ok(bytes) => Some(decode_mark(&bytes)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    Ok(Stored {
        uid,
        created,
        task,
        deletion,
    })
}

fn decode_mark(bytes: &[u8]) -> io::Result<(i64, Option<(TaskUid, NewTask)>)> {
    let (_, payload) = unframe("delete", 1, bytes).map_err(io::Error::other)?;
    let end = payload
        .iter()
        .position(|b| *b == b'\n')
        .ok_or_else(|| bad("no time"))?;
    let at = std::str::from_utf8(&payload[..end]).map_err(io::Error::other)?;
    let at = at.parse().map_err(io::Error::other)?;
    let next = &payload[end + 1..];
    let next = if next.is_empty() {
        None
    } else {
        Some(decode(next)?)
    };
    Ok((at, next.map(|(uid, _, task)| (uid, task))))
}
