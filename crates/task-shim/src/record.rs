//! The records that outlive every process: how they are framed, written and read.
//!
//! A record is a small text file. Its first line names the kind, the format version, a
//! CRC-32 and the length of what follows; the rest is `key=value` lines, and for an exit
//! record a blank line and a free text. It is written to a temporary name, then renamed,
//! so a reader sees a whole record or none; what is torn all the same (power loss without
//! `sync`, a broken disk) fails its checksum and reads as *unreadable*, never as a value.
//! ADR 0002 describes the format for other readers.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::Mode;

/// Longest record that is ever read. Written ones are far smaller; a longer file is not ours.
const RECORD_BYTES_MAX: u64 = 16 * 1024;

/// Longest text that an exit record carries: what `status.message` may show, and then some.
pub const MESSAGE_BYTES_MAX: usize = 2 * 1024;

/// File name of a [`RunRecord`].
pub const RUN_FILE: &str = "run.rec";
/// The name under which [`replace`] writes it before it is put in place.
pub const RUN_NEW: &str = "run.rec.new";
/// File name of an [`ExitRecord`].
pub const EXIT_FILE: &str = "exit.rec";
/// File name of a [`PostRecord`].
pub const POST_FILE: &str = "post.rec";
/// Room for the exit record, reserved before the task starts, so that a disk that has
/// filled up since can't lose the exit.
pub const EXIT_SLOT: &str = "exit.tmp";

/// The same for the run record of a command that follows a preStart hook.
pub const RUN_SLOT: &str = "run.tmp";
/// The same for what is written before and after a postStop hook.
pub const POST_SLOTS: [&str; 2] = ["post.tmp", "done.tmp"];
/// Size of that room: more than any exit record takes.
const SLOT_BYTES: usize = 4096;

/// Why a record could not be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file could not be read or written.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The content is not a whole record of this kind and a known version.
    #[error("not a readable record: {0}")]
    Malformed(&'static str),
}

/// Puts `payload` into a frame that a reader can check.
pub fn frame(kind: &str, version: u32, payload: &[u8]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(payload.len() + 64);
    let head = format!(
        "task-executor {kind} {version} {:08x} {}\n",
        crc32fast::hash(payload),
        payload.len()
    );
    framed.extend_from_slice(head.as_bytes());
    framed.extend_from_slice(payload);
    framed
}

/// Takes the payload out of a frame; the inverse of [`frame`]. What follows the payload
/// (the rest of a reserved slot) must be NUL bytes.
pub fn unframe<'a>(
    kind: &str,
    version_max: u32,
    bytes: &'a [u8],
) -> Result<(u32, &'a [u8]), RecordError> {
    let malformed = RecordError::Malformed;
    let end = bytes
        .iter()
        .take(128)
        .position(|b| *b == b'\n')
        .ok_or(RecordError::Malformed("no header line"))?;
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| malformed("header is not text"))?;
    let mut fields = head.split(' ');
    let mut next = || {
        fields
            .next()
            .ok_or(RecordError::Malformed("header is too short"))
    };
    if next()? != "task-executor" || next()? != kind {
        return Err(malformed("another kind of file"));
    }
    let version: u32 = next()?.parse().map_err(|_| malformed("no version"))?;
    let crc = u32::from_str_radix(next()?, 16).map_err(|_| malformed("no checksum"))?;
    let length: usize = next()?.parse().map_err(|_| malformed("no length"))?;
    if version == 0 || version > version_max {
        return Err(malformed("written by a newer version"));
    }
    let rest = &bytes[end + 1..];
    if rest.len() < length || rest[length..].iter().any(|b| *b != 0) {
        return Err(malformed("length does not match"));
    }
    let payload = &rest[..length];
    if crc32fast::hash(payload) != crc {
        return Err(malformed("checksum does not match"));
    }
    Ok((version, payload))
}

/// Who a process is, so that another one that got its pid later is never taken for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot: String,
    /// Inode of the PID namespace in which `pid` counts.
    pub pid_namespace: u64,
    /// Process id in that namespace.
    pub pid: i32,
    /// Start time in clock ticks since boot: `/proc/PID/stat` field 22.
    pub start_ticks: u64,
}

/// What the leading process of a task is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The preStart hook runs.
    PreStart,
    /// The command itself runs.
    Main,
}

/// "From here on the task has been started": in place before its first instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunRecord {
    /// The task's uid.
    pub uid: String,
    /// Its leading process.
    pub leader: Identity,
    /// What that process is.
    pub phase: Phase,
    /// When the task started, in Unix seconds.
    pub started_at: i64,
}

