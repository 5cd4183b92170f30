//! One request and its answer: deadlines, the one retry, refusals, bounded bodies.

use std::error::Error as StdError;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::http::Extensions;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use crate::client::Options;
use crate::connect::{Connector, Served};
use crate::endpoint::Endpoint;
use crate::error::{Call, CallError};

/// Bytes of an answer's header, and of what one connection buffers of a body.
const BUFFER_BYTES_MAX: usize = 64 << 10;
/// Bytes that are read of a refusal.
const REFUSAL_BYTES_MAX: usize = 64 << 10;
/// Characters that are kept of a refusal's text.
const TEXT_CHARS_MAX: usize = 500;
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Whether a call may reach the agent twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// Twice is the same as once.
    Harmless,
    /// The second would be answered differently, or hit something else.
    Never,
}

/// What is asked of whom: the two things that every error names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) call: Call,
    pub(crate) at: SocketAddr,
}

impl Asked {
    pub(crate) fn bad_answer(self, problem: impl Into<Box<str>>) -> CallError {
        let Self { call, at } = self;
        let problem = problem.into();
        CallError::BadAnswer { call, at, problem }
    }

    pub(crate) fn silent(self, after: Duration) -> CallError {
        let Self { call, at } = self;
        CallError::Silent { call, at, after }
    }

    fn timed_out(self, after: Duration) -> CallError {
        let Self { call, at } = self;
        CallError::TimedOut { call, at, after }
    }

    /// What became of a connection: lost, or no HTTP at all.
    pub(crate) fn broken(self, error: impl StdError + Send + Sync + 'static) -> CallError {
        let Self { call, at } = self;
        let is_nonsense = cause::<hyper::Error>(&error).is_some_and(hyper::Error::is_parse)
            || cause::<io::Error>(&error).is_some_and(|error| {
                matches!(
                    error.kind(),
                    io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData
                )
            });
        if is_nonsense {
            return self.bad_answer("this is not HTTP as an agent speaks it");
        }
        let source = Box::new(error);
        CallError::Lost { call, at, source }
    }

    fn unsent(self, error: legacy::Error) -> CallError {
        let Self { call, at } = self;
        match cause::<io::Error>(&error) {
            Some(source) if error.is_connect() => {
                let source = match source.raw_os_error() {
                    Some(code) => io::Error::from_raw_os_error(code),
                    None => io::Error::new(source.kind(), source.to_string()),
                };
                CallError::Connect { call, at, source }
            }
            _ => self.broken(error),
        }
    }
}

/// The first error of a type in a chain.
fn cause<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// A request that is still to be sent.
#[derive(Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) call: Call,
    pub(crate) at: &'a Endpoint,
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) body: Bytes,
    pub(crate) repeat: Repeat,
    /// How long it may take until the answer is complete, or until a stream begins.
    pub(crate) patience: Duration,
}

impl Ask<'_> {
    pub(crate) fn asked(&self) -> Asked {
        Asked {
            call: self.call,
            at: self.at.address(),
        }
    }

    fn request(&self) -> Result<Request<Full<Bytes>>, CallError> {
        let address = self.at.address();
        let uri = Uri::builder()
            .scheme("http")
            .authority(address.to_string())
            .path_and_query(self.path.as_str())
            .build();
        // The only address without a place in a URI is one with an IPv6 scope.
        let uri = uri.map_err(|_| CallError::Connect {
            call: self.call,
            at: address,
            source: io::Error::new(io::ErrorKind::InvalidInput, "the address fits into no URI"),
        })?;
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        if !self.body.is_empty() {
            headers.insert(CONTENT_TYPE, JSON);
        }
        if let Some(authorization) = self.at.authorization() {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        Ok(request)
    }
}

/// A complete answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

type Http = legacy::Client<Connector, Full<Bytes>>;

/// Sends requests over connections that are kept for the next one.
#[derive(Debug)]
pub(crate) struct Transport {
    kept: Http,
    /// Opens a connection for each request, for the one that must not meet a stale one again.
    fresh: Http,
    answer_bytes_max: usize,
}

impl Transport {
    pub(crate) fn new(options: &Options) -> Self {
        let connector = Connector {
            deadline: options.connect,
        };
        let mut builder = legacy::Client::builder(TokioExecutor::new());
        builder
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(options.keep)
            .http1_max_buf_size(BUFFER_BYTES_MAX);
        Self {
            kept: builder
                .pool_max_idle_per_host(options.kept_per_agent_max)
                .build(connector),
            fresh: builder.pool_max_idle_per_host(0).build(connector),
            answer_bytes_max: options.answer_bytes_max,
        }
    }

    /// Sends a request and reads the whole answer.
    pub(crate) async fn fetch(&self, ask: &Ask<'_>) -> Result<Answer, CallError> {
        let within = async {
            let response = self.send(ask).await?;
            self.read(ask.asked(), response).await
        };
        let deadline = Instant::now() + ask.patience;
        match timeout_at(deadline, within).await {
            Ok(answer) => answer,
            Err(_elapsed) => Err(ask.asked().timed_out(ask.patience)),
        }
    }

