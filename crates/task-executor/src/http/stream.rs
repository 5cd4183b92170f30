//! A response body that is written piece by piece, at the pace of its reader.
//!
//! The writer is a future inside of the body: it runs only when the connection asks for more, and
//! at most one piece waits. Nothing is spawned, so nothing outlives the connection.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use hyper::body::Frame;
use tokio::sync::mpsc;

use super::stop::Stop;

/// Marks a response whose reader may take its time: it is not given up for being slow.
#[derive(Debug, Clone, Copy)]
pub(super) struct Streaming;

/// Where a writer puts its pieces.
#[derive(Debug)]
pub(crate) struct Out(mpsc::Sender<Bytes>);

/// The reader is gone; there is nothing left to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReaderGone;

impl Out {
    /// Hands one piece over. Waits until the one before has been taken.
    pub(crate) async fn send(&self, piece: Bytes) -> Result<(), ReaderGone> {
        self.0.send(piece).await.map_err(|_| ReaderGone)
    }

    #[cfg(test)]
    pub(crate) fn for_tests(room: usize) -> (Self, mpsc::Receiver<Bytes>) {
        let (sender, receiver) = mpsc::channel(room);
        (Self(sender), receiver)
    }
}

/// The body that `writer` writes. It ends with the writer, or with the wish to shut down.
pub(super) fn streamed<F, W>(stop: &Stop, writer: W) -> Body
where
    W: FnOnce(Out) -> F,
    F: Future<Output = Result<(), ReaderGone>> + Send + 'static,
{
    let (sender, pieces) = mpsc::channel(1);
    let writing = writer(Out(sender));
    let stopped = stop.requested();
    let writing = async move {
        tokio::select! {
            // Both are dropped for good afterwards, so that neither has to be cancel safe.
            biased;
            () = stopped => {}
            _ended = writing => {}
        }
    };
    Body::new(Streamed {
        writing: Some(Box::pin(writing)),
        pieces,
    })
}

struct Streamed {
    writing: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    pieces: mpsc::Receiver<Bytes>,
}

impl HttpBody for Streamed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if let Some(writing) = &mut this.writing
            && writing.as_mut().poll(cx).is_ready()
        {
            // With the writer goes its `Out`, so that the channel ends after what is in it.
            this.writing = None;
        }
        this.pieces
            .poll_recv(cx)
            .map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}
