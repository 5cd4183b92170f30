//! Points in time as the API shows them: RFC 3339, UTC, whole seconds.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// 0000-01-01T00:00:00Z; RFC 3339 has no earlier year.
const FIRST_UNIX_SECOND: i64 = -62_167_219_200;

/// A point in time in whole seconds UTC, from year 0 to the end of year 9999.
///
/// Mirrors `metav1.Time` of Kubernetes, which has the same text form and precision.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(jiff::Timestamp);

/// A text that is no RFC 3339 time, or one outside of the years 0 to 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be an RFC 3339 time such as \"2025-12-17T10:00:00Z\"")]
pub struct InvalidTimestamp;

impl Timestamp {
    /// The time `seconds` after 1970-01-01T00:00:00Z; [`None`] outside of the years 0 to 9999.
    pub fn from_unix_seconds(seconds: i64) -> Option<Self> {
        if seconds < FIRST_UNIX_SECOND {
            return None;
        }
        jiff::Timestamp::from_second(seconds).ok().map(Self)
    }

    /// Seconds since 1970-01-01T00:00:00Z; negative before.
    pub fn as_unix_seconds(self) -> i64 {
        self.0.as_second()
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;

    /// Reads an RFC 3339 time with any offset; a fraction of a second is cut off.
    fn from_str(text: &str) -> Result<Self, InvalidTimestamp> {
        let time: jiff::Timestamp = text.parse().map_err(|_| InvalidTimestamp)?;
        Self::from_unix_seconds(time.as_second()).ok_or(InvalidTimestamp)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl de::Visitor<'_> for Text {
            type Value = Timestamp;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an RFC 3339 time")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Timestamp, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_form_is_rfc_3339_in_utc() {
        let time = Timestamp::from_unix_seconds(1_765_965_600).unwrap();
        assert_eq!(time.to_string(), "2025-12-17T10:00:00Z");
        assert_eq!("2025-12-17T10:00:00Z".parse(), Ok(time));
        assert_eq!("2025-12-17T11:00:00+01:00".parse(), Ok(time));
        assert_eq!("2025-12-17T10:00:00.999999Z".parse(), Ok(time));
    }

    #[test]
    fn years_outside_of_rfc_3339_are_refused() {
        for seconds in [i64::MIN, FIRST_UNIX_SECOND - 1, 253_402_300_800, i64::MAX] {
            assert_eq!(Timestamp::from_unix_seconds(seconds), None);
        }
        for seconds in [FIRST_UNIX_SECOND, -1, 0, 253_402_000_000] {
            let time = Timestamp::from_unix_seconds(seconds).unwrap();
            assert_eq!(time.as_unix_seconds(), seconds);
            assert_eq!(time.to_string().len(), 20);
            assert_eq!(time.to_string().parse(), Ok(time));
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "yesterday",
            "2025-12-17",
            "2025-13-17T10:00:00Z",
            "1765965600",
        ] {
            assert_eq!(text.parse::<Timestamp>(), Err(InvalidTimestamp), "{text}");
        }
    }

    #[test]
    fn serde_uses_the_text_form() {
        let text = "\"2025-12-17T10:00:00Z\"";
        let time: Timestamp = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&time).unwrap(), text);
        assert!(serde_json::from_str::<Timestamp>("5").is_err());
    }
}
