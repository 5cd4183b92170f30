//! Reads a request's body within bounds: bytes of one, bytes of all at once, and time.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::header::{CONTENT_LENGTH, EXPECT};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request};
use bytes::Bytes;
use http_body_util::BodyExt;
use sandbox_api::ErrorCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::error::ApiError;

/// Bytes of request bodies that are held at once, over all connections.
const HELD_BYTES_MAX: usize = 64 << 20;
/// What one permit stands for, so that sizes beyond 4 GiB fit into the semaphore's `u32`.
const PERMIT_BYTES: usize = 1 << 10;
/// The smallest buffer for a body.
const BUFFER_BYTES_MIN: usize = 4 << 10;
/// The largest buffer before the client has sent anything to put into it.
const BUFFER_BYTES_AHEAD: usize = 64 << 10;
/// A larger body is parsed and handed to the manager only in turn, since it can take several
/// times its size once it is parsed.
const HEAVY_BYTES: usize = 256 << 10;
/// Large bodies that are parsed and waiting for the manager at once.
const HEAVY_MAX: usize = 2;
/// What is read and thrown away of a body that is too large, so that a client which sends first
/// and reads later gets to see the answer.
const DISCARDED_BYTES_MAX: u64 = 256 << 20;
/// How long that may take.
const DISCARD_TIME_MAX: Duration = Duration::from_secs(5);

/// Bytes of a path with its query.
const URI_BYTES_MAX: usize = 8 << 10;
/// Bytes of all fields of a header.
const HEADER_BYTES_MAX: usize = 16 << 10;
/// Fields of a header.
const HEADER_FIELDS_MAX: usize = 100;

/// Refuses a request whose header is larger than any sensible one.
pub(super) fn check_header<B>(request: &Request<B>) -> Result<(), ApiError> {
    let uri = request.uri();
    let uri_bytes = uri.path().len() + uri.query().map_or(0, str::len);
    if uri_bytes > URI_BYTES_MAX {
        let message = format!("the path is longer than {URI_BYTES_MAX} bytes; shorten its query");
        return Err(ApiError::new(ErrorCode::UriTooLong, message).and_close());
    }
    let headers = request.headers();
    let field = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len();
    let bytes: usize = headers.iter().map(field).sum();
    if headers.len() > HEADER_FIELDS_MAX || bytes > HEADER_BYTES_MAX {
        let message = format!(
            "the header has more than {HEADER_FIELDS_MAX} fields or {HEADER_BYTES_MAX} bytes; send less"
        );
        return Err(ApiError::new(ErrorCode::HeaderFieldsTooLarge, message).and_close());
    }
    Ok(())
}

/// The bounds, and what of them is in use.
#[derive(Debug)]
pub(super) struct Limits {
    body_bytes_max: usize,
    body_time_max: Duration,
    held: Arc<Semaphore>,
    heavy: Arc<Semaphore>,
}

/// A body, and its share of the bounds for as long as it is worked on.
#[derive(Debug)]
pub(super) struct Payload {
    bytes: Vec<u8>,
    held: Option<OwnedSemaphorePermit>,
    heavy: Option<OwnedSemaphorePermit>,
}

impl Payload {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Limits {
    pub(super) fn new(body_bytes_max: usize, body_time_max: Duration) -> Self {
        // One body of the allowed size must always fit, with what its buffer grows ahead.
        let held_bytes = HELD_BYTES_MAX.max(body_bytes_max.saturating_add(BUFFER_BYTES_AHEAD));
        Self {
            body_bytes_max,
            body_time_max,
            held: Arc::new(Semaphore::new(permits(held_bytes))),
            heavy: Arc::new(Semaphore::new(HEAVY_MAX)),
        }
    }

    /// Reads a request's body, whatever its `Content-Type` says.
    pub(super) async fn read(&self, request: Request<Body>) -> Result<Payload, ApiError> {
        let (parts, mut body) = request.into_parts();
        let declared = declared_bytes(&parts.headers);
        if declared.is_some_and(|bytes| bytes > self.body_bytes_max) {
            return Err(self.too_large(&parts.headers, body).await);
        }
        let mut payload = Payload {
            bytes: Vec::new(),
            held: None,
            heavy: None,
        };
        match timeout(
            self.body_time_max,
            self.fill(&mut payload, &mut body, declared),
        )
        .await
        {
            Err(_elapsed) => Err(self.too_slow()),
            Ok(Err(Unread::TooLarge)) => {
                drop(payload);
                Err(self.too_large(&parts.headers, body).await)
            }
            Ok(Err(Unread::Refused(error))) => Err(error),
            Ok(Ok(())) => self.in_turn(payload).await,
        }
    }

