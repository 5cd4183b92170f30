//! Changes of tasks as they happen: one line of JSON each, cut anywhere on the way.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout_at};

use crate::client::Options;
use crate::error::CallError;
use crate::exchange::{Asked, printable};
use crate::task::{ResourceVersion, Task, TaskList};

/// By which an agent says that the answer is a watch.
pub(crate) const CONTENT_TYPE: &[u8] = b"application/x-ndjson";
/// The code with which a watch ends that was too slow; its status, had it come before the stream.
const GONE: &str = "Gone";

/// What came of the wish to watch.
#[derive(Debug)]
pub enum Watching {
    /// The agent has a watch.
    Live(Watch),
    /// It has none and gave its list instead, as `OpenSandbox`'s agent does.
    Unsupported(TaskList),
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// There is a new task.
    Added(Task),
    /// A task has changed.
    Modified(Task),
    /// A task is gone; this is how it was last.
    Deleted(Task),
    /// Nothing; the version has moved on, and the connection is alive.
    Bookmark,
}

/// One line of a watch.
#[derive(Clone, Debug, PartialEq)]
pub struct WatchEvent {
    /// The version after the change.
    pub version: ResourceVersion,
    /// What happened.
    pub change: Change,
}

/// A watch. Dropping it ends the call.
#[derive(Debug)]
pub struct Watch {
    asked: Asked,
    body: Incoming,
    lines: Lines,
    silence_max: Duration,
    /// When something came last. Kept here, so that the deadline also holds for a caller that
    /// goes on to cancel `next`.
    heard: Instant,
    version: Option<ResourceVersion>,
    has_ended: bool,
}

impl Watch {
    pub(crate) fn new(
        asked: Asked,
        body: Incoming,
        since: Option<ResourceVersion>,
        options: &Options,
    ) -> Self {
        Self {
            asked,
            body,
            lines: Lines::new(options.event_bytes_max),
            silence_max: options.watch_silence,
            heard: Instant::now(),
            version: since,
            has_ended: false,
        }
    }

    /// Where the next watch goes on from.
    pub fn version(&self) -> Option<ResourceVersion> {
        self.version
    }

    /// The next event; [`None`] when the agent has ended the watch, as it does when it stops, and
    /// after an error. Cancel safe.
    ///
    /// # Errors
    /// [`CallError::is_gone`] when events were missed, so that the caller has to list again; others
    /// when the connection is lost or silent, or brings what is no event.
    pub async fn next(&mut self) -> Result<Option<WatchEvent>, CallError> {
        if self.has_ended {
            return Ok(None);
        }
        let event = self.event().await;
        match &event {
            Ok(Some(event)) => self.version = Some(event.version),
            Ok(None) | Err(_) => self.has_ended = true,
        }
        event
    }

    async fn event(&mut self) -> Result<Option<WatchEvent>, CallError> {
        loop {
            match self.lines.next() {
                Ok(Some(line)) if line.trim_ascii().is_empty() => continue,
                Ok(Some(line)) => return parse(self.asked, &line).map(Some),
                Ok(None) => {}
                Err(TooLong) => {
                    let max = self.lines.line_bytes_max;
                    let problem = format!("an event is larger than {max} bytes");
                    return Err(self.asked.bad_answer(problem));
                }
            }
            let deadline = self.heard + self.silence_max;
            let Ok(frame) = timeout_at(deadline, self.body.frame()).await else {
                return Err(self.asked.silent(self.silence_max));
            };
            self.heard = Instant::now();
            match frame {
                Some(Ok(frame)) => {
                    if let Ok(piece) = frame.into_data() {
                        self.lines.push(&piece);
                    }
                }
                Some(Err(error)) => return Err(self.asked.broken(error)),
                None if self.lines.is_empty() => return Ok(None),
                None => return Err(self.asked.bad_answer("the watch ended within a line")),
            }
        }
    }
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Kind {
    Added,
    Modified,
    Deleted,
    Bookmark,
    Error,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireEvent<'a> {
    #[serde(rename = "type")]
    kind: Kind,
    #[serde(borrow)]
    object: Option<&'a RawValue>,
    resource_version: Option<ResourceVersion>,
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

fn parse(asked: Asked, line: &[u8]) -> Result<WatchEvent, CallError> {
    let bad = |problem: &str| asked.bad_answer(format!("a watch event: {problem}"));
    let wire: WireEvent<'_> =
        serde_json::from_slice(line).map_err(|error| bad(&error.to_string()))?;
    let task = || {
        let object = wire.object.ok_or_else(|| bad("no object"))?;
        Task::parse(object.get().as_bytes()).map_err(|invalid| bad(&invalid.to_string()))
    };
    let change = match wire.kind {
        Kind::Added => Change::Added(task()?),
        Kind::Modified => Change::Modified(task()?),
        Kind::Deleted => Change::Deleted(task()?),
        Kind::Bookmark => Change::Bookmark,
        Kind::Error => return Err(ended(asked, &wire)),
    };
    let version = wire.resource_version.ok_or_else(|| bad("no version"))?;
    Ok(WatchEvent { version, change })
}

/// The refusal that comes too late for a status.
fn ended(asked: Asked, wire: &WireEvent<'_>) -> CallError {
    let Asked { call, at } = asked;
    let status = if wire.code == GONE { 410 } else { 500 };
    CallError::Refused {
        call,
        at,
        status,
        code: printable(&wire.code),
        message: printable(&wire.message),
        retry_after: None,
    }
}

/// Puts lines together from the pieces in which they arrive.
#[derive(Debug)]
struct Lines {
    buffer: BytesMut,
    /// So many bytes at the beginning are known to hold no line end.
    searched: usize,
    line_bytes_max: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TooLong;

impl Lines {
    fn new(line_bytes_max: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            searched: 0,
            line_bytes_max,
        }
    }

    fn push(&mut self, piece: &Bytes) {
        self.buffer.extend_from_slice(piece);
    }

    fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// A complete line without its end. Only pieces that were pushed before the last call are
    /// looked at twice, so the buffer is never larger than one line and one piece.
    fn next(&mut self) -> Result<Option<Bytes>, TooLong> {
        let unseen = &self.buffer[self.searched..];
        let Some(end) = unseen.iter().position(|byte| *byte == b'\n') else {
            self.searched = self.buffer.len();
            return if self.searched > self.line_bytes_max {
                Err(TooLong)
            } else {
                Ok(None)
            };
        };
        let length = self.searched + end;
        self.searched = 0;
        if length > self.line_bytes_max {
            return Err(TooLong);
        }
        let mut line = self.buffer.split_to(length + 1);
        line.truncate(length);
        Ok(Some(line.freeze()))
    }
}

#[cfg(test)]
mod tests;