/// How a task ended. Mirrors the reasons of `status.state.terminated` one to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Ended by itself, or by a signal from anyone but the deadline.
    Ended,
    /// Ended because its `timeoutSeconds` were over.
    TimedOut,
    /// Never ran: the command could not be executed.
    StartError,
    /// Killed by the kernel for want of memory.
    OomKilled,
    /// Never ran: its preStart hook failed.
    PreStartFailed,
    /// It ran and nobody saw how it ended.
    Lost,
}

const OUTCOMES: [(Outcome, &str); 6] = [
    (Outcome::Ended, "ended"),
    (Outcome::TimedOut, "timeout"),
    (Outcome::StartError, "start-error"),
    (Outcome::OomKilled, "oom-killed"),
    (Outcome::PreStartFailed, "pre-start-failed"),
    (Outcome::Lost, "lost"),
];

/// The end of a task: exact, or [`Outcome::Lost`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitRecord {
    /// The task's uid.
    pub uid: String,
    /// Why it ended.
    pub outcome: Outcome,
    /// Exit code, or 128 + signal.
    pub code: i32,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// When it started, in Unix seconds; none if it never did.
    pub started_at: Option<i64>,
    /// When it ended, in Unix seconds.
    pub finished_at: i64,
    /// For people: why, or the last lines of its stderr. At most [`MESSAGE_BYTES_MAX`].
    pub message: String,
}

/// How far the postStop hook got, so that it runs once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PostRecord {
    /// It may have run; it must not be started again.
    Started,
    /// It has ended or been given up.
    Done,
}

fn lookup<'a>(text: &'a str, key: &str) -> Result<&'a str, RecordError> {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .find_map(|(name, value)| (name == key).then_some(value))
        .ok_or(RecordError::Malformed("a field is missing"))
}

fn number<T: std::str::FromStr>(text: &str, key: &str) -> Result<T, RecordError> {
    lookup(text, key)?
        .parse()
        .map_err(|_| RecordError::Malformed("a field is not a number"))
}

fn text(payload: &[u8]) -> Result<&str, RecordError> {
    std::str::from_utf8(payload).map_err(|_| RecordError::Malformed("not text"))
}

impl RunRecord {
    /// The file's content.
    pub fn encode(&self) -> Vec<u8> {
        let phase = match self.phase {
            Phase::PreStart => "preStart",
            Phase::Main => "main",
        };
        let payload = format!(
            "uid={}\nboot={}\npidns={}\npid={}\nstart={}\nphase={phase}\nstartedAt={}\n",
            self.uid,
            self.leader.boot,
            self.leader.pid_namespace,
            self.leader.pid,
            self.leader.start_ticks,
            self.started_at
        );
        frame("run", 1, payload.as_bytes())
    }

    /// Reads what [`Self::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let text = text(unframe("run", 1, bytes)?.1)?;
        let phase = match lookup(text, "phase")? {
            "preStart" => Phase::PreStart,
            "main" => Phase::Main,
            _ => return Err(RecordError::Malformed("unknown phase")),
        };
        let leader = Identity {
            boot: lookup(text, "boot")?.to_owned(),
            pid_namespace: number(text, "pidns")?,
            pid: number(text, "pid")?,
            start_ticks: number(text, "start")?,
        };
        Ok(Self {
            uid: lookup(text, "uid")?.to_owned(),
            leader,
            phase,
            started_at: number(text, "startedAt")?,
        })
    }
}

impl ExitRecord {
    /// The file's content.
    pub fn encode(&self) -> Vec<u8> {
        let outcome = OUTCOMES
            .iter()
            .find_map(|(o, word)| (*o == self.outcome).then_some(*word))
            .unwrap_or("lost");
        let mut payload = format!("uid={}\noutcome={outcome}\ncode={}\n", self.uid, self.code);
        if let Some(signal) = self.signal {
            let _ = writeln!(payload, "signal={signal}");
        }
        if let Some(started) = self.started_at {
            let _ = writeln!(payload, "startedAt={started}");
        }
        let _ = writeln!(payload, "finishedAt={}\n", self.finished_at);
        payload.push_str(&self.message);
        frame("exit", 1, payload.as_bytes())
    }

    /// Reads what [`Self::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let text = text(unframe("exit", 1, bytes)?.1)?;
        let (head, message) = text
            .split_once("\n\n")
            .ok_or(RecordError::Malformed("no end of the fields"))?;
        let word = lookup(head, "outcome")?;
        let outcome = OUTCOMES
            .iter()
            .find_map(|(o, name)| (*name == word).then_some(*o));
        let optional = |key| {
            lookup(head, key)
                .is_ok()
                .then(|| number(head, key))
                .transpose()
        };
        Ok(Self {
            uid: lookup(head, "uid")?.to_owned(),
            outcome: outcome.ok_or(RecordError::Malformed("unknown outcome"))?,
            code: number(head, "code")?,
            signal: lookup(head, "signal")
                .is_ok()
                .then(|| number(head, "signal"))
                .transpose()?,
            started_at: optional("startedAt")?,
            finished_at: number(head, "finishedAt")?,
            message: message.to_owned(),
        })
    }
}

