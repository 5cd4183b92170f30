//! Every refusal as a JSON body with a stable code, and the headers that belong to it.

use axum::http::header::{ALLOW, CONNECTION, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use sandbox_api::{ErrorBody, ErrorCode, InvalidTask, TaskName};

use super::respond;
use crate::manager::handle::{Gone, Refused};

/// Why a request is not answered as asked.
#[derive(Debug)]
pub(super) struct ApiError {
    code: ErrorCode,
    message: String,
    allow: Option<HeaderValue>,
    connection: Connection,
}

/// What becomes of the connection after the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Connection {
    Keep,
    /// The rest of the request's body would be taken for the next request.
    Close,
}

impl ApiError {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            allow: None,
            connection: Connection::Keep,
        }
    }

    /// A query parameter that can't be used; says what would be right.
    pub(super) fn parameter(name: &str, value: &str, problem: &str) -> Self {
        let value: String = value.chars().take(64).collect();
        Self::new(
            ErrorCode::BadRequest,
            format!("query parameter {name}: {value:?} {problem}"),
        )
    }

    /// A name that no task can have, so that there is none.
    pub(super) fn no_such_task(name: &str) -> Self {
        match TaskName::parse(name) {
            Ok(name) => Refused::NotFound(name).into(),
            Err(invalid) => {
                let name: String = name.chars().take(64).collect();
                let message =
                    format!("task {name:?} not found; no task can have this name, which {invalid}");
                Self::new(ErrorCode::TaskNotFound, message)
            }
        }
    }

    pub(super) fn method_not_allowed(method: &str, path: &str, allow: &str) -> Self {
        let message = format!("{path} does not know the method {method}; it knows {allow}");
        let allow = HeaderValue::from_str(allow).ok();
        Self {
            allow,
            ..Self::new(ErrorCode::MethodNotAllowed, message)
        }
    }

    /// Closes the connection after the answer, since the request was not read to its end.
    pub(super) fn and_close(self) -> Self {
        Self {
            connection: Connection::Close,
            ..self
        }
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        let code = match &refused {
            Refused::NotFound(_) => ErrorCode::TaskNotFound,
            Refused::Exists(_) | Refused::Foreign(_) => ErrorCode::AlreadyExists,
            Refused::UidMismatch { .. } => ErrorCode::PreconditionFailed,
            Refused::TooMany(_) => ErrorCode::TooManyTasks,
            Refused::Unsupported(_) => ErrorCode::InvalidTask,
            Refused::StorageFull(_) => ErrorCode::InsufficientStorage,
            Refused::Storage(_) => ErrorCode::InternalError,
            Refused::Busy => ErrorCode::ServiceUnavailable,
        };
        Self::new(code, refused.to_string())
    }
}

impl From<InvalidTask> for ApiError {
    fn from(invalid: InvalidTask) -> Self {
        Self::new(ErrorCode::InvalidTask, invalid.to_string())
    }
}

impl From<Gone> for ApiError {
    fn from(gone: Gone) -> Self {
        Self::new(ErrorCode::Gone, gone.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.code.http_status())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = ErrorBody::new(self.code, self.message);
        let mut response = respond::json(status, &body);
        let headers = response.headers_mut();
        match status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, allow);
        }
        if self.connection == Connection::Close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}
