//! What a client makes of servers that misbehave: raw TCP, byte for byte.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use sandbox_api::{TaskName, TaskUid};
use task_client::{
    CallError, Change, Class, Client, Endpoint, LogQuery, Options, Target, Watch, Watching,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longer than any test takes.
const PATIENCE: Duration = Duration::from_secs(20);
const EMPTY: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]";

/// A server that does with each connection what it is told.
struct Server {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Server {
    async fn start<F, H>(handle: H) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
        H: Fn(usize, TcpStream) -> F + Send + 'static,
    {
        Self::start_at(Ipv4Addr::LOCALHOST.into(), handle).await
    }

    async fn start_at<F, H>(address: IpAddr, handle: H) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
        H: Fn(usize, TcpStream) -> F + Send + 'static,
    {
        let listener = TcpListener::bind((address, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(handle(count.fetch_add(1, Ordering::SeqCst), stream));
            }
        });
        Self {
            address,
            accepted,
            accepting,
        }
    }

    /// Sends `answer` to the first request of each connection and closes it.
    async fn answering(answer: impl Into<Bytes>) -> Self {
        let answer = answer.into();
        Self::start(move |_, mut stream| {
            let answer = answer.clone();
            async move {
                request(&mut stream).await;
                stream.write_all(&answer).await.ok();
                stream.shutdown().await.ok();
            }
        })
        .await
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::new(self.address)
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Reads one request: its header and as much of a body as it declares. Nothing at the end.
async fn request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok())
                .unwrap_or(0);
            if bytes.len() >= end + 4 + length {
                return Some(head);
            }
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

/// Until the other side closes the connection.
async fn until_closed(stream: &mut TcpStream) {
    let mut byte = [0];
    while stream.read(&mut byte).await.is_ok_and(|read| read > 0) {}
}

fn impatient() -> Client {
    Client::new(Options {
        request: Duration::from_millis(300),
        watch_silence: Duration::from_millis(300),
        answer_bytes_max: 1000,
        event_bytes_max: 100,
        ..Options::default()
    })
}

fn patient() -> Client {
    Client::new(Options {
        request: PATIENCE,
        ..Options::default()
    })
}

fn target() -> Target {
    Target::named(TaskName::parse("t").expect("a name"))
}

/// The error with all its sources.
fn chain(error: &CallError) -> String {
    let mut texts = vec![error.to_string()];
    let mut next = std::error::Error::source(error);
    while let Some(error) = next {
        texts.push(error.to_string());
        next = error.source();
    }
    texts.join(": ")
}

#[track_caller]
fn check<T: std::fmt::Debug>(result: Result<T, CallError>, class: Class, text: &str) {
    let error = result.expect_err("fails");
    assert_eq!(error.class(), class, "{}", chain(&error));
    assert!(chain(&error).contains(text), "{}", chain(&error));
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up_at_the_deadline() {
    let server =
        Server::start(|_, mut stream| async move { until_closed(&mut stream).await }).await;
    let client = impatient();
    let got = timeout(PATIENCE, client.get_tasks(&server.endpoint())).await;
    let text = format!(
        "getTasks at {}: no complete answer within 300ms",
        server.address
    );
    check(got.expect("in time"), Class::Unreachable, &text);
}

#[tokio::test]
async fn a_body_that_never_ends_is_given_up_at_the_deadline() {
    let server = Server::start(|_, mut stream| async move {
        request(&mut stream).await;
        let begun = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[";
        stream.write_all(begun).await.ok();
        until_closed(&mut stream).await;
    })
    .await;
    let got = impatient().get_tasks(&server.endpoint()).await;
    check(got, Class::Unreachable, "no complete answer within");
}

#[tokio::test]
async fn a_port_where_nobody_listens_refuses_at_once() {
    // Bound and not listening, so that nobody else gets the port meanwhile.
    let silent = TcpSocket::new_v4().expect("a socket");
    silent
        .bind((Ipv4Addr::LOCALHOST, 0).into())
        .expect("a port");
    let address = silent.local_addr().expect("an address");
    let got = patient().health(&Endpoint::new(address)).await;
    let text = format!("getHealth at {address}: no connection: Connection refused");
    check(got, Class::Unreachable, &text);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_a_lost_connection() {
    for answer in [
        "",
        "HTTP/1.1 200",
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n[",
    ] {
        let server = Server::answering(answer).await;
        let got = patient().get_tasks(&server.endpoint()).await;
        check(got, Class::Unreachable, "the connection was lost");
        assert_eq!(
            server.accepted(),
            1,
            "a new connection is not stale: {answer:?}"
        );
    }
}

#[tokio::test]
async fn what_is_no_http_or_no_list_is_a_bad_answer() {
    for answer in [
        "SSH-2.0-OpenSSH_9.6\r\n\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n[{}]",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-Resource-Version: new\r\nContent-Length: 2\r\n\r\n[]",
    ] {
        let server = Server::answering(answer).await;
        let got = patient().get_tasks(&server.endpoint()).await;
        check(got, Class::BadAnswer, "bad answer");
    }
}

#[tokio::test]
async fn an_answer_larger_than_the_bound_is_not_read() {
    let declared = "HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n".to_owned();
    let chunks = format!("64\r\n{}\r\n", " ".repeat(100)).repeat(11);
    let chunked = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
    let endless = format!("HTTP/1.1 200 OK\r\n\r\n{}", " ".repeat(1001));
    for answer in [declared, chunked, endless] {
        let server = Server::start(move |_, mut stream| {
            let answer = answer.clone();
            async move {
                request(&mut stream).await;
                stream.write_all(answer.as_bytes()).await.ok();
                until_closed(&mut stream).await;
            }
        })
        .await;
        let got = impatient().get_tasks(&server.endpoint()).await;
        check(got, Class::BadAnswer, "larger than 1000 bytes");
    }
}

#[tokio::test]
async fn a_connection_is_used_again() {
    let server = Server::start(|_, mut stream| async move {
        while request(&mut stream).await.is_some() {
            stream.write_all(EMPTY.as_bytes()).await.ok();
        }
    })
    .await;
    let client = patient();
    for _ in 0..20 {
        client.get_tasks(&server.endpoint()).await.expect("a list");
    }
    // The pool may open a second one while the first is on its way back.
    assert!(server.accepted() <= 2, "{}", server.accepted());
}

/// Answers the first request of each connection, and closes it when the second has come.
async fn closing_at_the_second_request() -> Server {
    Server::start(|_, mut stream| async move {
        request(&mut stream).await;
        stream.write_all(EMPTY.as_bytes()).await.ok();
        request(&mut stream).await;
    })
    .await
}

#[tokio::test]
async fn a_call_on_a_connection_closed_meanwhile_is_repeated_once_if_harmless() {
    let server = closing_at_the_second_request().await;
    let (client, at) = (patient(), server.endpoint());
    client.get_tasks(&at).await.expect("a list");
    let set = client.set_tasks(&at, Bytes::from_static(b"[]")).await;
    assert!(set.expect("is repeated").tasks.is_empty());
    let uid = TaskUid::parse("u").expect("a uid");
    client.get_tasks(&at).await.expect("a list");
    let exact = Target::exactly(target().name, uid);
    client.delete_task(&at, &exact).await.expect("is repeated");
}

#[tokio::test]
async fn a_call_that_could_do_harm_is_not_repeated() {
    let server = closing_at_the_second_request().await;
    let (client, at) = (patient(), server.endpoint());
    client.get_tasks(&at).await.expect("a list");
    let created = client.create_task(&at, Bytes::from_static(b"{}")).await;
    check(created, Class::Unreachable, "createTask");
    client.get_tasks(&at).await.expect("a list");
    let deleted = client.delete_task(&at, &target()).await;
    check(deleted, Class::Unreachable, "deleteTask");
    assert_eq!(server.accepted(), 2);
}

#[tokio::test]
async fn a_server_that_closes_after_each_answer_is_served_by_new_connections() {
    for answer in [
        EMPTY,
        "HTTP/1.0 200 OK\r\n\r\n[]",
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n[]",
    ] {
        let server = Server::answering(answer).await;
        let client = patient();
        for _ in 0..10 {
            let got = client.get_tasks(&server.endpoint()).await;
            assert!(got.expect("a list").tasks.is_empty());
        }
        assert!(server.accepted() >= 10, "{answer:?}");
    }
}

#[tokio::test]
async fn refusals_of_either_agent_are_understood() {
    for (answer, text) in [
        (
            "HTTP/1.1 500 Internal Server Error\r\n\r\n{\"code\":\"Internal Server Error\",\"message\":\"failed to sync tasks\"}\n",
            "refused with 500 Internal Server Error: failed to sync tasks",
        ),
        (
            "HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\n\r\n404 page not found\n",
            "refused with 404 Not Found: 404 page not found",
        ),
        (
            "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n\r\n{\"status\":\"unhealthy\",\"reason\":\"disk full\"}",
            "refused with 503 Service Unavailable: disk full",
        ),
        (
            "HTTP/1.1 301 Moved\r\nLocation: /\r\n\r\n",
            "refused with 301",
        ),
        // A refusal that goes on for ever is cut, and its status is enough.
        (
            "HTTP/1.1 429 X\r\nContent-Length: 99999999\r\n\r\n",
            "refused with 429",
        ),
    ] {
        let server = Server::answering(answer).await;
        let got = patient().get_tasks(&server.endpoint()).await;
        check(got, Class::Refused, text);
    }
}

#[tokio::test]
async fn an_error_shows_nothing_of_the_request() {
    for answer in ["", "nonsense\r\n\r\n", "HTTP/1.1 400 Bad Request\r\n\r\nno"] {
        let server = Server::answering(answer).await;
        let at = server.endpoint().with_token("secret").expect("a token");
        let body = Bytes::from_static(b"[{\"name\":\"secret\"}]");
        let error = patient().set_tasks(&at, body).await.expect_err("fails");
        let all = format!("{} {error:?}", chain(&error));
        assert!(!all.contains("secret"), "{all}");
        assert!(all.contains("setTasks"), "{all}");
    }
}

#[tokio::test]
async fn an_agent_with_an_ipv6_address_is_called() {
    let loopback = Ipv6Addr::LOCALHOST.into();
    if !testkit::place::need("IPv6", std::net::TcpListener::bind((loopback, 0)).is_ok()) {
        return;
    }
    let server = Server::start_at(loopback, |_, mut stream| async move {
        let head = request(&mut stream).await.unwrap_or_default();
        assert!(head.contains("host: [::1]:"), "{head}");
        stream.write_all(EMPTY.as_bytes()).await.ok();
    })
    .await;
    let got = patient().get_tasks(&server.endpoint()).await;
    assert!(got.expect("a list").version.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_callers_share_a_client() {
    let server = Server::start(|_, mut stream| async move {
        while request(&mut stream).await.is_some() {
            stream.write_all(EMPTY.as_bytes()).await.ok();
        }
    })
    .await;
    let (client, at) = (patient(), server.endpoint());
    let callers: Vec<_> = (0..200)
        .map(|_| {
            let (client, at) = (client.clone(), at.clone());
            tokio::spawn(async move {
                for _ in 0..10 {
                    client.get_tasks(&at).await.expect("a list");
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.expect("all calls succeed");
    }
}

/// Opens a watch whose stream is `pieces`, each sent when the one before is on its way; the
/// connection stays open if the stream does not end.
async fn watched(pieces: &[&str], ends: bool) -> (Server, Watch) {
    let pieces: Vec<_> = pieces.iter().map(|piece| (*piece).to_owned()).collect();
    let server = Server::start(move |_, mut stream| {
        let pieces = pieces.clone();
        async move {
            request(&mut stream).await;
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";
            stream.write_all(head.as_bytes()).await.ok();
            for piece in pieces {
                let chunk = format!("{:x}\r\n{piece}\r\n", piece.len());
                stream.write_all(chunk.as_bytes()).await.ok();
                stream.flush().await.ok();
                tokio::task::yield_now().await;
            }
            if ends {
                stream.write_all(b"0\r\n\r\n").await.ok();
            }
            until_closed(&mut stream).await;
        }
    })
    .await;
    let client = impatient();
    match client.watch_tasks(&server.endpoint(), None).await {
        Ok(Watching::Live(watch)) => (server, watch),
        other => panic!("{other:?}"),
    }
}

const BOOKMARK: &str = "{\"type\":\"BOOKMARK\",\"resourceVersion\":\"7\"}\n";

#[tokio::test]
async fn events_cut_anywhere_are_put_together() {
    let text = format!(
        "{{\"type\":\"ADDED\",\"object\":{{\"name\":\"\u{e4}\"}},\"resourceVersion\":\"6\"}}\n\n{BOOKMARK}"
    );
    let letters: Vec<_> = text.split_inclusive(|_| true).collect();
    let (_server, mut watch) = watched(&letters, true).await;
    let added = watch.next().await.expect("an event").expect("an event");
    assert!(matches!(added.change, Change::Added(task) if task.report.name == "\u{e4}"));
    let bookmark = watch.next().await.expect("an event").expect("an event");
    assert_eq!(bookmark.change, Change::Bookmark);
    assert_eq!(watch.next().await.expect("an end"), None);
    assert_eq!(watch.version(), "7".parse().ok());
}

#[tokio::test]
async fn a_watch_that_brings_nothing_is_given_up() {
    let (_server, mut watch) = watched(&[BOOKMARK, "{\"type"], false).await;
    watch.next().await.expect("an event");
    let got = timeout(PATIENCE, watch.next()).await.expect("in time");
    check(got, Class::Unreachable, "nothing came for 300ms");
    assert_eq!(watch.next().await.expect("an end"), None);
}

#[tokio::test]
async fn the_deadline_of_a_watch_holds_for_a_caller_that_cancels() {
    let (_server, mut watch) = watched(&[BOOKMARK], false).await;
    watch.next().await.expect("an event");
    let tick = Duration::from_millis(50);
    let mut ticks = 0..1000;
    let got = loop {
        assert!(ticks.next().is_some(), "it is never given up");
        if let Ok(got) = timeout(tick, watch.next()).await {
            break got;
        }
    };
    check(got, Class::Unreachable, "nothing came");
}

#[tokio::test]
async fn a_watch_that_breaks_its_lines_is_a_bad_answer() {
    for (pieces, ends, text) in [
        (&["{\"type\""][..], true, "ended within a line"),
        (&["nonsense\n"], false, "a watch event"),
        (
            &[&*" ".repeat(60), &*" ".repeat(60)],
            false,
            "larger than 100",
        ),
    ] {
        let (_server, mut watch) = watched(pieces, ends).await;
        check(watch.next().await, Class::BadAnswer, text);
    }
}

#[tokio::test]
async fn a_watch_that_missed_events_is_gone() {
    let line = "{\"type\":\"ERROR\",\"code\":\"Gone\",\"message\":\"list again\"}\n";
    let (_server, mut watch) = watched(&[line], true).await;
    let error = watch.next().await.expect_err("is gone");
    assert!(error.is_gone(), "{error}");
}

#[tokio::test]
async fn an_agent_that_lists_when_asked_to_watch_has_no_watch() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n[{\"name\":\"a\",\"process\":{}}]\n";
    let server = Server::answering(answer).await;
    match patient().watch_tasks(&server.endpoint(), None).await {
        Ok(Watching::Unsupported(list)) => {
            assert!(list.version.is_none() && list.get("a").is_some());
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn logs_that_stop_coming_are_given_up_unless_they_are_followed() {
    let server = Server::start(|number, mut stream| async move {
        let head = request(&mut stream).await.unwrap_or_default();
        assert_eq!(head.contains("follow=true"), number == 1, "{head}");
        let begun = b"HTTP/1.1 200 OK\r\nX-Log-Offset: 3\r\n\r\na";
        stream.write_all(begun).await.ok();
        until_closed(&mut stream).await;
    })
    .await;
    let (client, at, query) = (impatient(), server.endpoint(), LogQuery::default());
    let mut logs = client.logs(&at, &target(), &query).await.expect("logs");
    assert_eq!(logs.offset(), Some(3));
    assert_eq!(
        logs.next().await.expect("a piece").as_deref(),
        Some(&b"a"[..])
    );
    check(logs.next().await, Class::Unreachable, "nothing came");
    let mut followed = client
        .follow_logs(&at, &target(), &query)
        .await
        .expect("logs");
    followed.next().await.expect("a piece");
    let silence = timeout(Duration::from_millis(600), followed.next()).await;
    assert!(silence.is_err(), "{silence:?}");
}
