//! Accepts connections, within bounds, and ends them in an orderly way.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use nix::errno::Errno;
use sandbox_api::ErrorCode;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{App, connection, router};
use crate::config::ListenAddr;
use crate::metrics::Open;
use crate::tls::Tls;

/// Connections that the kernel keeps until they are accepted; it lowers this to `somaxconn`.
const BACKLOG: u32 = 4096;
/// Pause when the process or the machine has no descriptors or memory left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Opens the listening socket. Names are looked up, which blocks: call it at start only.
pub fn bind(addr: &ListenAddr) -> io::Result<TcpListener> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for candidate in addr.candidates()? {
        let opened = if candidate.is_ipv6() {
            TcpSocket::new_v6()
        } else {
            TcpSocket::new_v4()
        };
        let listening = opened.and_then(|socket| {
            socket.set_reuseaddr(true)?;
            socket.bind(candidate)?;
            socket.listen(BACKLOG)
        });
        match listening {
            Ok(listener) => return Ok(listener),
            // A port in use stays in use: the next candidate must not hide that.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Serves until `shutdown` resolves, then until every connection has ended.
///
/// Requests that are being answered get their answer; idle connections, long polls, watches and
/// followed logs end at once. What is left after [`super::Timeouts::shutdown`] is cut off.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    app: App,
    shutdown: impl Future<Output = ()>,
) {
    let router = router::router(app.clone());
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    let mut acceptance = Acceptance::Working;
    loop {
        let accepted = tokio::select! {
            // All three are cancel safe: an accepted connection is never dropped unseen.
            biased;
            () = &mut shutdown => break,
            Some(_ended) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, _peer)) if connections.len() >= app.options.max_connections => {
                app.metrics.connection_refused();
                refuse(&socket, tls.as_deref());
            }
            Ok((socket, _peer)) => {
                let open = app.metrics.connection();
                connections.spawn(serve_connection(
                    socket,
                    tls.clone(),
                    app.clone(),
                    router.clone(),
                    open,
                ));
            }
            Err(error) => {
                acceptance = acceptance.failed(&error).await;
                continue;
            }
        }
        acceptance = Acceptance::Working;
    }
    drop(listener);
    app.stop.request();
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if timeout(app.options.timeouts.shutdown, all_ended)
        .await
        .is_err()
    {
        tracing::warn!(
            connections = connections.len(),
            "connections cut off at shutdown"
        );
        connections.shutdown().await;
    }
}

/// Says no to one connection without waiting for it.
fn refuse(socket: &TcpStream, tls: Option<&Tls>) {
    if tls.is_none() {
        // Unread bytes would turn the close into a reset, which may overtake the answer.
        let mut request = [0; 4096];
        let _whatever_came = socket.try_read(&mut request);
        let _whatever_fits = socket.try_write(refusal().as_bytes());
    }
}

fn refusal() -> String {
    let code = ErrorCode::ServiceUnavailable.as_str();
    let body = format!(
        "{{\"code\":\"{code}\",\"message\":\"too many connections are open; close some of them\"}}\n"
    );
    let length = body.len();
    format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
         retry-after: 1\r\nconnection: close\r\n\r\n{body}"
    )
}

/// Whether the last connection could be accepted; a lack of descriptors is logged once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Acceptance {
    Working,
    Starved,
}

impl Acceptance {
    /// Without descriptors `accept` fails at once, again and again: waits until some are closed.
    async fn failed(self, error: &io::Error) -> Self {
        let errno = error.raw_os_error().map(Errno::from_raw);
        if let Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM) = errno {
            if self == Self::Working {
                tracing::warn!(%error, "no connection can be accepted for now");
            }
            sleep(ACCEPT_PAUSE).await;
            return Self::Starved;
        }
        // The client went away before it was accepted, see accept(2).
        tracing::debug!(%error, "connection lost before it was accepted");
        self
    }
}

async fn serve_connection(
    socket: TcpStream,
    tls: Option<Arc<Tls>>,
    app: App,
    router: Router,
    _open: Open,
) {
    // Small answers are not to wait for the next one. Failing that, they are slower but right.
    let _faster = socket.set_nodelay(true);
    match tls {
        None => connection::drive(socket, &app, &router).await,
        // Boxed, so that connections without TLS do not make room for it.
        Some(tls) => Box::pin(shake_hands_and_drive(socket, &tls, &app, &router)).await,
    }
}

async fn shake_hands_and_drive(socket: TcpStream, tls: &Tls, app: &App, router: &Router) {
    let timeouts = app.options.timeouts;
    // Until the first byte a connection costs no buffer.
    tokio::select! {
        // All three are cancel safe and hold nothing.
        biased;
        () = app.stop.requested() => return,
        () = sleep(timeouts.idle) => return,
        _readable = socket.readable() => {}
    }
    match timeout(timeouts.handshake, tls.acceptor().accept(socket)).await {
        Ok(Ok(socket)) => connection::drive(socket, app, router).await,
        Ok(Err(error)) => tracing::debug!(%error, "tls handshake failed"),
        Err(_elapsed) => tracing::debug!("tls handshake timed out"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lack_of_descriptors_is_waited_out() {
        let began = std::time::Instant::now();
        let starved = Acceptance::Working.failed(&Errno::EMFILE.into()).await;
        assert_eq!(starved, Acceptance::Starved);
        assert!(began.elapsed() >= ACCEPT_PAUSE);
        assert_eq!(
            starved.failed(&Errno::ECONNABORTED.into()).await,
            Acceptance::Starved
        );
        let working = Acceptance::Working
            .failed(&Errno::ECONNABORTED.into())
            .await;
        assert_eq!(working, Acceptance::Working);
    }

    #[tokio::test]
    async fn a_port_in_use_is_an_error() {
        let first = bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
        let port = first.local_addr().unwrap().port();
        for addr in [format!("127.0.0.1:{port}"), format!("localhost:{port}")] {
            let error = bind(&addr.parse().unwrap()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{addr}");
        }
        assert!(bind(&":0".parse().unwrap()).is_ok());
    }
}
