//! The server's two record files, `task.json` and `delete.rec`: bytes and back.

use std::io;
use std::sync::Arc;

use sandbox_api::{NewTask, TaskUid};
use task_shim::record::{frame, unframe};

use super::Newcomer;

pub(super) const DELETE_FILE: &str = "delete.rec";

/// The content of `task.json`.
pub(super) fn encode_task(uid: &TaskUid, created: u64, task: &NewTask) -> Vec<u8> {
    let mut payload = format!("{uid} {created}\n").into_bytes();
    payload.extend_from_slice(&task.to_json());
    frame("task", 1, &payload)
}

/// The content of `delete.rec`: a time, and the successor's `task.json` if there is one.
pub(super) fn encode_mark(at: i64, next: Option<&Newcomer>) -> Vec<u8> {
    let mut payload = format!("{at}\n").into_bytes();
    if let Some((uid, created, task)) = next {
        payload.extend_from_slice(&encode_task(uid, *created, task));
    }
    frame("delete", 1, &payload)
}

fn bad(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// The first line as text, and the rest.
fn split_line(payload: &[u8]) -> io::Result<(&str, &[u8])> {
    let end = payload
        .iter()
        .position(|b| *b == b'\n')
        .ok_or_else(|| bad("no first line"))?;
    let line = std::str::from_utf8(&payload[..end]).map_err(io::Error::other)?;
    Ok((line, &payload[end + 1..]))
}

/// Reads what [`encode_task`] wrote.
pub(super) fn decode_task(bytes: &[u8]) -> io::Result<(TaskUid, u64, NewTask)> {
    let (_, payload) = unframe("task", 1, bytes).map_err(io::Error::other)?;
    let (head, json) = split_line(payload)?;
    let (uid, created) = head.split_once(' ').ok_or_else(|| bad("no uid"))?;
    let uid = TaskUid::parse(uid).map_err(io::Error::other)?;
    let created = created.parse().map_err(io::Error::other)?;
    let task = sandbox_api::parse_one(json)
        .map_err(io::Error::other)?
        .value;
    Ok((uid, created, task))
}

/// Reads what [`encode_mark`] wrote.
pub(super) fn decode_mark(bytes: &[u8]) -> io::Result<(i64, Option<Newcomer>)> {
    let (_, payload) = unframe("delete", 1, bytes).map_err(io::Error::other)?;
    let (at, next) = split_line(payload)?;
    let at = at.parse().map_err(io::Error::other)?;
    if next.is_empty() {
        return Ok((at, None));
    }
    let (uid, created, task) = decode_task(next)?;
    Ok((at, Some((uid, created, Arc::new(task)))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task() -> (TaskUid, u64, NewTask) {
        let json = br#"{"name":"a","spec":{"process":{"command":["true"]}}}"#;
        let task = sandbox_api::parse_one(json).expect("is valid").value;
        (TaskUid::parse("u-1").expect("is valid"), 7, task)
    }

    #[test]
    fn a_task_and_a_mark_read_back_as_they_were_written() {
        let (uid, created, task) = task();
        let bytes = encode_task(&uid, created, &task);
        assert_eq!(
            decode_task(&bytes).expect("decodes"),
            (uid.clone(), created, task.clone())
        );
        assert_eq!(
            decode_mark(&encode_mark(9, None)).expect("decodes"),
            (9, None)
        );
        let next = (uid, 8, Arc::new(task));
        let bytes = encode_mark(9, Some(&next));
        assert_eq!(decode_mark(&bytes).expect("decodes"), (9, Some(next)));
    }

    #[test]
    fn a_cut_file_is_never_taken_for_a_whole_one() {
        let (uid, created, task) = task();
        let bytes = encode_mark(9, Some(&(uid, created, Arc::new(task))));
        for length in 0..bytes.len() {
            assert!(decode_mark(&bytes[..length]).is_err(), "{length}");
        }
    }
}
