//! Strategic merge patches as Kubernetes applies them, on plain JSON.
//!
//! [`merge`] lays a patch over a whole document, from scratch and by value: what the patch leaves out stays, what
//! it sets to `null` goes, objects are merged, lists are replaced — but for the lists that [`Schema`] knows to be
//! merged item by item. Four directives steer it, and none of them is ever part of the result:
//!
//! | In the patch | Meaning |
//! |---|---|
//! | `$patch: replace` | in an object: drop what was there; in an item of a merged list: drop all old items |
//! | `$patch: delete` | in an object: leave it empty (or out, where it wasn't); in an item: remove the items of that key |
//! | `$patch: merge` | the default, said aloud |
//! | `$retainKeys: [...]` | drop the fields of the object that are not named |
//! | `$setElementOrder/LIST: [...]` | the order of the items of a merged list |
//! | `$deleteFromPrimitiveList/LIST: [...]` | remove these plain values, after all else |
//!
//! The reference is `strategicpatch/patch.go` of apimachinery (read at v0.34). Where the two differ, by choice:
//!
//! * Directives and nulls inside of new items and replaced lists are obeyed and dropped; the reference takes them
//!   over as they are.
//! * `$patch: replace` in an object with no counterpart sets that object. The reference drops it, so that a
//!   security context meant to replace another would be lost where there is none yet.
//! * `$patch: merge` is allowed, as the API conventions say. The reference refuses it.
//! * An order for a list that is empty or has become so is fine. The reference refuses it.
//! * Mistakes are errors wherever they stand: an unknown `$` key, an unknown value of `$patch`, a list directive that
//!   fits no merged list, an item missing in its order, a merge key of null. The reference overlooks some of them
//!   in parts that it takes over.
//! * Fields that the schema doesn't know are merged like any other; the reference may refuse them.

mod directives;
mod error;
mod lists;
mod schema;

use serde_json::{Map, Value};

use self::directives::{Directives, Whole};
pub use self::error::{MergeError, Problem};
use self::lists::{Key, merge_keyed, merge_set};
use self::schema::Field;
pub use self::schema::{POD, Schema, TASK_TEMPLATE};

/// How deep either document may be nested: as deep as `serde_json` reads text.
const DEPTH_MAX: usize = 128;

type Object = Map<String, Value>;

/// Lays `patch` over `original`, whose type is told by `schema`.
///
/// # Errors
///
/// When a document is not an object or nested too deeply, and when the patch can't be understood: the error names
/// the place and what is wrong with it.
pub fn merge(
    original: &Value,
    patch: &Value,
    schema: &'static Schema,
) -> Result<Value, MergeError> {
    // All recursion below follows one of the two documents, so this bounds it once for all.
    if !nested_at_most(original, DEPTH_MAX) || !nested_at_most(patch, DEPTH_MAX) {
        return Err(Problem::TooDeep { limit: DEPTH_MAX }.into());
    }
    let Value::Object(original) = original else {
        return Err(Problem::OriginalNotAnObject.into());
    };
    let Value::Object(patch) = patch else {
        return Err(Problem::NotAnObject.into());
    };
    let mut merged = original.clone();
    merge_object(&mut merged, patch, schema)?;
    Ok(Value::Object(merged))
}

fn nested_at_most(value: &Value, levels: usize) -> bool {
    let Some(below) = levels.checked_sub(1) else {
        return false;
    };
    match value {
        Value::Object(fields) => fields.values().all(|value| nested_at_most(value, below)),
        Value::Array(items) => items.iter().all(|value| nested_at_most(value, below)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}

fn merge_object(target: &mut Object, patch: &Object, schema: &Schema) -> Result<(), MergeError> {
    let patch = Directives::read(patch, schema)?;
    match patch.whole {
        Whole::Merge => {}
        Whole::Replace => target.clear(),
        Whole::Delete => {
            target.clear();
            return Ok(());
        }
    }
    if let Some(retained) = &patch.retained {
        target.retain(|name, _| retained.contains(name.as_str()));
    }
    for (&name, &value) in &patch.fields {
        let order = patch.orders.get(name).map(Vec::as_slice);
        merge_field(target, (name, value), schema.field(name), order)
            .map_err(|error| error.in_field(name))?;
    }
    // An order may come without changes of the items. That is a patch of no items.
    for (&name, order) in &patch.orders {
        if let (false, Some(Value::Array(old))) =
            (patch.fields.contains_key(name), target.get_mut(name))
        {
            merge_list(old, &[], schema.field(name), Some(order))
                .map_err(|error| error.in_field(name))?;
        }
    }
    for (&name, removed) in &patch.removals {
        if let Some(Value::Array(old)) = target.get_mut(name) {
            old.retain(|value| Key::of(value).is_none_or(|key| !removed.contains(&key)));
        }
    }
    Ok(())
}

/// Values of different types don't merge: the patch's takes the place of the original's.
fn merge_field(
    target: &mut Object,
    (name, value): (&str, &Value),
    field: Option<&Field>,
    order: Option<&[Key]>,
) -> Result<(), MergeError> {
    match (target.get_mut(name), value) {
        (Some(Value::Object(old)), Value::Object(new)) => {
            merge_object(old, new, Schema::beneath(field))
        }
        (Some(Value::Array(old)), Value::Array(new)) => merge_list(old, new, field, order),
        _ => {
            match taken(value, Schema::beneath(field))? {
                Some(value) => target.insert(name.to_owned(), value),
                None => target.remove(name),
            };
            Ok(())
        }
    }
}

fn merge_list(
    old: &mut Vec<Value>,
    new: &[Value],
    field: Option<&Field>,
    order: Option<&[Key]>,
) -> Result<(), MergeError> {
    match field {
        Some(Field::Keyed { key, items }) => merge_keyed(old, new, (key, items), order),
        Some(Field::Set) => merge_set(old, new, order),
        Some(Field::Object(_)) | None => {
            *old = taken_items(new, Schema::beneath(field))?;
            Ok(())
        }
    }
}

/// The patch's value where there is nothing to merge it with; `None` if it stands for nothing.
fn taken(value: &Value, schema: &Schema) -> Result<Option<Value>, MergeError> {
    match value {
        Value::Null => Ok(None),
        Value::Object(patch) if directives::whole(patch)? == Whole::Delete => Ok(None),
        Value::Object(patch) => {
            let mut object = Object::new();
            merge_object(&mut object, patch, schema)?;
            Ok(Some(Value::Object(object)))
        }
        Value::Array(items) => Ok(Some(Value::Array(taken_items(items, schema)?))),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(Some(value.clone())),
    }
}

/// The items of a list that takes the place of another; those that only carry a directive for the list are left
/// out. The items need no merge key, and may share one: two ports of one number, TCP and UDP, are legal.
fn taken_items(items: &[Value], schema: &Schema) -> Result<Vec<Value>, MergeError> {
    let mut kept = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let value = match item {
            Value::Null => Some(Value::Null),
            Value::Object(patch)
                if directives::whole(patch).map_err(|error| error.in_item(index))?
                    == Whole::Replace =>
            {
                None
            }
            _ => taken(item, schema).map_err(|error| error.in_item(index))?,
        };
        kept.extend(value);
    }
    Ok(kept)
}

#[cfg(test)]
mod tests;
