//! The output of a task, as it arrives.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::Incoming;
use tokio::time::timeout;

use crate::error::CallError;
use crate::exchange::Asked;

/// Where an agent says which byte of the file is the first of the answer.
const OFFSET_HEADER: &str = "x-log-offset";

/// Which output is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output, then standard error; when followed, as they come.
    #[default]
    Both,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl LogStream {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Both => "both",
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Which part of the output is read; by default all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Of which stream.
    pub stream: LogStream,
    /// Only so many of the last lines.
    pub tail_lines: Option<u64>,
    /// From this byte of the file; not for both streams at once.
    pub since_bytes: Option<u64>,
    /// No more than so many bytes.
    pub limit_bytes: Option<u64>,
}

impl LogQuery {
    pub(crate) fn parameters(&self) -> Vec<(&'static str, String)> {
        let numbers = [
            ("tailLines", self.tail_lines),
            ("sinceBytes", self.since_bytes),
            ("limitBytes", self.limit_bytes),
        ];
        let given = numbers
            .into_iter()
            .filter_map(|(name, number)| Some((name, number?.to_string())));
        std::iter::once(("stream", self.stream.as_str().to_owned()))
            .chain(given)
            .collect()
    }
}

/// Output that is read piece by piece. Dropping it ends the call.
#[derive(Debug)]
pub struct Logs {
    asked: Asked,
    offset: Option<u64>,
    body: Incoming,
    silence_max: Option<Duration>,
}

impl Logs {
    pub(crate) fn new(
        asked: Asked,
        response: Response<Incoming>,
        silence_max: Option<Duration>,
    ) -> Self {
        let offset = response.headers().get(OFFSET_HEADER);
        let offset = offset.and_then(|offset| offset.to_str().ok()?.parse().ok());
        Self {
            asked,
            offset,
            body: response.into_body(),
            silence_max,
        }
    }

    /// Which byte of the file the first one is, if one stream is read: to go on later, add what
    /// was read since and ask from there.
    pub fn offset(&self) -> Option<u64> {
        self.offset
    }

    /// The next piece; [`None`] at the end. Cancel safe.
    ///
    /// # Errors
    /// When the connection is lost, or nothing comes for too long.
    pub async fn next(&mut self) -> Result<Option<Bytes>, CallError> {
        loop {
            let frame = match self.silence_max {
                None => self.body.frame().await,
                Some(silence) => match timeout(silence, self.body.frame()).await {
                    Ok(frame) => frame,
                    Err(_elapsed) => return Err(self.asked.silent(silence)),
                },
            };
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|error| self.asked.broken(error))?;
            if let Ok(piece) = frame.into_data() {
                return Ok(Some(piece));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_asked_for_is_in_the_query() {
        let names = |query: LogQuery| -> Vec<_> {
            let parameters = query.parameters();
            parameters.into_iter().map(|(name, _)| name).collect()
        };
        assert_eq!(names(LogQuery::default()), ["stream"]);
        let query = LogQuery {
            stream: LogStream::Stderr,
            tail_lines: Some(3),
            since_bytes: Some(0),
            limit_bytes: None,
        };
        assert_eq!(names(query), ["stream", "tailLines", "sinceBytes"]);
    }
}
