//! A client that shows exactly what came over the wire.

use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::soon;

pub(super) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

pub(super) struct Client(BufReader<Box<dyn Socket>>);

#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    headers: Vec<(String, String)>,
    pub(super) body: String,
}

impl Reply {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    }

    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers
            .iter()
            .filter(move |(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    }

    pub(super) fn json(&self) -> serde_json::Value {
        assert!(
            self.body.ends_with('\n'),
            "no newline after {:?}",
            self.body
        );
        serde_json::from_str(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {:?}", self.body))
    }

    /// Checks status and code of an error, and that it is JSON; gives the message.
    #[track_caller]
    pub(super) fn error(&self, status: u16, code: &str) -> String {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/json"));
        let json = self.json();
        assert_eq!(json["code"], code, "{self:?}");
        json["message"].as_str().expect("a message").to_owned()
    }
}

impl Client {
    pub(super) async fn connect(addr: SocketAddr) -> Self {
        Self::over(TcpStream::connect(addr).await.unwrap())
    }

    pub(super) fn over(socket: impl Socket + 'static) -> Self {
        Self(BufReader::new(Box::new(socket)))
    }

    pub(super) async fn send(&mut self, text: impl AsRef<[u8]>) {
        soon(self.0.write_all(text.as_ref())).await.unwrap();
        soon(self.0.flush()).await.unwrap();
    }

    /// Sends until the server takes no more: it may answer before it has read everything.
    pub(super) async fn send_what_fits(&mut self, text: &[u8]) {
        let _refused = soon(self.0.write_all(text)).await;
    }

    pub(super) async fn ask(&mut self, method: &str, path: &str, body: &str) -> Reply {
        let length = body.len();
        self.send(format!(
            "{method} {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n\r\n{body}"
        ))
        .await;
        self.reply_to(method).await
    }

    pub(super) async fn reply(&mut self) -> Reply {
        self.reply_to("GET").await
    }

    pub(super) async fn reply_to(&mut self, method: &str) -> Reply {
        let mut reply = self.head().await;
        let bodiless = method == "HEAD" || reply.status == 204;
        if bodiless {
            return reply;
        }
        if reply.header("transfer-encoding") == Some("chunked") {
            while let Some(piece) = self.piece().await {
                reply.body.push_str(&piece);
            }
        } else {
            let length: usize = reply
                .header("content-length")
                .expect("a length")
                .parse()
                .unwrap();
            let mut body = vec![0; length];
            soon(self.0.read_exact(&mut body)).await.unwrap();
            reply.body = String::from_utf8(body).unwrap();
        }
        reply
    }

    /// Status and headers alone.
    pub(super) async fn head(&mut self) -> Reply {
        let status = self.line().await;
        let status = status
            .split(' ')
            .nth(1)
            .unwrap_or_else(|| panic!("no status in {status:?}"));
        let status = status.parse().unwrap();
        let mut headers = Vec::new();
        loop {
            let line = self.line().await;
            let Some((name, value)) = line.split_once(": ") else {
                break;
            };
            headers.push((name.to_owned(), value.to_owned()));
        }
        Reply {
            status,
            headers,
            body: String::new(),
        }
    }

    /// The next piece of a chunked body; none at its end.
    pub(super) async fn piece(&mut self) -> Option<String> {
        let length = usize::from_str_radix(&self.line().await, 16).expect("the length of a chunk");
        let mut piece = vec![0; length + 2];
        soon(self.0.read_exact(&mut piece)).await.unwrap();
        piece.truncate(length);
        (length > 0).then(|| String::from_utf8(piece).unwrap())
    }

    /// Waits until the server closes, and gives what came before that.
    pub(super) async fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        // A reset is an end too.
        let _reset = soon(self.0.read_to_end(&mut rest)).await;
        String::from_utf8_lossy(&rest).into_owned()
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        soon(self.0.read_line(&mut line)).await.unwrap();
        line.trim_end_matches("\r\n").to_owned()
    }
}
