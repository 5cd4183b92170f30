//! Rules for documents: links lead somewhere, names exist, and nothing tells where it was written.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::tree::{self, Text};

/// The endpoints of the usage guide; parameter names are left open.
const GUIDE_PATHS: &[&str] = &["/tasks", "/tasks/{}", "/setTasks", "/getTasks", "/health"];

#[test]
fn the_committed_openapi_describes_the_endpoints_of_the_guide() {
    let api: Value = serde_json::from_str(&tree::read("docs/openapi.json")).expect("it is JSON");
    assert!(
        api["openapi"]
            .as_str()
            .is_some_and(|version| version.starts_with("3.1")),
        "docs/openapi.json is not OpenAPI 3.1"
    );
    let paths: BTreeSet<_> = api["paths"]
        .as_object()
        .expect("it has paths")
        .keys()
        .map(|path| without_parameter_names(path))
        .collect();
    let complaints: Vec<_> = GUIDE_PATHS
        .iter()
        .filter(|path| !paths.contains(**path))
        .map(|path| format!("{path} is not in docs/openapi.json"))
        .collect();
    tree::expect_none("an endpoint is missing", &complaints);
}

fn without_parameter_names(path: &str) -> String {
    path.split('/')
        .map(|part| if part.starts_with('{') { "{}" } else { part })
        .collect::<Vec<_>>()
        .join("/")
}

#[test]
fn every_flag_is_in_the_operations_pages_and_no_other() {
    flags_agree("docs/task-executor.help.txt", "docs/operations.md");
    flags_agree("docs/sandbox-operator.help.txt", "docs/operator.md");
}

fn flags_agree(help: &str, page: &str) {
    let in_page = |line: &str| line.starts_with("| `-");
    let (help, name) = (flags(&tree::read(help), is_help_entry), page);
    let page = flags(&tree::read(page), in_page);
    let complaints: Vec<_> = help
        .symmetric_difference(&page)
        .map(|flag| format!("{flag} is in one of --help and {name} only"))
        .collect();
    tree::expect_none("flags differ", &complaints);
}

/// An entry of the help is indented a little and begins with its flag; the text under it is indented further.
fn is_help_entry(line: &str) -> bool {
    let entry = line.trim_start();
    entry.starts_with('-') && (1..=6).contains(&(line.len() - entry.len()))
}

/// Long flags in the first cell or entry of the lines that `applies` picks.
fn flags(text: &str, applies: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in text.lines().filter(|line| applies(line)) {
        let entry = line.trim_start_matches('|').trim_start();
        let entry = entry.split(" | ").next().unwrap_or(entry);
        let entry = entry.split("  ").next().unwrap_or(entry);
        let tokens = entry.split(|letter: char| !letter.is_ascii_lowercase() && letter != '-');
        found.extend(
            tokens
                .filter(|token| token.starts_with("--") && token.len() > 2)
                .map(str::to_owned),
        );
    }
    found
}

#[test]
fn no_file_tells_where_it_was_written() {
    // Put together here, so that this file does not contain what it looks for.
    let forbidden = [
        ["/wo", "rk/"].concat(),
        ["/ro", "ot/"].concat(),
        ["sparse", "+http"].concat(),
        ["replace", "-with"].concat(),
        ["registry", " = \"http"].concat(),
    ];
    let mut complaints = Vec::new();
    for file in tree::texts() {
        for (index, line) in file.content.lines().enumerate() {
            for mark in forbidden.iter().filter(|mark| mentions(line, mark)) {
                complaints.push(format!("{}:{}: {mark}", file.path, index + 1));
            }
        }
    }
    tree::expect_none("a path or a registry of one machine", &complaints);
}

/// Whether the line has the mark, as an absolute path where it begins with `/`: `/proc/1/root/` is no mention.
fn mentions(line: &str, mark: &str) -> bool {
    line.match_indices(mark).any(|(at, _)| {
        let inside_path = |letter: char| letter.is_alphanumeric() || "}_.-*)>".contains(letter);
        !mark.starts_with('/') || !line[..at].ends_with(inside_path)
    })
}

#[test]
fn the_changelog_has_a_place_for_what_is_not_yet_released() {
    let changelog = tree::read("CHANGELOG.md");
    assert!(
        changelog.lines().any(|line| line == "## [Unreleased]"),
        "CHANGELOG.md has no line `## [Unreleased]`"
    );
}

#[test]
fn decisions_are_numbered_without_gaps_and_linked_from_the_architecture() {
    let architecture = tree::read("ARCHITECTURE.md");
    let mut complaints = Vec::new();
    let mut names: Vec<_> = fs::read_dir(tree::root().join("docs/adr"))
        .expect("docs/adr is there")
        .map(|entry| entry.expect("an entry").file_name())
        .map(|name| name.into_string().expect("a UTF-8 name"))
        .collect();
    names.sort();
    for (number, name) in names.iter().enumerate() {
        let title = name.strip_prefix(&format!("{number:04}-"));
        if title.and_then(|title| title.strip_suffix(".md")).is_none() {
            complaints.push(format!("{name} should be {number:04}-its-title.md"));
        }
        // Number 0 is the template.
        if number > 0 && !architecture.contains(&format!("docs/adr/{name}")) {
            complaints.push(format!("{name} is not linked from ARCHITECTURE.md"));
        }
    }
    tree::expect_none("docs/adr", &complaints);
}

#[test]
fn relative_links_lead_to_files() {
    let mut complaints = Vec::new();
    for file in tree::markdown_files() {
        let directory = match file.path.rsplit_once('/') {
            Some((directory, _)) => tree::root().join(directory),
            None => tree::root().to_owned(),
        };
        for link in links(&prose(&file.content)) {
            let path = link.split('#').next().unwrap_or_default();
            if !path.is_empty() && !directory.join(path).exists() {
                complaints.push(format!("{}: {link}", file.path));
            }
        }
    }
    tree::expect_none("a link to nothing", &complaints);
}

/// The text outside fenced blocks.
fn prose(markdown: &str) -> String {
    let mut fenced = false;
    let lines = markdown.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Targets of inline links and of link definitions, without those that name a scheme.
fn links(text: &str) -> Vec<&str> {
    let inline = text
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split([')', ' ']).next());
    let definitions = text
        .lines()
        .filter(|line| line.starts_with('['))
        .filter_map(|line| line.split_once("]: "))
        .map(|(_, target)| target.trim());
    inline
        .chain(definitions)
        .filter(|target| !target.contains("://") && !target.starts_with("mailto:"))
        .collect()
}

#[test]
fn every_make_target_that_a_document_names_exists() {
    let makefile = tree::read("Makefile");
    let targets: BTreeSet<_> = makefile
        .lines()
        .filter(|line| line.contains(": ") && line.contains("## "))
        .filter_map(|line| line.split(':').next())
        .collect();
    let mut complaints = Vec::new();
    for file in tree::markdown_files() {
        for target in make_calls(&file) {
            if !targets.contains(target) {
                complaints.push(format!("{}: make {target}", file.path));
            }
        }
    }
    tree::expect_none("no such target in the Makefile", &complaints);
}

/// The words after `make ` in code spans and at the start of lines, where they are commands and not prose.
fn make_calls(file: &Text) -> impl Iterator<Item = &str> {
    file.content
        .lines()
        .flat_map(|line| line.split('`').chain(line.strip_prefix("$ ")))
        .filter_map(|code| code.strip_prefix("make "))
        .filter_map(|rest| rest.split_whitespace().next())
        .filter(|word| !word.contains(['=', '-']))
}
