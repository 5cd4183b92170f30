//! Fault points: moments in the life of a task that show in the data directory.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};

/// A moment at which a fault can be injected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Point {
    /// An entry appears in `.new/`: a task is being written.
    NewEntry,
    /// `task.json` is in place in an entry of `.new/`.
    TaskRecord,
    /// A task's directory appears: it is accepted.
    TaskDir,
    /// `exit.tmp` appears or is written to: room for the exit record is being reserved.
    ExitSlot,
    /// `run.rec.new` appears or is written to: the child is held, its record is being written.
    RunTemporary,
    /// `run.rec` is in place: the child is about to be released.
    RunRecord,
    /// `exit.rec` is in place.
    ExitRecord,
    /// `post.rec.new` appears.
    PostTemporary,
    /// `post.rec` is in place.
    PostRecord,
    /// `delete.rec` is in place.
    DeleteRecord,
    /// An entry appears in `.trash/`.
    Trash,
    /// An entry appears in `.spare/`.
    Spare,
}

impl Point {
    pub(super) const ALL: &[Self] = &[
        Self::NewEntry,
        Self::TaskRecord,
        Self::TaskDir,
        Self::ExitSlot,
        Self::RunTemporary,
        Self::RunRecord,
        Self::ExitRecord,
        Self::PostTemporary,
        Self::PostRecord,
        Self::DeleteRecord,
        Self::Trash,
        Self::Spare,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::NewEntry => "new-entry",
            Self::TaskRecord => "task-record",
            Self::TaskDir => "task-dir",
            Self::ExitSlot => "exit-slot",
            Self::RunTemporary => "run-record-half",
            Self::RunRecord => "run-record",
            Self::ExitRecord => "exit-record",
            Self::PostTemporary => "post-record-half",
            Self::PostRecord => "post-record",
            Self::DeleteRecord => "delete-record",
            Self::Trash => "trash-entry",
            Self::Spare => "spare-entry",
        }
    }

    fn of_file(name: &str) -> Option<Self> {
        Some(match name {
            "task.json" => Self::TaskRecord,
            "exit.tmp" => Self::ExitSlot,
            "run.rec.new" => Self::RunTemporary,
            "run.rec" => Self::RunRecord,
            "exit.rec" => Self::ExitRecord,
            "post.rec.new" => Self::PostTemporary,
            "post.rec" => Self::PostRecord,
            "delete.rec" => Self::DeleteRecord,
            _ => return None,
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watched {
    Root,
    New,
    Trash,
    Spare,
    Task,
}

/// Waits for a fault point.
#[derive(Debug)]
pub(super) struct Watcher {
    inotify: Inotify,
    dirs: BTreeMap<WatchDescriptor, (Watched, PathBuf)>,
}

impl Watcher {
    /// Watches a data directory and all tasks that are there.
    pub(super) fn new(root: &Path) -> nix::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let mut watcher = Self {
            inotify,
            dirs: BTreeMap::new(),
        };
        watcher.add(Watched::Root, root.to_owned())?;
        watcher.add(Watched::New, root.join(".new"))?;
        watcher.add(Watched::Trash, root.join(".trash"))?;
        watcher.add(Watched::Spare, root.join(".spare"))?;
        if let Ok(entries) = std::fs::read_dir(root) {
            for entry in entries.flatten() {
                if !entry.file_name().to_string_lossy().starts_with('.') {
                    // A task that has just gone is none to watch.
                    let _ = watcher.add(Watched::Task, entry.path());
                }
            }
        }
        Ok(watcher)
    }

    fn add(&mut self, kind: Watched, path: PathBuf) -> nix::Result<()> {
        let mut flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        if kind == Watched::Task {
            // In what was a spare, records begin in files that are there.
            flags |= AddWatchFlags::IN_MODIFY;
        }
        let watch = self.inotify.add_watch(&path, flags)?;
        self.dirs.insert(watch, (kind, path));
        Ok(())
    }

    /// Waits until the moment comes; gives the name of the task when it is known. A watch
    /// stays on a directory that is renamed, so the name may be that of its `.new/` entry.
    pub(super) fn wait(&mut self, point: Point, at_most: Duration) -> Option<String> {
        let end = Instant::now() + at_most;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let millis = u16::try_from(left.as_millis().min(1000) + 1).unwrap_or(1000);
            let mut wait = [PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)];
            // An interrupted poll only makes the loop look sooner.
            let _ = poll(&mut wait, PollTimeout::from(millis));
            for event in self.inotify.read_events().unwrap_or_default() {
                if let Some(name) = self.take(&event, point) {
                    return Some(name);
                }
            }
        }
    }

    fn take(&mut self, event: &InotifyEvent, wanted: Point) -> Option<String> {
        let file = event.name.as_ref()?.to_str()?.to_owned();
        let (kind, dir) = self.dirs.get(&event.wd)?.clone();
        let task = |dir: &Path| Some(dir.file_name()?.to_str()?.to_owned());
        match kind {
            Watched::Trash => (wanted == Point::Trash).then_some(file),
            Watched::Spare => (wanted == Point::Spare).then_some(file),
            Watched::Root if file.starts_with('.') => None,
            Watched::Root => {
                // The same directory as its `.new/` entry, now under its name.
                let _ = self.add(Watched::Task, dir.join(&file));
                (wanted == Point::TaskDir).then_some(file)
            }
            Watched::New => {
                let path = dir.join(&file);
                // Gone already when the agent was faster.
                let _ = self.add(Watched::Task, path.clone());
                let early = wanted == Point::TaskRecord && path.join("task.json").exists();
                (wanted == Point::NewEntry || early).then_some(file)
            }
            Watched::Task => (Point::of_file(&file) == Some(wanted)).then(|| task(&dir))?,
        }
    }
}
