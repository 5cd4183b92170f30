//! What the other modules read: the files of the checkout, found without git so that an export can be tested too.

use std::fs;
use std::path::{Path, PathBuf};

/// A text file of the checkout.
pub(crate) struct Text {
    /// Path from the root of the checkout, with `/`.
    pub(crate) path: String,
    /// The whole content.
    pub(crate) content: String,
}

impl Text {
    /// The last part of the path.
    pub(crate) fn file_name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }
}

/// The root of the checkout.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("this crate is a directory below the root")
}

/// Every UTF-8 file of the checkout in path order, without what git and builds keep there.
pub(crate) fn texts() -> Vec<Text> {
    let mut found = Vec::new();
    collect(root(), &mut found);
    found.sort();
    found.into_iter().filter_map(|path| text(&path)).collect()
}

/// Every Rust file of the checkout.
pub(crate) fn rust_files() -> Vec<Text> {
    with_extension(".rs")
}

/// Every Markdown file of the checkout.
pub(crate) fn markdown_files() -> Vec<Text> {
    with_extension(".md")
}

/// The content of one file that must be there.
pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Fails with one complaint per line.
pub(crate) fn expect_none(rule: &str, complaints: &[String]) {
    assert!(
        complaints.is_empty(),
        "{rule}:\n  {}",
        complaints.join("\n  ")
    );
}

fn with_extension(extension: &str) -> Vec<Text> {
    let mut files = texts();
    files.retain(|file| file.path.ends_with(extension));
    assert!(!files.is_empty(), "no {extension} file found");
    files
}

fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
    let entries =
        fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    for entry in entries {
        let entry = entry.unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        let kind = entry.file_type().expect("a listed file has a type");
        let path = entry.path();
        if is_foreign(&path) {
            continue;
        }
        if kind.is_dir() {
            collect(&path, found);
        } else if kind.is_file() {
            found.push(path);
        }
    }
}

/// What git (a file in a linked worktree), cargo and `make run` fill at the root, and build directories anywhere.
fn is_foreign(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name == ".git" || name == "target" || (name == "data" && path.parent() == Some(root()))
}

fn text(path: &Path) -> Option<Text> {
    let content = String::from_utf8(fs::read(path).ok()?).ok()?;
    let path = path.strip_prefix(root()).ok()?.to_str()?.to_owned();
    Some(Text { path, content })
}
