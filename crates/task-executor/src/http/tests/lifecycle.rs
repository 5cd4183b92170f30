//! Connections: how many, how long, and how they end.

use std::time::Duration;

use super::{Client, Server, soon};

#[tokio::test]
async fn a_connection_too_many_is_told_so() {
    let server = Server::with(|options| options.max_connections = 2).await;
    let (mut one, mut two) = (server.client().await, server.client().await);
    assert_eq!(one.ask("GET", "/health", "").await.status, 200);
    assert_eq!(two.ask("GET", "/health", "").await.status, 200);
    let mut three = server.client().await;
    let reply = three.reply().await;
    reply.error(503, "ServiceUnavailable");
    assert_eq!(
        (reply.header("retry-after"), reply.header("connection")),
        (Some("1"), Some("close"))
    );
    assert_eq!(three.rest().await, "");
    let page = one.ask("GET", "/metrics", "").await.body;
    assert!(
        page.contains("task_executor_connections_refused_total 1\n"),
        "{page}"
    );
    assert!(page.contains("task_executor_connections 2\n"), "{page}");
    drop(two);
    // Its place is free as soon as the server has noticed.
    soon(async {
        loop {
            let mut client = server.client().await;
            client.send("GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await;
            if client.head().await.status == 200 {
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_slow_header_is_given_up() {
    let server = Server::with(|options| options.timeouts.header = Duration::from_millis(50)).await;
    let mut client = server.client().await;
    client.send("GET /health HTTP/1.1\r\nhost:").await;
    assert_eq!(client.rest().await, "");
    // Also of the second request on a connection, while idling before it is no offence.
    let mut client = server.client().await;
    assert_eq!(client.ask("GET", "/health", "").await.status, 200);
    client.send("GET").await;
    assert_eq!(client.rest().await, "");
}

#[tokio::test]
async fn idle_connections_are_closed_in_the_end() {
    let server = Server::with(|options| options.timeouts.idle = Duration::from_millis(50)).await;
    let (mut fresh, mut used) = (server.client().await, server.client().await);
    assert_eq!(used.ask("GET", "/health", "").await.status, 200);
    assert_eq!(fresh.rest().await, "");
    assert_eq!(used.rest().await, "");
}

#[tokio::test]
async fn an_idle_time_is_longer_than_a_header_time() {
    let server = Server::with(|options| {
        options.timeouts.header = Duration::from_millis(20);
        options.timeouts.idle = Duration::from_mins(1);
    })
    .await;
    let mut client = server.client().await;
    assert_eq!(client.ask("GET", "/health", "").await.status, 200);
    // Three header times go by on another connection.
    for _ in 0..3 {
        let mut other = server.client().await;
        other.send("GET").await;
        assert_eq!(other.rest().await, "");
    }
    assert_eq!(client.ask("GET", "/health", "").await.status, 200);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_given_up() {
    let server =
        Server::with(|options| options.timeouts.stalled_write = Duration::from_millis(50)).await;
    {
        let mut state = server.fake.state();
        for number in 0..400_000 {
            state.add(&format!("task-{number:0>50}"));
        }
    }
    let mut client = server.client().await;
    client
        .send("GET /getTasks HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    let open = || {
        server
            .metrics
            .encode(None)
            .contains("task_executor_connections 1\n")
    };
    soon(async {
        while !open() {
            tokio::task::yield_now().await;
        }
        while open() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = Server::start().await;
    server.fake.state().add("a");
    let mut client = server.client().await;
    client
        .send("GET /tasks/a HTTP/1.1\r\nhost: x\r\n\r\nGET /tasks/b HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    assert_eq!(client.reply().await.status, 200);
    assert_eq!(client.reply().await.status, 404);
}

#[tokio::test]
async fn a_parked_connection_goes_on_with_the_next_request() {
    let server = Server::with(|options| options.timeouts.park = Duration::from_millis(1)).await;
    server.fake.state().add("a");
    let mut client = server.client().await;
    // Pauses that are long enough for parking; if not, nothing is different to the client.
    let pause = || tokio::time::sleep(Duration::from_millis(5));
    for _ in 0..3 {
        assert_eq!(client.ask("GET", "/tasks/a", "").await.status, 200);
        pause().await;
        assert_eq!(
            client
                .ask("POST", "/setTasks", &" ".repeat(5000))
                .await
                .status,
            400
        );
        server.fake.state().add("a");
        pause().await;
    }
    // The beginning of a request that came with the one before is not lost.
    client
        .send("GET /tasks/a HTTP/1.1\r\nhost: x\r\n\r\nGET /tas")
        .await;
    assert_eq!(client.reply().await.status, 200);
    pause().await;
    client.send("ks/b HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(client.reply().await.status, 404);
    // A body that nobody read is never taken for a request.
    client
        .send("POST /health HTTP/1.1\r\nhost: x\r\ncontent-length: 41\r\n\r\n")
        .await;
    assert_eq!(client.reply().await.status, 405);
    pause().await;
    client
        .send("DELETE /tasks/a HTTP/1.1\r\nhost: xxxxx\r\n\r\n")
        .await;
    assert_eq!(client.rest().await, "");
    assert_eq!(server.ask("GET", "/tasks/a", "").await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn shutdown_ends_everything_that_waits() {
    let server = Server::start().await;
    server.fake.state().add("a");
    let fresh = server.client().await;
    let mut idle = server.client().await;
    assert_eq!(idle.ask("GET", "/health", "").await.status, 200);
    let mut poll = server.client().await;
    poll.send("GET /tasks/a?wait=5m HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    server.fake.until(|state| state.waiting.len() == 1).await;
    let mut watch = server.client().await;
    watch
        .send("GET /getTasks?watch=true HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    assert_eq!(watch.head().await.status, 200);
    let mut follow = server.client().await;
    follow
        .send("GET /tasks/a/logs?follow=true HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    assert_eq!(follow.head().await.status, 200);
    let addr = server.addr;
    server.stop().await;
    // The long poll gets what there is; the streams end as streams end.
    assert_eq!(poll.reply().await.body, "{\"name\":\"a\"}\n");
    while watch.piece().await.is_some() {}
    while follow.piece().await.is_some() {}
    for mut client in [fresh, idle, poll, watch, follow] {
        assert_eq!(client.rest().await, "");
    }
    assert!(tokio::net::TcpStream::connect(addr).await.is_err());
}

#[tokio::test]
async fn shutdown_cuts_off_what_does_not_end() {
    let server =
        Server::with(|options| options.timeouts.shutdown = Duration::from_millis(50)).await;
    server.fake.state().silent = true;
    let mut client: Client = server.client().await;
    client
        .send("GET /getTasks HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    server.fake.until(|state| state.unanswered.len() == 1).await;
    server.stop().await;
    assert_eq!(client.rest().await, "");
}

#[tokio::test]
async fn a_request_that_is_being_answered_at_shutdown_gets_its_answer() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client
        .send("POST /setTasks HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n[")
        .await;
    // The header has been read once another request has been answered after it.
    assert_eq!(server.ask("GET", "/health", "").await.status, 200);
    let stopping = server.stop();
    let rest = async {
        client.send("]").await;
        client.reply().await
    };
    let ((), reply) = tokio::join!(stopping, rest);
    assert_eq!(
        (reply.status, reply.header("connection")),
        (200, Some("close"))
    );
}
