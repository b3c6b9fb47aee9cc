//! A name server inside the test process, for zones that change while somebody looks.

use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use hickory_server::Server;
use hickory_server::proto::rr::rdata::{A, AAAA, SOA, SRV};
use hickory_server::proto::rr::{LowerName, Name, RData, Record, RrKey};
use hickory_server::store::in_memory::InMemoryZoneHandler;
use hickory_server::zone_handler::{AxfrPolicy, Catalog, ZoneHandler, ZoneType};
use tokio::net::{TcpListener, UdpSocket};

pub(crate) struct DnsServer {
    pub(crate) address: SocketAddr,
    zone: Arc<InMemoryZoneHandler>,
    server: Server<Catalog>,
}

impl DnsServer {
    /// Serves the zone `test.` on a free port.
    pub(crate) async fn start() -> Self {
        for _ in 0..50 {
            if let Some(server) = Self::start_on("127.0.0.1:0".parse().unwrap()).await {
                return server;
            }
        }
        panic!("no port is free for both UDP and TCP");
    }

    /// Serves the zone `test.` there, if the port is free.
    pub(crate) async fn start_on(address: SocketAddr) -> Option<Self> {
        let udp = UdpSocket::bind(address).await.ok()?;
        let address = udp.local_addr().unwrap();
        let tcp = TcpListener::bind(address).await.ok()?;

        let origin = name("test.");
        let zone = Arc::new(InMemoryZoneHandler::empty(origin.clone(), ZoneType::Primary, AxfrPolicy::Deny));
        let soa = SOA::new(name("ns.test."), name("admin.test."), 1, 60, 60, 60, 1);
        zone.upsert(Record::from_rdata(origin.clone(), 1, RData::SOA(soa)), 1).await;
        let mut catalog = Catalog::new();
        let handler: Arc<dyn ZoneHandler> = Arc::clone(&zone) as _;
        catalog.upsert(LowerName::from(&origin), vec![handler]);

        let mut server = Server::new(catalog);
        server.register_socket(udp);
        server.register_listener(tcp, Duration::from_secs(5), 64);
        Some(Self { address, zone, server })
    }

    /// Replaces the records of a name (and of this type of record).
    pub(crate) async fn set(&self, owner: &str, ttl: u32, data: &[RData]) {
        let owner = name(owner);
        let mut kinds: Vec<_> = data.iter().map(RData::record_type).collect();
        kinds.dedup();
        for kind in kinds {
            let key = RrKey::new(LowerName::from(&owner), kind);
            self.zone.records_mut().await.remove(&key);
        }
        for data in data {
            let record = Record::from_rdata(owner.clone(), ttl, data.clone());
            assert!(self.zone.upsert(record, 1).await);
        }
    }

    pub(crate) async fn stop(mut self) {
        let _ = self.server.shutdown_gracefully().await;
    }
}

pub(crate) fn name(text: &str) -> Name {
    Name::from_str(text).unwrap()
}

pub(crate) fn a(text: &str) -> RData {
    RData::A(A(text.parse().unwrap()))
}

pub(crate) fn aaaa(text: &str) -> RData {
    RData::AAAA(AAAA(text.parse().unwrap()))
}

pub(crate) fn srv(port: u16, target: &str) -> RData {
    RData::SRV(SRV::new(0, 0, port, name(target)))
}
