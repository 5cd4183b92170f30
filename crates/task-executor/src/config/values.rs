//! Readers of single flag values. Every error is a fragment that says what would be right.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::{Durability, LogFormat, ShutdownPolicy, duration, size};

/// Why a value is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct InvalidValue(String);

fn refuse<T>(problem: impl Into<String>) -> Result<T, InvalidValue> {
    Err(InvalidValue(problem.into()))
}

/// The shortest reconcile interval. Below it the agent would do little else.
const INTERVAL_MIN: Duration = Duration::from_millis(10);
/// The largest `--max-request-bytes`: what one request may cost the agent in memory.
const REQUEST_BYTES_MAX: u64 = 1 << 30;
/// Bytes in a request that cannot hold any task: the smallest `--max-request-bytes`.
const REQUEST_BYTES_MIN: u64 = 64;

/// What Go's `strconv.ParseBool` reads.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

pub(super) fn boolean(text: &str) -> Result<bool, InvalidValue> {
    parse_bool(text).ok_or_else(|| InvalidValue("is not a boolean; write true or false".to_owned()))
}

pub(super) fn nonempty(text: &str) -> Result<String, InvalidValue> {
    match text {
        "" => refuse("must not be empty"),
        text => Ok(text.to_owned()),
    }
}

pub(super) fn count(text: &str) -> Result<usize, InvalidValue> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(count) if plain => Ok(count),
        _ => refuse("is not a count; write a whole number of 0 or more"),
    }
}

pub(super) fn count_from_one(text: &str) -> Result<usize, InvalidValue> {
    match count(text) {
        Ok(0) | Err(_) => refuse("is not a count; write a whole number of 1 or more"),
        Ok(count) => Ok(count),
    }
}

pub(super) fn interval(text: &str) -> Result<Duration, InvalidValue> {
    match duration::parse(text) {
        Ok(interval) if interval >= INTERVAL_MIN => Ok(interval),
        Ok(_) => refuse("is too short; write a duration of 10ms or more"),
        Err(invalid) => refuse(invalid.to_string()),
    }
}

pub(super) fn request_bytes(text: &str) -> Result<usize, InvalidValue> {
    match size::parse(text) {
        Ok(bytes @ REQUEST_BYTES_MIN..=REQUEST_BYTES_MAX) => {
            usize::try_from(bytes).or_else(|_| refuse("is too large for this machine"))
        }
        Ok(_) => refuse("is out of range; write a size from 64 bytes to 1GiB, such as 4MiB"),
        Err(invalid) => refuse(invalid.to_string()),
    }
}

/// A time to live: none when off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ttl(pub(super) Option<Duration>);

pub(super) fn ttl(text: &str) -> Result<Ttl, InvalidValue> {
    match (text, duration::parse(text)) {
        ("off", _) => Ok(Ttl(None)),
        // Zero could be meant as "off" or as "at once": losing results over it would be wrong.
        (_, Ok(Duration::ZERO)) => {
            refuse("is ambiguous; write off to keep finished tasks, or a duration such as 10m")
        }
        (_, Ok(ttl)) => Ok(Ttl(Some(ttl))),
        (_, Err(invalid)) => refuse(format!("{invalid}; or write off")),
    }
}

/// One `NAME=HOSTPATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Volume {
    pub(super) name: String,
    pub(super) host_path: PathBuf,
}

pub(super) fn volume(text: &str) -> Result<Volume, InvalidValue> {
    let Some((name, path)) = text.split_once('=') else {
        return refuse("is not a volume; write NAME=HOSTPATH, such as data=/srv/data");
    };
    if !is_dns_label(name) {
        return refuse(
            "has no valid name; write up to 63 lower-case letters, digits and '-' before the '='",
        );
    }
    if !path.starts_with('/') {
        return refuse("has no absolute path; write NAME=/PATH, such as data=/srv/data");
    }
    Ok(Volume {
        name: name.to_owned(),
        host_path: PathBuf::from(path),
    })
}

/// Whether Kubernetes would take `name` for a volume (RFC 1123 label).
fn is_dns_label(name: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let edges_fit = !name.starts_with('-') && !name.ends_with('-');
    (1..=63).contains(&name.len()) && name.bytes().all(inside) && edges_fit
}

/// Wraps an enum of the configuration so that the command line reads it by name.
macro_rules! named {
    ($wrapper:ident, $inner:ident, $problem:literal, $($text:literal => $variant:ident),+) => {
        #[doc = concat!("A [`", stringify!($inner), "`] by its name.")]
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) struct $wrapper(pub(super) $inner);

        impl FromStr for $wrapper {
            type Err = InvalidValue;

            fn from_str(text: &str) -> Result<Self, InvalidValue> {
                match text {
                    $($text => Ok(Self($inner::$variant)),)+
                    _ => refuse($problem),
                }
            }
        }

        impl $inner {
            /// The name on the command line.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }
    };
}

named!(DurabilityName, Durability, "is not a durability; write process or sync",
    "process" => Process, "sync" => Sync);
named!(ShutdownPolicyName, ShutdownPolicy, "is not a policy; write keep or terminate",
    "keep" => Keep, "terminate" => Terminate);
named!(LogFormatName, LogFormat, "is not a log format; write text or json",
    "text" => Text, "json" => Json);
