#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use raftmq_links::pki::{ClusterCa, Issued, TlsMaterial, client_config, server_config};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::api::*;
use super::client::{ClientError, ControlClient, Target};
use super::control::{Answer, ControlOps, router_with};
use super::error::{ApiError, Reason};
use super::health::{self, Readiness};
use super::serve::{HttpServer, Limits, Tls};
use crate::metrics::Metrics;
use crate::telemetry;

/// A node that answers from a script and remembers what it was asked.
#[derive(Default)]
struct Fake {
    asked: Mutex<Vec<String>>,
    hang: AtomicBool,
}

impl Fake {
    fn note(&self, what: impl Into<String>) {
        self.asked.lock().unwrap().push(what.into());
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

fn identity() -> ClusterIdentity {
    ClusterIdentity {
        id: "0f".repeat(16),
        name: "demo".to_owned(),
    }
}

impl ControlOps for Fake {
    fn status(&self) -> Answer<'_, NodeStatus> {
        Box::pin(async {
            if self.hang.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            Ok(NodeStatus {
                node: "raftmq-0".to_owned(),
                version: "0.1.0".to_owned(),
                raft_id: Some(7),
                incarnation: Some("ab".repeat(16)),
                boot: Some(3),
                cluster: Some(identity()),
                uptime_seconds: 12,
                clients: 5,
                lease_remaining_ms: Some(1500),
                ready: false,
                failing: Readiness::default().failing(),
            })
        })
    }

    fn members(&self) -> Answer<'_, Members> {
        Box::pin(async {
            let member = Member {
                id: 7,
                name: "raftmq-0".to_owned(),
                incarnation: "ab".repeat(16),
                boot: 3,
                version: "0.1.0".to_owned(),
                links_address: "127.0.0.1:9883".to_owned(),
                control_address: None,
                state: MemberState::Active,
                up: true,
                role: MemberRole::Voter,
                leads: vec!["meta".to_owned()],
            };
            Ok(Members {
                cluster: Some(identity()),
                members: vec![member],
            })
        })
    }

    fn leaders(&self) -> Answer<'_, Leaders> {
        Box::pin(async {
            Ok(Leaders {
                groups: vec![GroupLeader {
                    group: "meta".to_owned(),
                    term: 4,
                    leader: None,
                    name: None,
                }],
            })
        })
    }

    fn groups(&self) -> Answer<'_, Groups> {
        Box::pin(async { Err(ApiError::new(Reason::Unavailable, "no member yet")) })
    }

    fn join_info(&self) -> Answer<'_, JoinInfo> {
        Box::pin(async {
            Ok(JoinInfo {
                phase: JoinPhase::WaitingForBootstrap,
                message: "nobody gave the permission".to_owned(),
                cluster: None,
                raft_id: None,
                peers: Vec::new(),
            })
        })
    }

    fn bootstrap(&self, request: BootstrapRequest) -> Answer<'_, Bootstrapped> {
        self.note(format!(
            "bootstrap {} of {}",
            request.cluster,
            request.members.len()
        ));
        Box::pin(async {
            Ok(Bootstrapped {
                cluster: identity(),
                created: true,
            })
        })
    }

    fn leave(&self, request: LeaveRequest) -> Answer<'_, Left> {
        self.note(format!("leave {}", request.node));
        Box::pin(async move {
            if request.node == "raftmq-9" {
                return Err(ApiError::new(Reason::NotFound, "no such member"));
            }
            Err(ApiError::new(Reason::NoQuorum, "meta has no quorum"))
        })
    }

    fn transfer(&self, request: TransferRequest) -> Answer<'_, Transferred> {
        self.note(format!("transfer {} to {}", request.group, request.to));
        Box::pin(async { Err(ApiError::not_leader("meta", Some("raftmq-2".to_owned()))) })
    }

    fn loss(&self, query: LossQuery) -> Answer<'_, Loss> {
        self.note(format!("loss {}", query.node));
        Box::pin(async {
            Ok(Loss {
                node: Some(1),
                nothing: false,
                reasons: vec!["group meta loses its quorum".to_owned()],
                groups: Vec::new(),
            })
        })
    }
}

fn material(ca: &ClusterCa, issued: &Issued) -> TlsMaterial {
    TlsMaterial {
        ca_pem: ca.cert_pem().to_owned(),
        cert_pem: issued.cert_pem.clone(),
        key_pem: issued.key_pem.clone(),
    }
}

struct Api {
    ca: ClusterCa,
    ops: Arc<Fake>,
    server: HttpServer,
}

impl Api {
    async fn start() -> Self {
        Self::start_with(Limits::default(), Duration::from_secs(10)).await
    }

