//! Lists that are merged item by item, and the order that results.
//!
//! The order is the reference's. The items named by the patch stand in the patch's order (or that of
//! `$setElementOrder`), all others in the original's, and the two rows are then interleaved: an unnamed item goes
//! first only if, in the original, it stood before the next named one. So **new items come before** the unnamed
//! ones that are still to be placed: a patch that only adds a container puts it in front of all others.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::directives::{self, Whole};
use super::schema::{Field, Schema};
use super::{MergeError, Problem, merge_object, taken};

/// What tells one item of a list from another: a plain value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Bool(bool),
    Number(String),
    Text(String),
}

impl Key {
    /// The key that a value is, if it's plain.
    pub(super) fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Bool(value) => Some(Self::Bool(*value)),
            Value::Number(value) => Some(Self::Number(value.to_string())),
            Value::String(value) => Some(Self::Text(value.clone())),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }

    fn plain(value: &Value) -> Result<Self, Problem> {
        Self::of(value).ok_or(Problem::NotPlain)
    }

    fn field(item: &Value, key: &str) -> Result<Self, Problem> {
        let value = item.as_object().ok_or(Problem::NotAnObject)?.get(key);
        let value = value.ok_or_else(|| Problem::NoMergeKey {
            key: key.to_owned(),
        })?;
        Self::of(value).ok_or_else(|| Problem::MergeKeyNotPlain {
            key: key.to_owned(),
        })
    }
}

/// The keys of the items of a patch's list; items that only carry a directive for the list have none.
pub(super) fn keys_of_patch(
    items: &[Value],
    field: Option<&Field>,
) -> Result<Vec<Key>, MergeError> {
    if let Some(Field::Keyed { key, .. }) = field {
        return Ok(Changes::read(items, key)?
            .items
            .into_iter()
            .map(|change| change.key)
            .collect());
    }
    let keys = items.iter().enumerate();
    keys.map(|(index, item)| {
        Key::plain(item).map_err(|problem| MergeError::from(problem).in_item(index))
    })
    .collect()
}

/// Merges a list of objects by the field `key` of its items.
pub(super) fn merge_keyed(
    old: &mut Vec<Value>,
    new: &[Value],
    (key, schema): (&str, &Schema),
    order: Option<&[Key]>,
) -> Result<(), MergeError> {
    let changes = Changes::read(new, key)?;
    let key_of = |item: &Value| Key::field(item, key);
    let mut named = Vec::new();
    let merged = if changes.replace {
        // The new items are the whole list, and are not merged with each other either.
        let items = changes.items.iter().map(|change| change.taken(schema));
        Merged::of_original(items.collect::<Result<_, _>>()?, key_of, &BTreeSet::new())?
    } else {
        let mut merged = Merged::of_original(std::mem::take(old), key_of, &changes.removed)?;
        for change in changes.items {
            merged.lay_over(&change, schema)?;
            named.push(change.key);
        }
        merged
    };
    *old = merged.arrange(order.unwrap_or(&named));
    Ok(())
}

/// Merges a list of plain values: each is there once.
pub(super) fn merge_set(
    old: &mut Vec<Value>,
    new: &[Value],
    order: Option<&[Key]>,
) -> Result<(), MergeError> {
    let named = keys_of_patch(new, Some(&Field::Set))?;
    let mut seen = BTreeSet::new();
    old.retain(|value| Key::of(value).is_none_or(|key| seen.insert(key)));
    let mut merged = Merged::of_original(std::mem::take(old), Key::plain, &BTreeSet::new())?;
    for (key, value) in named.iter().zip(new) {
        if !merged.first_at.contains_key(key) {
            merged.push(key.clone(), value.clone());
        }
    }
    *old = merged.arrange(order.unwrap_or(&named));
    Ok(())
}

/// What a patch wants of a list merged by key.
struct Changes<'patch> {
    items: Vec<Change<'patch>>,
    removed: BTreeSet<Key>,
    replace: bool,
}

/// An item of the patch that is to be merged into the old one of its key.
struct Change<'patch> {
    index: usize,
    key: Key,
    item: &'patch Value,
}

