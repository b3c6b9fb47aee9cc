//! The Kubernetes strategy against a small server that speaks the list and watch of EndpointSlices, for
//! what a real API server does rarely: refuse, break off, forget a resource version.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use raftmq_discovery::{Discovery, DiscoverySettings, KubernetesSettings, Strategy};
use serde_json::{Value, json};
use support::{addresses, wait_for};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;

/// What the server knows and how it behaves.
#[derive(Default)]
struct State {
    version: u64,
    slices: BTreeMap<String, Value>,
    /// Every request gets 403.
    forbid: bool,
    /// The paths with queries that were asked for.
    asked: Vec<String>,
}

#[derive(Clone)]
enum Told {
    Event(Value),
    BreakOff,
}

struct ApiServer {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    events: broadcast::Sender<Told>,
    task: JoinHandle<()>,
}

impl ApiServer {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State { version: 1, ..State::default() }));
        let (events, _) = broadcast::channel(64);
        let (shared, sender) = (Arc::clone(&state), events.clone());
        let task = tokio::spawn(async move {
            loop {
                let Ok((socket, _)) = listener.accept().await else {
                    return;
                };
                tokio::spawn(serve(socket, Arc::clone(&shared), sender.clone()));
            }
        });
        Self { address, state, events, task }
    }

    /// Adds or replaces a slice and tells the watches.
    fn apply(&self, name: &str, endpoints: &Value) {
        let mut state = self.state.lock().unwrap();
        state.version += 1;
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {
                "name": name, "namespace": "mq", "resourceVersion": state.version.to_string(),
                "labels": {"kubernetes.io/service-name": "raftmq-headless"},
            },
            "ports": [{"name": "links", "port": 9883, "protocol": "TCP"}],
            "endpoints": endpoints,
        });
        let kind = if state.slices.contains_key(name) { "MODIFIED" } else { "ADDED" };
        state.slices.insert(name.to_owned(), slice.clone());
        let _ = self.events.send(Told::Event(json!({"type": kind, "object": slice})));
    }

    /// Deletes a slice without telling anybody: what a watch misses while it is broken.
    fn forget(&self, name: &str) {
        let mut state = self.state.lock().unwrap();
        state.version += 1;
        state.slices.remove(name);
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut socket: TcpStream, state: Arc<Mutex<State>>, events: broadcast::Sender<Told>) {
    let mut request = Vec::new();
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        let mut buffer = [0; 4096];
        match socket.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(read) => request.extend_from_slice(&buffer[..read]),
        }
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let watch = path.contains("watch=true");
    // Subscribed before the state is read: nothing falls between the list and the watch.
    let mut told = events.subscribe();
    let (status, body) = {
        let mut state = state.lock().unwrap();
        state.asked.push(path);
        if state.forbid {
            let refusal = json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 403,
                "reason": "Forbidden", "message": "endpointslices is forbidden",
            });
            ("403 Forbidden", refusal)
        } else {
            let list = json!({
                "kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1",
                "metadata": {"resourceVersion": state.version.to_string()},
                "items": state.slices.values().collect::<Vec<_>>(),
            });
            ("200 OK", list)
        }
    };
    if !watch || status != "200 OK" {
        let body = body.to_string();
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
             connection: close\r\n\r\n{body}",
            body.len()
        );
        let _ = socket.write_all(head.as_bytes()).await;
        return;
    }
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    if socket.write_all(head.as_bytes()).await.is_err() {
        return;
    }
    while let Ok(Told::Event(event)) = told.recv().await {
        let line = format!("{event}\n");
        let chunk = format!("{:x}\r\n{line}\r\n", line.len());
        if socket.write_all(chunk.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Starts a search with a kubeconfig that points to the server.
fn search(server: &ApiServer, dir: &tempfile::TempDir) -> Discovery {
    let kubeconfig = dir.path().join("kubeconfig");
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": format!("http://{}", server.address)}}],
        "users": [{"name": "test", "user": {}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "mq"}}],
    });
    std::fs::write(&kubeconfig, text.to_string()).unwrap();
    Discovery::start(DiscoverySettings {
        strategy: Strategy::Kubernetes(KubernetesSettings {
            service: "raftmq-headless".to_owned(),
            port_name: "links".to_owned(),
            namespace: None,
            cluster_domain: None,
            kubeconfig: Some(kubeconfig),
        }),
        refresh: Duration::from_secs(60),
    })
    .unwrap()
}

