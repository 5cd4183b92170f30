//! What happens to the command line before clap sees it: Go's single dash, and the environment.

use std::ffi::{OsStr, OsString};

use super::args::env_name;

/// Turns `-data-dir` into `--data-dir`; `-h` and `-V` stay what they are.
///
/// Go's flag package takes one dash and two for the same, and existing manifests use one. No
/// value of any flag begins with a dash, so an unknown `-foo` may become `--foo` for the message.
pub(super) fn double_dash(arg: OsString) -> OsString {
    match arg.as_encoded_bytes() {
        [b'-', first, _, ..] if *first != b'-' => {
            let mut doubled = OsString::from("-");
            doubled.push(arg);
            doubled
        }
        _ => arg,
    }
}

/// The flag that `arg` sets, without its dashes.
fn flag_of(arg: &OsStr) -> Option<&str> {
    // Only the name has to be UTF-8: a path behind the '=' need not be.
    let bytes = arg.as_encoded_bytes().strip_prefix(b"--")?;
    let name = bytes.split(|byte| *byte == b'=').next()?;
    str::from_utf8(name).ok().filter(|name| !name.is_empty())
}

/// A flag that got its value from the environment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FromEnv {
    pub(super) flag: String,
    pub(super) variable: String,
}

/// Adds `--flag=value` for every flag that `argv` leaves to its environment variable.
pub(super) fn add_environment(
    argv: &mut Vec<OsString>,
    flags: &[String],
    env: &dyn Fn(&str) -> Option<String>,
) -> Vec<FromEnv> {
    let end = argv
        .iter()
        .position(|arg| arg == "--")
        .unwrap_or(argv.len());
    let after = argv.split_off(end);
    let mut added = Vec::new();
    for flag in flags {
        let given = argv.iter().any(|arg| flag_of(arg) == Some(flag));
        let Some((variable, value)) = (!given).then(|| read(flag, env)).flatten() else {
            continue;
        };
        let values: Vec<_> = if flag == "volume" {
            value.split(',').collect()
        } else {
            vec![value.as_str()]
        };
        added.push(FromEnv {
            flag: flag.clone(),
            variable,
        });
        argv.extend(
            values
                .iter()
                .map(|value| format!("--{flag}={value}").into()),
        );
    }
    argv.extend(after);
    added
}

/// The variable of a flag, and its value. An empty one counts as not set.
fn read(flag: &str, env: &dyn Fn(&str) -> Option<String>) -> Option<(String, String)> {
    let own = env_name(flag)?;
    let fallback = (flag == "log-level").then(|| "RUST_LOG".to_owned());
    [Some(own), fallback]
        .into_iter()
        .flatten()
        .find_map(|variable| {
            let value = env(&variable).filter(|value| !value.is_empty())?;
            Some((variable, value))
        })
}
