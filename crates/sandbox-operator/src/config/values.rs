//! Values of flags: durations and addresses in the forms that Go programs take.

use std::net::{Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::str::FromStr;
use std::time::Duration;

/// An address to listen on; `:8080` means every address of the machine, `0` nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub Option<SocketAddr>);

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "0" || text.is_empty() {
            return Ok(Self(None));
        }
        let address = match text.strip_prefix(':') {
            Some(port) => port
                .parse()
                .ok()
                .map(|port| (Ipv6Addr::UNSPECIFIED, port).into()),
            None => text.parse().ok(),
        };
        address.map(|address| Self(Some(address))).ok_or_else(|| {
            "must be an address such as :8080 or 127.0.0.1:8080, or 0 for none".to_owned()
        })
    }
}

/// A duration of at least a millisecond, in the form of Go: `500ms`, `2s`, `1m30s`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    const FORM: &str = "must be a duration such as 500ms, 2s or 1m30s";
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest
            .find(|letter: char| !letter.is_ascii_digit())
            .ok_or(FORM)?;
        let number: u32 = rest[..digits].parse().map_err(|_| FORM)?;
        rest = &rest[digits..];
        let letters = rest
            .find(|letter: char| letter.is_ascii_digit())
            .unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_mins(1),
            "h" => Duration::from_hours(1),
            _ => return Err(FORM.to_owned()),
        };
        rest = &rest[letters..];
        let part = unit.checked_mul(number).ok_or(FORM)?;
        total = total.checked_add(part).ok_or(FORM)?;
    }
    if total.is_zero() {
        return Err(FORM.to_owned());
    }
    Ok(total)
}

/// A number, or `batchsandbox=32;pool=16` as OpenSandbox has it.
pub(super) fn concurrency(text: &str) -> Result<NonZeroUsize, String> {
    let mut parts = text.split(';');
    let number = parts
        .find_map(|part| part.strip_prefix("batchsandbox="))
        .unwrap_or(text);
    number
        .parse()
        .map_err(|_| "must be a number of at least 1, or batchsandbox=N".to_owned())
}
