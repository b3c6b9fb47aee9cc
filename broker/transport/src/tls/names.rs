//! Names: which certificate a client gets, and who a client is.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, DnsName};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::TlsConfigError;

/// What TLS tells of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsPeer {
    /// The server name that it asked for (SNI).
    pub server_name: Option<Box<str>>,
    /// Common name in its certificate, where it showed one.
    pub common_name: Option<Box<str>>,
    /// Subject of its certificate, as `CN=pump-7, O=Plant`.
    pub subject: Option<Box<str>>,
}

/// Certificates by server name.
#[derive(Debug)]
pub(super) struct Resolver {
    default: Arc<CertifiedKey>,
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// By what follows `*.`.
    wildcards: HashMap<String, Arc<CertifiedKey>>,
}

impl Resolver {
    pub(super) fn new(default: Arc<CertifiedKey>) -> Self {
        Self { default, exact: HashMap::new(), wildcards: HashMap::new() }
    }

    pub(super) fn add(&mut self, name: &str, key: Arc<CertifiedKey>) -> Result<(), TlsConfigError> {
        let lower = name.trim_end_matches('.').to_ascii_lowercase();
        let (map, domain) = match lower.strip_prefix("*.") {
            Some(domain) => (&mut self.wildcards, domain),
            None => (&mut self.exact, lower.as_str()),
        };
        if DnsName::try_from(domain).is_err() {
            return Err(TlsConfigError::ServerName(name.to_owned()));
        }
        match map.insert(domain.to_owned(), key) {
            None => Ok(()),
            Some(_) => Err(TlsConfigError::NameTwice(name.to_owned())),
        }
    }

    fn find(&self, name: &str) -> &Arc<CertifiedKey> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let wildcard = || self.wildcards.get(name.split_once('.')?.1);
        self.exact.get(&name).or_else(wildcard).unwrap_or(&self.default)
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(hello.server_name().map_or(&self.default, |name| self.find(name))))
    }
}

/// The DNS names that a certificate is for.
pub(super) fn dns_names(certificate: &CertificateDer<'_>) -> Result<Vec<String>, TlsConfigError> {
    let wrong = |reason: String| TlsConfigError::Certificate(reason);
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| wrong(error.to_string()))?;
    let names = parsed.subject_alternative_name().map_err(|error| wrong(error.to_string()))?;
    let all = names.into_iter().flat_map(|extension| &extension.value.general_names);
    Ok(all
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        })
        .collect())
}

/// Common name and whole subject of a certificate that was verified.
#[must_use]
pub fn subject_of(certificate: &CertificateDer<'_>) -> (Option<Box<str>>, Option<Box<str>>) {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return (None, None);
    };
    let subject = parsed.subject();
    let common_name = subject.iter_common_name().next().and_then(|name| name.as_str().ok());
    (common_name.map(Into::into), Some(subject.to_string().into()))
}
