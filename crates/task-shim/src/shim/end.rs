//! What can be told about an end: code, signal, last words, want of memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

pub(super) fn code_of(status: Option<ExitStatus>) -> (i32, Option<i32>) {
    let Some(status) = status else {
        return (255, None);
    };
    match (status.code(), status.signal()) {
        (Some(code), _) => (code, None),
        (None, Some(signal)) => (128 + signal, Some(signal)),
        (None, None) => (255, None),
    }
}

/// The last whole lines of a file, at most `room` bytes of text.
pub(super) fn tail(file: &File, room: usize) -> io::Result<String> {
    let size = file.metadata()?.len();
    let want = u64::try_from(room).map_err(io::Error::other)?.min(size);
    let mut bytes = vec![0; usize::try_from(want).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, size - want)?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_matches(['\0', '\n', '\u{fffd}']);
    let cut = text.len().saturating_sub(room);
    let mut from = (cut..text.len())
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(text.len());
    if want < size || from > 0 {
        from += text[from..].find('\n').map_or(0, |at| at + 1);
    }
    Ok(text[from..].to_owned())
}
