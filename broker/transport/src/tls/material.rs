//! From PEM text to what rustls serves with.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{Ticketer, default_provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{CertRevocationListError, RootCertStore, ServerConfig};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::names::{Resolver, dns_names};

/// What QUIC calls MQTT (ALPN).
const QUIC_ALPN: &[u8] = b"mqtt";

/// Whether clients must show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// They are not asked for one.
    #[default]
    None,
    /// They may show one; one that is shown must be valid.
    Optional,
    /// They must show a valid one.
    Required,
}

/// The oldest version of TLS that is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MinVersion {
    /// 1.2 and 1.3.
    #[default]
    Tls12,
    /// 1.3 alone.
    Tls13,
}

/// A certificate with its key, and the names that it is for.
#[derive(Clone, Default)]
pub struct CertificatePem {
    /// Where it is from, for errors.
    pub label: String,
    /// Server names: exact, or `*.` and a domain. Empty: the DNS names in the certificate.
    pub server_names: Vec<String>,
    /// The certificate, then intermediates.
    pub chain: Vec<u8>,
    /// The key (PKCS #8, PKCS #1 or SEC1).
    pub key: Vec<u8>,
}

impl std::fmt::Debug for CertificatePem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertificatePem").field("server_names", &self.server_names).finish_non_exhaustive()
    }
}

/// The contents of a listener's files.
#[derive(Clone, Debug, Default)]
pub struct TlsMaterial {
    /// Shown where no other one fits the name that the client asks for; its own names are not looked at.
    pub default: CertificatePem,
    /// Further ones, by server name.
    pub others: Vec<CertificatePem>,
    /// Authorities of the clients' certificates.
    pub client_ca: Option<Vec<u8>>,
    /// Whether clients must show one.
    pub client_auth: ClientAuth,
    /// Revocation lists of those authorities.
    pub client_crl: Option<Vec<u8>>,
    /// The oldest version of TLS.
    pub min_version: MinVersion,
}

