//! Making new inputs from good ones.

use crate::random::Random;

/// Longest input that is made.
const BYTES_MAX: usize = 16 * 1024;

/// Changes one of the `corpus` in a few places; words of the `dictionary` are put in now and then.
pub(super) fn mutate(random: &mut Random, corpus: &[Vec<u8>], dictionary: &[&str]) -> Vec<u8> {
    let mut bytes = random.pick(corpus).clone();
    for _ in 0..random.below(6) {
        change(random, &mut bytes, corpus, dictionary);
    }
    bytes.truncate(BYTES_MAX);
    bytes
}

fn change(random: &mut Random, bytes: &mut Vec<u8>, corpus: &[Vec<u8>], dictionary: &[&str]) {
    let at = random.below(bytes.len() + 1);
    let until = (at + 1 + random.below(32)).min(bytes.len());
    match random.below(9) {
        0 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        1 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = random_byte(random);
            }
        }
        2 => bytes.insert(at, random_byte(random)),
        3 if at < until => drop(bytes.drain(at..until)),
        4 if at < until => {
            let copy = bytes[at..until].to_vec();
            let times = 1 + random.below(4);
            bytes.splice(at..at, copy.repeat(times));
        }
        5 | 6 => {
            let word = random.pick(dictionary).as_bytes().to_vec();
            let end = if random.chance(50) { at } else { until.max(at) };
            bytes.splice(at..end, word);
        }
        7 => {
            let other = random.pick(corpus);
            let from = random.below(other.len() + 1);
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
        _ if random.chance(20) => bytes.truncate(at),
        _ => {}
    }
}

fn random_byte(random: &mut Random) -> u8 {
    u8::try_from(random.below(256)).unwrap_or_default()
}

/// Text of all kinds: empty, plain, with line ends, wide characters, quotes and NUL.
pub(super) fn text(random: &mut Random, length_max: usize) -> String {
    const LETTERS: &[&str] = &[
        "a",
        "B",
        "7",
        "-",
        "_",
        ".",
        "/",
        " ",
        "=",
        "\n",
        "\n\n",
        "\"",
        "\\",
        "\t",
        "\u{0}",
        "\u{7f}",
        "\u{e9}",
        "\u{20ac}",
        "\u{1f600}",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\u{2028}",
    ];
    (0..random.below(length_max + 1))
        .map(|_| *random.pick(LETTERS))
        .collect()
}

/// Makes a failing input smaller as long as it goes on to fail.
pub(super) fn shrink(input: &[u8], fails: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut smallest = input.to_vec();
    let mut size = smallest.len().div_ceil(2);
    // A bound for inputs that are slow to check; what is left is as good a report.
    let mut tries = 3000;
    while size > 0 {
        let mut at = 0;
        while at < smallest.len() && tries > 0 {
            tries -= 1;
            let mut shorter = smallest.clone();
            shorter.drain(at..(at + size).min(smallest.len()));
            if fails(&shorter) {
                smallest = shorter;
            } else {
                at += size;
            }
        }
        size /= 2;
    }
    smallest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_input_shrinks_to_what_makes_it_fail() {
        let fails = |bytes: &[u8]| bytes.windows(2).any(|pair| pair == b"xy");
        assert_eq!(shrink(b"aaaaaaaaxybbbbbbbbbbbcc", fails), b"xy");
    }

    #[test]
    fn mutation_repeats_with_its_seed() {
        let corpus = [b"some bytes".to_vec(), b"other".to_vec()];
        let make = |seed| {
            let mut random = Random::new(seed);
            [(); 20].map(|()| mutate(&mut random, &corpus, &["word"]))
        };
        assert_eq!(make(3), make(3));
        assert_ne!(make(3), make(4));
    }
}
