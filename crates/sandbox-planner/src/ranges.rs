//! Sets of indices as compact text, like `0-3,7,9-12`.
//!
//! An annotation says in this form which tasks of a sandbox are done. It is rewritten each time a task ends, so the
//! text has to stay short and each set has exactly one text: sorted, and with neighbours joined. [`IndexSet::parse`]
//! accepts no other, because an annotation that we didn't write like this is one that we didn't write.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// How many replicas, and so how many indices, there can be.
pub const INDICES_MAX: u32 = 100_000;

/// A set of indices below [`INDICES_MAX`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IndexSet {
    /// First to last index of each run. Runs neither overlap nor touch.
    runs: BTreeMap<u32, u32>,
}

/// Why a text is no index set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RangesError {
    /// A part between commas is not an index or two with a dash between.
    #[error("{part:?} is neither an index nor a range like 3-7")]
    NotARange {
        /// The part.
        part: String,
    },
    /// An index is beyond what there can be.
    #[error("index {index} is not below {INDICES_MAX}")]
    TooLarge {
        /// The index.
        index: u64,
    },
    /// A range ends at or before its start.
    #[error("range {part:?} doesn't rise")]
    Falling {
        /// The part.
        part: String,
    },
    /// A part begins inside, before or right behind the one that it follows.
    #[error("{part:?} doesn't lie behind the part before it, with a gap between")]
    Unsorted {
        /// The part.
        part: String,
    },
}

impl IndexSet {
    /// Reads the text of a set; the empty text is the empty set.
    ///
    /// # Errors
    ///
    /// On any text that [`IndexSet`]'s `Display` doesn't write.
    pub fn parse(text: &str) -> Result<Self, RangesError> {
        let mut set = Self::default();
        if text.is_empty() {
            return Ok(set);
        }
        for part in text.split(',') {
            let (first, last) = run(part)?;
            // Adding one can't overflow: indices are far below the type's end.
            if set
                .runs
                .last_key_value()
                .is_some_and(|(_, &before)| first <= before + 1)
            {
                return Err(RangesError::Unsorted {
                    part: part.to_owned(),
                });
            }
            set.runs.insert(first, last);
        }
        Ok(set)
    }

    /// Adds an index, and says whether it is new.
    ///
    /// # Errors
    ///
    /// If the index is not below [`INDICES_MAX`].
    pub fn insert(&mut self, index: u32) -> Result<bool, RangesError> {
        if index >= INDICES_MAX {
            return Err(RangesError::TooLarge {
                index: index.into(),
            });
        }
        if self.contains(index) {
            return Ok(false);
        }
        let last = self.runs.remove(&(index + 1)).unwrap_or(index);
        match self.runs.range_mut(..index).next_back() {
            Some((_, before)) if *before + 1 == index => *before = last,
            _ => {
                self.runs.insert(index, last);
            }
        }
        Ok(true)
    }

    /// Whether the index is in the set.
    pub fn contains(&self, index: u32) -> bool {
        self.runs
            .range(..=index)
            .next_back()
            .is_some_and(|(_, &last)| index <= last)
    }

    /// How many indices there are.
    pub fn len(&self) -> u32 {
        self.runs.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The indices, rising.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.runs.iter().flat_map(|(&first, &last)| first..=last)
    }
}

/// Indices that there can't be are left out.
impl FromIterator<u32> for IndexSet {
    fn from_iter<T: IntoIterator<Item = u32>>(indices: T) -> Self {
        let mut set = Self::default();
        for index in indices {
            let _ = set.insert(index);
        }
        set
    }
}

impl fmt::Display for IndexSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        for (first, last) in &self.runs {
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
            comma = ",";
        }
        Ok(())
    }
}

impl std::str::FromStr for IndexSet {
    type Err = RangesError;

    fn from_str(text: &str) -> Result<Self, RangesError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for IndexSet {
    type Error = RangesError;

    fn try_from(text: String) -> Result<Self, RangesError> {
        Self::parse(&text)
    }
}

impl From<IndexSet> for String {
    fn from(set: IndexSet) -> Self {
        set.to_string()
    }
}

fn run(part: &str) -> Result<(u32, u32), RangesError> {
    let Some((first, last)) = part.split_once('-') else {
        let index = index(part, part)?;
        return Ok((index, index));
    };
    let (first, last) = (index(first, part)?, index(last, part)?);
    if first < last {
        Ok((first, last))
    } else {
        Err(RangesError::Falling {
            part: part.to_owned(),
        })
    }
}

fn index(digits: &str, part: &str) -> Result<u32, RangesError> {
    let not_a_range = || RangesError::NotARange {
        part: part.to_owned(),
    };
    // The standard parser would take a plus sign and leading zeros as well.
    let canonical = digits.bytes().all(|byte| byte.is_ascii_digit())
        && (digits == "0" || !digits.starts_with('0'));
    let index: u64 = digits
        .parse()
        .ok()
        .filter(|_| canonical)
        .ok_or_else(not_a_range)?;
    u32::try_from(index)
        .ok()
        .filter(|&index| index < INDICES_MAX)
        .ok_or(RangesError::TooLarge { index })
}

#[cfg(test)]
mod tests;
