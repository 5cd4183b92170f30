//! A blocking HTTP/1.1 client for tests: one kept-alive connection, plain and small.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// What a server answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status code.
    pub code: u16,
    /// Header lines, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, with any transfer encoding undone.
    pub body: Vec<u8>,
}

impl Answer {
    /// The first header of that (lower-case) name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find_map(|(n, value)| (n == name).then_some(value.as_str()))
    }

    /// The body as JSON; `Null` if it isn't.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A connection to one server, opened at the first request and again after it broke.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    token: Option<String>,
    patience: Duration,
    connection: Option<BufReader<TcpStream>>,
}

impl Client {
    /// A client for `address`. An answer may take a minute.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            token: None,
            patience: Duration::from_mins(1),
            connection: None,
        }
    }

    /// Sends this bearer token with each request.
    #[must_use]
    pub fn with_token(mut self, token: &str) -> Self {
        self.token = Some(token.to_owned());
        self
    }

    /// Waits this long for each part of an answer.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// One request and its answer. A connection that breaks is an error, never a retry:
    /// the caller knows whether the request may be sent twice.
    pub fn request(&mut self, method: &str, path: &str, body: &[u8]) -> io::Result<Answer> {
        let mut answer = self.open(method, path, body)?;
        let mut whole = Vec::new();
        answer.read_to_end(&mut whole)?;
        let (code, headers, keep) = (answer.code, answer.headers, answer.keep);
        if keep {
            self.connection = Some(answer.connection);
        }
        Ok(Answer {
            code,
            headers,
            body: whole,
        })
    }

    /// Sends a request and reads the answer's head; the body is then read as it comes.
    pub fn open(&mut self, method: &str, path: &str, body: &[u8]) -> io::Result<Stream> {
        let mut connection = match self.connection.take() {
            Some(open) => open,
            None => self.connect()?,
        };
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nHost: agent\r\nContent-Length: {}\r\n",
            body.len()
        );
        if let Some(token) = &self.token {
            request.extend(["Authorization: Bearer ", token, "\r\n"]);
        }
        request.push_str("\r\n");
        let mut bytes = request.into_bytes();
        bytes.extend_from_slice(body);
        connection.get_mut().write_all(&bytes)?;
        Stream::begin(connection)
    }

    fn connect(&self) -> io::Result<BufReader<TcpStream>> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(self.patience))?;
        stream.set_write_timeout(Some(self.patience))?;
        Ok(BufReader::new(stream))
    }
}

/// How much of a body is still to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Bytes(u64),
    Chunk(u64),
    UntilClose,
    Nothing,
}

/// An answer whose body is read as it arrives.
#[derive(Debug)]
pub struct Stream {
    /// Status code.
    pub code: u16,
    /// Header lines, names in lower case.
    pub headers: Vec<(String, String)>,
    connection: BufReader<TcpStream>,
    left: Left,
    keep: bool,
}

fn bad(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

fn line(from: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    if from.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end().to_owned())
}

impl Stream {
    fn begin(mut connection: BufReader<TcpStream>) -> io::Result<Self> {
        let status = line(&mut connection)?;
        let code = status
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .ok_or_else(|| bad("no status code"))?;
        let mut headers = Vec::new();
        loop {
            let header = line(&mut connection)?;
            if header.is_empty() {
                break;
            }
            let (name, value) = header.split_once(':').ok_or_else(|| bad("bad header"))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let find = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, v)| v);
        let left = if code == 204 || code == 304 {
            Left::Nothing
        } else if find("transfer-encoding").is_some_and(|v| v == "chunked") {
            Left::Chunk(0)
        } else {
            match find("content-length").map(|v| v.parse()) {
                Some(Ok(length)) => Left::Bytes(length),
                Some(Err(_)) => return Err(bad("bad content length")),
                None => Left::UntilClose,
            }
        };
        let keep = left != Left::UntilClose && find("connection").is_none_or(|v| v != "close");
        Ok(Self {
            code,
            headers,
            connection,
            left,
            keep,
        })
    }

    fn take(&mut self, into: &mut [u8], limit: u64) -> io::Result<usize> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let size = into.len().min(limit);
        match self.connection.read(&mut into[..size])? {
            0 if size > 0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => Ok(read),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read_u64 = |read: usize| u64::try_from(read).unwrap_or(u64::MAX);
        loop {
            match self.left {
                Left::Nothing | Left::Bytes(0) => return Ok(0),
                Left::UntilClose => return self.connection.read(into),
                Left::Bytes(left) => {
                    let read = self.take(into, left)?;
                    self.left = Left::Bytes(left - read_u64(read));
                    return Ok(read);
                }
                Left::Chunk(0) => {
                    let size = u64::from_str_radix(&line(&mut self.connection)?, 16)
                        .map_err(|_| bad("bad chunk size"))?;
                    if size == 0 {
                        line(&mut self.connection)?;
                        self.left = Left::Nothing;
                    } else {
                        self.left = Left::Chunk(size);
                    }
                }
                Left::Chunk(left) => {
                    let read = self.take(into, left)?;
                    let left = left - read_u64(read);
                    if left == 0 {
                        line(&mut self.connection)?;
                    }
                    self.left = Left::Chunk(left);
                    return Ok(read);
                }
            }
        }
    }
}