    async fn fill(
        &self,
        payload: &mut Payload,
        body: &mut Body,
        declared: Option<usize>,
    ) -> Result<(), Unread> {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Unread::broken(&error))?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            if payload.bytes.len() + data.len() > self.body_bytes_max {
                return Err(Unread::TooLarge);
            }
            self.append(payload, &data, declared)?;
        }
        Ok(())
    }

    /// Appends to the buffer. Its share of the bound is taken before it grows.
    fn append(
        &self,
        payload: &mut Payload,
        data: &Bytes,
        declared: Option<usize>,
    ) -> Result<(), Unread> {
        let (bytes, held) = (&mut payload.bytes, &mut payload.held);
        let needed = bytes.len() + data.len();
        if needed > bytes.capacity() {
            let ahead = declared.unwrap_or(0).min(BUFFER_BYTES_AHEAD);
            let doubled = bytes.capacity().saturating_mul(2).min(self.body_bytes_max);
            let capacity = needed.max(doubled).max(ahead).max(BUFFER_BYTES_MIN);
            let have = held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
            let more = u32::try_from(permits(capacity) - have).unwrap_or(u32::MAX);
            let more = Arc::clone(&self.held)
                .try_acquire_many_owned(more)
                .map_err(|_| Unread::crowded())?;
            match held {
                Some(held) => held.merge(more),
                None => *held = Some(more),
            }
            bytes.reserve_exact(capacity - bytes.len());
        }
        bytes.extend_from_slice(data);
        Ok(())
    }

    async fn in_turn(&self, mut payload: Payload) -> Result<Payload, ApiError> {
        if payload.bytes.len() > HEAVY_BYTES {
            // The semaphore is never closed.
            payload.heavy = Arc::clone(&self.heavy).acquire_owned().await.ok();
        }
        Ok(payload)
    }

    async fn too_large(&self, headers: &HeaderMap, body: Body) -> ApiError {
        // A client that waits for `100 Continue` has sent nothing yet; reading would ask for it.
        let waits = headers.contains_key(EXPECT);
        let hopeless = declared_bytes(headers).is_some_and(|bytes| {
            u64::try_from(bytes).is_ok_and(|bytes| bytes > DISCARDED_BYTES_MAX)
        });
        if !waits && !hopeless {
            let _whatever_came = timeout(DISCARD_TIME_MAX, discard(body)).await;
        }
        let max = self.body_bytes_max;
        let message = format!(
            "the request body is larger than {max} bytes, the limit of --max-request-bytes; send less"
        );
        ApiError::new(ErrorCode::PayloadTooLarge, message).and_close()
    }

    fn too_slow(&self) -> ApiError {
        let seconds = self.body_time_max.as_secs_f64();
        let message = format!("the request body did not arrive within {seconds} s; send it faster");
        ApiError::new(ErrorCode::RequestTimeout, message).and_close()
    }
}

/// Why a body was not read.
enum Unread {
    TooLarge,
    Refused(ApiError),
}

impl Unread {
    /// The client went away, or what it sent is no HTTP.
    fn broken(error: &axum::Error) -> Self {
        let message = format!("the request body could not be read: {error}");
        Self::Refused(ApiError::new(ErrorCode::BadRequest, message).and_close())
    }

    /// Other bodies take all the room there is.
    fn crowded() -> Self {
        let message = "too many request bodies are being read at once; try again";
        Self::Refused(ApiError::new(ErrorCode::ServiceUnavailable, message).and_close())
    }
}

fn permits(bytes: usize) -> usize {
    bytes.div_ceil(PERMIT_BYTES).min(Semaphore::MAX_PERMITS)
}

fn declared_bytes(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Reads on without keeping anything.
async fn discard(mut body: Body) {
    let mut discarded = 0;
    while !body.is_end_stream() && discarded < DISCARDED_BYTES_MAX {
        let Some(Ok(frame)) = body.frame().await else {
            return;
        };
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        discarded += u64::try_from(bytes).unwrap_or(u64::MAX);
    }
}
