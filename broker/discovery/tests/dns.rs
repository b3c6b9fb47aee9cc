//! The DNS strategy against a name server in this process that changes, lies down and comes back.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use raftmq_discovery::{Discovery, DiscoverySettings, DnsRecords, DnsSettings, ResolveError, Resolver, Strategy};
use support::dns_server::{DnsServer, a, aaaa, srv};
use support::{addresses, wait_for};

fn search(server: SocketAddr, name: &str, records: DnsRecords) -> Discovery {
    Discovery::start(DiscoverySettings {
        strategy: Strategy::Dns(DnsSettings {
            name: name.to_owned(),
            records,
            servers: vec![server],
            timeout: Duration::from_secs(1),
        }),
        refresh: Duration::from_secs(60),
    })
    .unwrap()
}

#[tokio::test]
async fn addresses_of_both_families_are_peers_on_the_port_and_follow_the_zone() {
    let server = DnsServer::start().await;
    server.set("nodes.test.", 1, &[a("127.0.0.2"), a("127.0.0.1"), aaaa("::1")]).await;
    let records = DnsRecords::Address { port: 9883 };
    let discovery = search(server.address, "nodes.test", records);
    let mut peers = discovery.peers();
    let set = wait_for(&mut peers, "the first set", |set| set.refreshed_at.is_some()).await;
    assert_eq!(addresses(&set), ["127.0.0.1:9883", "127.0.0.2:9883", "[::1]:9883"]);

    // One goes, one comes. The interval is a minute: the time to live of 1 s makes it look again.
    server.set("nodes.test.", 1, &[a("127.0.0.1"), a("127.0.0.3")]).await;
    let set = wait_for(&mut peers, "the changed set", |set| {
        addresses(set) == ["127.0.0.1:9883", "127.0.0.3:9883", "[::1]:9883"]
    })
    .await;
    assert_eq!(set.failures, 0);
    server.stop().await;
}

#[tokio::test]
async fn services_are_peers_on_their_own_ports() {
    let server = DnsServer::start().await;
    let records = [
        srv(9883, "raftmq-0.nodes.test."),
        srv(19883, "raftmq-1.nodes.test."),
        srv(0, "port-zero.nodes.test."),
        srv(1, "."),
    ];
    server.set("_links._tcp.nodes.test.", 1, &records).await;
    let discovery = search(server.address, "_links._tcp.nodes.test", DnsRecords::Srv);
    let mut peers = discovery.peers();
    let set = wait_for(&mut peers, "the first set", |set| set.refreshed_at.is_some()).await;
    assert_eq!(addresses(&set), ["raftmq-0.nodes.test:9883", "raftmq-1.nodes.test:19883"]);
    server.stop().await;
}

#[tokio::test]
async fn a_name_that_does_not_exist_yet_is_an_empty_set_until_it_does() {
    let server = DnsServer::start().await;
    let records = DnsRecords::Address { port: 1 };
    let discovery = search(server.address, "later.test", records);
    let mut peers = discovery.peers();
    let set = wait_for(&mut peers, "an answer", |set| set.refreshed_at.is_some()).await;
    assert!(set.peers.is_empty());
    assert_eq!((set.failures, set.last_failure.as_ref()), (0, None));

    server.set("later.test.", 1, &[a("127.0.0.1")]).await;
    wait_for(&mut peers, "the new name", |set| addresses(set) == ["127.0.0.1:1"]).await;

    // A server that knows the zone but not this type of record: also an answer.
    let discovery = search(server.address, "later.test", DnsRecords::Srv);
    let mut peers = discovery.peers();
    let set = wait_for(&mut peers, "an answer", |set| set.refreshed_at.is_some()).await;
    assert_eq!((set.peers.len(), set.failures), (0, 0));
    server.stop().await;
}

