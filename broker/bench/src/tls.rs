//! What the clients trust, and show, over TLS.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// What the flags say about TLS.
pub(crate) struct TlsFlags<'a> {
    pub(crate) ca: Option<&'a Path>,
    pub(crate) cert: Option<&'a Path>,
    pub(crate) key: Option<&'a Path>,
    pub(crate) insecure: bool,
}

/// The configuration that all connections share.
///
/// # Errors
/// A file that cannot be read or used, by its flag.
pub(crate) fn config(flags: &TlsFlags<'_>) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = if flags.insecure {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anything(provider)))
    } else {
        builder.with_root_certificates(roots(flags.ca)?)
    };
    let mut config = match (flags.cert, flags.key) {
        (Some(cert), Some(key)) => {
            let chain = certificates("--cert", cert)?;
            let wrong = |error: &dyn fmt::Display| format!("--key {}: {error}", key.display());
            let text = std::fs::read(key).map_err(|error| wrong(&error))?;
            let private = PrivateKeyDer::from_pem_slice(&text).map_err(|error| wrong(&error))?;
            builder.with_client_auth_cert(chain, private).map_err(|error| wrong(&error))?
        }
        _ => builder.with_no_client_auth(),
    };
    // Each connection is one of a different client: none of them has a session to resume.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, String> {
    let (certificates, source) = match ca {
        Some(file) => (certificates("--ca", file)?, file.display().to_string()),
        None => (rustls_native_certs::load_native_certs().certs, "this system".to_owned()),
    };
    let mut store = RootCertStore::empty();
    // Some roots of distributions are older than the rules: they are left out, as other programs do.
    store.add_parsable_certificates(certificates);
    if store.is_empty() {
        return Err(format!("there are no usable root certificates of {source}: --ca names a file with the authority"));
    }
    Ok(store)
}

fn certificates(flag: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |error: &dyn fmt::Display| format!("{flag} {}: {error}", file.display());
    let text = std::fs::read(file).map_err(|error| wrong(&error))?;
    let list: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let list = list.map_err(|error| wrong(&error))?;
    if list.is_empty() { Err(wrong(&"it holds no certificate")) } else { Ok(list) }
}

/// An error of TLS in words that say what to do.
pub(crate) fn explain(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(wrong) => match wrong {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "the certificate is of an unknown authority: --ca names a file with the right one".to_owned()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the certificate of the server, or of its authority, has expired".to_owned()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the certificate of the server, or of its authority, is not valid yet by this clock".to_owned()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "the certificate is not for the host of --url".to_owned()
            }
            other => format!("the certificate is refused: {other}"),
        },
        Error::InvalidMessage(_) => format!("what answers is not TLS ({error}); is this a TLS port?"),
        other => other.to_string(),
    }
}

/// Takes any certificate (`--insecure`), but a handshake has to be right.
#[derive(Debug)]
struct Anything(Arc<CryptoProvider>);

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
