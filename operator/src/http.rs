//! `/healthz`, `/readyz` and `/metrics`.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::metrics::Metrics;
use crate::progress::Progress;

/// How the process is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// The API server has not answered yet.
    #[default]
    Starting,
    /// It waits for its turn, or acts.
    Ready,
}

#[derive(Clone)]
struct Served {
    metrics: Arc<Metrics>,
    progress: Arc<Progress>,
    health: watch::Receiver<Health>,
}

/// The paths.
pub fn router(metrics: Arc<Metrics>, progress: Arc<Progress>, health: watch::Receiver<Health>) -> Router {
    Router::new()
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .route("/metrics", get(render))
        .with_state(Served { metrics, progress, health })
}

/// An answer alone says little: what hangs may be beside it.
async fn alive(State(served): State<Served>) -> Response {
    match served.progress.stuck() {
        stuck if stuck.is_empty() => (StatusCode::OK, "ok\n").into_response(),
        stuck => {
            tracing::error!(?stuck, "something hangs; the process is to be started again");
            (StatusCode::SERVICE_UNAVAILABLE, stuck.join("\n") + "\n").into_response()
        }
    }
}

async fn ready(State(served): State<Served>) -> Response {
    match *served.health.borrow() {
        Health::Ready if served.metrics.waiting() > 0 => {
            let text = "the API server has not listed everything that is watched yet; the log says what is missing\n";
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
        Health::Ready => (StatusCode::OK, "ok\n").into_response(),
        Health::Starting => (StatusCode::SERVICE_UNAVAILABLE, "the API server has not answered yet\n").into_response(),
    }
}

async fn render(State(served): State<Served>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], served.metrics.render()).into_response()
}

/// Serves the paths until the process ends.
///
/// # Errors
/// The address cannot be listened on.
pub async fn serve(
    address: SocketAddr,
    metrics: Arc<Metrics>,
    progress: Arc<Progress>,
    health: watch::Receiver<Health>,
) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    tokio::spawn(async move {
        // It ends with the process only.
        let _ = axum::serve(listener, router(metrics, progress, health)).await;
    });
    Ok(bound)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn probes_and_metrics_answer() {
        let (sender, health) = watch::channel(Health::Starting);
        let metrics: Arc<Metrics> = Arc::default();
        let progress: Arc<Progress> = Arc::default();
        let served = serve("127.0.0.1:0".parse().unwrap(), Arc::clone(&metrics), Arc::clone(&progress), health);
        let address = served.await.unwrap();
        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 503"));
        let stuck = progress.begin("the loop", std::time::Duration::ZERO);
        let answer = get(address, "/healthz").await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("the loop has not moved"), "{answer}");
        drop(stuck);
        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        sender.send_replace(Health::Ready);
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        metrics.add_waiting(1);
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 503"));
        metrics.sub_waiting(1);
        let metrics = get(address, "/metrics").await;
        assert!(metrics.contains("raftmq_operator_leader 0"), "{metrics}");
        assert!(get(address, "/other").await.starts_with("HTTP/1.1 404"));
    }
}
