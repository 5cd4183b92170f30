//! What a connection is doing, told by its socket and its bodies, and when that is too long.
//!
//! ```text
//!            first byte            header read            body sent
//!   Idle ──────────────► Reading ──────────────► Answering ─────────► Idle
//!    │ idle timeout         │ header timeout         │ stalled write
//!    └──────────────────────┴──────────► closed ◄────┘
//! ```

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use std::{io, mem};

use axum::body::{Body, HttpBody};
use bytes::{Buf, Bytes};
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::Timeouts;

/// What a connection in hyper's hands is doing. Shared by its socket, its bodies and its driver,
/// which all live in one task: the lock is never contended.
#[derive(Debug, Clone)]
pub(super) struct Activity(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Since when the socket takes no more bytes.
    stalled: Option<Instant>,
    /// Whether something was written and not yet flushed.
    unflushed: bool,
    /// Whether the whole body of the last request was read. What is left of it would be taken for
    /// the next request.
    body_read: bool,
    /// Whether the reader of the response may take its time.
    patient: bool,
}

#[derive(Debug)]
enum Phase {
    Reading(Instant),
    Answering,
    Idle(Instant),
}

/// What is to be done at a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overdue {
    /// Close the connection.
    GiveUp,
    /// Take it away from hyper until there is more to read.
    Park,
}

impl Activity {
    /// A request has begun.
    pub(super) fn begin() -> Self {
        Self(Arc::new(Mutex::new(State {
            phase: Phase::Reading(Instant::now()),
            stalled: None,
            unflushed: false,
            body_read: false,
            patient: false,
        })))
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn bytes_came(&self) {
        self.with(|state| {
            if let Phase::Idle(_) = state.phase {
                state.phase = Phase::Reading(Instant::now());
            }
        });
    }

    /// A whole header was read.
    pub(super) fn request_began(&self) {
        self.with(|state| {
            state.phase = Phase::Answering;
            state.body_read = false;
        });
    }

    fn body_ended(&self) {
        self.with(|state| state.body_read = true);
    }

    /// The response is a stream, whose reader is not given up for being slow.
    pub(super) fn streaming_began(&self) {
        self.with(|state| state.patient = true);
    }

    fn response_ended(&self) {
        self.with(|state| {
            state.phase = Phase::Idle(Instant::now());
            state.patient = false;
        });
    }

    fn write_tried<T>(&self, written: &Poll<T>) {
        self.with(|state| {
            state.unflushed = true;
            state.note_progress(written);
        });
    }

    fn flush_tried<T>(&self, flushed: &Poll<T>) {
        self.with(|state| {
            // hyper flushes the socket only when its own buffer is empty.
            state.unflushed &= flushed.is_pending();
            state.note_progress(flushed);
        });
    }

    /// When something is to be done unless something happens before.
    pub(super) fn deadline(&self, timeouts: &Timeouts) -> Option<(Instant, Overdue)> {
        let after = |since: Instant, limit: Duration| Some((since + limit, Overdue::GiveUp));
        self.with(|state| match (&state.phase, state.stalled) {
            (_, Some(since)) if !state.patient => after(since, timeouts.stalled_write),
            (Phase::Reading(since), _) => after(*since, timeouts.header),
            // Every handler bounds its own time.
            (Phase::Answering, _) => None,
            (Phase::Idle(since), _) if state.can_be_parked() && timeouts.park < timeouts.idle => {
                Some((*since + timeouts.park, Overdue::Park))
            }
            (Phase::Idle(since), _) => after(*since, timeouts.idle),
        })
    }
}

impl State {
    fn can_be_parked(&self) -> bool {
        self.body_read && !self.unflushed
    }

    fn note_progress<T>(&mut self, progress: &Poll<T>) {
        match progress {
            Poll::Ready(_) => self.stalled = None,
            Poll::Pending => {
                self.stalled.get_or_insert_with(Instant::now);
            }
        }
    }
}

/// A socket that tells its [`Activity`]. Begins with bytes that were read from it before.
#[derive(Debug)]
pub(super) struct Watched<S> {
    socket: S,
    first: Bytes,
    activity: Activity,
}

impl<S> Watched<S> {
    pub(super) fn new(socket: S, first: Bytes, activity: Activity) -> Self {
        Self {
            socket,
            first,
            activity,
        }
    }

    /// The socket, and what of the first bytes nobody has read.
    pub(super) fn into_parts(self) -> (S, Bytes) {
        (self.socket, self.first)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.has_remaining() {
            let bytes = self.first.len().min(buffer.remaining());
            buffer.put_slice(&self.first.split_to(bytes));
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            self.activity.bytes_came();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.activity.write_tried(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, pieces);
        self.activity.write_tried(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.socket).poll_flush(cx);
        self.activity.flush_tried(&flushed);
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.socket).poll_shutdown(cx);
        self.activity.write_tried(&shut);
        shut
    }
}

/// A request's body that tells its [`Activity`] when it was read to its end.
#[derive(Debug)]
pub(super) struct Received {
    body: Incoming,
    activity: Activity,
}

impl Received {
    pub(super) fn new(body: Incoming, activity: Activity) -> Self {
        let received = Self { body, activity };
        received.tell();
        received
    }

    fn tell(&self) {
        if self.body.is_end_stream() {
            self.activity.body_ended();
        }
    }
}

impl HttpBody for Received {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match frame {
            None => self.activity.body_ended(),
            Some(_) => self.tell(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A response's body that tells its [`Activity`] when nothing of it is left to be taken.
#[derive(Debug)]
pub(super) struct Reported {
    body: Body,
    activity: Activity,
}

impl Reported {
    pub(super) fn new(body: Body, activity: Activity) -> Self {
        Self { body, activity }
    }
}

impl Drop for Reported {
    fn drop(&mut self) {
        // The body goes first: with it go the locks and counts of whoever writes it.
        drop(mem::take(&mut self.body));
        self.activity.response_ended();
    }
}

impl HttpBody for Reported {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
