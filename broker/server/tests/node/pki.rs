//! Authorities, certificates and TLS clients of the tests.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};

use crate::client::{Client, Stream};

/// A certificate and its key in PEM.
pub(crate) type Pair = (String, String);
/// TLS over TCP.
pub(crate) type Tls = StreamOwned<ClientConnection, TcpStream>;

impl Stream for Tls {
    fn give_up_after(&mut self, time: Duration) {
        self.sock.give_up_after(time);
    }
}

pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    pub(crate) fn issue(&self, name: &str, serial: u64) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(serial));
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// A revocation list with this certificate.
    pub(crate) fn revoke(&self, serial: u64) -> String {
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

    /// What a client that trusts this authority connects with.
    pub(crate) fn client(&self, own: Option<&Pair>, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        match own {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>().unwrap();
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
            }
        }
    }

    /// TLS, the handshake not yet begun.
    pub(crate) fn open(&self, address: SocketAddr) -> Tls {
        tls(address, "localhost", self.client(None, rustls::ALL_VERSIONS))
    }

    /// Connected with a clean start.
    pub(crate) fn connect(&self, address: SocketAddr, id: &str) -> Client<Tls> {
        let mut client = Client::over(self.open(address));
        client.start(&crate::client::connect(id, true, 0, 0));
        client
    }
}

pub(crate) fn tls(address: SocketAddr, name: &str, config: ClientConfig) -> Tls {
    tls_over(TcpStream::connect(address).unwrap(), name, config)
}

pub(crate) fn tls_over(socket: TcpStream, name: &str, config: ClientConfig) -> Tls {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    socket.set_nodelay(true).unwrap();
    socket.set_read_timeout(Some(crate::client::PATIENCE)).unwrap();
    StreamOwned::new(connection, socket)
}

/// Serial number of the certificate that the server has shown.
pub(crate) fn serial(connection: &ClientConnection) -> u64 {
    serial_of(&connection.peer_certificates().unwrap()[0])
}

pub(crate) fn serial_of(certificate: &CertificateDer<'_>) -> u64 {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).unwrap();
    parsed.raw_serial().iter().fold(0, |number, byte| (number << 8) | u64::from(*byte))
}
