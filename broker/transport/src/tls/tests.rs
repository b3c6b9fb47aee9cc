#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::sync::Arc;

use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::*;

pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

impl Ca {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate and its key.
    pub(crate) fn issue(&self, name: &str, names: &[&str], serial: u64) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, "Plant");
        params.serial_number = Some(SerialNumber::from(serial));
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn revoke(&self, serial: u64) -> String {
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2054, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(serial),
                revocation_time: date_time_ymd(2024, 1, 1),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

fn pem((chain, key): (String, String), names: &[&str]) -> CertificatePem {
    CertificatePem {
        label: String::new(),
        server_names: names.iter().map(|name| (*name).to_owned()).collect(),
        chain: chain.into_bytes(),
        key: key.into_bytes(),
    }
}

pub(crate) fn material(ca: &Ca) -> TlsMaterial {
    TlsMaterial { default: pem(ca.issue("server", &["localhost"], 7), &[]), ..TlsMaterial::default() }
}

pub(crate) fn client(ca: &Ca, name: &str, own: Option<(String, String)>, only_12: bool) -> ClientConnection {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.pem.as_bytes()).unwrap()).unwrap();
    let versions: &[&rustls::SupportedProtocolVersion] =
        if only_12 { &[&rustls::version::TLS12] } else { rustls::ALL_VERSIONS };
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    let config = match own {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => builder
            .with_client_auth_cert(
                CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>().unwrap(),
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap(),
    };
    ClientConnection::new(Arc::new(config), ServerName::try_from(name.to_owned()).unwrap()).unwrap()
}

/// Both sides, and what the server got.
pub(crate) struct Pair {
    pub(crate) client: ClientConnection,
    pub(crate) server: Tls,
    pub(crate) got: Vec<u8>,
    /// What the client got.
    pub(crate) heard: Vec<u8>,
    pub(crate) peer: TlsPeer,
    pub(crate) closed: bool,
}

impl Pair {
    pub(crate) fn new(material: &TlsMaterial, client: ClientConnection) -> Self {
        let server = Tls::new(material.build().unwrap().tcp).unwrap();
        Self { client, server, got: Vec::new(), heard: Vec::new(), peer: TlsPeer::default(), closed: false }
    }

    /// Carries bytes both ways, in pieces of this size, until nothing moves.
    pub(crate) fn run(&mut self, size: usize) -> Result<(), TlsError> {
        let mut result = Ok(());
        loop {
            let mut sent = Vec::new();
            while self.client.wants_write() {
                self.client.write_tls(&mut sent).unwrap();
            }
            let mut answers = Vec::new();
            for chunk in sent.chunks(size) {
                match self.server.receive(chunk, &mut self.got, &mut answers, &mut self.peer) {
                    Ok(closed) => self.closed |= closed,
                    Err(error) => {
                        result = Err(error);
                        break;
                    }
                }
            }
            self.hear(&answers);
            if sent.is_empty() || result.is_err() {
                return result;
            }
        }
    }

    /// What the server has sent reaches the client.
    pub(crate) fn hear(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            self.client.read_tls(&mut bytes).unwrap();
            // The client says what it thinks of it by its alert.
            let _ = self.client.process_new_packets();
            let mut buffer = vec![0; 20_000];
            while let Ok(count @ 1..) = self.client.reader().read(&mut buffer) {
                self.heard.extend_from_slice(&buffer[..count]);
            }
        }
    }

    pub(crate) fn plain(&mut self, length: usize) -> Vec<u8> {
        self.heard.drain(..length).collect()
    }
}

fn alert_of(pair: &mut Pair) -> Option<rustls::AlertDescription> {
    match pair.client.process_new_packets() {
        Err(rustls::Error::AlertReceived(alert)) => Some(alert),
        _ => None,
    }
}

#[test]
fn bytes_go_both_ways_however_they_are_split() {
    let ca = Ca::new("ca");
    let material = material(&ca);
    for only_12 in [false, true] {
        for size in [1, 2, 5, 100, 1_400, 1 << 20] {
            let mut pair = Pair::new(&material, client(&ca, "localhost", None, only_12));
            pair.run(size).unwrap();
            assert!(pair.server.is_open() && !pair.client.is_handshaking());
            assert_eq!(pair.peer.server_name.as_deref(), Some("localhost"));
            let up: Vec<u8> = (0..50_000_u32).map(|n| n as u8).collect();
            pair.client.writer().write_all(&up).unwrap();
            pair.run(size).unwrap();
            assert!(pair.got == up);
            let down: Vec<u8> = (0..40_000_u32).map(|n| (n * 7) as u8).collect();
            let mut out = b"what is there stays".to_vec();
            let before = out.len();
            pair.server.send(&down, &mut out).unwrap();
            let out = out.split_off(before);
            for chunk in out.chunks(10_000) {
                pair.hear(chunk);
            }
            assert!(pair.plain(down.len()) == down);
            pair.client.send_close_notify();
            pair.run(size).unwrap();
            assert!(pair.closed);
        }
    }
}

