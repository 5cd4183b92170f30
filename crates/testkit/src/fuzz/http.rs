//! Queries and raw bytes for a real agent: whatever comes, it answers sensibly or closes,
//! stays healthy, and its memory stays bounded.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use nix::unistd::Pid;
use serde_json::Value;

use super::mutate::{mutate, text};
use crate::agent::{Agent, Setup};
use crate::http::Client;
use crate::random::Random;

/// How much the server may grow over what it had when it was idle. Buffers for bodies and
/// connections are bounded, and a debug build is several times as large as the shipped one.
const GROWTH_KIB_MAX: u64 = 64 * 1024;
/// How long an answer to a malformed request is waited for: often none comes, since the
/// request is not complete.
const ANSWER_WAIT: Duration = Duration::from_millis(30);

const WORDS: &[&str] = &[
    "GET ",
    "POST ",
    "DELETE ",
    "PUT ",
    "OPTIONS * ",
    "/tasks",
    "/setTasks",
    "/getTasks",
    "/health",
    "/tasks/%2e%2e",
    "/tasks/a/logs",
    "?wait=1ms",
    "?watch=true",
    "?resourceVersion=0",
    "?uid=x",
    " HTTP/1.1\r\n",
    " HTTP/1.0\r\n",
    " HTTP/2.0\r\n",
    "Host: a\r\n",
    "Content-Length: 5\r\n",
    "Content-Length: 99999999999999999999\r\n",
    "Content-Length: -1\r\n",
    "\r\n",
    "\n",
    "\r",
    "\0",
    "Transfer-Encoding: chunked\r\n",
    "Expect: 100-continue\r\n",
    "Connection: close\r\n",
    "Upgrade: h2c\r\n",
    "ffffffffffffffff\r\n",
    "0\r\n\r\n",
    "5\r\nhello\r\n",
    "[]",
    "{}",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "Cookie: a\r\n",
    ":\r\n",
    " : x\r\n",
];

fn corpus() -> Vec<Vec<u8>> {
    // The program does not exist: whatever a mutation makes of this, nothing is run.
    let body = r#"{"name":"a","process":{"command":["/nonexistent/a"]}}"#;
    let with_body = |path: &str, body: &str| {
        let length = body.len();
        format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}")
    };
    [
        "GET /getTasks HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET /tasks/a?wait=1ms HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET /tasks/a/logs?tailLines=1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".to_owned(),
        "DELETE /tasks/a HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET /health HTTP/1.1\r\nHost: a\r\n\r\nGET /version HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        with_body("/tasks", body),
        with_body("/setTasks", "[]"),
        with_body("/setTasks", &format!("[{body}]")),
        "POST /setTasks HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n0\r\n\r\n"
            .to_owned(),
    ]
    .map(String::into_bytes)
    .to_vec()
}

/// An agent to be fuzzed. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Victim {
    agent: Agent,
    server: Pid,
    idle_kib: u64,
}

