//! Directories that are gone after the test, also when the test process was killed.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

const PREFIX: &str = "testkit-kube-";
const LOCK: &str = "owner.lock";

/// A private temporary directory. Dropping it removes it; if that never happens, since a static is never dropped or
/// since the process was killed, the next process that makes one does.
#[derive(Debug)]
pub(crate) struct WorkDir {
    path: PathBuf,
    _lock: File,
}

impl WorkDir {
    /// Makes one, and removes those whose owners have died.
    pub(crate) fn new() -> io::Result<Self> {
        sweep(&std::env::temp_dir());
        // The name that a sweep looks for is given once the lock is held.
        let made = tempfile::Builder::new().prefix("new-").tempdir()?.keep();
        let lock = File::create(made.join(LOCK))?;
        lock.lock()?;
        let name = made.file_name().unwrap_or_default().to_string_lossy();
        let path = made.with_file_name(format!("{PREFIX}{}", &name["new-".len()..]));
        fs::rename(&made, &path)?;
        Ok(Self { path, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Best effort: what can't be removed now is tried again by the next process.
fn sweep(parent: &Path) {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)) {
        let is_left_over = File::open(entry.path().join(LOCK))
            .is_ok_and(|lock| !matches!(lock.try_lock(), Err(TryLockError::WouldBlock)));
        if is_left_over {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dead_owner_has_left_is_removed_and_what_a_living_one_has_is_not() {
        let living = WorkDir::new().unwrap();
        let parent = living.path().parent().unwrap();
        let dead = parent.join(format!("{PREFIX}left-over-{}", std::process::id()));
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join(LOCK), "").unwrap();
        sweep(parent);
        assert!(!dead.exists());
        assert!(living.path().exists());
        let path = living.path().to_owned();
        drop(living);
        assert!(!path.exists());
    }
}