    /// Sends a request and reads the beginning of an answer that may go on for long.
    pub(crate) async fn open(&self, ask: &Ask<'_>) -> Result<Response<Incoming>, CallError> {
        let deadline = Instant::now() + ask.patience;
        match timeout_at(deadline, self.send(ask)).await {
            Ok(response) => response,
            Err(_elapsed) => Err(ask.asked().timed_out(ask.patience)),
        }
    }

    /// Reads what is left of an answer that [`open`](Self::open) began, if it turns out to be short.
    pub(crate) async fn finish(
        &self,
        ask: &Ask<'_>,
        response: Response<Incoming>,
    ) -> Result<Answer, CallError> {
        let deadline = Instant::now() + ask.patience;
        match timeout_at(deadline, self.read(ask.asked(), response)).await {
            Ok(answer) => answer,
            Err(_elapsed) => Err(ask.asked().timed_out(ask.patience)),
        }
    }

    async fn read(&self, asked: Asked, response: Response<Incoming>) -> Result<Answer, CallError> {
        let (parts, body) = response.into_parts();
        let body = match collect(body, self.answer_bytes_max).await {
            Ok(body) => body,
            Err(Unread::Broken(error)) => return Err(asked.broken(error)),
            Err(Unread::TooLarge) => {
                let max = self.answer_bytes_max;
                return Err(asked.bad_answer(format!("it is larger than {max} bytes")));
            }
        };
        let headers = parts.headers;
        Ok(Answer { headers, body })
    }

    /// The beginning of an answer that is no refusal.
    async fn send(&self, ask: &Ask<'_>) -> Result<Response<Incoming>, CallError> {
        let request = ask.request()?;
        let first = self.kept.request(request.clone()).await;
        let sent = match first {
            // hyper-util repeats by itself what it has not begun to send. Here the request was on
            // its way when it turned out that the agent had closed the connection.
            Err(error) if ask.repeat == Repeat::Harmless && was_stale(&error) => {
                self.fresh.request(request).await
            }
            first => first,
        };
        let response = sent.map_err(|error| ask.asked().unsent(error))?;
        if let Some(served) = response.extensions().get::<Served>() {
            served.mark();
        }
        if response.status().is_success() {
            return Ok(response);
        }
        Err(refusal(ask.asked(), response).await)
    }
}

/// Whether a connection that had served before ended without an answer.
fn was_stale(error: &legacy::Error) -> bool {
    let mut extensions = Extensions::new();
    if let Some(info) = error.connect_info() {
        info.get_extras(&mut extensions);
    }
    let has_served = extensions.get().is_some_and(Served::is_marked);
    let is_nonsense = cause::<hyper::Error>(error).is_some_and(hyper::Error::is_parse);
    has_served && !is_nonsense
}

enum Unread {
    Broken(hyper::Error),
    TooLarge,
}

async fn collect(mut body: Incoming, bytes_max: usize) -> Result<Bytes, Unread> {
    let declared = body.size_hint().lower();
    if usize::try_from(declared).is_ok_and(|declared| declared > bytes_max) {
        return Err(Unread::TooLarge);
    }
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(Unread::Broken)?.into_data() else {
            continue;
        };
        if first.len() + all.len() + data.len() > bytes_max {
            return Err(Unread::TooLarge);
        }
        // Most answers come in one piece, which need not be copied.
        if first.is_empty() && all.is_empty() {
            first = data;
            continue;
        }
        all.extend_from_slice(&std::mem::take(&mut first));
        all.extend_from_slice(&data);
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}

/// The body of a refusal; `/health` gives a reason in place of a message.
#[derive(Default, Deserialize)]
struct RefusalBody {
    #[serde(default)]
    code: String,
    #[serde(default, alias = "reason")]
    message: String,
}

async fn refusal(asked: Asked, response: Response<Incoming>) -> CallError {
    let Asked { call, at } = asked;
    let (parts, body) = response.into_parts();
    let retry_after = parts.headers.get(RETRY_AFTER);
    let retry_after = retry_after.and_then(|seconds| seconds.to_str().ok()?.parse().ok());
    // The status says enough when there is no more to have.
    let body = collect(body, REFUSAL_BYTES_MAX).await.unwrap_or_default();
    let said: RefusalBody = serde_json::from_slice(&body).unwrap_or_else(|_| RefusalBody {
        message: String::from_utf8_lossy(&body).into_owned(),
        ..RefusalBody::default()
    });
    let code = match said.code.as_str() {
        "" => reason(parts.status),
        code => code,
    };
    CallError::Refused {
        call,
        at,
        status: parts.status.as_u16(),
        code: printable(code),
        message: printable(&said.message),
        retry_after: retry_after.map(Duration::from_secs),
    }
}

fn reason(status: StatusCode) -> &'static str {
    status.canonical_reason().unwrap_or("Unknown")
}

/// A text of the other side as part of one line of a message.
pub(crate) fn printable(text: &str) -> Box<str> {
    let text = text.trim().chars().take(TEXT_CHARS_MAX);
    text.map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect::<String>()
        .into()
}
