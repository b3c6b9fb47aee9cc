//! Root certificates, a handshake, and what the server's certificate says.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, ProtocolVersion, RootCertStore, SignatureScheme,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use x509_parser::extensions::GeneralName;
use x509_parser::time::ASN1Time;

use super::report::Report;

/// Where the images have their root certificates.
const IMAGE_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Certificates of authorities.
pub(super) struct Roots {
    pub(super) certificates: Vec<CertificateDer<'static>>,
    source: String,
    errors: Vec<String>,
}

impl Roots {
    /// Those that TLS clients of this process use: of SSL_CERT_FILE and SSL_CERT_DIR, or of the system's usual places.
    pub(super) fn of_system() -> Self {
        let found = rustls_native_certs::load_native_certs();
        let set: Vec<String> = ["SSL_CERT_FILE", "SSL_CERT_DIR"]
            .iter()
            .filter_map(|name| Some(format!("{name}={}", std::env::var_os(name)?.display())))
            .collect();
        let source = match set.is_empty() {
            false => set.join(" "),
            true if Path::new(IMAGE_ROOTS).exists() => IMAGE_ROOTS.to_owned(),
            true => format!("the system's usual places ({IMAGE_ROOTS} is not there)"),
        };
        let errors = found.errors.iter().map(ToString::to_string).collect();
        Self { certificates: found.certs, source, errors }
    }

    /// Those of a PEM file: at least one.
    pub(super) fn of_file(path: &Path) -> Result<Self, String> {
        let wrong = |reason: &dyn fmt::Display| format!("--ca {}: {reason}", path.display());
        let text = std::fs::read(path).map_err(|error| wrong(&error))?;
        let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
        let certificates = read.map_err(|error| wrong(&error))?;
        if certificates.is_empty() {
            return Err(wrong(&"it holds no certificate"));
        }
        Ok(Self { certificates, source: path.display().to_string(), errors: Vec::new() })
    }
}

impl fmt::Display for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.certificates.len(), self.source)?;
        match self.errors.first() {
            Some(error) => write!(f, "; {error}"),
            None => Ok(()),
        }
    }
}

/// One handshake as a client.
pub(super) struct Client {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    trusted: String,
    verifier: Arc<Witness>,
    asked: Arc<Asked>,
}

impl Client {
    /// A client that trusts these authorities and wants a server of this name, a DNS name or an address.
    pub(super) fn new(roots: &Roots, name: &str) -> Result<Self, String> {
        let wanted = name.trim_end_matches('.').to_owned();
        let name = ServerName::try_from(wanted)
            .map_err(|_| format!("{name:?} cannot be the name in a certificate: give --server-name"))?;
        let mut store = RootCertStore::empty();
        // Some roots of distributions are older than the rules: they are left out, as other programs do.
        store.add_parsable_certificates(roots.certificates.iter().cloned());
        if store.is_empty() {
            return Err(format!("there are no usable root certificates: {roots}"));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(&provider))
            .build()
            .map_err(|error| error.to_string())?;
        let verifier = Arc::new(Witness { inner, seen: OnceLock::new() });
        let asked = Arc::new(Asked::default());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&verifier) as Arc<dyn ServerCertVerifier>)
            .with_client_cert_resolver(Arc::clone(&asked) as Arc<dyn ResolvesClientCert>);
        Ok(Self { config: Arc::new(config), name, trusted: roots.to_string(), verifier, asked })
    }

    /// What was agreed, or why nothing was.
    pub(super) async fn handshake(&self, socket: TcpStream) -> Result<String, String> {
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let stream = connector.connect(self.name.clone(), socket).await.map_err(|error| self.reason(&error))?;
        let version = match stream.get_ref().1.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLS 1.2".to_owned(),
            Some(ProtocolVersion::TLSv1_3) => "TLS 1.3".to_owned(),
            other => format!("{other:?}"),
        };
        let name = self.name.to_str();
        Ok(format!("{version}, the certificate is good for {name} by {}{}", self.trusted, self.asked_note()))
    }

    /// What the server's certificate says, where it came to show one.
    pub(super) fn certificate(&self, report: &mut Report) {
        let Some((certificate, accepted)) = self.verifier.seen.get() else { return };
        match describe(certificate, ASN1Time::now()) {
            Ok(text) => report.add("certificate", *accepted, text),
            Err(reason) => report.problem("certificate", reason),
        }
    }

    fn reason(&self, error: &io::Error) -> String {
        let asked = self.asked_note();
        let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
            return format!("the server ended the handshake: {error}{asked}; is this a port of TLS?");
        };
        match tls {
            Error::InvalidCertificate(wrong) => match wrong {
                // BadSignature: an authority has the name of a trusted one and another key, as after a cluster was made anew.
                CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                    format!(
                        "unknown authority: the certificate is not issued by one of those trusted, {}",
                        self.trusted
                    )
                }
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    "the certificate of the server, or of its authority, has expired".to_owned()
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    "the certificate of the server, or of its authority, is not valid yet by this clock".to_owned()
                }
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    let name = self.name.to_str();
                    format!("the certificate is not for {name} (--server-name says which name is expected)")
                }
                other => format!("the certificate is refused: {other}"),
            },
            Error::InvalidMessage(_) => format!("what answers is not TLS: {tls}"),
            other => format!("{other}{asked}"),
        }
    }

    fn asked_note(&self) -> &'static str {
        if self.asked.0.load(Ordering::Relaxed) {
            " (the server asks its clients for a certificate, none is shown to it here)"
        } else {
            ""
        }
    }
}

/// Subject, names, issuer and end.
fn describe(certificate: &CertificateDer<'_>, now: ASN1Time) -> Result<String, String> {
    let (_, parsed) =
        x509_parser::parse_x509_certificate(certificate).map_err(|error| format!("it cannot be read: {error}"))?;
    let mut text = format!("subject {}", parsed.subject());
    if let Ok(Some(names)) = parsed.subject_alternative_name() {
        let names: Vec<String> = names.value.general_names.iter().map(name).collect();
        text += &format!("; names {}", names.join(" "));
    }
    text += &format!("; issued by {}", parsed.issuer());
    let validity = parsed.validity();
    text += &match (now < validity.not_before, now > validity.not_after) {
        (true, _) => format!("; not valid before {}", utc(validity.not_before)),
        (_, true) => format!("; expired {}", utc(validity.not_after)),
        _ => format!("; valid until {}", utc(validity.not_after)),
    };
    Ok(text)
}

fn name(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::DNSName(name) | GeneralName::URI(name) => (*name).to_owned(),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let address = v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
            address.map_or_else(|_| name.to_string(), |address| address.to_string())
        }
        other => other.to_string(),
    }
}

/// RFC 3339, in seconds.
pub(super) fn utc(time: ASN1Time) -> String {
    let time = time.to_datetime();
    let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", time.hour(), time.minute(), time.second())
}

/// The usual verifier, which also keeps the certificate: what is refused can be shown.
#[derive(Debug)]
struct Witness {
    inner: Arc<WebPkiServerVerifier>,
    /// The certificate, and whether it was accepted.
    seen: OnceLock<(CertificateDer<'static>, bool)>,
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let result = self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        self.seen.get_or_init(|| (end_entity.clone().into_owned(), result.is_ok()));
        result
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Notes that the server asked for a certificate, and shows none.
#[derive(Debug, Default)]
struct Asked(AtomicBool);

impl ResolvesClientCert for Asked {
    fn resolve(&self, _authorities: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.store(true, Ordering::Relaxed);
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}
