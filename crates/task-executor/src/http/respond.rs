//! Successful answers: JSON that ends with a newline, and the headers that go with it.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use serde::Serialize;

/// The version that a list shows.
pub(super) const RESOURCE_VERSION: HeaderName = HeaderName::from_static("x-resource-version");
/// What about the request was odd, but no error.
const WARNING: HeaderName = HeaderName::from_static("warning");

/// `Warning` headers on one response: clients limit the size of a header.
const WARNINGS_MAX: usize = 16;
/// Characters of a field's path in a `Warning`.
const WARNING_CHARS_MAX: usize = 200;

/// JSON that is ready, as it comes from the manager.
pub(super) fn json_bytes(status: StatusCode, json: Bytes) -> Response {
    with_type(status, "application/json", Body::new(Line::new(json)))
}

/// A value as JSON.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(json) => json_bytes(status, json.into()),
        // Cannot happen with our types; an empty body is better than a panic.
        Err(_) => with_type(
            StatusCode::INTERNAL_SERVER_ERROR,
            "application/json",
            Body::empty(),
        ),
    }
}

/// A body with its media type.
pub(super) fn with_type(status: StatusCode, media_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// Names the fields of the request that had no effect, one header each.
pub(super) fn warn_of_ignored(headers: &mut HeaderMap, ignored: &[String]) {
    for path in ignored.iter().take(WARNINGS_MAX) {
        // A quoted string of RFC 9110 holds neither quotes nor backslashes as they are; what is
        // not visible ASCII has no place in a header.
        let path: String = path
            .chars()
            .take(WARNING_CHARS_MAX)
            .map(header_safe)
            .collect();
        let text = format!("299 - \"unknown field {path} ignored\"");
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.append(WARNING, value);
        }
    }
}

fn header_safe(c: char) -> char {
    match c {
        '"' | '\\' => '\'',
        ' '..='~' => c,
        _ => '?',
    }
}

/// JSON and the newline that ends it, without copying the JSON.
#[derive(Debug)]
struct Line {
    json: Option<Bytes>,
    newline: Option<Bytes>,
}

impl Line {
    fn new(json: Bytes) -> Self {
        Self {
            json: Some(json).filter(|json| !json.is_empty()),
            newline: Some(Bytes::from_static(b"\n")),
        }
    }

    fn remaining(&self) -> usize {
        self.json.as_ref().map_or(0, Bytes::len) + self.newline.as_ref().map_or(0, Bytes::len)
    }
}

impl HttpBody for Line {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        let next = this.json.take().or_else(|| this.newline.take());
        Poll::Ready(next.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.newline.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(u64::try_from(self.remaining()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_safe_and_bounded() {
        let mut headers = HeaderMap::new();
        let odd = "[0].\"a\\\u{e9}\r\nX: y".to_owned();
        let mut ignored = vec![odd, "x".repeat(10_000)];
        ignored.extend((0..100).map(|n| format!("f{n}")));
        warn_of_ignored(&mut headers, &ignored);
        let values: Vec<_> = headers
            .get_all(WARNING)
            .iter()
            .map(|value| value.to_str().unwrap())
            .collect();
        assert_eq!(values.len(), 16);
        assert_eq!(values[0], "299 - \"unknown field [0].'a'???X: y ignored\"");
        assert!(values[1].len() < 256);
        assert_eq!(values[2], "299 - \"unknown field f0 ignored\"");
    }
}
