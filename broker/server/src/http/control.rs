//! The control API's routes, over whoever can carry the operations out.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Query, Request, State};
use axum::http::Method;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use futures::future::BoxFuture;
use serde::de::DeserializeOwned;
use tracing::info;

use super::api::{
    Ban, BanRequest, Bans, BootstrapRequest, Bootstrapped, Groups, JoinInfo, Leaders, LeaveRequest, Left, LogLevel,
    Loss, LossQuery, Members, NodeStatus, Reloaded, TransferRequest, Transferred, UnbanRequest, Unbanned, path,
};
use super::error::{ApiError, Reason};
use super::serve::Caller;
use crate::telemetry::{LogControl, LogFilter};

/// The largest request body. A bootstrap of 64 members fits many times.
const MAX_BODY: usize = 64 * 1024;
/// The longest that an operation may take; then the caller is told, and the operation's future is dropped.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(30);
/// Most initial members of a cluster.
const MAX_INITIAL_MEMBERS: usize = 64;
/// Longest name in a request.
const MAX_TEXT: usize = 300;

/// An operation's answer, later.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, ApiError>>;

/// What the control API can ask of a node. Requests come checked for form: required texts are neither empty nor
/// overlong. What only the leader can do is forwarded to it by the implementation; where that fails, the error is
/// [`ApiError::not_leader`] or [`Reason::NoQuorum`]. Dropping a future must leave nothing half done that the node
/// depends on.
pub trait ControlOps: Send + Sync + 'static {
    /// How this node is doing.
    fn status(&self) -> Answer<'_, NodeStatus>;
    /// The members.
    fn members(&self) -> Answer<'_, Members>;
    /// Who leads.
    fn leaders(&self) -> Answer<'_, Leaders>;
    /// The groups as this node sees them.
    fn groups(&self) -> Answer<'_, Groups>;
    /// How far this node is on its way into a cluster.
    fn join_info(&self) -> Answer<'_, JoinInfo>;
    /// Gives the permission to form a cluster. Repeating it is harmless; another cluster is a [`Reason::Conflict`].
    fn bootstrap(&self, request: BootstrapRequest) -> Answer<'_, Bootstrapped>;
    /// Makes a member leave for good.
    fn leave(&self, request: LeaveRequest) -> Answer<'_, Left>;
    /// Makes another member lead a group.
    fn transfer(&self, request: TransferRequest) -> Answer<'_, Transferred>;
    /// Reads the node's settings again. Wrong ones are a [`Reason::Invalid`], and change nothing.
    fn reload(&self) -> Answer<'_, Reloaded>;
    /// What would be lost if a node stopped.
    fn loss(&self, query: LossQuery) -> Answer<'_, Loss>;
    /// All bans.
    fn bans(&self) -> Answer<'_, Bans>;
    /// Bans clients, as the caller of this name asks.
    fn ban(&self, request: BanRequest, by: String) -> Answer<'_, Ban>;
    /// Ends a ban.
    fn unban(&self, request: UnbanRequest) -> Answer<'_, Unbanned>;
}

#[derive(Clone)]
struct Control {
    ops: Arc<dyn ControlOps>,
    log: LogControl,
}

/// The routes of `/control/v1`. To be served under mutual TLS only.
pub fn router(ops: Arc<dyn ControlOps>, log: LogControl) -> Router {
    router_with(ops, log, OPERATION_TIMEOUT)
}

pub(super) fn router_with(ops: Arc<dyn ControlOps>, log: LogControl, timeout: Duration) -> Router {
    Router::new()
        .route(path::STATUS, get(status))
        .route(path::MEMBERS, get(members))
        .route(path::LEADER, get(leader))
        .route(path::GROUPS, get(groups))
        .route(path::JOIN, get(join))
        .route(path::BOOTSTRAP, post(bootstrap))
        .route(path::LEAVE, post(leave))
        .route(path::TRANSFER, post(transfer))
        .route(path::LOSS, get(loss))
        .route(path::RELOAD, post(reload))
        .route(path::BANS, get(bans).post(ban).delete(unban))
        .route(path::LOG, get(log_level).put(set_log_level))
        .fallback(|| async { ApiError::new(Reason::NotFound, "there is no such path") })
        .method_not_allowed_fallback(|| async {
            ApiError::new(Reason::MethodNotAllowed, "this path does not take this method")
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn(move |request, next| bounded(request, next, timeout)))
        .with_state(Control { ops, log })
}

/// Lets known callers in only, ends what takes too long, and notes who changes something.
async fn bounded(request: Request, next: Next, timeout: Duration) -> Response {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let Some(Caller(caller)) = request.extensions().get::<Caller>().cloned() else {
        let message = "the control API is for control clients and nodes of this cluster, known by their certificates: the node needs \
                       http.tls, and the caller a certificate of the same authority";
        return ApiError::new(Reason::Forbidden, message).into_response();
    };
    let response = match tokio::time::timeout(timeout, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let message = format!("no answer within {} ms", timeout.as_millis());
            ApiError::new(Reason::Timeout, message).into_response()
        }
    };
    if method != Method::GET && method != Method::HEAD {
        let status = response.status().as_u16();
        info!(%method, path, %caller, status, "control API");
    }
    response
}

type Outcome<T> = Result<Json<T>, ApiError>;

async fn status(State(control): State<Control>) -> Outcome<NodeStatus> {
    control.ops.status().await.map(Json)
}

