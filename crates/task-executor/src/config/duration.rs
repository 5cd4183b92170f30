//! Durations as Go writes them: `500ms`, `2s`, `1m30s`, `1.5h`, `0`.

use std::time::Duration;

/// Why a text is no duration. The text says what would be right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDuration {
    /// The text does not follow the grammar.
    #[error("is not a duration; write a number and a unit (ms, s, m or h), such as 500ms or 1m30s")]
    Syntax,
    /// The text begins with a minus sign.
    #[error("is negative; write a duration of zero or more, such as 10s")]
    Negative,
    /// More than fits into 292 years, the limit that Go has too.
    #[error("is too long; write a duration of less than 292 years")]
    TooLong,
}

/// The longest duration that Go can hold: 2^63 - 1 nanoseconds.
const NANOS_MAX: u128 = 9_223_372_036_854_775_807;
/// Digits after the decimal point that matter; more are cut off, as Go does.
const FRACTION_DIGITS_MAX: usize = 15;

/// Reads what Go's `time.ParseDuration` reads, negative ones excepted.
pub fn parse(text: &str) -> Result<Duration, InvalidDuration> {
    if text.starts_with('-') && text != "-0" {
        return Err(InvalidDuration::Negative);
    }
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(InvalidDuration::Syntax);
    }
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let (part, after) = leading_part(rest)?;
        nanos += part;
        if nanos > NANOS_MAX {
            return Err(InvalidDuration::TooLong);
        }
        rest = after;
    }
    let seconds = u64::try_from(nanos / 1_000_000_000).map_err(|_| InvalidDuration::TooLong)?;
    let subsec = u32::try_from(nanos % 1_000_000_000).map_err(|_| InvalidDuration::TooLong)?;
    Ok(Duration::new(seconds, subsec))
}

/// Reads one number with its unit; gives its nanoseconds and what follows.
fn leading_part(text: &str) -> Result<(u128, &str), InvalidDuration> {
    let digits_end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (whole, rest) = text.split_at(digits_end);
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(after) => after.split_at(
            after
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(after.len()),
        ),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return Err(InvalidDuration::Syntax);
    }
    let unit_end = rest
        .find(|c: char| c == '.' || c.is_ascii_digit())
        .unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(unit_end);
    let unit = unit_nanos(unit).ok_or(InvalidDuration::Syntax)?;
    let whole: u64 = match whole {
        "" => 0,
        digits => digits.parse().map_err(|_| InvalidDuration::TooLong)?,
    };
    Ok((
        u128::from(whole) * unit + fraction_nanos(fraction, unit),
        rest,
    ))
}

/// The nanoseconds of a decimal fraction of a unit, rounded down.
fn fraction_nanos(digits: &str, unit: u128) -> u128 {
    let digits = &digits[..digits.len().min(FRACTION_DIGITS_MAX)];
    let scale = digits.bytes().fold(1, |scale, _| scale * 10);
    let value = digits
        .bytes()
        .fold(0, |value, digit| value * 10 + u128::from(digit - b'0'));
    value * unit / scale
}

fn unit_nanos(unit: &str) -> Option<u128> {
    Some(match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// Writes a duration as Go does: `500ms`, `1m30s`, `0s`.
pub fn show(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    if nanos < 1_000_000_000 {
        let (unit, name) = match nanos {
            0..1_000 => (1, "ns"),
            1_000..1_000_000 => (1_000, "µs"),
            _ => (1_000_000, "ms"),
        };
        return format!("{}{name}", decimal(nanos, unit));
    }
    let seconds = duration.as_secs();
    let below_minute = nanos - u128::from(seconds / 60) * 60_000_000_000;
    let below_minute = decimal(below_minute, 1_000_000_000);
    match (seconds / 3600, seconds / 60 % 60) {
        (0, 0) => format!("{below_minute}s"),
        (0, minutes) => format!("{minutes}m{below_minute}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{below_minute}s"),
    }
}

/// `nanos / unit` in decimal, without trailing zeros.
fn decimal(nanos: u128, unit: u128) -> String {
    let mut text = (nanos / unit).to_string();
    let mut rest = nanos % unit;
    let mut digit_unit = unit / 10;
    if rest > 0 {
        text.push('.');
    }
    while rest > 0 {
        text.push_str(&(rest / digit_unit).to_string());
        rest %= digit_unit;
        digit_unit /= 10;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_does() {
        for (text, nanos) in [
            ("0", 0),
            ("+0", 0),
            ("-0", 0),
            ("0s", 0),
            ("500ms", 500_000_000),
            ("2s", 2_000_000_000),
            ("+2s", 2_000_000_000),
            ("1m30s", 90_000_000_000),
            ("1.5h", 5_400_000_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("1h2m3.25s", 3_723_250_000_000),
            ("30s1m", 90_000_000_000),
            ("1us2µs3μs4ns", 6_004),
            ("0.0000000019s", 1),
            ("0.99999999999999999999s", 999_999_999),
            ("9223372036854775807ns", 9_223_372_036_854_775_807),
        ] {
            assert_eq!(parse(text).map(|d| d.as_nanos()), Ok(nanos), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in [
            "", "1", "10", "s", ".s", "+", "-", "1 s", " 1s", "1s ", "1x", "1d", "1S", "1e3s",
            "0x1s", "1,5s", "--1s", "+-1s", "1..5s", "abc", "1s2", "٣s",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(parse("-1s"), Err(InvalidDuration::Negative));
        assert_eq!(
            parse("9223372036854775808ns"),
            Err(InvalidDuration::TooLong)
        );
        assert_eq!(
            parse("99999999999999999999999h"),
            Err(InvalidDuration::TooLong)
        );
        assert_eq!(parse("9223372036s1h"), Err(InvalidDuration::TooLong));
    }

    #[test]
    fn durations_are_shown_as_go_does() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1µs"),
            (2_200_000, "2.2ms"),
            (500_000_000, "500ms"),
            (3_300_000_000, "3.3s"),
            (90_000_000_000, "1m30s"),
            (245_001_000_000, "4m5.001s"),
            (18_367_001_000_000, "5h6m7.001s"),
            (3_600_000_000_000, "1h0m0s"),
        ] {
            let duration = Duration::from_nanos(nanos);
            assert_eq!(show(duration), text);
            assert_eq!(parse(text), Ok(duration), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_panic(text in ".{0,40}") {
            let _ignored = parse(&text);
        }

        #[test]
        fn what_is_shown_is_read_back(nanos in 0..=9_223_372_036_854_775_807_u64) {
            let duration = Duration::from_nanos(nanos);
            proptest::prop_assert_eq!(parse(&show(duration)), Ok(duration));
        }
    }
}