#[test]
fn the_server_says_that_it_closes() {
    let ca = Ca::new("ca");
    let mut pair = Pair::new(&material(&ca), client(&ca, "localhost", None, false));
    let mut out = Vec::new();
    pair.server.close(&mut out);
    assert!(out.is_empty(), "before the handshake there is nothing to be said");
    let mut pair = Pair::new(&material(&ca), client(&ca, "localhost", None, false));
    pair.run(100).unwrap();
    pair.server.close(&mut out);
    pair.server.close(&mut out);
    pair.hear(&out);
    assert!(pair.client.process_new_packets().unwrap().peer_has_closed());
    assert!(!pair.server.is_open());
}

#[test]
fn what_comes_before_the_end_counts() {
    let ca = Ca::new("ca");
    for wrong in [false, true] {
        let mut pair = Pair::new(&material(&ca), client(&ca, "localhost", None, false));
        pair.run(100).unwrap();
        pair.client.writer().write_all(b"last").unwrap();
        if !wrong {
            pair.client.send_close_notify();
        }
        let mut sent = Vec::new();
        while pair.client.wants_write() {
            pair.client.write_tls(&mut sent).unwrap();
        }
        if wrong {
            sent.extend(b"\x17\x03\x03\0\x20what nobody can decrypt, 32 bytes");
        }
        let mut out = Vec::new();
        let result = pair.server.receive(&sent, &mut pair.got, &mut out, &mut pair.peer);
        assert_eq!(pair.got, b"last");
        assert_eq!(result.is_err(), wrong);
        assert!(wrong || matches!(result, Ok(true)));
        assert_eq!(out.is_empty(), !wrong, "an alert says what is wrong");
    }
}

#[test]
fn a_changed_key_is_answered() {
    let ca = Ca::new("ca");
    let mut pair = Pair::new(&material(&ca), client(&ca, "localhost", None, false));
    pair.run(100).unwrap();
    pair.client.refresh_traffic_keys().unwrap();
    pair.client.writer().write_all(b"after").unwrap();
    pair.run(3).unwrap();
    assert_eq!(pair.got, b"after");
    let mut out = Vec::new();
    pair.server.send(b"answer", &mut out).unwrap();
    pair.hear(&out);
    assert_eq!(pair.plain(6), b"answer");
}

#[test]
fn certificates_go_by_server_name() {
    let ca = Ca::new("ca");
    let mut material = material(&ca);
    material.others = vec![
        pem(ca.issue("one", &["a.example.org", "*.example.org"], 8), &[]),
        pem(ca.issue("two", &["x.test", "deep.x.test", "other.test"], 9), &["X.test.", "*.X.test"]),
    ];
    for (name, serial) in [
        ("localhost", 7),
        ("a.example.org", 8),
        ("A.Example.ORG", 8),
        ("b.example.org", 8),
        ("x.test", 9),
        ("deep.x.test", 9),
    ] {
        for only_12 in [false, true] {
            let mut pair = Pair::new(&material, client(&ca, name, None, only_12));
            pair.run(1 << 20).unwrap();
            let shown = pair.client.peer_certificates().unwrap()[0].clone();
            let (_, parsed) = x509_parser::parse_x509_certificate(&shown).unwrap();
            assert_eq!(parsed.raw_serial(), [serial], "{name}");
        }
    }
    // For its serverNames only: that it has the name of this one as well does not count.
    let mut pair = Pair::new(&material, client(&ca, "other.test", None, false));
    let _ = pair.run(1 << 20);
    assert!(!pair.server.is_open());
}

