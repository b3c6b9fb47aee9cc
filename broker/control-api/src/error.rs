//! Errors of the control API: a status code and `{"error": {"reason", "message", …}}`.

use std::fmt;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

/// What kind of error it is. Programs decide by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub enum Reason {
    /// The request is wrong; `field` says where. 400.
    Invalid,
    /// The caller's certificate is not one for the control API of this cluster. 403.
    Forbidden,
    /// There is no such path, member or group. 404.
    NotFound,
    /// The path does not take this method. 405.
    MethodNotAllowed,
    /// Another node leads; `leader` says which, where it is known. 409.
    NotLeader,
    /// It does not fit the present state, such as a bootstrap of a node of another cluster. 409.
    Conflict,
    /// The body is too large. 413.
    TooLarge,
    /// The body is not JSON. 415.
    UnsupportedMediaType,
    /// Something went wrong inside. 500.
    Internal,
    /// A group has no quorum, so nothing can be decided. 503.
    NoQuorum,
    /// This node cannot answer now, such as one that is no member yet. 503.
    Unavailable,
    /// The answer did not come in time; what was asked may still happen. 504.
    Timeout,
    /// A reason of a newer version.
    #[serde(other)]
    Unknown,
}

impl Reason {
    fn status(self) -> StatusCode {
        match self {
            Self::Invalid => StatusCode::BAD_REQUEST,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotLeader | Self::Conflict => StatusCode::CONFLICT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Internal | Self::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NoQuorum | Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }
}

/// An error of the control API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiError {
    /// What kind.
    pub reason: Reason,
    /// What happened, for people.
    pub message: String,
    /// The field of the request that is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Name of the leader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
}

/// What an error looks like on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The error.
    pub error: ApiError,
}

impl ApiError {
    /// An error of this kind.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), field: None, leader: None }
    }

    /// A field of the request is wrong.
    pub fn invalid(field: &str, message: impl Into<String>) -> Self {
        Self { field: Some(field.to_owned()), ..Self::new(Reason::Invalid, message) }
    }

    /// Another node leads.
    #[must_use]
    pub fn not_leader(group: &str, leader: Option<String>) -> Self {
        let message = match &leader {
            Some(leader) => format!("{leader} leads the group {group}"),
            None => format!("the group {group} has no leader that this node knows"),
        };
        Self { leader, ..Self::new(Reason::NotLeader, message) }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.field {
            // A message that has more to say of it begins otherwise.
            Some(field) if !self.message.contains(&format!("{field}: ")) => write!(f, "{field}: {}", self.message),
            _ => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for ApiError {}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.reason.status(), Json(ErrorBody { error: self })).into_response()
    }
}
