//! Whom a call is for: which agent, and which of its tasks.

use std::net::SocketAddr;

use hyper::header::HeaderValue;
use sandbox_api::{TaskName, TaskUid};

/// Where an agent listens, and the token that it asks for.
#[derive(Clone, Debug)]
pub struct Endpoint {
    address: SocketAddr,
    /// Marked as sensitive, so that `Debug` does not show it.
    authorization: Option<HeaderValue>,
}

/// A token that fits into no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token must be printable ASCII without spaces and not be empty")]
pub struct InvalidToken;

impl Endpoint {
    /// The agent at `address`, which asks for no token.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            authorization: None,
        }
    }

    /// The same agent, which asks for the bearer token `token`.
    ///
    /// # Errors
    /// [`InvalidToken`] when no header can hold it.
    pub fn with_token(mut self, token: &str) -> Result<Self, InvalidToken> {
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidToken);
        }
        let header = HeaderValue::try_from(format!("Bearer {token}"));
        let mut header = header.map_err(|_| InvalidToken)?;
        header.set_sensitive(true);
        self.authorization = Some(header);
        Ok(self)
    }

    /// Where the agent listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn authorization(&self) -> Option<&HeaderValue> {
        self.authorization.as_ref()
    }
}

/// One task of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub name: TaskName,
    /// When given, the call applies to the task with this uid only, and is refused with 412 when the
    /// name has gone to another. `OpenSandbox`'s agent has no uids and ignores it.
    pub uid: Option<TaskUid>,
}

impl Target {
    /// The task that has the name now, whichever it is.
    pub fn named(name: TaskName) -> Self {
        Self { name, uid: None }
    }

    /// The one task with this name and uid.
    pub fn exactly(name: TaskName, uid: TaskUid) -> Self {
        let uid = Some(uid);
        Self { name, uid }
    }

    /// The path of the task with a query of the given parameters; neither a name nor a uid has
    /// characters that would have to be escaped there.
    pub(crate) fn path(&self, suffix: &str, parameters: &[(&str, String)]) -> String {
        let mut path = format!("/tasks/{}{suffix}", self.name);
        let uid = self.uid.as_ref().map(|uid| ("uid", uid.as_str()));
        let others = parameters.iter().map(|(name, text)| (*name, text.as_str()));
        for (separator, (name, text)) in ["?"]
            .into_iter()
            .chain(std::iter::repeat("&"))
            .zip(uid.into_iter().chain(others))
        {
            path.extend([separator, name, "=", text]);
        }
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> TaskName {
        TaskName::parse("a.b").unwrap()
    }

    #[test]
    fn a_path_has_the_uid_and_the_parameters() {
        let target = Target::named(name());
        assert_eq!(target.path("", &[]), "/tasks/a.b");
        let follow = ("follow", "true".to_owned());
        assert_eq!(
            target.path("/logs", &[follow.clone(), ("tailLines", "3".to_owned())]),
            "/tasks/a.b/logs?follow=true&tailLines=3"
        );
        let exact = Target::exactly(name(), TaskUid::parse("u-1").unwrap());
        assert_eq!(
            exact.path("/logs", &[follow]),
            "/tasks/a.b/logs?uid=u-1&follow=true"
        );
    }

    #[test]
    fn a_token_is_checked_and_never_shown() {
        let endpoint = Endpoint::new("127.0.0.1:1".parse().unwrap());
        for token in ["", "a b", "a\n", "\u{e9}"] {
            assert!(endpoint.clone().with_token(token).is_err(), "{token:?}");
        }
        let endpoint = endpoint.with_token("secret").unwrap();
        assert!(!format!("{endpoint:?}").contains("secret"));
    }
}
