//! What can be wrong with a patch, and where.

/// Why a patch can't be merged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{problem}", lead(path))]
pub struct MergeError {
    /// The place in the patch, like `spec.containers[1]`; empty for the document itself.
    pub path: String,
    /// What is wrong there.
    pub problem: Problem,
}

/// What is wrong at a place of a patch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// A document is nested so deeply that following it could exhaust the stack.
    #[error("the original or the patch is nested more than {limit} levels deep")]
    TooDeep {
        /// The deepest that is followed.
        limit: usize,
    },
    /// The document to be patched is not an object.
    #[error("the original is not an object")]
    OriginalNotAnObject,
    /// The patch, or an item of a list merged by key, is not an object.
    #[error("is not an object")]
    NotAnObject,
    /// An item lacks the field that says which item it is.
    #[error("has no {key:?}, by which the list is merged")]
    NoMergeKey {
        /// The field's name.
        key: String,
    },
    /// The field that says which item it is holds null, an object or a list.
    #[error("has a {key:?}, by which the list is merged, that is no plain value")]
    MergeKeyNotPlain {
        /// The field's name.
        key: String,
    },
    /// An item of a list of plain values (text, numbers, booleans) is something else.
    #[error("is no plain value")]
    NotPlain,
    /// The list in the original is the one that can't be merged.
    #[error("item {index} of the original's list {problem}")]
    InOriginal {
        /// The item's index there.
        index: usize,
        /// What is wrong with it.
        problem: Box<Problem>,
    },
    /// `$patch` has a value that means nothing.
    #[error("has a \"$patch\" of {value}; known are \"merge\", \"replace\" and \"delete\"")]
    UnknownPatch {
        /// The value as JSON.
        value: String,
    },
    /// A field begins with `$` but is no directive.
    #[error("has a {name:?}, which is no directive")]
    UnknownDirective {
        /// The field's name.
        name: String,
    },
    /// A directive that takes a list has something else.
    #[error("has a {name:?} that is not a list")]
    NotAList {
        /// The directive's name.
        name: String,
    },
    /// `$retainKeys` holds something that can't name a field.
    #[error("has a \"$retainKeys\" with something other than names of fields")]
    NotAName,
    /// The patch sets a field that it doesn't retain.
    #[error("sets {field:?}, which its \"$retainKeys\" doesn't name")]
    NotRetained {
        /// The field's name.
        field: String,
    },
    /// An order is given for a list that is replaced as a whole.
    #[error("orders {field:?}, which is not a list merged by items")]
    OrderOfUnmerged {
        /// The list's name.
        field: String,
    },
    /// The patch's list and its order contradict each other.
    #[error("has an item that \"$setElementOrder\" doesn't hold, or holds in another order")]
    OrderMismatch,
}

impl MergeError {
    /// The error as seen from the object that has the field.
    pub(super) fn in_field(self, name: &str) -> Self {
        let simple = !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"$/_-".contains(&byte));
        let segment = if simple {
            name.to_owned()
        } else {
            format!("[{name:?}]")
        };
        self.within(segment)
    }

    /// The error as seen from the list that has the item.
    pub(super) fn in_item(self, index: usize) -> Self {
        self.within(format!("[{index}]"))
    }

    fn within(self, mut path: String) -> Self {
        if !self.path.is_empty() && !self.path.starts_with('[') {
            path.push('.');
        }
        path.push_str(&self.path);
        Self { path, ..self }
    }
}

impl From<Problem> for MergeError {
    fn from(problem: Problem) -> Self {
        Self {
            path: String::new(),
            problem,
        }
    }
}

fn lead(path: &str) -> String {
    if path.is_empty() {
        String::new()
    } else {
        format!("{path}: ")
    }
}
