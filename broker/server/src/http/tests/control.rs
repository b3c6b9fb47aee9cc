//! The control API and its client over real TLS.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use raftmq_links::pki::{ClusterCa, Issued, TlsMaterial, client_config, server_config};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::fake::{Fake, identity};
use super::parse;
use crate::http::api::*;
use crate::http::client::{ClientError, ControlClient, Target};
use crate::http::control::{ControlOps, router_with};
use crate::http::error::{ApiError, Reason};
use crate::http::serve::{HttpServer, Limits, Tls};
use crate::telemetry;

fn material(ca: &ClusterCa, issued: &Issued) -> TlsMaterial {
    TlsMaterial { ca_pem: ca.cert_pem().to_owned(), cert_pem: issued.cert_pem.clone(), key_pem: issued.key_pem.clone() }
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
        let router = router_with(Arc::clone(&ops) as Arc<dyn ControlOps>, telemetry::detached(), timeout);
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
        ControlClient::new(self.target(), self.control_config(), Duration::from_secs(10))
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
        (status, serde_json::from_value(body["error"].clone()).unwrap())
    }
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
    assert_eq!((status.raft_id, status.cluster), (Some(7), Some(identity())));
    assert_eq!(status.failing.len(), 4);
    assert_eq!(client.members().await.unwrap().members[0].name, "raftmq-0");
    assert_eq!(client.leaders().await.unwrap().groups[0].term, 4);
    let (code, error) = api_error(client.groups().await);
    assert_eq!((code, error.reason), (503, Reason::Unavailable));
    let join = client.join_info().await.unwrap();
    assert_eq!(join.phase, JoinPhase::WaitingForBootstrap);

    let mut request = BootstrapRequest {
        cluster: Some("demo".to_owned()),
        members: vec!["raftmq-0".to_owned(), "raftmq-1".to_owned()],
    };
    assert!(client.bootstrap(&request).await.unwrap().created);
    request.cluster = None;
    client.bootstrap(&request).await.unwrap();

    let leave = |node: &str| LeaveRequest { node: node.to_owned() };
    let (code, error) = api_error(client.leave(&leave("raftmq-9")).await);
    assert_eq!((code, error.reason), (404, Reason::NotFound));
    let (code, error) = api_error(client.leave(&leave("raftmq-1")).await);
    assert_eq!((code, error.reason), (503, Reason::NoQuorum));

    let request = TransferRequest { group: "meta".to_owned(), to: "raftmq-1".to_owned() };
    let (code, error) = api_error(client.transfer(&request).await);
    assert_eq!((code, error.reason), (409, Reason::NotLeader));
    assert_eq!(error.leader.as_deref(), Some("raftmq-2"));

    assert!(!client.loss("raftmq 1&x=ä").await.unwrap().nothing);
    assert_eq!(
        api.ops.asked(),
        [
            "bootstrap demo of raftmq-0+raftmq-1",
            "bootstrap any of raftmq-0+raftmq-1",
            "leave raftmq-9",
            "leave raftmq-1",
            "transfer meta to raftmq-1",
            "loss raftmq 1&x=ä",
        ]
    );

    let filter = "info,raftmq_test=debug".to_owned();
    let set = client.set_log(&LogLevel { filter: filter.clone() }).await.unwrap();
    assert_eq!(set.filter, filter);
    assert_eq!(client.log().await.unwrap().filter, filter);
    let (code, error) = api_error(client.set_log(&LogLevel { filter: "inof".to_owned() }).await);
    assert_eq!((code, error.field.as_deref()), (400, Some("filter")));
    assert_eq!(client.log().await.unwrap().filter, filter);
    api.server.shutdown().await;
}

#[tokio::test]
async fn bad_input_is_refused_by_field_and_reaches_nobody() {
    let api = Api::start().await;
    let big = format!(r#"{{"node": "{}"}}"#, "x".repeat(70_000));
    let long = format!(r#"{{"node": "{}"}}"#, "x".repeat(400));
    let same = r#"{"cluster": "c", "members": ["a", "a"]}"#;
    for (path, body, status, field) in [
        (path::LEAVE, "{}", 400, Some("node")),
        (path::LEAVE, r#"{"node": ""}"#, 400, Some("node")),
        (path::LEAVE, r#"{"node": 5}"#, 400, Some("node")),
        (path::LEAVE, r#"{"node": "a", "forec": true}"#, 400, Some("forec")),
        (path::LEAVE, "{", 400, None),
        (path::LEAVE, "", 400, None),
        (path::LEAVE, long.as_str(), 400, Some("node")),
        (path::LEAVE, big.as_str(), 413, None),
        (path::TRANSFER, r#"{"group": "meta"}"#, 400, Some("to")),
        (path::TRANSFER, r#"{"group": "", "to": "a"}"#, 400, Some("group")),
        (path::BOOTSTRAP, r#"{"cluster": "c", "members": []}"#, 400, Some("members")),
        (path::BOOTSTRAP, r#"{"cluster": "", "members": ["a"]}"#, 400, Some("cluster")),
        (path::BOOTSTRAP, r#"{"members": ["a", 1]}"#, 400, Some("members[1]")),
        (path::BOOTSTRAP, same, 400, Some("members[1]")),
        (path::STATUS, "{}", 405, None),
        ("/control/v1/nothing", "{}", 404, None),
        ("/", "{}", 404, None),
    ] {
        let (got, error) = api.post(path, body).await;
        assert_eq!((got, error.field.as_deref()), (status, field), "{path} {body}: {error}");
        assert!(!error.message.is_empty());
    }
    let head = "HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let (status, body) = api.raw(&format!("GET /control/v1/loss {head}")).await;
    assert_eq!((status, &body["error"]["field"]), (400, &"node".into()), "{body}");
    let (status, body) = api.raw(&format!("GET /control/v1/loss?nod=a {head}")).await;
    assert_eq!((status, &body["error"]["field"]), (400, &"nod".into()), "{body}");
    let (status, _) =
        api.raw("POST /control/v1/leave HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}").await;
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
    refused(call(anonymous().with_no_client_auth()).await, "no certificate");
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
    refused(call(client_config(&mixed, &[]).unwrap()).await, "another CA's client");
    // And one that trusts its own CA only: it refuses the server.
    refused(call(client_config(&material(&other, &issued), &[]).unwrap()).await, "another CA's server");

    // A node of this cluster may; one of another cluster under the same CA may not.
    let node = api.ca.issue_node("demo", "raftmq-1", &[]).unwrap();
    call(client_config(&material(&api.ca, &node), &[]).unwrap()).await.unwrap();
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
        let target = Target { cluster: cluster.map(str::to_owned), node: node.map(str::to_owned), ..api.target() };
        let client = ControlClient::new(target, api.control_config(), Duration::from_secs(10));
        let error = client.status().await.unwrap_err();
        assert!(matches!(error, ClientError::WrongServer { .. }), "{error}");
        assert!(error.to_string().contains("node raftmq-0 of cluster demo"), "{error}");
    }
    let target = Target { cluster: None, node: None, ..api.target() };
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
    let client = ControlClient::new(api.target(), api.control_config(), Duration::from_millis(300));
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
    let limits = Limits { connections: 2, handshake: Duration::from_millis(300), ..Limits::default() };
    let api = Api::start_with(limits, Duration::from_secs(10)).await;
    // Two that say nothing fill the server, until their handshake's time is over.
    let _silent = [
        TcpStream::connect(api.server.address()).await.unwrap(),
        TcpStream::connect(api.server.address()).await.unwrap(),
    ];
    api.client().status().await.unwrap();
}
