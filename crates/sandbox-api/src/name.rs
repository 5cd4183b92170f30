//! Names and unique ids of tasks.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest task name, in bytes.
const NAME_BYTES_MAX: usize = 253;
/// Longest task uid, in bytes.
const UID_BYTES_MAX: usize = 64;

/// Why a string is no task name or uid. The text says what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidName {
    /// Nothing was given.
    #[error("must not be empty")]
    Empty,
    /// More bytes than allowed.
    #[error("must be at most {max} characters long, not {found}")]
    TooLong {
        /// Bytes found.
        found: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// A character outside the allowed set.
    #[error("must not contain {found:?}; allowed are {allowed}")]
    Character {
        /// The first such character.
        found: char,
        /// The allowed set, in words.
        allowed: &'static str,
    },
    /// The first or last character is punctuation.
    #[error("must start and end with a letter or digit")]
    Edge,
}

/// The name of a task: 1 to 253 characters `[A-Za-z0-9._-]`, first and last a letter or digit.
///
/// It is therefore safe as one path component: no separator, no `.` or `..`, no NUL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TaskName(Box<str>);

impl TaskName {
    /// Checks `text` against the rules for task names.
    ///
    /// # Errors
    /// [`InvalidName`] with the first rule that is broken.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        check(
            text,
            NAME_BYTES_MAX,
            "letters, digits, '.', '_' and '-'",
            |c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'),
        )?;
        let edge = |c: char| c.is_ascii_alphanumeric();
        if text.starts_with(edge) && text.ends_with(edge) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidName::Edge)
        }
    }
}

/// The unique id that the agent gives to a task: 1 to 64 characters `[A-Za-z0-9-]`.
///
/// Two tasks never share a uid, even when they share a name one after the other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TaskUid(Box<str>);

impl TaskUid {
    /// Checks `text` against the rules for task uids.
    ///
    /// # Errors
    /// [`InvalidName`] with the first rule that is broken.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        check(text, UID_BYTES_MAX, "letters, digits and '-'", |c| {
            c.is_ascii_alphanumeric() || c == '-'
        })?;
        Ok(Self(text.into()))
    }
}

/// The rules that names and uids share: not empty, not too long, only allowed characters.
fn check(
    text: &str,
    max: usize,
    allowed: &'static str,
    is_allowed: impl Fn(char) -> bool,
) -> Result<(), InvalidName> {
    if text.is_empty() {
        return Err(InvalidName::Empty);
    }
    if text.len() > max {
        let found = text.len();
        return Err(InvalidName::TooLong { found, max });
    }
    match text.chars().find(|&c| !is_allowed(c)) {
        Some(found) => Err(InvalidName::Character { found, allowed }),
        None => Ok(()),
    }
}

/// The traits that every checked string has.
macro_rules! checked_string {
    ($name:ident) => {
        impl $name {
            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.into()
            }
        }
    };
}

checked_string!(TaskName);
checked_string!(TaskUid);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_allowed_alphabet_are_accepted() {
        for text in [
            "a",
            "7",
            "my-first-task",
            "A.b_c-9",
            "a..b",
            &"x".repeat(253),
        ] {
            assert_eq!(TaskName::parse(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn names_that_could_leave_the_data_directory_are_refused() {
        for text in [
            "",
            ".",
            "..",
            "-a",
            "a-",
            "a/b",
            "a/../c",
            "a\n",
            "a\0",
            "ä",
            "a b",
            &"x".repeat(254),
        ] {
            assert!(TaskName::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn uids_have_no_dots_and_at_most_64_characters() {
        assert!(TaskUid::parse("0f9d2b1c-7a3e-4c55-9c1e-5b7f0a1d2e3f").is_ok());
        assert_eq!(TaskUid::parse(""), Err(InvalidName::Empty));
        assert!(TaskUid::parse("a.b").is_err());
        assert!(TaskUid::parse(&"x".repeat(65)).is_err());
    }

    #[test]
    fn errors_say_what_is_allowed() {
        let error = TaskName::parse("a/b").unwrap_err().to_string();
        assert_eq!(
            error,
            "must not contain '/'; allowed are letters, digits, '.', '_' and '-'"
        );
    }

    #[test]
    fn a_map_by_name_can_be_asked_with_a_plain_string() {
        let map = std::collections::BTreeMap::from([(TaskName::parse("a").unwrap(), 1)]);
        assert_eq!(map.get("a"), Some(&1));
    }

    #[test]
    fn serde_checks_names_too() {
        assert!(serde_json::from_str::<TaskName>("\"a/b\"").is_err());
        let name: TaskName = serde_json::from_str("\"a.b\"").unwrap();
        assert_eq!(serde_json::to_string(&name).unwrap(), "\"a.b\"");
    }
}
