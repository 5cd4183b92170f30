//! Errors as the API reports them: a stable code for programs, a message for people.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($name:ident, $status:literal, $doc:literal;)*) => {
        /// Why a request was refused. Stable: a code never changes its meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $(#[doc = $doc] $name,)*
        }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The code as it stands in [`ErrorBody::code`].
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// The HTTP status that goes with it.
            pub fn http_status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }
        }
    };
}

codes! {
    BadRequest, 400, "The request is malformed other than in its task, such as a query parameter.";
    InvalidTask, 400, "The body is no task or list of tasks that could be run.";
    Unauthorized, 401, "No bearer token, or a wrong one.";
    TaskNotFound, 404, "There is no task of this name.";
    NotFound, 404, "There is no such path.";
    MethodNotAllowed, 405, "The path knows other methods only.";
    RequestTimeout, 408, "The request did not arrive in time.";
    AlreadyExists, 409, "There is a task of this name.";
    Gone, 410, "The resource version is too old to watch from.";
    PreconditionFailed, 412, "The task of this name has another uid.";
    PayloadTooLarge, 413, "The body is larger than the agent accepts.";
    UriTooLong, 414, "The request line is longer than the agent accepts.";
    TooManyTasks, 429, "The agent keeps as many tasks as it may.";
    HeaderFieldsTooLarge, 431, "The header is larger than the agent accepts.";
    InternalError, 500, "The agent failed; its log says why.";
    ServiceUnavailable, 503, "The agent is starting, ending or busy.";
    InsufficientStorage, 507, "The data directory is full.";
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The body of every answer that is an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(rename = "Error")
)]
pub struct ErrorBody {
    /// One stable CamelCase word; text, since other agents have words of their own.
    pub code: String,
    /// What is wrong, where, and what would be right.
    pub message: String,
}

impl ErrorBody {
    /// The body for `code`.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code: code.as_str().to_owned(),
            message: message.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_one_camel_case_word_with_an_error_status() {
        for code in ErrorCode::ALL {
            assert!(code.as_str().chars().all(char::is_alphabetic));
            assert!((400..600).contains(&code.http_status()), "{code}");
        }
    }

    #[test]
    fn the_body_has_a_code_and_a_message() {
        let body = ErrorBody::new(ErrorCode::TaskNotFound, "task a not found");
        let text = r#"{"code":"TaskNotFound","message":"task a not found"}"#;
        assert_eq!(serde_json::to_string(&body).unwrap(), text);
        assert_eq!(serde_json::from_str::<ErrorBody>(text).unwrap(), body);
    }
}
