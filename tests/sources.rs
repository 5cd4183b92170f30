//! Rules for Rust files: where unsafe code may be, how a file begins, how long it may get.

use crate::tree::{self, Text};

/// The one crate that may contain unsafe code.
const UNSAFE_HOME: &str = "crates/sandbox-sys/";
/// A file that is longer does more than one thing.
const CODE_LINES_MAX: usize = 600;

#[test]
fn unsafe_code_is_in_sandbox_sys_only() {
    let mut complaints = Vec::new();
    for file in tree::rust_files() {
        if file.path.starts_with(UNSAFE_HOME) {
            continue;
        }
        let code = code_only(&file.content);
        for (index, line) in code.lines().enumerate() {
            if words(line).any(|word| word == "unsafe") {
                complaints.push(format!("{}:{}", file.path, index + 1));
            }
        }
    }
    tree::expect_none("unsafe code outside sandbox-sys", &complaints);
}

#[test]
fn every_other_crate_forbids_unsafe_code() {
    let complaints: Vec<_> = tree::rust_files()
        .into_iter()
        .filter(|file| is_crate_root(file) && !file.path.starts_with(UNSAFE_HOME))
        .filter(|file| !code_only(&file.content).contains("#![forbid(unsafe_code)]"))
        .map(|file| file.path)
        .collect();
    tree::expect_none("no `#![forbid(unsafe_code)]`", &complaints);
}

#[test]
fn every_rust_file_begins_by_saying_what_it_is_for() {
    let complaints: Vec<_> = tree::rust_files()
        .into_iter()
        .filter(|file| {
            let first = file.content.lines().next().unwrap_or_default();
            first
                .strip_prefix("//! ")
                .is_none_or(|text| text.trim().is_empty())
        })
        .map(|file| file.path)
        .collect();
    tree::expect_none("the first line is not a `//! ` line", &complaints);
}

#[test]
fn no_file_has_more_than_600_lines_of_code_before_its_tests() {
    let complaints: Vec<_> = tree::rust_files()
        .into_iter()
        .filter(|file| !is_test_file(file))
        .map(|file| (lines_before_tests(&file.content), file.path))
        .filter(|(lines, _)| *lines > CODE_LINES_MAX)
        .map(|(lines, path)| format!("{path} has {lines} lines"))
        .collect();
    tree::expect_none("split it", &complaints);
}

fn is_crate_root(file: &Text) -> bool {
    file.path.starts_with("crates/")
        && (file.path.ends_with("/src/lib.rs") || file.path.ends_with("/src/main.rs"))
}

fn is_test_file(file: &Text) -> bool {
    file.file_name() == "tests.rs" || file.path.split('/').any(|part| part == "tests")
}

/// Lines up to the test module; a `#[cfg(test)]` on anything else does not end the count.
fn lines_before_tests(content: &str) -> usize {
    let lines: Vec<_> = content.lines().collect();
    let begins_tests = |index: &usize| {
        lines[*index] == "#[cfg(test)]"
            && lines[*index + 1..]
                .iter()
                .find(|line| !line.starts_with("#["))
                .is_some_and(|line| line.starts_with("mod "))
    };
    (0..lines.len()).find(begins_tests).unwrap_or(lines.len())
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|letter: char| !letter.is_alphanumeric() && letter != '_')
}

/// The source with comments, strings and character literals blanked out, line by line as before.
fn code_only(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    let mut after_word = false;
    while let Some(letter) = rest.chars().next() {
        let length = if after_word && letter.is_alphanumeric() {
            0 // The `r` of `for` begins no raw string.
        } else {
            literal_or_comment(rest)
        };
        let (taken, blank) = match length {
            0 => (letter.len_utf8(), false),
            length => (length, true),
        };
        let piece = &rest[..taken];
        if blank {
            code.extend(
                piece
                    .chars()
                    .map(|letter| if letter == '\n' { '\n' } else { ' ' }),
            );
        } else {
            code.push_str(piece);
        }
        after_word = !blank && (letter.is_alphanumeric() || letter == '_');
        rest = &rest[taken..];
    }
    code
}

/// Bytes of the comment, string or character literal that `text` begins with, or 0.
fn literal_or_comment(text: &str) -> usize {
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return block_comment(text);
    }
    let prefix = ["br", "cr", "b", "c", "r"]
        .into_iter()
        .find(|prefix| text.starts_with(prefix))
        .unwrap_or_default();
    let body = &text[prefix.len()..];
    let hashes = body.len() - body.trim_start_matches('#').len();
    if prefix.ends_with('r') && body[hashes..].starts_with('"') {
        let end = format!("\"{}", "#".repeat(hashes));
        let start = prefix.len() + hashes + 1;
        return text[start..]
            .find(&end)
            .map_or(text.len(), |at| start + at + end.len());
    }
    if body.starts_with('"') {
        return prefix.len() + quoted(body, '"');
    }
    if body.starts_with('\'') && is_character(body) {
        return prefix.len() + quoted(body, '\'');
    }
    0
}

/// Bytes of a block comment; they nest.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        let here = &text.as_bytes()[at..];
        if here.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if here.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

/// Bytes from the opening to the closing quote, over escapes.
fn quoted(text: &str, quote: char) -> usize {
    let mut letters = text.char_indices().skip(1);
    while let Some((at, letter)) = letters.next() {
        if letter == '\\' {
            letters.next();
        } else if letter == quote {
            return at + 1;
        }
    }
    text.len()
}

/// Tells `'a'` from the lifetime `'a`.
fn is_character(text: &str) -> bool {
    let mut letters = text.chars().skip(1);
    match letters.next() {
        Some('\\') => true,
        Some(_) => letters.next() == Some('\''),
        None => false,
    }
}

#[test]
fn the_scanner_sees_code_and_nothing_else() {
    let check = |source: &str, expected: bool| {
        let code = code_only(source);
        let found = words(&code).any(|word| word == "unsafe");
        assert_eq!(found, expected, "{source} -> {code}");
        assert_eq!(code.lines().count(), source.lines().count(), "{source}");
    };
    check("unsafe { f() }", true);
    check("#[unsafe(no_mangle)]", true);
    check("fn a<'a>(x: &'a u8) { unsafe {} }", true);
    check("let quote = '\"'; unsafe {} let other = '\"';", true);
    check("let quote = '\\''; unsafe {}", true);
    check("let text = \"\\\"\"; unsafe {}", true);
    check("for b in \"\" {}; unsafe {}", true);
    check("attr\"unsafe\"", false);
    check("#![forbid(unsafe_code)]", false);
    check("// unsafe\nlet a = 1;", false);
    check("/* a /* unsafe */ unsafe\n */", false);
    check("let text = \"unsafe \\\" unsafe\";", false);
    check("let text = r#\"unsafe \" unsafe\"#;", false);
    check("let text = br\"unsafe\\\"; let c = c\"unsafe\";", false);
}
