//! Limits of a task's control group, and the quantities of Kubernetes that they are written in.

/// What a task may use at most: `resources.limits` of a Kubernetes container, plus `pids`.
///
/// Two values are equal when they limit the same, however they were written (`0.5` and `500m`).
#[derive(Clone, Debug)]
pub struct Limits {
    /// CPU time per second, in thousandths of a CPU; at least 1.
    pub cpu_millis: Option<u64>,
    /// Memory in bytes; at least 1.
    pub memory_bytes: Option<u64>,
    /// Processes and threads; at least 1.
    pub pids: Option<u64>,
    /// The quantities as the client wrote them, for the echo.
    texts: [Option<Box<str>>; 3],
}

/// A quantity that is none, or that is zero, negative or too large.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {problem}")]
pub struct InvalidLimit {
    /// The limit in question: `cpu`, `memory` or `pids`.
    pub name: &'static str,
    /// What is wrong and what would be right.
    pub problem: String,
}

/// The limits there are: name, digits after the decimal point of the unit, an example.
const KNOWN: [(&str, i32, &str); 3] = [
    ("cpu", 3, "\"500m\""),
    ("memory", 0, "\"64Mi\""),
    ("pids", 0, "\"100\""),
];

impl Limits {
    /// Reads Kubernetes quantities such as `500m`, `64Mi` or `1e3`; fractions are rounded up.
    ///
    /// # Errors
    /// [`InvalidLimit`] for the first one that is no quantity, not above zero or too large.
    pub fn parse(
        cpu: Option<&str>,
        memory: Option<&str>,
        pids: Option<&str>,
    ) -> Result<Self, InvalidLimit> {
        let texts = [cpu, memory, pids];
        let mut values = [None; 3];
        for (index, text) in texts.iter().enumerate() {
            let Some(text) = text else { continue };
            let (name, decimals, example) = KNOWN[index];
            let value = quantity(text, decimals).map_err(|problem| InvalidLimit {
                name,
                problem: format!("{problem}; write a quantity such as {example}"),
            })?;
            values[index] = Some(value);
        }
        let [cpu_millis, memory_bytes, pids] = values;
        let texts = texts.map(|text| text.map(Box::from));
        Ok(Self {
            cpu_millis,
            memory_bytes,
            pids,
            texts,
        })
    }

    /// True when nothing is limited.
    pub fn is_empty(&self) -> bool {
        self.values() == [None; 3]
    }

    /// Names and quantities as the client wrote them.
    pub(crate) fn texts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let pairs = KNOWN.iter().zip(&self.texts);
        pairs.filter_map(|((name, ..), text)| text.as_deref().map(|text| (*name, text)))
    }

    fn values(&self) -> [Option<u64>; 3] {
        [self.cpu_millis, self.memory_bytes, self.pids]
    }
}

impl PartialEq for Limits {
    fn eq(&self, other: &Self) -> bool {
        self.values() == other.values()
    }
}

impl Eq for Limits {}

/// Powers of two behind a suffix of Kubernetes.
const BINARY: [(&str, u32); 6] = [
    ("Ki", 10),
    ("Mi", 20),
    ("Gi", 30),
    ("Ti", 40),
    ("Pi", 50),
    ("Ei", 60),
];
/// Powers of ten behind a suffix of Kubernetes.
const DECIMAL: [(&str, i32); 10] = [
    ("", 0),
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];

const NOT_A_QUANTITY: &str = "is not a quantity above zero";
const TOO_LARGE: &str = "is too large";
/// More digits than any sensible quantity has; keeps the arithmetic inside of [`u128`].
const DIGITS_MAX: usize = 27;

/// The quantity `text` in units of 10^-`decimals`, rounded up.
fn quantity(text: &str, decimals: i32) -> Result<u64, &'static str> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.') {
        return Err(NOT_A_QUANTITY);
    }
    let fraction = fraction.trim_end_matches('0');
    if whole.len() + fraction.len() > DIGITS_MAX {
        return Err("has too many digits");
    }
    let digits = [whole, fraction].concat();
    let mantissa: u128 = digits.parse().map_err(|_| NOT_A_QUANTITY)?;
    let (bits, tens) = scale(suffix).ok_or(NOT_A_QUANTITY)?;
    let places = i32::try_from(fraction.len()).map_err(|_| TOO_LARGE)?;
    let mantissa = mantissa.checked_mul(1 << bits).ok_or(TOO_LARGE)?;
    match shift(mantissa, tens - places + decimals).and_then(|value| u64::try_from(value).ok()) {
        None => Err(TOO_LARGE),
        Some(0) => Err(NOT_A_QUANTITY),
        Some(value) => Ok(value),
    }
}

/// Powers of two and of ten that a suffix stands for.
fn scale(suffix: &str) -> Option<(u32, i32)> {
    if let Some((_, bits)) = BINARY.iter().find(|(name, _)| *name == suffix) {
        return Some((*bits, 0));
    }
    if let Some((_, tens)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Some((0, *tens));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?;
    let tens: i32 = exponent.parse().ok()?;
    (-99..=99).contains(&tens).then_some((0, tens))
}

/// `value` times 10^`tens`, rounded up; [`None`] when too large.
fn shift(value: u128, tens: i32) -> Option<u128> {
    let power = 10_u128.checked_pow(tens.unsigned_abs());
    match (tens >= 0, power) {
        (true, Some(power)) => value.checked_mul(power),
        (true, None) => (value == 0).then_some(0),
        (false, Some(power)) => Some(value.div_ceil(power)),
        (false, None) => Some(value.min(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_does() {
        for (text, bytes) in [
            ("1", 1),
            ("+7", 7),
            ("64Mi", 64 << 20),
            ("0.5Gi", 1 << 29),
            ("1.5Ki", 1536),
            ("1k", 1000),
            ("2M", 2_000_000),
            ("1E", 1_000_000_000_000_000_000),
            ("1e3", 1000),
            ("1E3", 1000),
            ("12e-1", 2),
            ("1.", 1),
            (".5", 1),
            ("100m", 1),
            ("1n", 1),
            ("1.000000000000000000000000000000000", 1),
            ("1e-99", 1),
        ] {
            assert_eq!(quantity(text, 0), Ok(bytes), "{text}");
        }
        for (text, millis) in [("500m", 500), ("2", 2000), ("0.25", 250), ("100u", 1)] {
            assert_eq!(quantity(text, 3), Ok(millis), "{text}");
        }
    }

    #[test]
    fn what_is_no_positive_quantity_is_refused() {
        for text in [
            "",
            ".",
            "0",
            "0.0",
            "-1",
            "1..2",
            "1.2.3",
            "Mi",
            "1mi",
            "1KB",
            "1 Gi",
            "1e",
            "1e1000",
            "e3",
            "0x10",
            "1e99",
            "20E",
            "99999999999999999999999999999",
            "NaN",
            "+-1",
            "+",
            "٣",
        ] {
            assert!(quantity(text, 0).is_err(), "{text}");
        }
    }

    #[test]
    fn limits_written_differently_are_equal() {
        let one = Limits::parse(Some("0.5"), Some("1Gi"), None).unwrap();
        let two = Limits::parse(Some("500m"), Some("1024Mi"), None).unwrap();
        assert_eq!(one, two);
        assert_eq!(
            one.texts().collect::<Vec<_>>(),
            [("cpu", "0.5"), ("memory", "1Gi")]
        );
        assert!(!one.is_empty());
    }

    #[test]
    fn an_error_names_the_limit_and_an_example() {
        let error = Limits::parse(None, None, Some("many")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "pids: is not a quantity above zero; write a quantity such as \"100\""
        );
    }
}