impl PostRecord {
    /// The file's content.
    pub fn encode(self) -> Vec<u8> {
        let state = match self {
            Self::Started => "state=started\n",
            Self::Done => "state=done\n",
        };
        frame("post", 1, state.as_bytes())
    }

    /// Reads what [`Self::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        match lookup(text(unframe("post", 1, bytes)?.1)?, "state")? {
            "started" => Ok(Self::Started),
            "done" => Ok(Self::Done),
            _ => Err(RecordError::Malformed("unknown state")),
        }
    }
}

/// Reads a file of a task directory whole. `None` when there is none.
pub fn read(dir: impl AsFd, name: &str) -> Result<Option<Vec<u8>>, io::Error> {
    let file = match openat(
        dir.as_fd(),
        name,
        OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW,
        Mode::empty(),
    ) {
        Ok(fd) => File::from(fd),
        Err(nix::Error::ENOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // A reserved slot and one byte more: most records are read in one go.
    let mut bytes = vec![0; SLOT_BYTES + 1];
    let length = (&file).read(&mut bytes)?;
    bytes.truncate(length);
    if length > SLOT_BYTES {
        file.take(RECORD_BYTES_MAX).read_to_end(&mut bytes)?;
    }
    Ok(Some(bytes))
}

/// Creates a file of mode 0600 for writing, or opens the one that is there.
fn create(dir: impl AsFd, name: &str) -> io::Result<File> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let fd: OwnedFd = openat(dir.as_fd(), name, flags, Mode::from_bits_truncate(0o600))?;
    Ok(File::from(fd))
}

/// Empties a file that is to be written anew. Not by truncating it as it is opened: ext4
/// writes a file that was truncated, even from nothing, to the disk when it is closed.
pub fn make_empty(file: &File) -> io::Result<()> {
    if file.metadata()?.len() > 0 {
        file.set_len(0)?;
    }
    Ok(())
}

/// Replaces a file of a task directory in one step: temporary name, write, rename; with
/// `sync` also fsync(2) of the file and its directory, so that it survives power loss.
pub fn replace(dir: impl AsFd, name: &str, bytes: &[u8], sync: bool) -> io::Result<()> {
    let temporary = format!("{name}.new");
    let mut file = create(dir.as_fd(), &temporary)?;
    make_empty(&file)?;
    file.write_all(bytes)?;
    put_in_place(dir, &file, &temporary, name, sync)
}

/// Makes sure that a record can be put in place by [`fill`] later, even if the disk is full by then.
pub fn reserve(dir: impl AsFd, slot: &str) -> io::Result<()> {
    let mut file = create(dir.as_fd(), slot)?;
    make_empty(&file)?;
    file.write_all(&[0; SLOT_BYTES])
}

/// Writes a record into the room that [`reserve`] made and puts it in place.
pub fn fill(dir: impl AsFd, slot: &str, name: &str, bytes: &[u8], sync: bool) -> io::Result<()> {
    let mut file = create(dir.as_fd(), slot)?;
    file.write_all(bytes)?;
    put_in_place(dir, &file, slot, name, sync)
}

/// Writes the exit record, into its reserved room if there is some.
pub fn write_exit(dir: impl AsFd, record: &ExitRecord, sync: bool) -> io::Result<()> {
    fill(dir, EXIT_SLOT, EXIT_FILE, &record.encode(), sync)
}

fn put_in_place(dir: impl AsFd, file: &File, from: &str, to: &str, sync: bool) -> io::Result<()> {
    if sync {
        file.sync_all()?;
    }
    renameat(dir.as_fd(), from, dir.as_fd(), to)?;
    if sync {
        let directory = openat(
            dir.as_fd(),
            ".",
            OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?;
        File::from(directory).sync_all()?;
    }
    Ok(())
}

/// When a file of the directory was last written, in Unix seconds.
pub fn written_at(dir: impl AsFd, name: &str) -> io::Result<i64> {
    Ok(nix::sys::stat::fstatat(dir.as_fd(), name, AtFlags::AT_SYMLINK_NOFOLLOW)?.st_mtime)
}

/// Whether a file of that name is in the directory.
pub fn exists(dir: impl AsFd, name: &str) -> bool {
    nix::sys::stat::fstatat(dir.as_fd(), name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok()
}

#[cfg(test)]
mod tests;
