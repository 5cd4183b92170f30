//! Query parameters: `a=1&b=two%20words`. Of a repeated one the first counts, as in Go.

use std::time::Duration;

use sandbox_api::TaskUid;

use super::error::ApiError;
use crate::config::{duration, parse_bool};

/// The parameters of one request.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(text: Option<&str>) -> Self {
        let pairs = text
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decoded(name), decoded(value))
                })
                .collect(),
        )
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    }

    /// A switch: absent is off; present without a value is on, as in `?follow`.
    pub(super) fn switch(&self, name: &str) -> Result<bool, ApiError> {
        match self.get(name) {
            None => Ok(false),
            Some("") => Ok(true),
            Some(text) => parse_bool(text).ok_or_else(|| {
                ApiError::parameter(name, text, "is not a boolean; write true or false")
            }),
        }
    }

    /// A whole number.
    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(number) if plain => Ok(Some(number)),
            _ => Err(ApiError::parameter(
                name,
                text,
                "is not a whole number of 0 or more, such as 100",
            )),
        }
    }

    /// A duration as Go writes it, or plain seconds.
    pub(super) fn duration(&self, name: &str) -> Result<Option<Duration>, ApiError> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        let seconds = text
            .bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| format!("{text}s"));
        match duration::parse(seconds.as_deref().unwrap_or(text)) {
            Ok(duration) => Ok(Some(duration)),
            Err(invalid) => Err(ApiError::parameter(name, text, &invalid.to_string())),
        }
    }

    /// The `uid` that the caller insists on.
    pub(super) fn uid(&self) -> Result<Option<TaskUid>, ApiError> {
        let Some(text) = self.get("uid") else {
            return Ok(None);
        };
        let uid = TaskUid::parse(text)
            .map_err(|invalid| ApiError::parameter("uid", text, &invalid.to_string()))?;
        Ok(Some(uid))
    }
}

/// Undoes percent-encoding and `+` for a space. What is not UTF-8 then is replaced, and so fits
/// no name and no number.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        bytes.push(match (byte, after) {
            (b'+', _) => b' ',
            (b'%', [high, low, ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    rest = &after[2..];
                    high << 4 | low
                }
                _ => byte,
            },
            _ => byte,
        });
    }
    String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let query = Query::parse(Some(
            "a=1&b=two+words%21&c&d=%zz%4&a=2&&%65=%C3%A9&=x&f=%ff",
        ));
        for (name, value) in [
            ("a", "1"),
            ("b", "two words!"),
            ("c", ""),
            ("d", "%zz%4"),
            ("e", "\u{e9}"),
            ("", "x"),
            ("f", "\u{fffd}"),
        ] {
            assert_eq!(query.get(name), Some(value), "{name}");
        }
        assert_eq!(query.get("g"), None);
        assert_eq!(Query::parse(None).get("a"), None);
    }

    #[test]
    fn values_are_checked() {
        let query = Query::parse(Some(
            "on&off=0&t=true&odd=maybe&n=7&neg=-1&plus=%2B1&e=&d=1m30s&s=30&u=a-1&uid=a_1",
        ));
        assert!(query.switch("on").unwrap() && query.switch("t").unwrap());
        assert!(!query.switch("off").unwrap() && !query.switch("none").unwrap());
        assert!(query.switch("odd").is_err() && query.uid().is_err());
        assert_eq!(query.number("n").unwrap(), Some(7));
        assert_eq!(query.number("none").unwrap(), None);
        for name in ["neg", "plus", "e", "odd"] {
            assert!(query.number(name).is_err(), "{name}");
        }
        assert_eq!(query.duration("d").unwrap(), Some(Duration::from_secs(90)));
        assert_eq!(query.duration("s").unwrap(), Some(Duration::from_secs(30)));
        for name in ["neg", "odd", "e"] {
            assert!(query.duration(name).is_err(), "{name}");
        }
    }
}
