//! Waits for what will become true, and shows on failure what was seen instead.

use std::fmt::Debug;
use std::time::Duration;

use kube::api::{Api, ListParams};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::Instant;

/// How long a test waits for anything before it fails.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How often a wait looks.
const LOOK: Duration = Duration::from_millis(20);

/// Looks again and again until `look` gives a value. Its error says what was seen instead.
///
/// # Panics
/// After `deadline`, with `what` and with what was seen last.
pub async fn eventually<T, E: Debug>(
    what: &str,
    deadline: Duration,
    mut look: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let end = Instant::now() + deadline;
    loop {
        match look().await {
            Ok(value) => return value,
            Err(seen) if Instant::now() > end => {
                panic!("not within {deadline:?}: {what}; last seen: {seen:?}")
            }
            Err(_) => tokio::time::sleep(LOOK).await,
        }
    }
}

/// Waits until an object is there of which `is_so` holds, and gives it.
///
/// # Panics
/// After `deadline`, with the object as it is then.
pub async fn object<K>(
    api: &Api<K>,
    name: &str,
    what: &str,
    deadline: Duration,
    is_so: impl Fn(&K) -> bool,
) -> K
where
    K: Clone + Debug + DeserializeOwned + Serialize,
{
    eventually(&format!("{name}: {what}"), deadline, async || {
        match api.get_opt(name).await {
            Ok(Some(object)) if is_so(&object) => Ok(object),
            Ok(Some(object)) => Err(Seen(dump(&object))),
            Ok(None) => Err(Seen("it is not there".to_owned())),
            Err(error) => Err(Seen(error.to_string())),
        }
    })
    .await
}

/// Waits until `is_so` holds of all objects of a kind together, and gives them.
///
/// # Panics
/// After `deadline`, with the objects as they are then.
pub async fn objects<K>(
    api: &Api<K>,
    what: &str,
    deadline: Duration,
    is_so: impl Fn(&[K]) -> bool,
) -> Vec<K>
where
    K: Clone + Debug + DeserializeOwned + Serialize,
{
    eventually(what, deadline, async || {
        match api.list(&ListParams::default()).await {
            Ok(list) if is_so(&list.items) => Ok(list.items),
            Ok(list) => Err(Seen(dump(&list.items))),
            Err(error) => Err(Seen(error.to_string())),
        }
    })
    .await
}

/// Waits until an object is not there.
///
/// # Panics
/// After `deadline`, with the object as it is then.
pub async fn gone<K>(api: &Api<K>, name: &str, deadline: Duration)
where
    K: Clone + Debug + DeserializeOwned + Serialize,
{
    eventually(&format!("{name} is gone"), deadline, async || {
        match api.get_opt(name).await {
            Ok(None) => Ok(()),
            Ok(Some(object)) => Err(Seen(dump(&object))),
            Err(error) => Err(Seen(error.to_string())),
        }
    })
    .await;
}

/// A text for people, shown with its line breaks.
struct Seen(String);

impl Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// An object as JSON, without what says who wrote which field.
fn dump(object: &impl Serialize) -> String {
    let mut value = serde_json::to_value(object).unwrap_or_default();
    let objects = match &mut value {
        Value::Array(items) => items.as_mut_slice(),
        one => std::slice::from_mut(one),
    };
    for object in objects {
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
    }
    format!("{value:#}")
}
