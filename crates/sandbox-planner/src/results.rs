//! How tasks ended whose Pods were given back: kept in an annotation, since nobody else remembers.

use serde::{Deserialize, Serialize};

use crate::ranges::IndexSet;

/// Indexes by how their tasks ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Results {
    /// Exit code 0.
    pub succeeded: IndexSet,
    /// Anything else.
    pub failed: IndexSet,
}

#[derive(Default, Serialize, Deserialize)]
struct Text {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    succeeded: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    failed: String,
}

impl Results {
    /// Reads `{"succeeded":"0-3,7","failed":"4"}`.
    ///
    /// # Errors
    /// What is wrong with the text, for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text: Text = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let read = |part: &str| part.parse::<IndexSet>().map_err(|error| error.to_string());
        Ok(Self {
            succeeded: read(&text.succeeded)?,
            failed: read(&text.failed)?,
        })
    }

    /// The text that [`parse`](Self::parse) reads; the same results give the same bytes.
    pub fn to_text(&self) -> String {
        let text = Text {
            succeeded: self.succeeded.to_string(),
            failed: self.failed.to_string(),
        };
        serde_json::to_string(&text).unwrap_or_default()
    }

    /// Whether the task with this index is over for good.
    pub fn contains(&self, index: u32) -> bool {
        self.succeeded.contains(index) || self.failed.contains(index)
    }

    /// Whether no task is over for good.
    pub fn is_empty(&self) -> bool {
        self.succeeded.is_empty() && self.failed.is_empty()
    }

    /// Remembers how the task with this index ended; the first word on it holds.
    pub fn insert(&mut self, index: u32, succeeded: bool) {
        if self.contains(index) {
            return;
        }
        let set = if succeeded {
            &mut self.succeeded
        } else {
            &mut self.failed
        };
        // No batch has an index that is refused here.
        let _ = set.insert(index);
    }

    /// The results of indexes that `kept` does not have.
    #[must_use]
    pub fn without(&self, kept: &Self) -> Self {
        let cut = |set: &IndexSet| set.iter().filter(|index| !kept.contains(*index)).collect();
        Self {
            succeeded: cut(&self.succeeded),
            failed: cut(&self.failed),
        }
    }

    /// The results of indexes below `replicas`: those above were scaled away.
    #[must_use]
    pub fn below(&self, replicas: u32) -> Self {
        let cut = |set: &IndexSet| set.iter().take_while(|index| *index < replicas).collect();
        Self {
            succeeded: cut(&self.succeeded),
            failed: cut(&self.failed),
        }
    }
}