fn endpoint(number: u8, ready: bool) -> Value {
    json!({
        "addresses": [format!("10.0.0.{number}")],
        "hostname": format!("raftmq-{number}"),
        "conditions": {"ready": ready},
    })
}

#[tokio::test]
async fn slices_are_listed_watched_and_watched_again() {
    let dir = tempfile::tempdir().unwrap();
    let server = ApiServer::start().await;
    server.apply("a", &json!([endpoint(0, true), endpoint(1, false)]));
    let discovery = search(&server, &dir);
    let mut peers = discovery.peers();
    let set = wait_for(&mut peers, "the list", |set| set.refreshed_at.is_some()).await;
    assert_eq!(addresses(&set), ["10.0.0.0:9883", "10.0.0.1:9883"]);
    assert_eq!(set.peers[1].node.as_deref(), Some("raftmq-1"));
    {
        let state = server.state.lock().unwrap();
        let path = &state.asked[0];
        assert!(path.starts_with("/apis/discovery.k8s.io/v1/namespaces/mq/endpointslices?"), "{path}");
        assert!(path.contains("kubernetes.io%2Fservice-name%3Draftmq-headless"), "{path}");
    }

    // Until the watch is there an event may be missed as it would be by a real watch that began later;
    // a real server replays from the version of the list.
    wait_for_watch(&server, 1).await;
    server.apply("b", &json!([endpoint(2, true)]));
    wait_for(&mut peers, "the event", |set| set.peers.len() == 3).await;

    // The connection breaks, and a slice goes meanwhile: the version is too old, so all is listed anew.
    server.forget("a");
    server
        .events
        .send(Told::Event(json!({"type": "ERROR", "object": {
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 410,
            "reason": "Expired", "message": "too old resource version",
        }})))
        .map_err(|_| "no watch")
        .unwrap();
    let _ = server.events.send(Told::BreakOff);
    wait_for(&mut peers, "the new list", |set| addresses(set) == ["10.0.0.2:9883"]).await;
    wait_for_watch(&server, 2).await;
    server.apply("c", &json!([endpoint(4, true)]));
    wait_for(&mut peers, "the next event", |set| set.peers.len() == 2).await;
}

async fn wait_for_watch(server: &ApiServer, at_least: usize) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let watches = {
            let state = server.state.lock().unwrap();
            let asked = state.asked.iter();
            asked.filter(|path| path.contains("watch=true")).count()
        };
        if watches >= at_least {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "no watch came");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_refusal_is_told_and_survived() {
    let dir = tempfile::tempdir().unwrap();
    let server = ApiServer::start().await;
    server.state.lock().unwrap().forbid = true;
    let discovery = search(&server, &dir);
    let mut peers = discovery.peers();
    let set = wait_for(&mut peers, "the refusal", |set| set.failing > 0).await;
    let message = &set.last_failure.as_ref().unwrap().message;
    assert!(message.contains("endpointslices is forbidden"), "{message}");

    server.state.lock().unwrap().forbid = false;
    server.apply("a", &json!([endpoint(0, false)]));
    let set = wait_for(&mut peers, "the list", |set| set.peers.len() == 1).await;
    assert_eq!(set.failing, 0);
}

#[tokio::test]
async fn a_kubeconfig_that_is_missing_is_told_and_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let server = ApiServer::start().await;
    server.apply("a", &json!([endpoint(0, false)]));
    let kubeconfig = dir.path().join("later");
    let discovery = Discovery::start(DiscoverySettings {
        strategy: Strategy::Kubernetes(KubernetesSettings {
            service: "raftmq-headless".to_owned(),
            port_name: "links".to_owned(),
            namespace: Some("mq".to_owned()),
            cluster_domain: None,
            kubeconfig: Some(kubeconfig.clone()),
        }),
        refresh: Duration::from_secs(60),
    })
    .unwrap();
    let mut peers = discovery.peers();
    let set = wait_for(&mut peers, "the failure", |set| set.failing > 0).await;
    let message = &set.last_failure.as_ref().unwrap().message;
    assert!(message.contains("later"), "{message}");

    // Another search writes a good file.
    drop(search(&server, &dir));
    std::fs::rename(dir.path().join("kubeconfig"), kubeconfig).unwrap();
    wait_for(&mut peers, "the list", |set| set.peers.len() == 1).await;
}
