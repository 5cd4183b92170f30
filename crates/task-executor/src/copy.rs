//! `--copy-to`: puts the running program file where another container can start it from.
//!
//! An image with nothing but this program has no `cp`, so an init container of it could not
//! fill an `emptyDir` otherwise.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Whoever may enter the directory may start the copy.
const MODE: u32 = 0o755;

/// Copies the running program to `path`, in one step: there is the whole file or what was there
/// before. The directory must exist.
pub(crate) fn program(path: &Path) -> io::Result<()> {
    let file_name = path.file_name().ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, "the path does not name a file")
    })?;
    // A name of its own: several Pods may fill one directory at the same time.
    let unique = uuid::Uuid::new_v4().simple().to_string();
    let temporary = path.with_file_name(format!(".{}.{unique}", file_name.display()));
    let copied = fill(&temporary).and_then(|()| fs::rename(&temporary, path));
    if copied.is_err() {
        // It may not even have been made.
        let _ = fs::remove_file(&temporary);
    }
    copied
}

fn fill(path: &Path) -> io::Result<()> {
    let mut program = File::open("/proc/self/exe")?;
    let mut copy = File::options()
        .write(true)
        .create_new(true)
        .mode(MODE)
        .open(path)?;
    io::copy(&mut program, &mut copy)?;
    // Whatever the umask took away.
    copy.set_permissions(Permissions::from_mode(MODE))
}