#[tokio::test]
async fn the_last_set_is_kept_while_the_server_is_down_and_failures_are_counted() {
    let server = DnsServer::start().await;
    let address = server.address;
    server.set("nodes.test.", 1, &[a("127.0.0.1")]).await;
    let discovery = search(address, "nodes.test", DnsRecords::Address { port: 1 });
    let mut peers = discovery.peers();
    wait_for(&mut peers, "the first set", |set| set.peers.len() == 1).await;

    server.stop().await;
    let set = wait_for(&mut peers, "a failure", |set| set.failing > 0).await;
    assert_eq!(addresses(&set), ["127.0.0.1:1"]);
    let message = &set.last_failure.as_ref().unwrap().message;
    assert!(message.contains("nodes.test"), "{message}");

    let deadline = Instant::now() + Duration::from_secs(10);
    let server = loop {
        match DnsServer::start_on(address).await {
            Some(server) => break server,
            None => assert!(Instant::now() < deadline, "the port is not free again"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    server.set("nodes.test.", 1, &[a("127.0.0.2")]).await;
    discovery.refresh();
    let set = wait_for(&mut peers, "the set after the return", |set| addresses(set) == ["127.0.0.2:1"]).await;
    assert_eq!(set.failing, 0);
    assert!(set.failures > 0);
    server.stop().await;
}

#[tokio::test]
async fn a_zone_that_the_server_refuses_is_a_failure_and_not_an_empty_set() {
    let server = DnsServer::start().await;
    let records = DnsRecords::Address { port: 1 };
    let discovery = search(server.address, "nodes.elsewhere", records);
    let mut peers = discovery.peers();
    let set = wait_for(&mut peers, "a failure", |set| set.failing > 0).await;
    assert_eq!(set.refreshed_at, None);
    server.stop().await;
}

#[tokio::test]
async fn links_resolve_names_and_addresses() {
    let server = DnsServer::start().await;
    server.set("raftmq-0.test.", 1, &[a("127.0.0.9"), aaaa("::1")]).await;
    let many: Vec<_> = (0..200).map(|n| a(&format!("127.0.1.{n}"))).collect();
    server.set("many.test.", 1, &many).await;
    let resolver = Resolver::with_servers(&[server.address]);

    let found = resolver.resolve("raftmq-0.test:9883").await.unwrap();
    let expected: Vec<SocketAddr> = vec!["127.0.0.9:9883".parse().unwrap(), "[::1]:9883".parse().unwrap()];
    assert_eq!(found, expected);
    // More than a UDP answer holds: asked again by TCP.
    assert_eq!(resolver.resolve("many.test:1").await.unwrap().len(), 200);
    assert!(matches!(resolver.resolve("nobody.test:1").await, Err(ResolveError::NoAddress { .. })));
    server.stop().await;

    // No server is needed for these.
    let expected: Vec<SocketAddr> = vec!["[::1]:5".parse().unwrap()];
    assert_eq!(resolver.resolve("[::1]:5").await.unwrap(), expected);
    let loopback = resolver.resolve("localhost:7").await.unwrap();
    assert!(loopback.contains(&"127.0.0.1:7".parse().unwrap()), "{loopback:?}");
    assert!(matches!(resolver.resolve("no-port").await, Err(ResolveError::Address(_))));
    let error = resolver.resolve("other.test:1").await.unwrap_err();
    assert!(matches!(error, ResolveError::Failed { .. } | ResolveError::Timeout { .. }), "{error}");
}

#[tokio::test]
async fn static_peers_are_there_at_once_and_stay() {
    let discovery = Discovery::start(DiscoverySettings {
        strategy: Strategy::Static { peers: vec!["raftmq-1:9883".to_owned(), " raftmq-0:9883".to_owned()] },
        refresh: Duration::from_secs(10),
    })
    .unwrap();
    let peers = discovery.peers();
    assert_eq!(addresses(&peers.borrow()), ["raftmq-0:9883", "raftmq-1:9883"]);
    discovery.refresh();
    tokio::task::yield_now().await;
    assert!(peers.has_changed().is_ok(), "the search still runs");
    drop(discovery);
}
