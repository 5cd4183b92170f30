//! What the API server was asked, by whom: its audit log, read.

use std::collections::{BTreeMap, HashSet};

use serde_json::Value;

/// One request that the API server has taken up. A watch is one request, however long it lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who asked.
    pub user: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, …
    pub verb: String,
    /// The resource in the plural, `pods` or `pods/status`; a path such as `/readyz` where it is no resource.
    pub resource: String,
    /// The namespace; empty for all and for none.
    pub namespace: String,
    /// The name of the object; empty where it has none.
    pub name: String,
    /// The status code of the answer; 0 while there is none.
    pub code: i64,
}

/// Requests in the order in which they were logged.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    requests: Vec<Request>,
}

impl Audit {
    /// Reads the lines of a log; a last line that is only half written is left for the next time.
    pub(crate) fn read(log: &str) -> Self {
        let mut seen = HashSet::new();
        let lines = log
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let requests = lines
            .filter(|line| seen.insert(text(&line["auditID"])))
            .map(|line| request(&line))
            .collect();
        Self { requests }
    }

    /// All of them.
    pub fn requests(&self) -> &[Request] {
        &self.requests
    }

    /// How many a user has made with this verb for this resource.
    pub fn count(&self, user: &str, verb: &str, resource: &str) -> usize {
        let wanted = |request: &&Request| {
            request.user == user && request.verb == verb && request.resource == resource
        };
        self.requests.iter().filter(wanted).count()
    }

    /// How many there are by user, verb and resource.
    pub fn counts(&self) -> BTreeMap<(String, String, String), usize> {
        let mut counts = BTreeMap::new();
        for request in &self.requests {
            let Request {
                user,
                verb,
                resource,
                ..
            } = request.clone();
            *counts.entry((user, verb, resource)).or_default() += 1;
        }
        counts
    }

    /// Only those for objects of one namespace.
    #[must_use]
    pub fn in_namespace(mut self, namespace: &str) -> Self {
        self.requests
            .retain(|request| request.namespace == namespace);
        self
    }

    /// Only those of one user.
    #[must_use]
    pub fn of_user(mut self, user: &str) -> Self {
        self.requests.retain(|request| request.user == user);
        self
    }

    /// Only those that came after an earlier reading of the same log.
    #[must_use]
    pub fn since(mut self, earlier: &Self) -> Self {
        self.requests
            .drain(..earlier.requests.len().min(self.requests.len()));
        self
    }
}

fn request(line: &Value) -> Request {
    let object = &line["objectRef"];
    let resource = match (object["resource"].as_str(), object["subresource"].as_str()) {
        (Some(resource), Some(part)) => format!("{resource}/{part}"),
        (Some(resource), None) => resource.to_owned(),
        (None, _) => text(&line["requestURI"])
            .split('?')
            .next()
            .unwrap_or_default()
            .to_owned(),
    };
    Request {
        user: text(&line["user"]["username"]),
        verb: text(&line["verb"]),
        resource,
        namespace: text(&object["namespace"]),
        name: text(&object["name"]),
        code: line["responseStatus"]["code"].as_i64().unwrap_or_default(),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
