//! One connection: its requests one after the other, and as little memory as possible in between.
//!
//! hyper keeps two buffers of 8 KiB for as long as it has a connection. A connection that is idle
//! is therefore taken away from hyper and given back when the next request begins:
//!
//! ```text
//!             first bytes                 idle for a moment
//!   parked ───────────────► in hyper's hands ───────────────► parked
//! ```

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep, sleep_until};
use tower::ServiceExt;

use super::App;
use super::activity::{Activity, Overdue, Received, Reported, Watched};
use super::stream::Streaming;

/// Bytes of a request's header, and of what is buffered of its body. Beyond this hyper answers with
/// a bare 431; what is a little too large gets a proper answer ([`super::limits::check_header`]).
const HEADER_BYTES_MAX: usize = 32 << 10;
/// Fields of a request's header that hyper makes room for.
const HEADER_FIELDS_MAX: usize = 128;
/// Bytes that are read to see that a request has begun. Most requests fit.
const FIRST_BYTES_MAX: usize = 1 << 10;

/// Serves one connection until it ends, is given up, or the agent stops.
pub(super) async fn drive<S>(mut socket: S, app: &App, router: &Router)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut stop = pin!(app.stop.requested());
    let mut unread = Bytes::new();
    loop {
        if unread.is_empty() {
            let came = tokio::select! {
                // All three are cancel safe: bytes that are read are returned at once.
                biased;
                () = &mut stop => return,
                () = sleep(app.options.timeouts.idle) => return,
                came = poll_fn(|cx| first_bytes(&mut socket, cx)) => came,
            };
            let Some(came) = came.ok().filter(|came| !came.is_empty()) else {
                return;
            };
            unread = came;
        }
        // Boxed, so that a parked connection does not make room for it.
        match Box::pin(converse(socket, unread, app, router, stop.as_mut())).await {
            Some(parked) => (socket, unread) = parked,
            None => return,
        }
    }
}

/// Waits for the beginning of a request; nothing at the end of the connection.
fn first_bytes(
    socket: &mut (impl AsyncRead + Unpin),
    cx: &mut Context<'_>,
) -> Poll<io::Result<Bytes>> {
    let mut room = [0; FIRST_BYTES_MAX];
    let mut buffer = ReadBuf::new(&mut room);
    ready!(Pin::new(socket).poll_read(cx, &mut buffer))?;
    Poll::Ready(Ok(Bytes::copy_from_slice(buffer.filled())))
}

/// Lets hyper serve requests, the first of which begins with `first`. Gives the socket back, and
/// what was read of a further request, once nothing has been going on for a while; nothing when the
/// connection has ended.
async fn converse<S>(
    socket: S,
    first: Bytes,
    app: &App,
    router: &Router,
    mut stop: Pin<&mut impl Future<Output = ()>>,
) -> Option<(S, Bytes)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let activity = Activity::begin();
    let io = TokioIo::new(Watched::new(socket, first, activity.clone()));
    let service = service_fn({
        let activity = activity.clone();
        move |request| answer(router.clone(), request, activity.clone())
    });
    let mut connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(HEADER_BYTES_MAX)
        .max_header_size(HEADER_BYTES_MAX)
        .max_headers(HEADER_FIELDS_MAX)
        .serve_connection(io, service);
    let mut stopping = false;
    let mut armed = Instant::now();
    let mut timer = pin!(sleep_until(armed));
    let overdue = poll_fn(|cx| {
        if !stopping && stop.as_mut().poll(cx).is_ready() {
            stopping = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        if Pin::new(&mut connection).poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        let Some((deadline, overdue)) = activity.deadline(&app.options.timeouts) else {
            return Poll::Pending;
        };
        if deadline != armed {
            armed = deadline;
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(cx).map(|()| Some(overdue))
    })
    .await;
    match overdue {
        Some(Overdue::Park) => {
            let parts = connection.into_parts();
            let (socket, unread) = parts.io.into_inner().into_parts();
            // Usually both are empty. Else the next request has begun in the same packet.
            Some((socket, Bytes::from([parts.read_buf, unread].concat())))
        }
        Some(Overdue::GiveUp) | None => None,
    }
}

async fn answer(
    router: Router,
    request: Request<Incoming>,
    activity: Activity,
) -> Result<Response<Reported>, Infallible> {
    activity.request_began();
    let request = request.map(|body| Body::new(Received::new(body, activity.clone())));
    let response = router.oneshot(request).await?;
    if response.extensions().get::<Streaming>().is_some() {
        activity.streaming_began();
    }
    Ok(response.map(|body| Reported::new(body, activity)))
}
