//! An HTTP client that costs next to nothing: one blocking connection, one write and, for
//! small answers, one read per request. The load generator shares its cores with the agent.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

/// Longer than anything here may take.
const PATIENCE: Duration = Duration::from_mins(2);

/// A kept-alive connection.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Wire {
    /// Connects.
    pub(crate) fn new(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).context("connect")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream,
            buffer: vec![0; 64 << 10],
        })
    }

    /// Sends a request; [`Self::receive`] gets the answer.
    pub(crate) fn send(&mut self, method: &str, path: &str, body: &[u8]) -> anyhow::Result<()> {
        let mut bytes = format!(
            "{method} {path} HTTP/1.1\r\nHost: agent\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        bytes.extend_from_slice(body);
        self.stream.write_all(&bytes).context("send")
    }

    /// The raw connection, for requests that are not whole.
    pub(crate) fn raw(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// One request; code and body of the answer.
    pub(crate) fn call(
        &mut self,
        method: &str,
        path: &str,
        body: &[u8],
    ) -> anyhow::Result<(u16, &[u8])> {
        self.send(method, path, body)?;
        self.receive()
    }

    /// Reads one answer: code and body.
    pub(crate) fn receive(&mut self) -> anyhow::Result<(u16, &[u8])> {
        let mut filled = 0;
        let head = loop {
            filled += self.read(filled)?;
            let text = &self.buffer[..filled];
            if let Some(at) = text.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
        };
        let (code, length) = parse(&self.buffer[..head])?;
        let whole = head + length;
        if self.buffer.len() < whole {
            self.buffer.resize(whole, 0);
        }
        while filled < whole {
            filled += self.read(filled)?;
        }
        ensure!(filled == whole, "more bytes than the answer has");
        Ok((code, &self.buffer[head..whole]))
    }

    fn read(&mut self, filled: usize) -> anyhow::Result<usize> {
        ensure!(filled < self.buffer.len(), "the answer's head is too long");
        match self
            .stream
            .read(&mut self.buffer[filled..])
            .context("receive")?
        {
            0 => bail!("the connection was closed"),
            read => Ok(read),
        }
    }

    /// A GET that must be answered with 200 and JSON.
    pub(crate) fn get(&mut self, path: &str) -> anyhow::Result<Value> {
        let (code, body) = self.call("GET", path, b"")?;
        ensure!(code == 200, "GET {path}: {code}");
        Ok(serde_json::from_slice(body)?)
    }

    /// Creates a task.
    pub(crate) fn create(&mut self, name: &str, command: &[&str]) -> anyhow::Result<()> {
        let body = task(name, command).to_string();
        let (code, body) = self.call("POST", "/tasks", body.as_bytes())?;
        ensure!(
            code == 201,
            "{name}: {code} {}",
            String::from_utf8_lossy(body)
        );
        Ok(())
    }

    /// Waits until a task is over; its state must be a plain success.
    pub(crate) fn succeeded(&mut self, name: &str) -> anyhow::Result<()> {
        let path = format!("/tasks/{name}?wait=30s");
        let (code, body) = self.call("GET", &path, b"")?;
        // Searched, not parsed: parsing would cost the load generator more than the request.
        ensure!(
            code == 200 && contains(body, b"\"reason\":\"Succeeded\""),
            "{name}: {code} {}",
            String::from_utf8_lossy(body)
        );
        Ok(())
    }

    /// Deletes all tasks and waits until they are gone.
    pub(crate) fn clear(&mut self) -> anyhow::Result<()> {
        let (code, _) = self.call("POST", "/setTasks", b"[]")?;
        ensure!(code == 200, "setTasks: {code}");
        let begun = std::time::Instant::now();
        while self.call("GET", "/getTasks", b"")?.1.trim_ascii() != b"[]" {
            ensure!(begun.elapsed() < PATIENCE, "tasks are not gone in time");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

/// A task in the nested dialect.
pub(crate) fn task(name: &str, command: &[&str]) -> Value {
    serde_json::json!({"name": name, "spec": {"process": {"command": command}}})
}

/// Whether `part` is somewhere in `whole`.
pub(crate) fn contains(whole: &[u8], part: &[u8]) -> bool {
    whole.windows(part.len()).any(|window| window == part)
}

/// Status code and content length.
fn parse(head: &[u8]) -> anyhow::Result<(u16, usize)> {
    let head = std::str::from_utf8(head)?;
    let code = head.split(' ').nth(1).context("no status code")?.parse()?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then_some(value.trim())
    });
    match length {
        Some(length) => Ok((code, length.parse()?)),
        None if code == 204 => Ok((code, 0)),
        None => bail!("an answer without a length"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_head_is_read() {
        let check = |head: &[u8], expected: Option<(u16, usize)>| {
            assert_eq!(
                parse(head).ok(),
                expected,
                "{}",
                String::from_utf8_lossy(head)
            );
        };
        check(
            b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n",
            Some((200, 12)),
        );
        check(b"HTTP/1.1 204 No Content\r\n\r\n", Some((204, 0)));
        check(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            None,
        );
        check(b"nonsense\r\n\r\n", None);
    }
}
