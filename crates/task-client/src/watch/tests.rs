//! Tests of lines and events.

use super::*;
use crate::error::{Call, Class};

const ASKED: Asked = Asked {
    call: Call::WatchTasks,
    at: std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1),
};

fn all(lines: &mut Lines) -> Vec<Bytes> {
    std::iter::from_fn(|| lines.next().unwrap()).collect()
}

#[test]
fn lines_come_out_whole_wherever_they_were_cut() {
    let text = b"one\n\n{\"three\":3}\r\nfour";
    for first in 0..=text.len() {
        for second in first..=text.len() {
            let mut lines = Lines::new(64);
            let mut found = Vec::new();
            for piece in [&text[..first], &text[first..second], &text[second..]] {
                lines.push(&Bytes::copy_from_slice(piece));
                found.extend(all(&mut lines));
            }
            assert_eq!(found, ["one", "", "{\"three\":3}\r"], "{first} {second}");
            assert!(!lines.is_empty());
            lines.push(&Bytes::from_static(b"\n"));
            assert_eq!(all(&mut lines), ["four"]);
            assert!(lines.is_empty());
        }
    }
}

#[test]
fn a_line_is_bounded_whether_its_end_has_come_or_not() {
    for text in ["12345", "12345\n"] {
        let mut lines = Lines::new(4);
        lines.push(&Bytes::from(text));
        assert_eq!(lines.next(), Err(TooLong), "{text:?}");
    }
    let mut lines = Lines::new(4);
    lines.push(&Bytes::from_static(b"1234\n1234\n"));
    assert_eq!(all(&mut lines).len(), 2);
}

#[test]
fn every_kind_of_event_is_read() {
    let event = |line: &str| parse(ASKED, line.as_bytes());
    let added = event(r#"{"type":"ADDED","object":{"name":"a"},"resourceVersion":"42"}"#).unwrap();
    assert_eq!(added.version.to_string(), "42");
    assert!(matches!(added.change, Change::Added(task) if task.report.name == "a"));
    let bookmark = event(r#"{"type":"BOOKMARK","resourceVersion":"7"}"#).unwrap();
    assert_eq!(bookmark.change, Change::Bookmark);
    let gone = event(r#"{"type":"ERROR","code":"Gone","message":"list\nagain"}"#).unwrap_err();
    assert!(gone.is_gone());
    assert_eq!(
        gone.to_string(),
        "watchTasks at 127.0.0.1:1: refused with 410 Gone: list again"
    );
}

#[test]
fn what_is_no_event_is_a_bad_answer() {
    for line in [
        "[]",
        "{",
        r#"{"type":"MOVED","resourceVersion":"1"}"#,
        r#"{"type":"ADDED","resourceVersion":"1"}"#,
        r#"{"type":"ADDED","object":{},"resourceVersion":"1"}"#,
        r#"{"type":"BOOKMARK"}"#,
        r#"{"type":"BOOKMARK","resourceVersion":"x"}"#,
        r#"{"type":"BOOKMARK","resourceVersion":1}"#,
    ] {
        let error = parse(ASKED, line.as_bytes()).unwrap_err();
        assert_eq!(error.class(), Class::BadAnswer, "{line}");
    }
}
