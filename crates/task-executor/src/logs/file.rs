//! One log file: it may not exist yet, grow, lose its head to a punched hole, or be cut short.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{Whence, lseek};
use tokio::task::yield_now;

/// Bytes that are read at once.
pub(super) const PIECE_BYTES_MAX: usize = 32 << 10;

/// Where a piece may end when the file goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    Anywhere,
    /// Behind a line, where there is one, so that another file's lines fit in between.
    AfterLines,
}

/// A log file and how far it has been read.
#[derive(Debug)]
pub(super) struct LogFile {
    stream: &'static str,
    path: PathBuf,
    file: Option<File>,
    position: u64,
    /// Where reading ends; [`None`]: with the file, wherever that is by then.
    end: Option<u64>,
    cut: Cut,
}

impl LogFile {
    pub(super) fn open(dir: &Path, stream: &'static str, cut: Cut) -> Self {
        let path = dir.join(format!("{stream}.log"));
        let file = open_regular(&path);
        Self {
            stream,
            path,
            file,
            position: 0,
            end: None,
            cut,
        }
    }

    /// `stdout` or `stderr`.
    pub(super) fn stream(&self) -> &'static str {
        self.stream
    }

    /// The offset of the next byte to be read.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Reading ends where the file ends now, so that a busy writer cannot make it last for ever.
    pub(super) fn end_here(&mut self) {
        self.end = Some(self.len());
    }

    /// Goes to `since`, or to the first byte behind it that still exists; then to the beginning of
    /// the last `tail_lines` lines if that is later.
    pub(super) async fn seek(&mut self, since: u64, tail_lines: Option<u64>) {
        let len = self.len();
        let Some(file) = &self.file else { return };
        let since = since.min(len);
        let first = first_data(file, since).unwrap_or(len).min(len);
        self.position = match tail_lines {
            None => first,
            Some(lines) => tail_start(file, first, len, lines).await,
        };
    }

    /// The next bytes, at most `max`; [`None`] at the end.
    pub(super) fn next_piece(&mut self, max: u64) -> Option<Bytes> {
        if self.file.is_none() {
            self.file = open_regular(&self.path);
        }
        loop {
            let len = self.len();
            if len < self.position {
                // The writer's cap cut the file short: what is there now is new.
                self.position = 0;
                self.end = self.end.map(|end| end.min(len));
            }
            let available = self
                .end
                .unwrap_or(len)
                .min(len)
                .saturating_sub(self.position);
            let bytes = usize::try_from(available.min(max)).unwrap_or(usize::MAX);
            if bytes == 0 {
                self.let_go_if_deleted();
                return None;
            }
            let file = self.file.as_ref()?;
            let mut piece = vec![0; bytes.min(PIECE_BYTES_MAX)];
            let read = file
                .read_at(&mut piece, self.position)
                .ok()
                .filter(|read| *read > 0)?;
            piece.truncate(read);
            // Asked after the read: whatever was a hole while reading still is one.
            let first = first_data(file, self.position).unwrap_or(len);
            if first > self.position {
                self.position = first;
                continue;
            }
            if self.cut == Cut::AfterLines && read == PIECE_BYTES_MAX {
                let lines = piece.iter().rposition(|byte| *byte == b'\n');
                piece.truncate(lines.map_or(read, |newline| newline + 1));
            }
            self.position += offset(piece.len());
            return Some(piece.into());
        }
    }

    /// Closes a file that was deleted, once it has been read. The kernel tells of a directory's
    /// deletion only when nothing in it is open any more.
    fn let_go_if_deleted(&mut self) {
        let found = self.file.as_ref().and_then(|file| file.metadata().ok());
        if self.end.is_none()
            && found.is_some_and(|found| found.nlink() == 0 && found.len() <= self.position)
        {
            self.file = None;
            self.position = 0;
        }
    }

    fn len(&self) -> u64 {
        let found = self.file.as_ref().and_then(|file| file.metadata().ok());
        found.map_or(0, |found| found.len())
    }
}

/// Opens a log for reading. A task may have put anything in its place: only a regular file is
/// read, and no symbolic link is followed.
fn open_regular(path: &Path) -> Option<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits())
        .open(path)
        .ok()?;
    file.metadata()
        .is_ok_and(|found| found.is_file())
        .then_some(file)
}

/// The first offset from `from` on that is not in a hole; [`None`] when there is only a hole.
fn first_data(file: &File, from: u64) -> Option<u64> {
    match lseek(file, i64::try_from(from).ok()?, Whence::SeekData) {
        Ok(offset) => u64::try_from(offset).ok(),
        Err(Errno::ENXIO) => None,
        // A filesystem without holes, see lseek(2).
        Err(_) => Some(from),
    }
}

/// Where the last `lines` lines between `floor` and `end` begin. Reads backwards, piece by piece.
async fn tail_start(file: &File, floor: u64, end: u64, lines: u64) -> u64 {
    let mut missing = lines;
    let mut upper = end;
    let mut piece = vec![0; PIECE_BYTES_MAX];
    while missing > 0 && upper > floor {
        let lower = upper.saturating_sub(offset(PIECE_BYTES_MAX)).max(floor);
        let bytes = usize::try_from(upper - lower).unwrap_or(PIECE_BYTES_MAX);
        // The file was cut short in the meantime: begin with what is there.
        if file.read_exact_at(&mut piece[..bytes], lower).is_err() {
            return floor;
        }
        let mut searched = bytes;
        // A newline at the very end closes the last line; it begins none.
        if upper == end && piece[..bytes].ends_with(b"\n") {
            searched -= 1;
        }
        while let Some(newline) = piece[..searched].iter().rposition(|byte| *byte == b'\n') {
            missing -= 1;
            if missing == 0 {
                return lower + offset(newline) + 1;
            }
            searched = newline;
        }
        upper = lower;
        yield_now().await;
    }
    upper
}

fn offset(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
