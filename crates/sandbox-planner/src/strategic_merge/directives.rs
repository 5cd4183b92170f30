//! One object of a patch, taken apart: its directives on one side, its fields on the other.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::lists::{Key, keys_of_patch};
use super::schema::{Field, Schema};
use super::{MergeError, Object, Problem};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ELEMENT_ORDER: &str = "$setElementOrder/";
const DELETE_FROM_PRIMITIVE_LIST: &str = "$deleteFromPrimitiveList/";

/// What `$patch` says about an object as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whole {
    Merge,
    Replace,
    Delete,
}

/// An object of a patch.
#[derive(Debug)]
pub(super) struct Directives<'patch> {
    pub(super) whole: Whole,
    /// The fields that stay, if not all do.
    pub(super) retained: Option<BTreeSet<&'patch str>>,
    /// List by list, the order wanted.
    pub(super) orders: BTreeMap<&'patch str, Vec<Key>>,
    /// List by list, the plain values to remove.
    pub(super) removals: BTreeMap<&'patch str, BTreeSet<Key>>,
    /// All that is no directive.
    pub(super) fields: BTreeMap<&'patch str, &'patch Value>,
}

/// What `$patch` of an object says.
pub(super) fn whole(patch: &Object) -> Result<Whole, MergeError> {
    match patch.get(PATCH) {
        None => Ok(Whole::Merge),
        Some(Value::String(word)) if word == "merge" => Ok(Whole::Merge),
        Some(Value::String(word)) if word == "replace" => Ok(Whole::Replace),
        Some(Value::String(word)) if word == "delete" => Ok(Whole::Delete),
        Some(value) => Err(Problem::UnknownPatch {
            value: value.to_string(),
        }
        .into()),
    }
}

impl<'patch> Directives<'patch> {
    /// Takes an object of a patch apart and sees that its parts agree.
    pub(super) fn read(patch: &'patch Object, schema: &Schema) -> Result<Self, MergeError> {
        let mut read = Self {
            whole: whole(patch)?,
            retained: None,
            orders: BTreeMap::new(),
            removals: BTreeMap::new(),
            fields: BTreeMap::new(),
        };
        for (name, value) in patch {
            if name == RETAIN_KEYS {
                read.retained = Some(names(list(name, value)?)?);
            } else if let Some(field) = name.strip_prefix(SET_ELEMENT_ORDER) {
                let order = order(schema.field(field), list(name, value)?)
                    .map_err(|error| error.in_field(name))?;
                let order = order.ok_or_else(|| Problem::OrderOfUnmerged {
                    field: field.to_owned(),
                })?;
                read.orders.insert(field, order);
            } else if let Some(field) = name.strip_prefix(DELETE_FROM_PRIMITIVE_LIST) {
                let removed = plain(list(name, value)?).map_err(|error| error.in_field(name))?;
                read.removals.insert(field, removed.into_iter().collect());
            } else if !name.starts_with('$') {
                read.fields.insert(name, value);
            } else if name != PATCH {
                return Err(Problem::UnknownDirective { name: name.clone() }.into());
            }
        }
        read.check_retained()?;
        read.check_orders(schema)?;
        Ok(read)
    }

    /// A patch that sets a field and drops it in one breath is a mistake.
    fn check_retained(&self) -> Result<(), MergeError> {
        let Some(retained) = &self.retained else {
            return Ok(());
        };
        match self
            .fields
            .iter()
            .find(|(name, value)| !value.is_null() && !retained.contains(*name))
        {
            Some((&field, _)) => Err(Problem::NotRetained {
                field: field.to_owned(),
            }
            .into()),
            None => Ok(()),
        }
    }

    /// The patch's items have to be in the order, and in that order.
    fn check_orders(&self, schema: &Schema) -> Result<(), MergeError> {
        for (&name, order) in &self.orders {
            let Some(Value::Array(items)) = self.fields.get(name) else {
                continue;
            };
            let keys =
                keys_of_patch(items, schema.field(name)).map_err(|error| error.in_field(name))?;
            let mut order = order.iter();
            if !keys.iter().all(|key| order.any(|ordered| ordered == key)) {
                return Err(MergeError::from(Problem::OrderMismatch).in_field(name));
            }
        }
        Ok(())
    }
}

fn list<'patch>(name: &str, value: &'patch Value) -> Result<&'patch [Value], MergeError> {
    match value {
        Value::Array(items) => Ok(items),
        _ => Err(Problem::NotAList {
            name: name.to_owned(),
        }
        .into()),
    }
}

fn names(items: &[Value]) -> Result<BTreeSet<&str>, MergeError> {
    items
        .iter()
        .map(|item| item.as_str().ok_or_else(|| Problem::NotAName.into()))
        .collect()
}

fn plain(items: &[Value]) -> Result<Vec<Key>, MergeError> {
    keys_of_patch(items, Some(&Field::Set))
}

/// The keys of an order list; `None` if the list that it orders is not one that is merged.
fn order(field: Option<&Field>, items: &[Value]) -> Result<Option<Vec<Key>>, MergeError> {
    match field {
        Some(Field::Keyed { .. } | Field::Set) => keys_of_patch(items, field).map(Some),
        Some(Field::Object(_)) | None => Ok(None),
    }
}
