#![allow(clippy::unwrap_used)]

use super::*;

#[path = "../tests/support/dns_server.rs"]
#[allow(dead_code)]
mod dns_server;
use dns_server::{DnsServer, a, name};

fn walk(text: &str, search: &[&str], ndots: usize) -> Vec<String> {
    let search: Vec<Name> = search.iter().map(|domain| name(domain)).collect();
    candidates(&Name::from_str_relaxed(text).unwrap(), &search, ndots).iter().map(Name::to_utf8).collect()
}

#[test]
fn the_search_list_is_walked_as_resolv_conf_says() {
    let search = ["ns.svc.cluster.local", "cluster.local."];
    assert_eq!(walk("raftmq", &search, 5), ["raftmq.ns.svc.cluster.local.", "raftmq.cluster.local.", "raftmq."]);
    assert_eq!(walk("a.b", &search, 1), ["a.b.", "a.b.ns.svc.cluster.local.", "a.b.cluster.local."]);
    assert_eq!(walk("a.b.", &search, 5), ["a.b."]);
    assert_eq!(walk("localhost", &search, 5), ["localhost."]);
    assert_eq!(walk("raftmq", &[], 1), ["raftmq."]);
    assert_eq!(walk("a", &["x", "x"], 1), ["a.x.", "a."]);
}

/// A resolver with the system's file, its name server replaced by one on another port.
fn like_system(resolv_conf: &str, server: SocketAddr) -> Resolver {
    let (mut config, mut options) = system_conf::parse_resolv_conf(resolv_conf).unwrap();
    config.name_servers = vec![name_server(&server)];
    options.timeout = Duration::from_millis(500);
    Resolver::new(Source::Given(Box::new((config, options))), Duration::from_secs(5), LINK_TTL)
}

#[tokio::test]
async fn search_domains_find_a_short_name() {
    let server = DnsServer::start().await;
    server.set("raftmq-0.nodes.b.test.", 1, &[a("127.0.0.7")]).await;
    let conf = "nameserver 127.0.0.1\nsearch a.test b.test\noptions ndots:5";
    let resolver = like_system(conf, server.address);
    let found = resolver.resolve("raftmq-0.nodes:1").await.unwrap();
    assert_eq!(found, ["127.0.0.7:1".parse().unwrap()]);
    assert!(matches!(
        resolver.resolve("raftmq-0.nodes.:1").await,
        Err(ResolveError::Failed { .. } | ResolveError::NoAddress { .. })
    ));
    server.stop().await;
}

#[tokio::test]
async fn a_domain_that_fails_is_no_proof_that_the_name_does_not_exist() {
    let server = DnsServer::start().await;
    // The server refuses "elsewhere." and denies "x.test.": together that is no denial.
    let conf = "nameserver 127.0.0.1\nsearch elsewhere test\noptions ndots:2";
    let resolver = like_system(conf, server.address);
    let error = resolver.resolve("x:1").await.unwrap_err();
    assert!(matches!(error, ResolveError::Failed { .. }), "{error}");
    // A later domain that knows the name is enough.
    server.set("y.test.", 1, &[a("127.0.0.8")]).await;
    let found = resolver.resolve("y:1").await.unwrap();
    assert_eq!(found, ["127.0.0.8:1".parse().unwrap()]);
    server.stop().await;
}

#[tokio::test]
async fn the_system_files_are_read_again_when_they_change() {
    let dir = tempfile::tempdir().unwrap();
    let (resolv_conf, hosts) = (dir.path().join("resolv.conf"), dir.path().join("hosts"));
    fs::write(&hosts, "127.0.0.11 raftmq-0 raftmq-0.example\n").unwrap();
    let source = Source::System { resolv_conf: resolv_conf.clone(), hosts: hosts.clone() };
    let resolver = Resolver::new(source, Duration::from_secs(5), LINK_TTL);
    let ask = |text: &'static str| {
        let resolver = resolver.clone();
        async move { resolver.resolve(text).await.map(|found| found[0].to_string()) }
    };
    // Without a resolv.conf at all.
    assert_eq!(ask("raftmq-0:1").await.as_deref(), Ok("127.0.0.11:1"));

    fs::write(&hosts, "127.0.0.12 raftmq-0.example\n").unwrap();
    fs::write(&resolv_conf, "nameserver 127.0.0.1\nsearch example\n").unwrap();
    // File times may be coarse: this one is surely another.
    let later = SystemTime::now() + Duration::from_secs(10);
    fs::File::options().append(true).open(&hosts).unwrap().set_modified(later).unwrap();
    assert_eq!(ask("raftmq-0:1").await.as_deref(), Ok("127.0.0.12:1"));

    fs::write(&resolv_conf, "search example\n").unwrap();
    assert!(matches!(ask("raftmq-0:1").await, Err(ResolveError::Configuration { .. })));
}