    async fn start_with(limits: Limits, timeout: Duration) -> Self {
        let ca = ClusterCa::create("demo").unwrap();
        let node = ca.issue_node("demo", "raftmq-0", &[]).unwrap();
        let ops = Arc::new(Fake::default());
        let router = router_with(
            Arc::clone(&ops) as Arc<dyn ControlOps>,
            telemetry::detached(),
            timeout,
        );
        let tls = Tls {
            config: Arc::new(server_config(&material(&ca, &node), &[]).unwrap()),
            cluster: Some("demo".to_owned()),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = HttpServer::start(listener, Some(tls), router, limits).unwrap();
        Self { ca, ops, server }
    }

    fn target(&self) -> Target {
        Target {
            address: self.server.address().to_string(),
            cluster: Some("demo".to_owned()),
            node: Some("raftmq-0".to_owned()),
        }
    }

    fn control_config(&self) -> Arc<ClientConfig> {
        let issued = self.ca.issue_client("tester").unwrap();
        Arc::new(client_config(&material(&self.ca, &issued), &[]).unwrap())
    }

    fn client(&self) -> ControlClient {
        ControlClient::new(
            self.target(),
            self.control_config(),
            Duration::from_secs(10),
        )
    }

    /// A request that the typed client would not send.
    async fn raw(&self, request: &str) -> (u16, serde_json::Value) {
        let connector = tokio_rustls::TlsConnector::from(self.control_config());
        let socket = TcpStream::connect(self.server.address()).await.unwrap();
        let name = "localhost".try_into().unwrap();
        let mut stream = connector.connect(name, socket).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        parse(&answer)
    }

    async fn post(&self, path: &str, body: &str) -> (u16, ApiError) {
        let (status, body) = self
            .raw(&format!(
                "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
                 content-length: {}\r\n\r\n{body}",
                body.len()
            ))
            .await;
        (
            status,
            serde_json::from_value(body["error"].clone()).unwrap(),
        )
    }
}

fn parse(answer: &[u8]) -> (u16, serde_json::Value) {
    let text = String::from_utf8_lossy(answer);
    let status = text.split(' ').nth(1).unwrap().parse().unwrap();
    let body = text.split_once("\r\n\r\n").unwrap().1;
    (
        status,
        serde_json::from_str(body).unwrap_or_else(|_| body.into()),
    )
}

fn api_error(result: Result<impl std::fmt::Debug, ClientError>) -> (u16, ApiError) {
    match result {
        Err(ClientError::Api { status, error, .. }) => (status.as_u16(), error),
        other => panic!("not an error of the API: {other:?}"),
    }
}

#[tokio::test]
async fn every_route_answers_and_reaches_the_node() {
    let api = Api::start().await;
    let client = api.client();
    let status = client.status().await.unwrap();
    assert_eq!(
        (status.raft_id, status.cluster),
        (Some(7), Some(identity()))
    );
    assert_eq!(status.failing.len(), 4);
    assert_eq!(client.members().await.unwrap().members[0].name, "raftmq-0");
    assert_eq!(client.leaders().await.unwrap().groups[0].term, 4);
    let (code, error) = api_error(client.groups().await);
    assert_eq!((code, error.reason), (503, Reason::Unavailable));
    let join = client.join_info().await.unwrap();
    assert_eq!(join.phase, JoinPhase::WaitingForBootstrap);

    let member = |name: &str| InitialMember {
        name: name.to_owned(),
        address: "127.0.0.1:9883".to_owned(),
    };
    let request = BootstrapRequest {
        cluster: "demo".to_owned(),
        members: vec![member("raftmq-0"), member("raftmq-1")],
    };
    assert!(client.bootstrap(&request).await.unwrap().created);

    let leave = |node: &str| LeaveRequest {
        node: node.to_owned(),
    };
    let (code, error) = api_error(client.leave(&leave("raftmq-9")).await);
    assert_eq!((code, error.reason), (404, Reason::NotFound));
    let (code, error) = api_error(client.leave(&leave("raftmq-1")).await);
    assert_eq!((code, error.reason), (503, Reason::NoQuorum));

    let request = TransferRequest {
        group: "meta".to_owned(),
        to: "raftmq-1".to_owned(),
    };
    let (code, error) = api_error(client.transfer(&request).await);
    assert_eq!((code, error.reason), (409, Reason::NotLeader));
    assert_eq!(error.leader.as_deref(), Some("raftmq-2"));

    assert!(!client.loss("raftmq 1&x=ä").await.unwrap().nothing);
    assert_eq!(
        api.ops.asked(),
        [
            "bootstrap demo of 2",
            "leave raftmq-9",
            "leave raftmq-1",
            "transfer meta to raftmq-1",
            "loss raftmq 1&x=ä",
        ]
    );

    let filter = "info,raftmq_test=debug".to_owned();
    let set = client
        .set_log(&LogLevel {
            filter: filter.clone(),
        })
        .await
        .unwrap();
    assert_eq!(set.filter, filter);
    assert_eq!(client.log().await.unwrap().filter, filter);
    let (code, error) = api_error(
        client
            .set_log(&LogLevel {
                filter: "inof".to_owned(),
            })
            .await,
    );
    assert_eq!((code, error.field.as_deref()), (400, Some("filter")));
    assert_eq!(client.log().await.unwrap().filter, filter);
    api.server.shutdown().await;
}

#[tokio::test]
async fn bad_input_is_refused_by_field_and_reaches_nobody() {
    let api = Api::start().await;
    let big = format!(r#"{{"node": "{}"}}"#, "x".repeat(70_000));
    let long = format!(r#"{{"node": "{}"}}"#, "x".repeat(400));
    let same = r#"{"cluster": "c", "members": [{"name": "a", "address": "h:1"}, {"name": "a", "address": "h:2"}]}"#;
    for (path, body, status, field) in [
        (path::LEAVE, "{}", 400, Some("node")),
        (path::LEAVE, r#"{"node": ""}"#, 400, Some("node")),
        (path::LEAVE, r#"{"node": 5}"#, 400, Some("node")),
        (
            path::LEAVE,
            r#"{"node": "a", "forec": true}"#,
            400,
            Some("forec"),
        ),
        (path::LEAVE, "{", 400, None),
        (path::LEAVE, "", 400, None),
        (path::LEAVE, long.as_str(), 400, Some("node")),
        (path::LEAVE, big.as_str(), 413, None),
        (path::TRANSFER, r#"{"group": "meta"}"#, 400, Some("to")),
        (
            path::TRANSFER,
            r#"{"group": "", "to": "a"}"#,
            400,
            Some("group"),
        ),
        (
            path::BOOTSTRAP,
            r#"{"cluster": "c", "members": []}"#,
            400,
            Some("members"),
        ),
        (
            path::BOOTSTRAP,
            r#"{"cluster": "c", "members": [{"name": "a", "address": "h"}]}"#,
            400,
            Some("members[0].address"),
        ),
        (
            path::BOOTSTRAP,
            r#"{"cluster": "c", "members": [{"name": 1, "address": "h:1"}]}"#,
            400,
            Some("members[0].name"),
        ),
        (path::BOOTSTRAP, same, 400, Some("members[1].name")),
        (path::STATUS, "{}", 405, None),
        ("/control/v1/nothing", "{}", 404, None),
        ("/", "{}", 404, None),
    ] {
        let (got, error) = api.post(path, body).await;
        assert_eq!(
            (got, error.field.as_deref()),
            (status, field),
            "{path} {body}: {error}"
        );
        assert!(!error.message.is_empty());
    }
    let head = "HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let (status, body) = api.raw(&format!("GET /control/v1/loss {head}")).await;
    assert_eq!(
        (status, &body["error"]["field"]),
        (400, &"node".into()),
        "{body}"
    );
    let (status, body) = api.raw(&format!("GET /control/v1/loss?nod=a {head}")).await;
    assert_eq!(
        (status, &body["error"]["field"]),
        (400, &"nod".into()),
        "{body}"
    );
    let (status, _) = api
        .raw("POST /control/v1/leave HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}")
        .await;
    assert_eq!(status, 415);
    let (status, _) = api.raw("nonsense\r\n\r\n").await;
    assert_eq!(status, 400);
    assert_eq!(api.ops.asked(), Vec::<String>::new());
}

#[tokio::test]
async fn only_certificates_of_the_cluster_get_in() {
    let api = Api::start().await;
    let call = |config: ClientConfig| {
        let client = ControlClient::new(api.target(), Arc::new(config), Duration::from_secs(10));
        async move { client.status().await }
    };
    let refused = |result: Result<NodeStatus, ClientError>, what: &str| match result {
        Err(ClientError::Tls { .. } | ClientError::Broken { .. }) => {}
        other => panic!("{what}: {other:?}"),
    };

    // No certificate at all; the same with one gets in.
    let anonymous = || {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
    };
    refused(
        call(anonymous().with_no_client_auth()).await,
        "no certificate",
    );
    let issued = api.ca.issue_client("tester").unwrap();
    let chain = CertificateDer::from_pem_slice(issued.cert_pem.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.expose().as_bytes()).unwrap();
    let config = anonymous().with_client_auth_cert(vec![chain], key).unwrap();
    call(config).await.unwrap();

    // A certificate of another CA, which trusts ours.
    let other = ClusterCa::create("demo").unwrap();
    let issued = other.issue_client("tester").unwrap();
    let mut mixed = material(&other, &issued);
    mixed.ca_pem = api.ca.cert_pem().to_owned();
    refused(
        call(client_config(&mixed, &[]).unwrap()).await,
        "another CA's client",
    );
    // And one that trusts its own CA only: it refuses the server.
    refused(
        call(client_config(&material(&other, &issued), &[]).unwrap()).await,
        "another CA's server",
    );

    // A node of this cluster may; one of another cluster under the same CA may not.
    let node = api.ca.issue_node("demo", "raftmq-1", &[]).unwrap();
    call(client_config(&material(&api.ca, &node), &[]).unwrap())
        .await
        .unwrap();
    let node = api.ca.issue_node("other", "raftmq-1", &[]).unwrap();
    let result = call(client_config(&material(&api.ca, &node), &[]).unwrap()).await;
    let (status, error) = api_error(result);
    assert_eq!((status, error.reason), (403, Reason::Forbidden));
}

/// A client that takes any server, so that only the server can refuse.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[tokio::test]
async fn a_client_notices_that_it_talks_to_another_node() {
    let api = Api::start().await;
    for (cluster, node) in [(Some("demo"), Some("raftmq-1")), (Some("other"), None)] {
        let target = Target {
            cluster: cluster.map(str::to_owned),
            node: node.map(str::to_owned),
            ..api.target()
        };
        let client = ControlClient::new(target, api.control_config(), Duration::from_secs(10));
        let error = client.status().await.unwrap_err();
        assert!(matches!(error, ClientError::WrongServer { .. }), "{error}");
        assert!(
            error.to_string().contains("node raftmq-0 of cluster demo"),
            "{error}"
        );
    }
    let target = Target {
        cluster: None,
        node: None,
        ..api.target()
    };
    let client = ControlClient::new(target, api.control_config(), Duration::from_secs(10));
    client.status().await.unwrap();
}

#[tokio::test]
async fn what_takes_too_long_ends_on_both_sides() {
    let api = Api::start_with(Limits::default(), Duration::from_millis(200)).await;
    api.ops.hang.store(true, Ordering::Relaxed);
    let (status, error) = api_error(api.client().status().await);
    assert_eq!((status, error.reason), (504, Reason::Timeout));

    let api = Api::start().await;
    api.ops.hang.store(true, Ordering::Relaxed);
    let client = ControlClient::new(
        api.target(),
        api.control_config(),
        Duration::from_millis(300),
    );
    let error = client.status().await.unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }), "{error}");

    let address = api.server.address();
    let target = api.target();
    let config = api.control_config();
    drop(api);
    // The port may be taken by somebody else's test meanwhile, who does not speak TLS of this CA.
    let client = ControlClient::new(target, config, Duration::from_secs(5));
    let error = client.status().await.unwrap_err().to_string();
    assert!(error.contains(&address.to_string()), "{error}");
}

#[tokio::test]
async fn idle_and_surplus_connections_do_not_keep_others_out() {
    let limits = Limits {
        connections: 2,
        handshake: Duration::from_millis(300),
        ..Limits::default()
    };
    let api = Api::start_with(limits, Duration::from_secs(10)).await;
    // Two that say nothing fill the server, until their handshake's time is over.
    let _silent = [
        TcpStream::connect(api.server.address()).await.unwrap(),
        TcpStream::connect(api.server.address()).await.unwrap(),
    ];
    api.client().status().await.unwrap();
}

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
    assert_eq!(
        (status, body),
        (200, serde_json::json!({"ready": true, "failing": []}))
    );

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
        assert_eq!(
            (status, body),
            (503, serde_json::json!({"ready": false, "failing": failing}))
        );
    }
    server.shutdown().await;
}

#[tokio::test]
async fn a_node_is_healthy_while_its_workers_turn_and_tells_its_metrics() {
    let metrics = Metrics::new();
    let worker = metrics.worker();
    let router = health::router_with(
        Arc::clone(&metrics),
        Arc::new(Readiness::ready),
        Duration::from_millis(200),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = HttpServer::start(listener, None, router, Limits::default()).unwrap();
    worker.beat();
    assert_eq!(get(server.address(), "/healthz").await.0, 200);

    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    loop {
        let (status, body) = get(server.address(), "/healthz").await;
        if status == 503 {
            assert!(
                body.as_str().unwrap().starts_with("stuck: worker 0"),
                "{body}"
            );
            break;
        }
        assert!(std::time::Instant::now() < deadline, "still {status}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    worker.beat();
    assert_eq!(get(server.address(), "/healthz").await.0, 200);

    let (status, text) = get(server.address(), "/metrics").await;
    assert_eq!(status, 200);
    assert!(
        text.as_str()
            .unwrap()
            .contains("# TYPE raftmq_connections gauge\n"),
        "{text}"
    );
    assert_eq!(get(server.address(), "/nothing").await.0, 404);
}

#[tokio::test]
async fn a_connection_that_sends_no_request_or_half_of_one_is_closed() {
    let limits = Limits {
        header: Duration::from_millis(200),
        ..Limits::default()
    };
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
