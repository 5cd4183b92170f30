//! Keeping a task's log files below a cap without standing between it and the disk.
//!
//! The task writes straight into the files. Their oldest part is given back to the file
//! system by punching a hole (fallocate(2)); offsets stay valid, the writer notices
//! nothing. Where holes can't be punched, the file is cut to its newest part.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

const BLOCK: u64 = 4096;
/// While a log grows it is looked at this often; a still one ever more rarely.
const INTERVAL_MS_MIN: u64 = 50;
const INTERVAL_MS_MAX: u64 = 2000;

/// The capped log files of one task.
#[derive(Debug)]
pub(crate) struct LogCap {
    bytes_max: u64,
    /// Each file, and where its content starts now.
    files: Vec<(File, u64)>,
    interval_ms: u64,
    next_ms: u64,
}

impl LogCap {
    /// A cap over `files`; `bytes_max` 0 is none.
    pub(crate) fn new(bytes_max: u64, files: Vec<File>) -> Self {
        let files = files.into_iter().map(|file| (file, 0)).collect();
        Self {
            bytes_max,
            files,
            interval_ms: INTERVAL_MS_MIN,
            next_ms: 0,
        }
    }

    /// When [`Self::trim`] should be called next, in boot milliseconds.
    pub(crate) fn due(&self) -> Option<u64> {
        (self.bytes_max > 0).then_some(self.next_ms)
    }

    /// Trims each file to its cap and plans the next time.
    pub(crate) fn trim(&mut self, now_ms: u64) {
        if self.bytes_max == 0 {
            return;
        }
        let mut trimmed = false;
        for (file, start) in &mut self.files {
            // A log that can't be trimmed must not stop the task; the next round tries again.
            trimmed |= trim_one(file, start, self.bytes_max).unwrap_or(false);
        }
        self.interval_ms = if trimmed {
            INTERVAL_MS_MIN
        } else {
            (self.interval_ms * 2).min(INTERVAL_MS_MAX)
        };
        self.next_ms = now_ms + self.interval_ms;
    }
}

fn trim_one(file: &mut File, start: &mut u64, bytes_max: u64) -> io::Result<bool> {
    let size = file.metadata()?.size();
    if size < *start {
        *start = 0;
    }
    let keep_from = size.saturating_sub(bytes_max) / BLOCK * BLOCK;
    if keep_from <= *start {
        return Ok(false);
    }
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let end = i64::try_from(keep_from).map_err(io::Error::other)?;
    match fallocate(&*file, flags, 0, end) {
        Ok(()) => {
            *start = keep_from;
            Ok(true)
        }
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => {
            cut_to_newest(file, size, bytes_max).map(|()| true)
        }
        Err(error) => Err(error.into()),
    }
}

/// Without holes: keeps the newest half of the cap. What the task writes between the cut
/// and the copy comes before the copy; nothing of it is lost.
fn cut_to_newest(file: &mut File, size: u64, bytes_max: u64) -> io::Result<()> {
    let keep = bytes_max / 2;
    let mut newest = vec![0; usize::try_from(keep.min(1 << 20)).map_err(io::Error::other)?];
    let from = size - u64::try_from(newest.len()).map_err(io::Error::other)?;
    file.read_exact_at(&mut newest, from)?;
    file.set_len(0)?;
    file.write_all(&newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(bytes: usize) -> (tempfile::NamedTempFile, File) {
        let named = tempfile::NamedTempFile::new().expect("a temp file");
        let content: Vec<u8> = (0..bytes)
            .map(|i| b'a' + u8::try_from(i % 26).expect("small"))
            .collect();
        std::fs::write(named.path(), content).expect("writes");
        let file = File::options()
            .read(true)
            .append(true)
            .open(named.path())
            .expect("opens");
        (named, file)
    }

    #[test]
    fn the_oldest_part_is_punched_out_and_offsets_stay() {
        let (named, file) = log(1 << 20);
        let before = std::fs::read(named.path()).expect("reads");
        let mut cap = LogCap::new(64 << 10, vec![file]);
        cap.trim(0);
        let after = std::fs::read(named.path()).expect("reads");
        assert_eq!(after.len(), before.len());
        let kept = before.len() - (64 << 10);
        assert_eq!(after[kept..], before[kept..], "the newest bytes are kept");
        let used = std::fs::metadata(named.path()).expect("stats").blocks() * 512;
        assert!(
            used <= (64 << 10) + 2 * BLOCK,
            "{used} bytes are still allocated"
        );
    }

    #[test]
    fn without_holes_the_newest_bytes_are_kept_by_cutting() {
        let (named, mut file) = log(1 << 20);
        let before = std::fs::read(named.path()).expect("reads");
        cut_to_newest(&mut file, 1 << 20, 64 << 10).expect("cuts");
        let after = std::fs::read(named.path()).expect("reads");
        assert_eq!(after, before[before.len() - (32 << 10)..]);
    }

    #[test]
    fn a_still_log_is_looked_at_ever_more_rarely() {
        let (_named, file) = log(10);
        let mut cap = LogCap::new(1 << 20, vec![file]);
        for _ in 0..20 {
            cap.trim(0);
        }
        assert_eq!(cap.due(), Some(INTERVAL_MS_MAX));
        assert_eq!(LogCap::new(0, Vec::new()).due(), None);
    }
}