async fn members(State(control): State<Control>) -> Outcome<Members> {
    control.ops.members().await.map(Json)
}

async fn leader(State(control): State<Control>) -> Outcome<Leaders> {
    control.ops.leaders().await.map(Json)
}

async fn groups(State(control): State<Control>) -> Outcome<Groups> {
    control.ops.groups().await.map(Json)
}

async fn join(State(control): State<Control>) -> Outcome<JoinInfo> {
    control.ops.join_info().await.map(Json)
}

async fn bootstrap(State(control): State<Control>, Body(request): Body<BootstrapRequest>) -> Outcome<Bootstrapped> {
    if let Some(cluster) = &request.cluster {
        text("cluster", cluster)?;
    }
    if request.members.is_empty() || request.members.len() > MAX_INITIAL_MEMBERS {
        let message = format!("there must be 1 to {MAX_INITIAL_MEMBERS} members");
        return Err(ApiError::invalid("members", message));
    }
    for (at, name) in request.members.iter().enumerate() {
        let field = format!("members[{at}]");
        text(&field, name)?;
        if request.members[..at].contains(name) {
            let message = format!("{name} is there twice");
            return Err(ApiError::invalid(&field, message));
        }
    }
    control.ops.bootstrap(request).await.map(Json)
}

async fn leave(State(control): State<Control>, Body(request): Body<LeaveRequest>) -> Outcome<Left> {
    text("node", &request.node)?;
    control.ops.leave(request).await.map(Json)
}

async fn transfer(State(control): State<Control>, Body(request): Body<TransferRequest>) -> Outcome<Transferred> {
    text("group", &request.group)?;
    text("to", &request.to)?;
    control.ops.transfer(request).await.map(Json)
}

async fn loss(State(control): State<Control>, Asked(query): Asked<LossQuery>) -> Outcome<Loss> {
    text("node", &query.node)?;
    control.ops.loss(query).await.map(Json)
}

async fn reload(State(control): State<Control>) -> Outcome<Reloaded> {
    control.ops.reload().await.map(Json)
}

async fn bans(State(control): State<Control>) -> Outcome<Bans> {
    control.ops.bans().await.map(Json)
}

async fn ban(
    State(control): State<Control>,
    Extension(Caller(caller)): Extension<Caller>,
    Body(request): Body<BanRequest>,
) -> Outcome<Ban> {
    control.ops.ban(request, caller.to_string()).await.map(Json)
}

async fn unban(State(control): State<Control>, Body(request): Body<UnbanRequest>) -> Outcome<Unbanned> {
    control.ops.unban(request).await.map(Json)
}

async fn log_level(State(control): State<Control>) -> Outcome<LogLevel> {
    let filter = control.log.filter().to_string();
    Ok(Json(LogLevel { filter }))
}

async fn set_log_level(State(control): State<Control>, Body(request): Body<LogLevel>) -> Outcome<LogLevel> {
    let filter: LogFilter = request
        .filter
        .parse()
        .map_err(|error: crate::telemetry::FilterError| ApiError::invalid("filter", error.to_string()))?;
    control.log.set(filter);
    log_level(State(control)).await
}

fn text(field: &str, value: &str) -> Result<(), ApiError> {
    if value.is_empty() {
        return Err(ApiError::invalid(field, "it must not be empty"));
    }
    if value.len() > MAX_TEXT {
        let message = format!("it must not be longer than {MAX_TEXT} bytes");
        return Err(ApiError::invalid(field, message));
    }
    Ok(())
}

/// A JSON body whose errors are ours.
struct Body<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        match Json::<T>::from_request(request, state).await {
            Ok(Json(body)) => Ok(Self(body)),
            Err(rejection) => Err(refuse_body(&rejection)),
        }
    }
}

fn refuse_body(rejection: &JsonRejection) -> ApiError {
    let reason = match rejection.status().as_u16() {
        413 => Reason::TooLarge,
        415 => Reason::UnsupportedMediaType,
        _ => Reason::Invalid,
    };
    let error = ApiError::new(reason, rejection.body_text());
    match rejection {
        // "Failed to deserialize …: PATH: what is wrong at line …"
        JsonRejection::JsonDataError(_) => name_field(error),
        _ => error,
    }
}

/// A query string whose errors are ours.
struct Asked<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut axum::http::request::Parts, state: &S) -> Result<Self, ApiError> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(query)) => Ok(Self(query)),
            Err(rejection) => Err(refuse_query(&rejection)),
        }
    }
}

fn refuse_query(rejection: &QueryRejection) -> ApiError {
    name_field(ApiError::new(Reason::Invalid, rejection.body_text()))
}

/// serde names a missing or unknown field in the text, between back-quotes; one with a wrong value is named by its
/// path before the second colon.
fn name_field(mut error: ApiError) -> ApiError {
    let quoted = ["missing field `", "unknown field `"].iter().find_map(|start| {
        let (_, rest) = error.message.split_once(start)?;
        rest.split_once('`').map(|(field, _)| field.to_owned())
    });
    error.field = quoted.or_else(|| {
        let field = error.message.split(": ").nth(1)?;
        let path = |byte: u8| byte.is_ascii_alphanumeric() || b"[]._?".contains(&byte);
        (!field.is_empty() && field.bytes().all(path)).then(|| field.to_owned())
    });
    error
}
