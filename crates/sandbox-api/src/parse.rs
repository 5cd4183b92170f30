//! From bytes to tasks: the only way to make a [`NewTask`] from outside.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};

use crate::check;
use crate::decode::{decode, path_of_unknown};
use crate::spec::NewTask;
use crate::wire::{Object, WireTask};

/// Most unknown fields that are named.
pub const IGNORED_MAX: usize = 16;

/// What was read, and which parts of the input were not understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed<T> {
    /// What was read.
    pub value: T,
    /// Paths of unknown fields, such as `[3].spec.process.foo`: the first [`IGNORED_MAX`] of them,
    /// in printable ASCII, long keys cut short.
    pub ignored: Vec<String>,
}

/// Why a body is no task or list of tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidTask {
    /// Where, such as `[3].spec.process.command`; empty for the whole body.
    pub path: String,
    /// What is wrong and what would be right.
    pub problem: String,
}

impl fmt::Display for InvalidTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.problem)
    }
}

impl std::error::Error for InvalidTask {}

/// Reads the body of `POST /tasks`: one task.
///
/// # Errors
/// [`InvalidTask`] for the first thing that is wrong, be it JSON, a type or a rule.
pub fn parse_one(body: &[u8]) -> Result<Parsed<NewTask>, InvalidTask> {
    let mut ignored = Vec::new();
    let seed = std::marker::PhantomData::<Object<WireTask>>;
    let wire = decode(body, seed, |path| note(&mut ignored, path))?;
    Ok(Parsed {
        value: check::task(wire.0)?,
        ignored,
    })
}

/// Reads the body of `POST /setTasks`: an array of tasks, no name twice.
///
/// # Errors
/// [`InvalidTask`] for the first task that is wrong. There is no partial result.
pub fn parse_list(body: &[u8]) -> Result<Parsed<Vec<NewTask>>, InvalidTask> {
    let mut ignored = Vec::new();
    let mut refused = None;
    let list = List {
        refused: &mut refused,
    };
    let read = decode(body, list, |path| note(&mut ignored, path));
    if let Some(refused) = refused {
        return Err(refused);
    }
    let value = read?;
    refuse_repeated_names(&value)?;
    Ok(Parsed { value, ignored })
}

fn note(ignored: &mut Vec<String>, path: &serde_ignored::Path<'_>) {
    if ignored.len() < IGNORED_MAX {
        ignored.push(path_of_unknown(path));
    }
}

/// Reads an array task by task, each checked before the next one is read, so that a body of
/// many bad tasks costs no more memory than one of them.
struct List<'a> {
    /// What the rules say against a task; the error of serde has no room for it.
    refused: &'a mut Option<InvalidTask>,
}

impl<'de> DeserializeSeed<'de> for List<'_> {
    type Value = Vec<NewTask>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<NewTask>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for List<'_> {
    type Value = Vec<NewTask>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of tasks")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<NewTask>, A::Error> {
        let mut tasks = Vec::new();
        while let Some(Object(wire)) = items.next_element::<Object<WireTask>>()? {
            match check::task(wire) {
                Ok(task) => tasks.push(task),
                Err(invalid) => {
                    *self.refused = Some(invalid.within(&format!("[{}]", tasks.len())));
                    return Err(A::Error::custom("refused"));
                }
            }
        }
        Ok(tasks)
    }
}

fn refuse_repeated_names(tasks: &[NewTask]) -> Result<(), InvalidTask> {
    let mut names: Vec<_> = tasks.iter().map(|task| &task.name).zip(0_usize..).collect();
    names.sort_unstable();
    let repeated = names.windows(2).find(|pair| pair[0].0 == pair[1].0);
    let Some([(name, first), (_, second)]) = repeated else {
        return Ok(());
    };
    Err(InvalidTask {
        path: format!("[{second}].name"),
        problem: format!("{name} is already the name of [{first}]; a name must be there once"),
    })
}

impl InvalidTask {
    pub(crate) fn new(path: impl Into<String>, problem: impl fmt::Display) -> Self {
        Self {
            path: path.into(),
            problem: problem.to_string(),
        }
    }

    /// The same problem, seen from one level further out.
    pub(crate) fn within(mut self, outer: &str) -> Self {
        let dot = if self.path.is_empty() || self.path.starts_with('[') {
            ""
        } else {
            "."
        };
        self.path.insert_str(0, dot);
        self.path.insert_str(0, outer);
        self
    }
}

#[cfg(test)]
mod tests;