impl<'patch> Changes<'patch> {
    fn read(items: &'patch [Value], key: &str) -> Result<Self, MergeError> {
        let mut changes = Self {
            items: Vec::new(),
            removed: BTreeSet::new(),
            replace: false,
        };
        for (index, item) in items.iter().enumerate() {
            changes
                .note(index, item, key)
                .map_err(|error| error.in_item(index))?;
        }
        Ok(changes)
    }

    fn note(&mut self, index: usize, item: &'patch Value, key: &str) -> Result<(), MergeError> {
        match directives::whole(item.as_object().ok_or(Problem::NotAnObject)?)? {
            Whole::Merge => self.items.push(Change {
                index,
                key: Key::field(item, key)?,
                item,
            }),
            Whole::Delete => {
                self.removed.insert(Key::field(item, key)?);
            }
            Whole::Replace => self.replace = true,
        }
        Ok(())
    }
}

impl Change<'_> {
    fn taken(&self, schema: &Schema) -> Result<Value, MergeError> {
        let taken = taken(self.item, schema).map_err(|error| error.in_item(self.index))?;
        Ok(taken.unwrap_or(Value::Null))
    }
}

/// The items of a list: those of the original first, then those that the patch adds.
struct Merged {
    items: Vec<(Key, Value)>,
    /// Where each key is first.
    first_at: BTreeMap<Key, usize>,
    original_len: usize,
}

impl Merged {
    fn of_original(
        items: Vec<Value>,
        key_of: impl Fn(&Value) -> Result<Key, Problem>,
        removed: &BTreeSet<Key>,
    ) -> Result<Self, MergeError> {
        let mut merged = Self {
            items: Vec::with_capacity(items.len()),
            first_at: BTreeMap::new(),
            original_len: 0,
        };
        for (index, item) in items.into_iter().enumerate() {
            let key = key_of(&item).map_err(|problem| Problem::InOriginal {
                index,
                problem: Box::new(problem),
            })?;
            if !removed.contains(&key) {
                merged.push(key, item);
            }
        }
        merged.original_len = merged.items.len();
        Ok(merged)
    }

    fn push(&mut self, key: Key, item: Value) {
        self.first_at.entry(key.clone()).or_insert(self.items.len());
        self.items.push((key, item));
    }

    /// Merges a change into the first item of its key, or adds it.
    fn lay_over(&mut self, change: &Change<'_>, schema: &Schema) -> Result<(), MergeError> {
        let old = self
            .first_at
            .get(&change.key)
            .and_then(|&at| self.items.get_mut(at));
        if let (Some((_, Value::Object(old))), Value::Object(new)) = (old, change.item) {
            return merge_object(old, new, schema).map_err(|error| error.in_item(change.index));
        }
        self.push(change.key.clone(), change.taken(schema)?);
        Ok(())
    }

    /// The items in the order told on top of this file; `named` come in that order.
    fn arrange(self, named: &[Key]) -> Vec<Value> {
        let Self {
            items,
            first_at,
            original_len,
        } = self;
        let mut rank = BTreeMap::new();
        for (index, key) in named.iter().enumerate() {
            rank.entry(key).or_insert(index);
        }
        let was_at = |key: &Key| first_at.get(key).filter(|&&at| at < original_len);
        let stood_before = |left: &Key, right: &Key| match (was_at(left), was_at(right)) {
            (Some(left), Some(right)) => left < right,
            _ => false,
        };
        let (mut named, mut others): (Vec<_>, Vec<_>) = items
            .into_iter()
            .partition(|(key, _)| rank.contains_key(key));
        // Both sorts are stable, so items that share a key keep their order.
        named.sort_by_key(|(key, _)| rank.get(key));
        others.sort_by_key(|(key, _)| first_at.get(key));
        let mut others = others.into_iter().peekable();
        let mut arranged = Vec::with_capacity(named.len() + others.len());
        for (key, item) in named {
            while let Some((_, other)) = others.next_if(|(other, _)| stood_before(other, &key)) {
                arranged.push(other);
            }
            arranged.push(item);
        }
        arranged.extend(others.map(|(_, item)| item));
        arranged
    }
}
