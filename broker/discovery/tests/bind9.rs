//! The DNS strategy against BIND, the name server most of the world runs.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use raftmq_discovery::{Discovery, DiscoverySettings, DnsRecords, DnsSettings, Resolver, Strategy};
use support::{addresses, wait_for};

const NAMED: &str = "/usr/sbin/named";

struct Named {
    process: Child,
    address: SocketAddr,
    dir: tempfile::TempDir,
}

impl Named {
    /// Runs `named` on a free loopback port with the zone `raftmq.test.`
    async fn start(zone: &str) -> Self {
        assert!(
            Path::new(NAMED).exists(),
            "{NAMED} is missing: install BIND (Debian and Ubuntu: apt-get install bind9)"
        );
        let mut last = String::new();
        for _ in 0..5 {
            let dir = tempfile::tempdir().unwrap();
            let port = free_port();
            let path = dir.path().display();
            let config = format!(
                r#"options {{
                    directory "{path}";
                    pid-file none;
                    session-keyfile "{path}/session.key";
                    listen-on port {port} {{ 127.0.0.1; }};
                    listen-on-v6 {{ none; }};
                    recursion no;
                    dnssec-validation no;
                    notify no;
                }};
                controls {{ }};
                zone "raftmq.test" {{ type primary; file "{path}/zone"; }};"#
            );
            fs::write(dir.path().join("named.conf"), config).unwrap();
            write_zone(dir.path(), 1, zone);
            let log = fs::File::create(dir.path().join("log")).unwrap();
            let process = Command::new(NAMED)
                .args(["-g", "-n", "1", "-c"])
                .arg(dir.path().join("named.conf"))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .unwrap();
            let mut named = Self { process, address: SocketAddr::from(([127, 0, 0, 1], port)), dir };
            if named.answers().await {
                return named;
            }
            last = fs::read_to_string(named.dir.path().join("log")).unwrap_or_default();
        }
        panic!("named does not answer; its log:\n{last}");
    }

    async fn answers(&mut self) -> bool {
        let resolver = Resolver::with_servers(&[self.address]);
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline && self.process.try_wait().unwrap().is_none() {
            if resolver.resolve("ns.raftmq.test:1").await.is_ok() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        false
    }

    /// Changes the zone of the running server.
    fn change(&self, serial: u32, zone: &str) {
        write_zone(self.dir.path(), serial, zone);
        let reload = Command::new("kill").args(["-HUP", &self.process.id().to_string()]).status().unwrap();
        assert!(reload.success());
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn write_zone(dir: &Path, serial: u32, records: &str) {
    let zone = format!(
        "$TTL 1\n\
         @ IN SOA ns admin {serial} 60 60 60 1\n\
         @ IN NS ns\n\
         ns IN A 127.0.0.1\n\
         {records}\n"
    );
    fs::write(dir.join("zone"), zone).unwrap();
}

fn free_port() -> u16 {
    for _ in 0..50 {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        if UdpSocket::bind(address).is_ok() {
            return address.port();
        }
    }
    panic!("no port is free for both UDP and TCP");
}

fn search(server: SocketAddr, name: &str, records: DnsRecords) -> Discovery {
    Discovery::start(DiscoverySettings {
        strategy: Strategy::Dns(DnsSettings {
            name: name.to_owned(),
            records,
            servers: vec![server],
            timeout: Duration::from_secs(2),
        }),
        refresh: Duration::from_secs(60),
    })
    .unwrap()
}

#[tokio::test]
async fn bind_tells_addresses_and_services_and_their_changes() {
    let named = Named::start(
        "nodes IN A 127.0.0.1\nnodes IN A 127.0.0.2\nnodes IN AAAA ::1\n\
         raftmq-0 IN A 127.0.0.1\nraftmq-1 IN CNAME raftmq-0\n\
         _links._tcp.nodes IN SRV 0 0 9883 raftmq-0\n\
         _links._tcp.nodes IN SRV 10 5 19883 raftmq-1",
    )
    .await;
    let by_address = DnsRecords::Address { port: 9883 };
    let hosts = search(named.address, "nodes.raftmq.test", by_address);
    let services = search(named.address, "_links._tcp.nodes.raftmq.test", DnsRecords::Srv);
    let nobody = search(named.address, "nobody.raftmq.test", by_address);

    let mut hosts_found = hosts.peers();
    let set = wait_for(&mut hosts_found, "addresses", |set| set.refreshed_at.is_some()).await;
    assert_eq!(addresses(&set), ["127.0.0.1:9883", "127.0.0.2:9883", "[::1]:9883"]);
    let mut services_found = services.peers();
    let set = wait_for(&mut services_found, "services", |set| set.refreshed_at.is_some()).await;
    assert_eq!(addresses(&set), ["raftmq-0.raftmq.test:9883", "raftmq-1.raftmq.test:19883"]);
    let mut nobody_found = nobody.peers();
    let set = wait_for(&mut nobody_found, "nobody", |set| set.refreshed_at.is_some()).await;
    assert_eq!((set.peers.len(), set.failures), (0, 0));
    // An alias, as a link would dial it.
    let resolver = Resolver::with_servers(&[named.address]);
    let found = resolver.resolve("raftmq-1.raftmq.test:19883").await.unwrap();
    assert_eq!(found, ["127.0.0.1:19883".parse().unwrap()]);

    named.change(
        2,
        "nodes IN A 127.0.0.2\nnobody IN A 127.0.0.4\n\
         raftmq-2 IN A 127.0.0.1\n_links._tcp.nodes IN SRV 0 0 29883 raftmq-2",
    );
    wait_for(&mut hosts_found, "the new addresses", |set| addresses(set) == ["127.0.0.2:9883"]).await;
    wait_for(&mut services_found, "the new services", |set| addresses(set) == ["raftmq-2.raftmq.test:29883"]).await;
    wait_for(&mut nobody_found, "somebody", |set| addresses(set) == ["127.0.0.4:9883"]).await;
}
