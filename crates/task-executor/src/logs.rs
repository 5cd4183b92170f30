//! Reads what a task has written: from an offset, the last lines, or on and on.
//!
//! Nothing is loaded whole: one piece of at most [`file::PIECE_BYTES_MAX`] is in memory for each
//! reader, and the next one is read when that has been taken. Files are read on the runtime's own
//! thread, since a piece comes from the page cache faster than a thread could be asked for it.

mod changes;
mod file;

#[cfg(test)]
mod tests;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::task::yield_now;

use crate::http::stream::{Out, ReaderGone};
use crate::manager::handle::LogSource;

use changes::{Changes, Seen};
use file::{Cut, LogFile};

/// Which of a task's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Streams {
    Stdout,
    Stderr,
    Both,
}

/// Which part of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Selection {
    pub(crate) streams: Streams,
    /// No more than the last so many lines, of each file.
    pub(crate) tail_lines: Option<u64>,
    /// Nothing before this offset in the file.
    pub(crate) since_bytes: u64,
    /// No more than so many bytes altogether.
    pub(crate) limit_bytes: Option<u64>,
}

/// A task's logs, opened at the place where reading begins.
#[derive(Debug)]
pub(crate) struct Reader {
    files: Vec<LogFile>,
    left_bytes: u64,
    /// How reading goes on at the end of the files; [`None`] when it does not.
    follow: Option<Follow>,
}

#[derive(Debug)]
struct Follow {
    changes: Changes,
    ended: oneshot::Receiver<()>,
}

impl Reader {
    /// Opens the files and finds the place. Files that do not exist yet are empty.
    pub(crate) async fn open(source: LogSource, selection: Selection, follow: bool) -> Self {
        // Watching begins before the first look, so that nothing falls in between.
        let follow = follow.then(|| Follow {
            changes: Changes::of(&source.dir),
            ended: source.ended,
        });
        let names: &[&'static str] = match selection.streams {
            Streams::Stdout => &["stdout"],
            Streams::Stderr => &["stderr"],
            Streams::Both => &["stdout", "stderr"],
        };
        let cut = if names.len() > 1 && follow.is_some() {
            Cut::AfterLines
        } else {
            Cut::Anywhere
        };
        let mut files = Vec::with_capacity(names.len());
        for name in names {
            let mut file = LogFile::open(&source.dir, name, cut);
            file.seek(selection.since_bytes, selection.tail_lines).await;
            if follow.is_none() {
                file.end_here();
            }
            files.push(file);
        }
        Self {
            files,
            left_bytes: selection.limit_bytes.unwrap_or(u64::MAX),
            follow,
        }
    }

    /// Where reading begins: `17`, or `stdout=17, stderr=0` for two files.
    pub(crate) fn offset(&self) -> String {
        match self.files.as_slice() {
            [file] => file.position().to_string(),
            files => {
                let each = files
                    .iter()
                    .map(|file| format!("{}={}", file.stream(), file.position()));
                each.collect::<Vec<_>>().join(", ")
            }
        }
    }

    /// Writes everything to `out`: until the end, or with following until the task has ended and
    /// what it wrote has been read.
    pub(crate) async fn copy_to(mut self, out: Out) -> Result<(), ReaderGone> {
        let mut last_pass = self.follow.is_none();
        loop {
            match self.follow {
                None => self.copy_in_sequence(&out).await?,
                Some(_) => self.copy_in_turn(&out).await?,
            }
            let Some(follow) = self
                .follow
                .as_mut()
                .filter(|_| !last_pass && self.left_bytes > 0)
            else {
                return Ok(());
            };
            last_pass = follow.wait().await == Seen::End;
        }
    }

    /// One file after the other.
    async fn copy_in_sequence(&mut self, out: &Out) -> Result<(), ReaderGone> {
        for index in 0..self.files.len() {
            while let Some(piece) = self.next_piece(index) {
                out.send(piece).await?;
                yield_now().await;
            }
        }
        Ok(())
    }

    /// One piece of each, until all are at their end: neither file holds the other back.
    async fn copy_in_turn(&mut self, out: &Out) -> Result<(), ReaderGone> {
        let mut idle = 0;
        for index in (0..self.files.len()).cycle() {
            match self.next_piece(index) {
                Some(piece) => {
                    idle = 0;
                    out.send(piece).await?;
                    yield_now().await;
                }
                None => idle += 1,
            }
            if idle == self.files.len() {
                break;
            }
        }
        Ok(())
    }

    fn next_piece(&mut self, index: usize) -> Option<Bytes> {
        let piece = self.files[index].next_piece(self.left_bytes)?;
        self.left_bytes -= u64::try_from(piece.len()).unwrap_or(u64::MAX);
        Some(piece)
    }
}

impl Follow {
    /// Waits until there may be more to read.
    async fn wait(&mut self) -> Seen {
        tokio::select! {
            // Both are cancel safe. Once the task has ended one more pass reads all there is.
            biased;
            _over = &mut self.ended => Seen::End,
            seen = self.changes.next() => seen,
        }
    }
}