#[test]
fn clients_show_certificates_as_they_must() {
    let (ca, stranger) = (Ca::new("clients"), Ca::new("clients"));
    let server = Ca::new("servers");
    let mut material = material(&server);
    material.client_ca = Some(ca.pem.clone().into_bytes());
    material.client_crl = Some(ca.revoke(66).into_bytes());
    let good = || Some(ca.issue("pump-7", &[], 5));
    let revoked = || Some(ca.issue("pump-8", &[], 66));
    let foreign = || Some(stranger.issue("pump-9", &[], 5));
    for (auth, own, accepted) in [
        (ClientAuth::None, None, Some(None)),
        (ClientAuth::None, foreign(), Some(None)),
        (ClientAuth::Optional, None, Some(None)),
        (ClientAuth::Optional, good(), Some(Some("pump-7"))),
        (ClientAuth::Optional, foreign(), None),
        (ClientAuth::Optional, revoked(), None),
        (ClientAuth::Required, None, None),
        (ClientAuth::Required, good(), Some(Some("pump-7"))),
        (ClientAuth::Required, foreign(), None),
        (ClientAuth::Required, revoked(), None),
    ] {
        for only_12 in [false, true] {
            material.client_auth = auth;
            let mut pair = Pair::new(&material, client(&server, "localhost", own.clone(), only_12));
            let result = pair.run(50);
            assert_eq!(result.is_ok(), accepted.is_some(), "{auth:?} {accepted:?} {result:?}");
            match accepted {
                Some(name) => {
                    assert_eq!(pair.peer.common_name.as_deref(), name);
                    let subject = pair.peer.subject.unwrap_or_default();
                    assert_eq!(subject.contains("O=Plant"), name.is_some(), "{subject}");
                }
                None => assert!(alert_of(&mut pair).is_some(), "the client is told why"),
            }
        }
    }
}

#[test]
fn the_oldest_version_is_kept() {
    let ca = Ca::new("ca");
    let mut material = material(&ca);
    material.min_version = MinVersion::Tls13;
    let mut pair = Pair::new(&material, client(&ca, "localhost", None, true));
    assert!(pair.run(100).is_err());
    assert_eq!(alert_of(&mut pair), Some(rustls::AlertDescription::ProtocolVersion));
    let mut pair = Pair::new(&material, client(&ca, "localhost", None, false));
    pair.run(100).unwrap();
    assert_eq!(pair.client.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
}

#[test]
fn wrong_material_is_refused_with_a_reason() {
    let (ca, other) = (Ca::new("ca"), Ca::new("other"));
    let good = material(&ca);
    let built = good.build().unwrap();
    assert_eq!(built.serial, "07");
    assert!(built.not_after > std::time::SystemTime::now());
    let mut mixed = good.clone();
    mixed.default.key = other.issue("x", &[], 1).1.into_bytes();
    let mut empty = good.clone();
    empty.default.chain = b"no certificate".to_vec();
    let mut nobody = good.clone();
    nobody.client_auth = ClientAuth::Required;
    let mut crl = good.clone();
    crl.client_auth = ClientAuth::Required;
    crl.client_ca = Some(ca.pem.clone().into_bytes());
    crl.client_crl = Some(Vec::new());
    let mut twice = good.clone();
    twice.others = vec![pem(ca.issue("a", &["a.test"], 1), &[]), pem(ca.issue("b", &[], 1), &["A.test"])];
    let mut nameless = good.clone();
    nameless.others = vec![pem(ca.issue("a", &[], 1), &[])];
    let mut wrong_name = good.clone();
    wrong_name.others = vec![pem(ca.issue("a", &[], 1), &["*.*.test"])];
    for (material, said) in [
        (mixed, "it is not the key of the certificate"),
        (empty, "the certificate is not usable PEM: it holds none"),
        (nobody, "no authority"),
        (crl, "revocation list"),
        (twice, "\"A.test\""),
        (nameless, "serverNames"),
        (wrong_name, "*.*.test"),
    ] {
        let error = material.build().unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn anything_is_taken_or_refused(start in prop::collection::vec(any::<u8>(), 0..300), size in 1_usize..400, at in any::<prop::sample::Index>(), flip in 1_u8..) {
        static ONCE: std::sync::OnceLock<Arc<rustls::ServerConfig>> = std::sync::OnceLock::new();
        let config = ONCE.get_or_init(|| material(&Ca::new("ca")).build().unwrap().tcp);
        let ca = Ca::new("ca");
        let mut hello = Vec::new();
        client(&ca, "localhost", None, false).write_tls(&mut hello).unwrap();
        let index = at.index(hello.len());
        hello[index] ^= flip;
        for bytes in [start, hello] {
            let mut server = Tls::new(Arc::clone(config)).unwrap();
            let (mut plain, mut out, mut peer) = (Vec::new(), Vec::new(), TlsPeer::default());
            for chunk in bytes.chunks(size) {
                if server.receive(chunk, &mut plain, &mut out, &mut peer).is_err() {
                    prop_assert!(!server.is_open());
                    break;
                }
            }
            prop_assert!(plain.is_empty());
        }
    }
}
