//! `/healthz`, `/readyz` and `/metrics`.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};

use super::api::{FailingCondition, ReadyBody};
use crate::metrics::Metrics;

/// A worker that has not turned its loop for so long is stuck: it beats every second.
pub const STUCK_AFTER: Duration = Duration::from_secs(10);

/// A condition: it holds, or the reason why not.
pub type Condition = Result<(), String>;

/// When a node may be sent clients. All four hold for a node that is ready; a standalone node needs the last
/// only, the others hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// It is a member of the cluster.
    pub member: Condition,
    /// It has applied what was committed when it started to serve.
    pub caught_up: Condition,
    /// It holds a serving lease.
    pub lease: Condition,
    /// Its listeners are open.
    pub listeners: Condition,
}

impl Default for Readiness {
    /// Nothing is known yet, nothing holds.
    fn default() -> Self {
        let starting = || Err("the node is starting".to_owned());
        Self { member: starting(), caught_up: starting(), lease: starting(), listeners: starting() }
    }
}

impl Readiness {
    /// Every condition holds.
    #[must_use]
    pub fn ready() -> Self {
        Self { member: Ok(()), caught_up: Ok(()), lease: Ok(()), listeners: Ok(()) }
    }

    /// The conditions by name.
    pub fn conditions(&self) -> [(&'static str, &Condition); 4] {
        [
            ("member", &self.member),
            ("caught_up", &self.caught_up),
            ("lease", &self.lease),
            ("listeners", &self.listeners),
        ]
    }

    /// The conditions that do not hold.
    #[must_use]
    pub fn failing(&self) -> Vec<FailingCondition> {
        let conditions = self.conditions().into_iter();
        conditions
            .filter_map(|(condition, state)| {
                let reason = state.as_ref().err()?.clone();
                Some(FailingCondition { condition: condition.to_owned(), reason })
            })
            .collect()
    }
}

/// Whoever knows whether the node is ready. Asked at each probe; must not block.
pub trait ReadinessSource: Send + Sync {
    /// The conditions now.
    fn readiness(&self) -> Readiness;
}

impl<F: Fn() -> Readiness + Send + Sync> ReadinessSource for F {
    fn readiness(&self) -> Readiness {
        self()
    }
}

#[derive(Clone)]
struct Probes {
    metrics: Arc<Metrics>,
    readiness: Arc<dyn ReadinessSource>,
    stuck_after: Duration,
}

/// The three paths.
pub fn router(metrics: Arc<Metrics>, readiness: Arc<dyn ReadinessSource>) -> Router {
    router_with(metrics, readiness, STUCK_AFTER)
}

pub(super) fn router_with(metrics: Arc<Metrics>, readiness: Arc<dyn ReadinessSource>, stuck_after: Duration) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(render))
        .with_state(Probes { metrics, readiness, stuck_after })
}

/// 200 while every worker's loop turns, else 503: the process should be restarted.
async fn healthz(State(probes): State<Probes>) -> Response {
    let beats = probes.metrics.worker_beats();
    let stuck: Vec<String> = beats
        .iter()
        .enumerate()
        .filter(|(_, silent)| **silent > probes.stuck_after)
        .map(|(worker, silent)| format!("worker {worker} for {} s", silent.as_secs()))
        .collect();
    if stuck.is_empty() {
        (StatusCode::OK, "ok\n").into_response()
    } else {
        let text = format!("stuck: {}\n", stuck.join(", "));
        (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
    }
}

/// 200 when clients may be sent here, else 503 with the reasons.
async fn readyz(State(probes): State<Probes>) -> Response {
    let failing = probes.readiness.readiness().failing();
    let ready = failing.is_empty();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(ReadyBody { ready, failing })).into_response()
}

async fn render(State(probes): State<Probes>) -> Response {
    let content_type = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], probes.metrics.render()).into_response()
}