/// Why material cannot be used. Never shows a key.
#[derive(Debug, thiserror::Error)]
pub enum TlsConfigError {
    /// Nothing usable in a file.
    #[error("the {what} is not usable PEM: {reason}")]
    Pem {
        /// Certificate, key, …
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// A certificate that cannot be parsed.
    #[error("the certificate cannot be parsed: {0}")]
    Certificate(String),
    /// A certificate without DNS names that is for no server name.
    #[error("a certificate has no DNS name: give its serverNames")]
    NoNames,
    /// What is no server name.
    #[error("{0:?} is no server name: a DNS name, or *. and a domain")]
    ServerName(String),
    /// Two certificates for one name.
    #[error("two certificates are for the server name {0:?}")]
    NameTwice(String),
    /// Clients are asked for certificates and nobody is trusted to issue them.
    #[error("clients are asked for certificates, and there is no authority that issues them")]
    NoAuthority,
    /// A revocation list that is PEM and is not taken.
    #[error(
        "the revocation list cannot be used ({0:?}); it has to be one of version 2, with a CRL number (openssl ca: crlnumber and crl_extensions)"
    )]
    RevocationList(CertRevocationListError),
    /// The authorities are not taken.
    #[error("the clients' authorities cannot be used: {0}")]
    Verifier(#[from] VerifierBuilderError),
    /// The key is another certificate's.
    #[error("it is not the key of the certificate")]
    KeyMismatch,
    /// rustls does not take it.
    #[error("the certificate cannot be used: {0}")]
    Tls(#[from] rustls::Error),
    /// One certificate of several.
    #[error("{label}: {source}")]
    In {
        /// Where it is from.
        label: String,
        /// What is wrong with it.
        source: Box<TlsConfigError>,
    },
}

/// What connections are made with.
#[derive(Clone, Debug)]
pub struct TlsConfigs {
    /// Over TCP.
    pub tcp: Arc<ServerConfig>,
    /// Over QUIC: TLS 1.3, protocol `mqtt`.
    pub quic: Arc<ServerConfig>,
    /// When the first of the certificates ends.
    pub not_after: SystemTime,
    /// Serial number of the default certificate, in hexadecimal.
    pub serial: String,
}

impl TlsMaterial {
    /// Checks the material and makes ready.
    ///
    /// # Errors
    /// [`TlsConfigError`]: nothing is served with it.
    pub fn build(&self) -> Result<TlsConfigs, TlsConfigError> {
        let provider = Arc::new(default_provider());
        let (default, serial, mut not_after) = named(&self.default, |pem| {
            let key = certified(pem, &provider)?;
            let (serial, end) = validity(&key.cert[0])?;
            Ok((key, serial, end))
        })?;
        let mut resolver = Resolver::new(Arc::new(default));
        for other in &self.others {
            let end = named(other, |pem| {
                let key = Arc::new(certified(pem, &provider)?);
                let own = dns_names(&key.cert[0])?;
                let names = if pem.server_names.is_empty() { &own } else { &pem.server_names };
                if names.is_empty() {
                    return Err(TlsConfigError::NoNames);
                }
                names.iter().try_for_each(|name| resolver.add(name, Arc::clone(&key)))?;
                Ok(validity(&key.cert[0])?.1)
            })?;
            not_after = not_after.min(end);
        }
        let resolver = Arc::new(resolver);
        let verifier = self.verifier(&provider)?;
        let config = |versions: &[&'static rustls::SupportedProtocolVersion]| -> Result<ServerConfig, TlsConfigError> {
            let resolver: Arc<Resolver> = Arc::clone(&resolver);
            let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(versions)?
                .with_client_cert_verifier(Arc::clone(&verifier))
                .with_cert_resolver(resolver);
            config.session_storage = Arc::new(NoServerSessionStorage {});
            if self.client_auth == ClientAuth::None {
                // The state is the client's, and the keys go with this configuration.
                config.ticketer = Ticketer::new()?;
            } else {
                // A resumed session would not be checked against the authorities and lists of now.
                config.send_tls13_tickets = 0;
            }
            Ok(config)
        };
        let both: &[_] = &[&TLS13, &TLS12];
        let tcp = config(match self.min_version {
            MinVersion::Tls12 => both,
            MinVersion::Tls13 => &both[..1],
        })?;
        let mut quic = config(&both[..1])?;
        quic.alpn_protocols = vec![QUIC_ALPN.to_vec()];
        Ok(TlsConfigs { tcp: Arc::new(tcp), quic: Arc::new(quic), not_after, serial })
    }

    fn verifier(&self, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, TlsConfigError> {
        if self.client_auth == ClientAuth::None {
            return Ok(WebPkiClientVerifier::no_client_auth());
        }
        let pem = self.client_ca.as_ref().ok_or(TlsConfigError::NoAuthority)?;
        let mut roots = RootCertStore::empty();
        for certificate in items::<CertificateDer<'static>>("authorities' file", pem)? {
            roots.add(certificate)?;
        }
        let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        if let Some(pem) = &self.client_crl {
            // A certificate of an authority that has no list here is refused: nobody could say that it is not revoked.
            builder = builder.with_crls(items::<CertificateRevocationListDer<'static>>("revocation list", pem)?);
        }
        if self.client_auth == ClientAuth::Optional {
            builder = builder.allow_unauthenticated();
        }
        builder.build().map_err(|error| match error {
            VerifierBuilderError::InvalidCrl(error) => TlsConfigError::RevocationList(error),
            other => TlsConfigError::Verifier(other),
        })
    }
}

/// With an error that says which certificate it is of.
fn named<T>(
    pem: &CertificatePem,
    read: impl FnOnce(&CertificatePem) -> Result<T, TlsConfigError>,
) -> Result<T, TlsConfigError> {
    read(pem).map_err(|source| match pem.label.as_str() {
        "" => source,
        label => TlsConfigError::In { label: label.to_owned(), source: Box::new(source) },
    })
}

fn items<T: PemObject>(what: &'static str, pem: &[u8]) -> Result<Vec<T>, TlsConfigError> {
    let parsed: Result<Vec<T>, _> = T::pem_slice_iter(pem).collect();
    let reason = match parsed {
        Ok(found) if !found.is_empty() => return Ok(found),
        Ok(_) => "it holds none".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(TlsConfigError::Pem { what, reason })
}

fn certified(pem: &CertificatePem, provider: &CryptoProvider) -> Result<CertifiedKey, TlsConfigError> {
    let chain = items::<CertificateDer<'static>>("certificate", &pem.chain)?;
    let key = PrivateKeyDer::from_pem_slice(&pem.key)
        .map_err(|error| TlsConfigError::Pem { what: "key", reason: error.to_string() })?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => TlsConfigError::KeyMismatch,
        error => error.into(),
    })
}

/// Serial number and end of a certificate.
fn validity(certificate: &CertificateDer<'_>) -> Result<(String, SystemTime), TlsConfigError> {
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|error| TlsConfigError::Certificate(error.to_string()))?;
    let end = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
    let serial = parsed.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((serial, SystemTime::UNIX_EPOCH + Duration::from_secs(end)))
}
