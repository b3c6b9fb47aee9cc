//! The probes and `/metrics`.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::parse;
use crate::http::health::{self, Readiness};
use crate::http::serve::{HttpServer, Limits};
use crate::metrics::Metrics;

async fn get(address: SocketAddr, path: &str) -> (u16, serde_json::Value) {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.unwrap();
    parse(&answer)
}

#[tokio::test]
async fn a_node_is_ready_when_every_condition_holds() {
    let current = Arc::new(Mutex::new(Readiness::ready()));
    let shared = Arc::clone(&current);
    let source = move || shared.lock().unwrap().clone();
    let router = health::router(Metrics::new(), Arc::new(source));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = HttpServer::start(listener, None, router, Limits::default()).unwrap();
    let ready = |address| get(address, "/readyz");

    let (status, body) = ready(server.address()).await;
    assert_eq!((status, body), (200, serde_json::json!({"ready": true, "failing": []})));

    type Break = fn(&mut Readiness) -> &mut health::Condition;
    let each: [(&str, Break); 4] = [
        ("member", |now| &mut now.member),
        ("caught_up", |now| &mut now.caught_up),
        ("lease", |now| &mut now.lease),
        ("listeners", |now| &mut now.listeners),
    ];
    for (name, condition) in each {
        let mut now = Readiness::ready();
        *condition(&mut now) = Err(format!("{name} is missing"));
        *current.lock().unwrap() = now;
        let (status, body) = ready(server.address()).await;
        let reason = format!("{name} is missing");
        let failing = serde_json::json!([{"condition": name, "reason": reason}]);
        assert_eq!((status, body), (503, serde_json::json!({"ready": false, "failing": failing})));
    }
    server.shutdown().await;
}

#[tokio::test]
async fn a_node_is_healthy_while_its_workers_turn_and_tells_its_metrics() {
    let metrics = Metrics::new();
    let worker = metrics.worker();
    let router = health::router_with(Arc::clone(&metrics), Arc::new(Readiness::ready), Duration::from_millis(200));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = HttpServer::start(listener, None, router, Limits::default()).unwrap();
    worker.beat(Duration::ZERO);
    assert_eq!(get(server.address(), "/healthz").await.0, 200);

    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    loop {
        let (status, body) = get(server.address(), "/healthz").await;
        if status == 503 {
            assert!(body.as_str().unwrap().starts_with("stuck: worker 0"), "{body}");
            break;
        }
        assert!(std::time::Instant::now() < deadline, "still {status}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    worker.beat(Duration::ZERO);
    assert_eq!(get(server.address(), "/healthz").await.0, 200);

    let (status, text) = get(server.address(), "/metrics").await;
    assert_eq!(status, 200);
    assert!(text.as_str().unwrap().contains("# TYPE raftmq_connections gauge\n"), "{text}");
    assert_eq!(get(server.address(), "/nothing").await.0, 404);
}

#[tokio::test]
async fn a_connection_that_sends_no_request_or_half_of_one_is_closed() {
    let limits = Limits { header: Duration::from_millis(200), ..Limits::default() };
    let router = health::router(Metrics::new(), Arc::new(Readiness::ready));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = HttpServer::start(listener, None, router, limits).unwrap();
    for start in ["", "GET /healthz HTTP/1.1\r\nhost"] {
        let mut socket = TcpStream::connect(server.address()).await.unwrap();
        socket.write_all(start.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(10), socket.read_to_end(&mut answer));
        ended.await.expect("the server waits for ever").unwrap();
    }
    // Long heads are refused, not stored.
    let long = format!("/healthz?{}", "x".repeat(20_000));
    assert!(get(server.address(), &long).await.0 >= 400);
}
