//! Reads JSON, and says where in it something is wrong or unknown.

use std::fmt::Write;

use serde::de::DeserializeSeed;
use serde_path_to_error::{Segment, Track};

use crate::parse::InvalidTask;

/// Most characters of one key in a path.
const KEY_CHARS_MAX: usize = 64;
/// Most characters of a message that quotes what the client sent.
const PROBLEM_CHARS_MAX: usize = 300;

/// Reads all of `body` as one JSON value; calls `unknown` for each member that nobody asked for.
///
/// Nesting is limited by `serde_json` to 128 levels.
pub(crate) fn decode<'de, S: DeserializeSeed<'de>>(
    body: &'de [u8],
    seed: S,
    mut unknown: impl FnMut(&serde_ignored::Path<'_>),
) -> Result<S::Value, InvalidTask> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let mut track = Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    let mut callback = |path: serde_ignored::Path<'_>| unknown(&path);
    let watched = serde_ignored::Deserializer::new(tracked, &mut callback);
    let value = match seed.deserialize(watched) {
        Ok(value) => value,
        Err(error) => {
            let path = path_of_error(&track.path());
            return Err(InvalidTask {
                path,
                problem: shortened(&error.to_string()),
            });
        }
    };
    match json.end() {
        Ok(()) => Ok(value),
        Err(error) => Err(InvalidTask {
            path: String::new(),
            problem: format!("must be a single JSON value: {error}"),
        }),
    }
}

fn path_of_error(path: &serde_path_to_error::Path) -> String {
    let mut text = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => push_index(&mut text, *index),
            Segment::Map { key } | Segment::Enum { variant: key } => push_key(&mut text, key),
            Segment::Unknown => {}
        }
    }
    text
}

/// The path in the form `[3].spec.process.foo`, printable ASCII whatever the keys are.
pub(crate) fn path_of_unknown(path: &serde_ignored::Path<'_>) -> String {
    let mut text = String::new();
    push_path(&mut text, path);
    text
}

fn push_path(text: &mut String, path: &serde_ignored::Path<'_>) {
    use serde_ignored::Path;

    match path {
        Path::Root => {}
        Path::Seq { parent, index } => {
            push_path(text, parent);
            push_index(text, *index);
        }
        Path::Map { parent, key } => {
            push_path(text, parent);
            push_key(text, key);
        }
        Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => push_path(text, parent),
    }
}

fn push_index(text: &mut String, index: usize) {
    // A String takes whatever it is given.
    let _ = write!(text, "[{index}]");
}

fn push_key(text: &mut String, key: &str) {
    if !text.is_empty() {
        text.push('.');
    }
    text.push_str(&printable(key));
}

/// A key of the client, cut short, in printable ASCII.
pub(crate) fn printable(key: &str) -> String {
    let mut text = String::with_capacity(key.len().min(KEY_CHARS_MAX));
    for letter in key.chars().take(KEY_CHARS_MAX) {
        match letter {
            ' '..='~' => text.push(letter),
            _ => text.extend(letter.escape_default()),
        }
    }
    if key.chars().nth(KEY_CHARS_MAX).is_some() {
        text.push_str("...");
    }
    text
}

/// A message of `serde`, which may quote a string of the client in full.
fn shortened(message: &str) -> String {
    match message.char_indices().nth(PROBLEM_CHARS_MAX) {
        None => message.to_owned(),
        Some((end, _)) => format!("{}...", &message[..end]),
    }
}
