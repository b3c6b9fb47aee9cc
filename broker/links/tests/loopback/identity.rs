//! Who may talk to whom, and who is told why not.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use raftmq_links::pki::{ClusterCa, TlsMaterial};
use raftmq_links::{Class, Hello, HelloError, LinkError, PeerStatus, StartError};

use crate::support::*;

async fn node(tls: TlsMaterial, hello: Hello) -> Node {
    start_with(tls, hello, options(), &Names::default()).await
}

/// Asks, expects a refusal, and returns its reason.
async fn refused(a: &Node, b: &Node) -> String {
    let answer = a.links.request(&b.addr(), ECHO, Bytes::new(), Class::Control, SOON).await;
    let Err(LinkError::Refused(reason)) = answer else {
        panic!("not refused: {answer:?}");
    };
    let status: PeerStatus = a.links.peer(&b.addr()).unwrap();
    assert!(status.refused && !status.is_connected(), "{status:?}");
    assert_eq!(status.last_error.as_ref(), Some(&reason));
    assert_eq!(b.seen.count(), 0);
    reason
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_have_their_reason() {
    let ca = ca();
    let other_ca = ClusterCa::create(CLUSTER).unwrap();
    let hello = |name: &str| Hello::new(CLUSTER, name, 9, 1);
    let good = start(&ca, "good", 1, 1).await;

    let elsewhere = node(material(&ca, "elsewhere", "x"), Hello::new("elsewhere", "x", 9, 1)).await;
    let wrong_ca = node(material(&other_ca, CLUSTER, "x"), hello("x")).await;
    let wrong_name = node(material(&ca, CLUSTER, "y"), hello("x")).await;
    let client = ca.issue_client("admin").unwrap();
    let control_client = node(
        TlsMaterial { ca_pem: ca.cert_pem().to_owned(), cert_pem: client.cert_pem, key_pem: client.key_pem },
        hello("x"),
    )
    .await;
    let newer = node(material(&ca, CLUSTER, "x"), Hello { versions: (2, 3), ..hello("x") }).await;
    let unwanted = start(&ca, "unwanted", 9, 1).await;
    *unwanted.seen.refuse.lock().unwrap() = Some("not today".to_owned());

    let table = [
        (&elsewhere, "is of cluster"),
        (&wrong_ca, "certificate"),
        (&wrong_name, "does not name x.test"),
        (&newer, "no common protocol version"),
        (&unwanted, "not today"),
    ];
    for (bad, expected) in table {
        for (from, to) in [(&good, bad), (bad, &good)] {
            let reason = refused(from, to).await;
            assert!(reason.contains(expected), "{reason:?}, not {expected:?}");
        }
    }
    // As a server it has no certificate for servers; as a client, no name of a node.
    let reason = refused(&good, &control_client).await;
    assert!(reason.contains("certificate"), "{reason}");
    let reason = refused(&control_client, &good).await;
    assert!(reason.contains("does not name x.test"), "{reason}");
    // By the good one itself: as dialler all but the last, as acceptor what the other side did not refuse first.
    until("all refusals are counted", || good.links.metrics().refused.load(Ordering::SeqCst) >= 7).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wildcards_and_dotted_clusters_are_names_too() {
    let ca = ClusterCa::create("prod.eu").unwrap();
    let a = node(material(&ca, "prod.eu", "a"), Hello::new("prod.eu", "a", 1, 1)).await;
    // What cert-manager would issue for all nodes at once.
    let wildcard = ca.issue_node("prod.eu", "any", &["*.prod.eu.nodes.raftmq.io".to_owned()]).unwrap();
    let tls = TlsMaterial { ca_pem: ca.cert_pem().to_owned(), cert_pem: wildcard.cert_pem, key_pem: wildcard.key_pem };
    let b = node(tls, Hello::new("prod.eu", "b", 2, 1)).await;
    for (from, to) in [(&a, &b), (&b, &a)] {
        let answer = from.links.request(&to.addr(), ECHO, Bytes::new(), Class::Log, SOON).await;
        assert_eq!(answer, Ok(Bytes::new()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_hello_goes_before_what_follows_it() {
    let ca = ca();
    let a = start(&ca, "a", 1, 1).await;
    let b = start(&ca, "b", 2, 1).await;
    let to = b.addr();
    let who = || a.links.request(&to, WHO, Bytes::new(), Class::Control, SOON);
    assert_eq!(who().await, Ok(Bytes::from("0")));
    for raft_id in 1..50u64 {
        let hello = Hello { raft_id, ..(*a.links.hello()).clone() };
        a.links.set_hello(hello).unwrap();
        assert_eq!(who().await, Ok(Bytes::from(raft_id.to_string())));
    }
    let hello = Hello { raft_id: 7, ..(*b.links.hello()).clone() };
    b.links.set_hello(hello).unwrap();
    until("the dialling side learns it", || a.links.peer(&b.addr()).unwrap().hello.unwrap().raft_id == 7).await;
    let metrics = a.links.metrics();
    let reconnects = &metrics.class(Class::Control).reconnects;
    assert_eq!(reconnects.load(Ordering::SeqCst), 0);

    let other_boot = Hello { boot: 2, ..(*a.links.hello()).clone() };
    assert_eq!(a.links.set_hello(other_boot), Err(HelloError::Changed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_replaced_while_running() {
    let old_ca = ca();
    let new_ca = ca();
    let a = start(&old_ca, "a", 1, 1).await;
    let b = start(&new_ca, "b", 2, 1).await;
    refused(&a, &b).await;
    // The usual way over: first both trust both, then certificates change.
    let both = |own: &ClusterCa, name| TlsMaterial {
        ca_pem: format!("{}{}", old_ca.cert_pem(), new_ca.cert_pem()),
        ..material(own, CLUSTER, name)
    };
    a.links.set_tls(&both(&old_ca, "a")).unwrap();
    b.links.set_tls(&both(&new_ca, "b")).unwrap();
    until("they connect", || a.links.peer(&b.addr()).unwrap().is_connected()).await;
    assert_eq!(a.links.peer(&b.addr()).unwrap().last_error, None);

    let mut broken = material(&old_ca, CLUSTER, "a");
    broken.key_pem = material(&old_ca, CLUSTER, "a").key_pem;
    let mismatch = a.links.set_tls(&broken);
    assert!(mismatch.is_err(), "a key that does not fit was taken");
}

#[tokio::test]
async fn what_cannot_start_says_why() {
    let ca = ca();
    let start = async |listen: &str, tls: TlsMaterial, hello: Hello| {
        let config = raftmq_links::LinkConfig::new(listen.parse().unwrap(), tls);
        let handler = std::sync::Arc::new(TestHandler(Default::default()));
        raftmq_links::Links::start(config, hello, handler).await.map(drop)
    };
    let hello = Hello::new(CLUSTER, "a", 1, 1);
    let tls = material(&ca, CLUSTER, "a");
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let error = start(&address, tls.clone(), hello.clone()).await;
    assert!(matches!(&error, Err(e @ StartError::Bind { .. }) if e.to_string().contains(&address)));
    let no_pem = TlsMaterial { cert_pem: "nothing".to_owned(), ..tls.clone() };
    let error = start("127.0.0.1:0", no_pem, hello).await;
    assert!(matches!(error, Err(StartError::Tls(_))), "{error:?}");
    let error = start("127.0.0.1:0", tls, Hello::new(CLUSTER, "A_b", 1, 1)).await;
    assert!(matches!(error, Err(StartError::Hello(_))), "{error:?}");
}

#[derive(Clone, Default)]
struct Log(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// On one thread, so that the log of this test is its own.
#[tokio::test]
async fn a_refusal_is_logged_once_by_each_side_and_shows_no_key() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let ca = ca();
    let a = start(&ca, "a", 1, 1).await;
    let b = start(&ca, "b", 2, 1).await;
    *b.seen.refuse.lock().unwrap() = Some("not today".to_owned());
    for class in [Class::Control, Class::Log] {
        let answer = a.links.request(&b.addr(), ECHO, Bytes::new(), class, SOON).await;
        assert!(matches!(answer, Err(LinkError::Refused(_))), "{answer:?}");
    }
    let metrics = b.links.metrics();
    until("it was refused again and again", || metrics.refused.load(Ordering::SeqCst) >= 6).await;
    let lines = || String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let count = || lines().lines().filter(|l| l.contains("not today")).count();
    assert_eq!(count(), 2, "{}", lines());
    assert!(!lines().contains("PRIVATE KEY"));

    *b.seen.refuse.lock().unwrap() = Some("nor tomorrow".to_owned());
    until("the new reason shows", || {
        let status = a.links.peer(&b.addr()).unwrap();
        status.last_error.unwrap().contains("tomorrow")
    })
    .await;
    assert_eq!(count(), 2);
    *b.seen.refuse.lock().unwrap() = None;
    until("it is let in", || a.links.peer(&b.addr()).unwrap().is_connected()).await;
}
