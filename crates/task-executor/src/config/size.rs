//! Byte sizes: `4194304`, `4MiB`, `10Mi`, `1G`.

/// Why a text is no size. The text says what would be right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidSize {
    /// The text does not follow the grammar.
    #[error("is not a size; write whole bytes, or a number with a unit, such as 4MiB, 10Mi or 1G")]
    Syntax,
    /// More than 2^63 - 1 bytes.
    #[error("is too large; write less than 8Ei")]
    TooLarge,
}

/// Units by their first letter: name, factor of two, factor of ten.
const UNITS: [(char, u64, u64); 5] = [
    ('k', 1 << 10, 1_000),
    ('m', 1 << 20, 1_000_000),
    ('g', 1 << 30, 1_000_000_000),
    ('t', 1 << 40, 1_000_000_000_000),
    ('p', 1 << 50, 1_000_000_000_000_000),
];

/// Reads a number of bytes. `Ki`, `KiB` and so on count by 1024; `K`, `KB` and so on by 1000.
pub(super) fn parse(text: &str) -> Result<u64, InvalidSize> {
    let digits_end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_end);
    if digits.is_empty() {
        return Err(InvalidSize::Syntax);
    }
    let factor = factor(unit).ok_or(InvalidSize::Syntax)?;
    let value: u64 = digits.parse().map_err(|_| InvalidSize::TooLarge)?;
    let bytes = value.checked_mul(factor).ok_or(InvalidSize::TooLarge)?;
    if i64::try_from(bytes).is_err() {
        return Err(InvalidSize::TooLarge);
    }
    Ok(bytes)
}

fn factor(unit: &str) -> Option<u64> {
    let mut letters = unit.chars();
    let Some(first) = letters.next() else {
        return Some(1);
    };
    if unit == "B" {
        return Some(1);
    }
    let lower = first.to_ascii_lowercase();
    let (_, binary, decimal) = UNITS.iter().find(|(letter, ..)| *letter == lower)?;
    // A lower-case `m` is a thousandth in Kubernetes: never a million bytes.
    if first.is_ascii_lowercase() && first != 'k' {
        return None;
    }
    match letters.as_str() {
        "i" | "iB" => Some(*binary),
        "" | "B" => Some(*decimal),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("0", 0),
            ("4194304", 4 << 20),
            ("7B", 7),
            ("4MiB", 4 << 20),
            ("10Mi", 10 << 20),
            ("1G", 1_000_000_000),
            ("2GB", 2_000_000_000),
            ("3k", 3_000),
            ("3K", 3_000),
            ("3Ki", 3 << 10),
            ("1TiB", 1 << 40),
            ("1P", 1_000_000_000_000_000),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "", "-1", "+1", "1.5Gi", "1 Gi", "Mi", "4m", "4mi", "4Mib", "4MBi", "0x10", "x", "1KK",
            "٣",
        ] {
            assert_eq!(parse(text), Err(InvalidSize::Syntax), "{text}");
        }
        for text in ["99999999999999999999", "9223372036854775808", "8192Pi"] {
            assert_eq!(parse(text), Err(InvalidSize::TooLarge), "{text}");
        }
        assert_eq!(parse("8191Pi"), Ok(8191 << 50));
    }
}
