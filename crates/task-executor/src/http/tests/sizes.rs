//! Bounds on what a client can send.

use std::time::Duration;

use super::Server;

#[tokio::test]
async fn a_body_at_the_limit_passes_and_one_beyond_does_not() {
    let server = Server::with(|options| options.max_request_bytes = 1000).await;
    let body = |bytes: usize| format!("[{}]", " ".repeat(bytes - 2));
    assert_eq!(
        server.ask("POST", "/setTasks", &body(1000)).await.status,
        200
    );
    for bytes in [1001, 100_000, 3 << 20] {
        let reply = server.ask("POST", "/setTasks", &body(bytes)).await;
        let message = reply.error(413, "PayloadTooLarge");
        assert!(message.contains("1000 bytes"), "{message}");
        assert_eq!(reply.header("connection"), Some("close"));
    }
}

#[tokio::test]
async fn a_chunked_body_is_counted() {
    let server = Server::with(|options| options.max_request_bytes = 1000).await;
    let mut client = server.client().await;
    client
        .send("POST /setTasks HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    client.send("1\r\n[\r\n1\r\n]\r\n0\r\n\r\n").await;
    assert_eq!(client.reply().await.status, 200);
    client
        .send("POST /setTasks HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    client
        .send(format!("7d0\r\n{}\r\n0\r\n\r\n", " ".repeat(2000)))
        .await;
    client.reply().await.error(413, "PayloadTooLarge");
}

#[tokio::test]
async fn a_body_that_is_announced_too_large_is_not_asked_for() {
    let server = Server::with(|options| options.max_request_bytes = 1000).await;
    let mut client = server.client().await;
    client.send("POST /setTasks HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 100000000\r\n\r\n").await;
    client.reply().await.error(413, "PayloadTooLarge");
    let mut client = server.client().await;
    client.send("POST /setTasks HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n").await;
    assert_eq!(client.head().await.status, 100);
    client.send("[]").await;
    assert_eq!(client.reply().await.status, 200);
}

#[tokio::test]
async fn a_body_that_does_not_come_times_out() {
    let server = Server::with(|options| options.timeouts.body = Duration::from_millis(50)).await;
    let mut client = server.client().await;
    client
        .send("POST /setTasks HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n[")
        .await;
    let reply = client.reply().await;
    reply.error(408, "RequestTimeout");
    assert_eq!(reply.header("connection"), Some("close"));
    assert_eq!(client.rest().await, "");
}

#[tokio::test]
async fn bodies_share_one_bound() {
    const MIB: usize = 1 << 20;
    // One body of the largest size fits beside nothing else.
    let server = Server::with(|options| options.max_request_bytes = 128 * MIB).await;
    let mut greedy = server.client().await;
    let length = 100 * MIB;
    greedy
        .send(format!(
            "POST /setTasks HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n"
        ))
        .await;
    greedy.send(vec![b' '; 99 * MIB]).await;
    // The server has taken that much: of a second one there is room for a part.
    let mut refused = server.client().await;
    refused
        .send(format!(
            "POST /setTasks HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            60 * MIB
        ))
        .await;
    refused.send_what_fits(&vec![b' '; 60 * MIB]).await;
    let reply = refused.reply().await;
    reply.error(503, "ServiceUnavailable");
    assert_eq!(reply.header("retry-after"), Some("1"));
    // Small ones pass all the same, and the first one is not harmed.
    assert_eq!(server.ask("POST", "/setTasks", "[]").await.status, 200);
    greedy.send(format!("[]{}", " ".repeat(MIB - 2))).await;
    assert_eq!(greedy.reply().await.status, 200);
}

#[tokio::test]
async fn a_header_that_is_too_large_is_refused() {
    let server = Server::start().await;
    let large = format!("GET /health HTTP/1.1\r\na: {}\r\n\r\n", "x".repeat(17_000));
    let fields = |count| format!("GET /health HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(count));
    for head in [large, fields(101)] {
        let mut client = server.client().await;
        client.send(head).await;
        client.reply().await.error(431, "HeaderFieldsTooLarge");
    }
    let mut client = server.client().await;
    client.send(fields(100)).await;
    assert_eq!(client.reply().await.status, 200);
    let long = format!("/health?{}", "x".repeat(9000));
    server.ask("GET", &long, "").await.error(414, "UriTooLong");
    // What is not even read to its end gets the status alone.
    for bytes in [40_000, 100_000] {
        let mut client = server.client().await;
        client
            .send(format!(
                "GET /health HTTP/1.1\r\na: {}\r\n\r\n",
                "x".repeat(bytes)
            ))
            .await;
        assert_eq!(client.head().await.status, 431);
        client.rest().await;
    }
}

#[tokio::test]
async fn what_is_no_http_is_a_bad_request() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.send("hello there\r\n\r\n").await;
    assert_eq!(client.head().await.status, 400);
    assert_eq!(server.ask("GET", "/health", "").await.status, 200);
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_harms_nobody() {
    let server = Server::start().await;
    for text in [
        "",
        "GET",
        "POST /setTasks HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n[",
    ] {
        let mut client = server.client().await;
        client.send(text).await;
        drop(client);
    }
    assert_eq!(server.ask("GET", "/health", "").await.status, 200);
    assert!(server.fake.state().tasks.is_empty());
    server.stop().await;
}