impl Victim {
    pub(super) fn start(program: &Path) -> Self {
        let agent = Setup::new(program)
            .flag("--log-level=off")
            .flag("--max-tasks=50")
            .flag("--max-request-bytes=1MiB")
            .start();
        let server = agent.server();
        let idle_kib = resident_kib(server).unwrap_or_default();
        Self {
            agent,
            server,
            idle_kib,
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.agent.address()
    }

    /// Whether the agent still does its job, with the process that it began with.
    pub(super) fn check(&self) -> Result<(), String> {
        let health = self.agent.try_call("GET", "/health", "");
        match health {
            Ok(answer) if answer.code == 200 => {}
            Ok(answer) => return Err(format!("/health says {}: {}", answer.code, answer.text())),
            Err(error) => return Err(format!("/health is not answered: {error}")),
        }
        if self.agent.try_server() != Some(self.server) {
            return Err(format!("server {} has died", self.server));
        }
        let now = resident_kib(self.server).unwrap_or_default();
        if now > self.idle_kib + GROWTH_KIB_MAX {
            return Err(format!(
                "the server grew from {} to {now} KiB",
                self.idle_kib
            ));
        }
        Ok(())
    }
}

fn resident_kib(pid: Pid) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// Raw bytes: changed requests, some of them very large.
pub(super) fn raw(random: &mut Random) -> Vec<u8> {
    let mut bytes = mutate(random, &corpus(), WORDS);
    if random.chance(10) {
        let more = mutate(random, &corpus(), WORDS);
        for _ in 0..random.below(20) {
            bytes.extend_from_slice(&more);
        }
    }
    if random.chance(4) {
        let field = format!(
            "X-{}: {}\r\n",
            random.below(9),
            "x".repeat(random.below(4000))
        );
        let at = bytes.windows(2).position(|pair| pair == b"\r\n");
        let at = at.map_or(bytes.len(), |at| at + 2);
        bytes.splice(at..at, field.repeat(random.below(60)).into_bytes());
    }
    bytes
}

/// Sends bytes, says that no more come (or not), and looks at what is answered.
pub(super) fn send_raw(address: SocketAddr, bytes: &[u8], half_close: bool) -> Result<(), String> {
    let Ok(mut stream) = TcpStream::connect(address) else {
        return Err("the agent accepts no connection".to_owned());
    };
    let patience = stream.set_read_timeout(Some(ANSWER_WAIT));
    let written = patience.and_then(|()| stream.write_all(bytes));
    if written.is_ok() && half_close {
        // The agent may have closed already.
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut answer = vec![0; 64 * 1024];
    // No answer, a reset or a time-out: a malformed request deserves no better.
    let length = stream.read(&mut answer).unwrap_or(0);
    judge(&answer[..length])
}

fn judge(answer: &[u8]) -> Result<(), String> {
    if answer.is_empty() {
        return Ok(());
    }
    let shown = String::from_utf8_lossy(&answer[..answer.len().min(200)]).into_owned();
    let status = answer
        .strip_prefix(b"HTTP/1.1 ")
        .or_else(|| answer.strip_prefix(b"HTTP/1.0 "))
        .and_then(|rest| {
            std::str::from_utf8(rest.get(..3)?)
                .ok()?
                .parse::<u16>()
                .ok()
        });
    match status {
        // 503 is the answer of a busy agent, 505 that of the HTTP library; other 5xx are faults.
        Some(100..=499 | 503 | 505 | 507) => Ok(()),
        Some(_) => Err(format!("a fault is answered: {shown}")),
        None => Err(format!("the answer is not HTTP: {shown}")),
    }
}

/// A path with a query.
pub(super) fn query(random: &mut Random) -> Vec<u8> {
    const PATHS: &[&str] = &[
        "/getTasks",
        "/tasks/a",
        "/tasks/a/logs",
        "/tasks/b%20",
        "/health",
    ];
    const NAMES: &[&str] = &[
        "wait",
        "watch",
        "resourceVersion",
        "uid",
        "stream",
        "follow",
        "tailLines",
        "sinceBytes",
        "limitBytes",
        "x",
        "",
    ];
    const VALUES: &[&str] = &[
        "",
        "0",
        "1",
        "-1",
        "true",
        "false",
        "maybe",
        "1ms",
        "0s",
        "18446744073709551616",
        "both",
        "stdout",
        "stderr",
        "%",
        "%zz",
        "%00",
        "%ff",
        "+",
        "a=b",
        "99999999999999999999h",
        "1e9",
        "18446744073709551615",
        "0x10",
        "%31",
        "%C3%A9",
    ];
    let mut path = (*random.pick(PATHS)).to_owned();
    for index in 0..random.below(4) {
        path.push(if index == 0 { '?' } else { '&' });
        path.push_str(random.pick::<&str>(NAMES));
        if random.chance(90) {
            path.push('=');
            if random.chance(80) {
                path.push_str(random.pick::<&str>(VALUES));
            } else {
                let wild = text(random, 8);
                path.extend(
                    wild.chars()
                        .filter(char::is_ascii_graphic)
                        .filter(|c| *c != '#'),
                );
            }
        }
    }
    path.into_bytes()
}

/// Asks with a query: every answer is documented, and every error has a code and a message.
pub(super) fn send_query(address: SocketAddr, bytes: &[u8]) -> Result<(), String> {
    let path = String::from_utf8_lossy(bytes);
    if !path.starts_with('/') {
        return Ok(());
    }
    let mut client = Client::new(address).with_patience(Duration::from_secs(10));
    let answer = client
        .open("GET", &path, b"")
        .map_err(|error| format!("not answered: {error}"))?;
    let code = answer.code;
    if code == 200 {
        return Ok(());
    }
    if ![400, 404, 410, 412].contains(&code) {
        return Err(format!("answered with {code}"));
    }
    let mut body = Vec::new();
    let mut answer = answer;
    answer
        .read_to_end(&mut body)
        .map_err(|error| format!("{code} is cut off: {error}"))?;
    if code == 400 && body.is_empty() {
        // The HTTP library itself refuses what is no request target.
        return Ok(());
    }
    let body: Value = serde_json::from_slice(&body)
        .map_err(|error| format!("{code} has a body that is not JSON: {error}"))?;
    let filled = |key: &str| body[key].as_str().is_some_and(|text| !text.is_empty());
    if filled("code") && filled("message") {
        Ok(())
    } else {
        Err(format!("{code} has no code and message: {body}"))
    }
}
