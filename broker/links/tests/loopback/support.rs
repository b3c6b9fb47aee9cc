//! Nodes to talk to, and waiting for conditions.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use raftmq_links::pki::{ClusterCa, TlsMaterial};
use raftmq_links::{Handler, HandlerFuture, Hello, LinkConfig, LinkOptions, Links, PeerHello, Refusal, Resolver};
use tokio::sync::Semaphore;

pub(crate) const CLUSTER: &str = "test";
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// Kinds that the test handler knows.
pub(crate) const ECHO: u16 = 1;
pub(crate) const FAIL: u16 = 2;
/// Answers when the gate is opened.
pub(crate) const WAIT: u16 = 3;
/// Answers with the Raft id of the asking node.
pub(crate) const WHO: u16 = 4;
pub(crate) const PANIC: u16 = 5;

pub(crate) struct Recorder {
    /// Node and boot of the sender, kind, payload.
    pub(crate) frames: Mutex<Vec<(String, u64, u16, Bytes)>>,
    pub(crate) gate: Semaphore,
    pub(crate) running: Mutex<(usize, usize)>,
    pub(crate) refuse: Mutex<Option<String>>,
    pub(crate) frame_delay: Mutex<Duration>,
    /// So many frames are taken, and no more.
    pub(crate) most_frames: Mutex<Option<usize>>,
    /// How often one was not.
    pub(crate) refusals: AtomicUsize,
}

impl Default for Recorder {
    fn default() -> Self {
        Recorder {
            frames: Mutex::default(),
            gate: Semaphore::new(0),
            running: Mutex::default(),
            refuse: Mutex::default(),
            frame_delay: Mutex::default(),
            most_frames: Mutex::default(),
            refusals: AtomicUsize::new(0),
        }
    }
}

impl Recorder {
    pub(crate) fn count(&self) -> usize {
        self.frames.lock().unwrap().len()
    }

    pub(crate) fn payloads(&self) -> Vec<Bytes> {
        let frames = self.frames.lock().unwrap();
        frames.iter().map(|(_, _, _, p)| p.clone()).collect()
    }
}

pub(crate) struct TestHandler(pub(crate) Arc<Recorder>);

impl Handler for TestHandler {
    fn on_hello(&self, _peer: &PeerHello) -> Result<(), Refusal> {
        match &*self.0.refuse.lock().unwrap() {
            Some(reason) => Err(Refusal::new(reason.clone())),
            None => Ok(()),
        }
    }

    fn on_request(&self, peer: Arc<PeerHello>, kind: u16, payload: Bytes) -> HandlerFuture {
        let recorder = Arc::clone(&self.0);
        Box::pin(async move {
            match kind {
                ECHO => Ok(payload),
                FAIL => Err("it cannot be done".to_owned()),
                WHO => Ok(Bytes::from(peer.hello.raft_id.to_string())),
                WAIT => {
                    {
                        let mut running = recorder.running.lock().unwrap();
                        running.0 += 1;
                        running.1 = running.1.max(running.0);
                    }
                    recorder.gate.acquire().await.unwrap().forget();
                    recorder.running.lock().unwrap().0 -= 1;
                    Ok(payload)
                }
                PANIC => panic!("as the test wants"),
                other => Err(format!("kind {other}?")),
            }
        })
    }

    fn on_frame(&self, peer: &Arc<PeerHello>, kind: u16, payload: Bytes) -> Result<(), String> {
        if self.0.most_frames.lock().unwrap().is_some_and(|most| self.0.count() >= most) {
            self.0.refusals.fetch_add(1, Ordering::Relaxed);
            return Err("not now".to_owned());
        }
        let delay = *self.0.frame_delay.lock().unwrap();
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
        let frame = (peer.hello.node.clone(), peer.hello.boot, kind, payload);
        self.0.frames.lock().unwrap().push(frame);
        Ok(())
    }
}

/// Names of a test to sockets, changeable.
#[derive(Clone, Default)]
pub(crate) struct Names(Arc<Mutex<HashMap<String, SocketAddr>>>);

impl Names {
    pub(crate) fn set(&self, name: &str, socket: SocketAddr) {
        self.0.lock().unwrap().insert(name.to_owned(), socket);
    }
}

impl Resolver for Names {
    fn resolve<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move {
            if let Some(socket) = self.0.lock().unwrap().get(address) {
                return Ok(vec![*socket]);
            }
            address.parse().map(|socket| vec![socket]).map_err(|_| io::Error::other("no such name"))
        })
    }
}

pub(crate) struct Node {
    pub(crate) links: Links,
    pub(crate) seen: Arc<Recorder>,
}

impl Node {
    pub(crate) fn addr(&self) -> String {
        self.links.local_addr().to_string()
    }
}

pub(crate) fn options() -> LinkOptions {
    LinkOptions {
        backoff_min: Duration::from_millis(10),
        backoff_max: Duration::from_millis(100),
        ..LinkOptions::default()
    }
}

pub(crate) fn material(ca: &ClusterCa, cluster: &str, node: &str) -> TlsMaterial {
    let issued = ca.issue_node(cluster, node, &[]).unwrap();
    TlsMaterial { ca_pem: ca.cert_pem().to_owned(), cert_pem: issued.cert_pem, key_pem: issued.key_pem }
}

pub(crate) async fn start_with(tls: TlsMaterial, hello: Hello, options: LinkOptions, names: &Names) -> Node {
    let seen = Arc::new(Recorder::default());
    let config = LinkConfig {
        options,
        resolver: Arc::new(names.clone()),
        ..LinkConfig::new("127.0.0.1:0".parse().unwrap(), tls)
    };
    let handler = Arc::new(TestHandler(Arc::clone(&seen)));
    let links = Links::start(config, hello, handler).await.unwrap();
    Node { links, seen }
}

pub(crate) async fn start(ca: &ClusterCa, node: &str, incarnation: u128, boot: u64) -> Node {
    start_with(material(ca, CLUSTER, node), Hello::new(CLUSTER, node, incarnation, boot), options(), &Names::default())
        .await
}

pub(crate) fn ca() -> ClusterCa {
    ClusterCa::create(CLUSTER).unwrap()
}

/// Waits for a condition, and fails with its name when it does not come.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    until_within(Duration::from_secs(30), what, &mut condition).await;
}

pub(crate) async fn until_within(limit: Duration, what: &str, condition: &mut dyn FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < deadline, "not in {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
