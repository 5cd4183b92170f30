//! How the program ends when it is not going to run: help, version, or one line of complaint.

use std::error::Error;

use clap::error::{ContextKind, ErrorKind};

use super::argv::FromEnv;

/// An end before the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// The exit code: 0 when something was asked for and given, 2 for a bad value.
    pub code: u8,
    /// What to print, with its final newline.
    pub text: String,
    /// Whether that goes to standard error.
    pub to_stderr: bool,
}

impl Exit {
    /// What was asked for: it goes to standard output.
    pub(super) fn done(text: String) -> Self {
        Self {
            code: 0,
            text,
            to_stderr: false,
        }
    }

    /// A bad value: one line on standard error, exit code 2.
    pub(super) fn refused(problem: &str) -> Self {
        Self {
            code: 2,
            text: format!("task-executor: {problem}\n"),
            to_stderr: true,
        }
    }
}

/// Reduces clap's error to one line that names the flag, or the variable that stands for it.
pub(super) fn from_clap(error: &clap::Error, from_env: &[FromEnv]) -> Exit {
    let text = |kind| error.get(kind).map(ToString::to_string).unwrap_or_default();
    // clap names the argument as in its usage: `--data-dir <DIR>`.
    let arg = text(ContextKind::InvalidArg);
    let flag = arg.split([' ', '=', '[']).next().unwrap_or_default();
    let value = text(ContextKind::InvalidValue);
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            Exit::done(error.render().to_string())
        }
        ErrorKind::UnknownArgument if arg.starts_with('-') => {
            Exit::refused(&format!("unknown flag {arg}; see --help"))
        }
        ErrorKind::UnknownArgument => Exit::refused(&format!(
            "unexpected argument {arg:?}; write --flag=VALUE, and see --help for the flags"
        )),
        ErrorKind::ValueValidation => {
            let problem = error
                .source()
                .map_or_else(|| "is not valid".to_owned(), ToString::to_string);
            Exit::refused(&format!("{}: {value:?} {problem}", origin(flag, from_env)))
        }
        ErrorKind::InvalidValue | ErrorKind::NoEquals => Exit::refused(&format!(
            "{} needs a value; write {flag}=VALUE",
            origin(flag, from_env)
        )),
        // No other kind can come from this grammar; if one does, its first line says enough.
        _ => {
            let rendered = error.render().to_string();
            Exit::refused(
                rendered
                    .lines()
                    .next()
                    .unwrap_or_default()
                    .trim_start_matches("error: "),
            )
        }
    }
}

/// The name that the user gave the value under.
fn origin(flag: &str, from_env: &[FromEnv]) -> String {
    match from_env
        .iter()
        .find(|from| flag.strip_prefix("--") == Some(&from.flag))
    {
        Some(from) => format!("{} (environment variable for {flag})", from.variable),
        None => flag.to_owned(),
    }
}
