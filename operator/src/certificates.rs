//! A cluster's own authority and the certificates that it issues: what is there, whether it still serves, what is made anew.
//!
//! Three Secrets: `CLUSTER-ca` has the authority's key, which no pod sees; `CLUSTER-nodes` is mounted by all pods;
//! `CLUSTER-control` is the operator's own client certificate for the brokers' control API, which people may use as well.
//!
//! The nodes share one certificate for `*.CLUSTER.nodes.raftmq.io`. Members trust each other with everything, so a key of its own
//! a node would not hold a stolen one off, and a Secret with all keys would have to be there, renewed, before each pod.
//! Brokers read certificates at their start: a renewed one changes the pods' template, so that they are replaced one by one.

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use raftmq_links::pki::{ClusterCa, Issued, NODE_DOMAIN, PkiError, SecretPem};
use thiserror::Error;
use x509_parser::pem::parse_x509_pem;

use crate::build::{AUTHORITY, CERT, KEY, Pem};

/// A certificate with less than this before it is renewed: a third of the year that it is valid.
pub const RENEW_BEFORE: Duration = Duration::from_secs(122 * 24 * 3600);

/// The nodes' certificate has this node's name besides the wildcard; no node is called so, theirs end in a number.
const NODES: &str = "nodes";

/// Why there are no certificates.
#[derive(Debug, Error)]
pub enum CertificateError {
    /// The authority is gone, and what it issued is in use.
    #[error(
        "the Secret {name}-ca is gone while {name}-nodes, issued by it, is there: put it back; or, for a new authority, which \
         interrupts the cluster, first kubectl delete secret {name}-nodes {name}-control --ignore-not-found, and once they are \
         there again {replace}", replace = replace_all(name)
    )]
    Half {
        /// Name of the cluster.
        name: String,
    },
    /// A Secret does not hold what it should.
    #[error("the Secret {secret} cannot be used: {reason}")]
    Unusable {
        /// Its name.
        secret: String,
        /// What is wrong.
        reason: String,
    },
    /// A certificate cannot be made.
    #[error("cannot issue the certificate of {what}: {source}")]
    Issue {
        /// Whose.
        what: &'static str,
        /// Why.
        source: PkiError,
    },
}

/// The command that replaces all pods of a cluster at once. Nobody is asked what would be lost: brokers with certificates of a former authority
/// take no question from an operator with a new one.
#[must_use]
pub fn replace_all(cluster: &str) -> String {
    format!("kubectl delete pods -l app.kubernetes.io/instance={cluster}")
}

/// Who the certificates are for.
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    /// Name of the cluster.
    pub cluster: &'a str,
    /// Further DNS names of the nodes.
    pub names: Vec<String>,
}

impl<'a> Subject<'a> {
    /// With the names of the pods in DNS.
    #[must_use]
    pub fn new(cluster: &'a str, namespace: &str, domain: &str) -> Self {
        let service = format!("{}.{namespace}.svc", raftmq_crds::NodePlacement::links_service(cluster));
        let names = vec![
            format!("*.{cluster}.{NODE_DOMAIN}"),
            format!("*.{service}"),
            format!("*.{service}.{domain}"),
            service,
        ];
        Self { cluster, names }
    }
}

/// What is there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Existing<'a> {
    /// `CLUSTER-ca`.
    pub ca: Option<&'a Secret>,
    /// `CLUSTER-nodes`.
    pub nodes: Option<&'a Secret>,
    /// `CLUSTER-control`.
    pub control: Option<&'a Secret>,
}

/// What there should be.
pub struct Certificates {
    /// The authority, where it is new: it must be created, never overwritten.
    pub new_ca: Option<Pem>,
    /// The nodes' certificate.
    pub nodes: Pem,
    /// Whether it was issued now.
    pub new_nodes: bool,
    /// The certificate for the control API.
    pub control: Pem,
    /// Whether it was issued now.
    pub new_control: bool,
    /// When the authority itself ends.
    pub ca_ends: Timestamp,
    /// Why nothing can be issued, while what was issued before serves.
    pub problem: Option<CertificateError>,
}

/// Takes what is there and still serves, and issues the rest. Where the authority is lost and what it issued serves, that is kept as
/// long as it does: a cluster without a future still has clients.
///
/// # Errors
/// [`CertificateError`]: half of it is gone, a Secret is damaged, or a name cannot be in a certificate.
pub fn certificates(
    subject: &Subject<'_>,
    existing: Existing<'_>,
    now: Timestamp,
) -> Result<Certificates, CertificateError> {
    match authority(subject.cluster, existing) {
        Ok((ca, new_ca)) => issued(subject, existing, now, &ca, new_ca),
        Err(problem) => orphaned(subject, existing, now, problem),
    }
}

fn issue(what: &'static str) -> impl FnOnce(PkiError) -> CertificateError {
    move |source| CertificateError::Issue { what, source }
}

/// The authority, and what of it is to be created where it is new.
fn authority(cluster: &str, existing: Existing<'_>) -> Result<(ClusterCa, Option<Pem>), CertificateError> {
    match (existing.ca, existing.nodes) {
        (Some(secret), _) => Ok((load_ca(cluster, secret)?, None)),
        (None, Some(_)) => Err(CertificateError::Half { name: cluster.to_owned() }),
        (None, None) => {
            let ca = ClusterCa::create(cluster).map_err(issue("the authority"))?;
            let cert = ca.cert_pem().to_owned();
            let pem = Pem { authority: cert.clone(), cert, key: ca.key_pem() };
            Ok((ca, Some(pem)))
        }
    }
}

/// What is left without the authority, if it serves.
fn orphaned(
    subject: &Subject<'_>,
    existing: Existing<'_>,
    now: Timestamp,
    problem: CertificateError,
) -> Result<Certificates, CertificateError> {
    let kept = |secret: Option<&Secret>, names: &[String]| {
        let authority = text(secret?, AUTHORITY)?;
        serves(secret?, &authority, names, now, Duration::ZERO)
    };
    match (kept(existing.nodes, &subject.names), kept(existing.control, &[])) {
        (Some(nodes), Some(control)) if nodes.authority == control.authority => {
            let ca_ends = facts(&nodes.authority).map(|facts| facts.ends).unwrap_or(now);
            let problem = Some(problem);
            Ok(Certificates { new_ca: None, nodes, new_nodes: false, control, new_control: false, ca_ends, problem })
        }
        _ => Err(problem),
    }
}

fn issued(
    subject: &Subject<'_>,
    existing: Existing<'_>,
    now: Timestamp,
    ca: &ClusterCa,
    new_ca: Option<Pem>,
) -> Result<Certificates, CertificateError> {
    let cluster = subject.cluster;
    let with_ca =
        |issued: Issued| Pem { authority: ca.cert_pem().to_owned(), cert: issued.cert_pem, key: issued.key_pem };
    let kept = |secret: Option<&Secret>, names: &[String]| {
        secret.and_then(|s| serves(s, ca.cert_pem(), names, now, RENEW_BEFORE))
    };
    let kept_nodes = kept(existing.nodes, &subject.names);
    let new_nodes = kept_nodes.is_none();
    let nodes = match kept_nodes {
        Some(pem) => pem,
        None => with_ca(ca.issue_node(cluster, NODES, &subject.names).map_err(issue("the nodes"))?),
    };
    let kept_control = kept(existing.control, &[]);
    let new_control = kept_control.is_none();
    let control = match kept_control {
        Some(pem) => pem,
        None => with_ca(ca.issue_client("raftmq-operator").map_err(issue("the operator"))?),
    };
    let ca_ends = facts(ca.cert_pem()).map(|facts| facts.ends).unwrap_or(now);
    Ok(Certificates { new_ca, nodes, new_nodes, control, new_control, ca_ends, problem: None })
}

fn load_ca(cluster: &str, secret: &Secret) -> Result<ClusterCa, CertificateError> {
    let unusable = |reason: String| CertificateError::Unusable { secret: format!("{cluster}-ca"), reason };
    let cert = text(secret, CERT).ok_or_else(|| unusable(format!("it has no {CERT}")))?;
    let key = text(secret, KEY).ok_or_else(|| unusable(format!("it has no {KEY}")))?;
    ClusterCa::load(&cert, &SecretPem::new(key)).map_err(|error| unusable(error.to_string()))
}

/// What a Secret holds, if this authority issued it for these names and its end is far enough.
fn serves(secret: &Secret, ca: &str, names: &[String], now: Timestamp, enough: Duration) -> Option<Pem> {
    let pem =
        Pem { authority: text(secret, AUTHORITY)?, cert: text(secret, CERT)?, key: SecretPem::new(text(secret, KEY)?) };
    let facts = facts(&pem.cert)?;
    let left = facts.ends.as_second().saturating_sub(now.as_second());
    let enough = i64::try_from(enough.as_secs()).is_ok_and(|wanted| left > wanted);
    let named = names.iter().all(|name| facts.names.contains(name));
    (pem.authority == ca && enough && named && is_issued_by(&pem.cert, ca)).then_some(pem)
}

fn is_issued_by(cert: &str, ca: &str) -> bool {
    let (Ok((_, cert)), Ok((_, ca))) = (parse_x509_pem(cert.as_bytes()), parse_x509_pem(ca.as_bytes())) else {
        return false;
    };
    // The rules of chains are checked where connections are made; here two authorities of one name are told apart.
    match (cert.parse_x509(), ca.parse_x509()) {
        (Ok(cert), Ok(ca)) => {
            let key_id = |c: &x509_parser::certificate::X509Certificate<'_>| -> Option<Vec<u8>> {
                use x509_parser::extensions::ParsedExtension::{AuthorityKeyIdentifier, SubjectKeyIdentifier};
                c.extensions().iter().find_map(|e| match e.parsed_extension() {
                    AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0.to_vec()),
                    SubjectKeyIdentifier(id) if c.is_ca() => Some(id.0.to_vec()),
                    _ => None,
                })
            };
            cert.issuer() == ca.subject() && key_id(&cert).is_some() && key_id(&cert) == key_id(&ca)
        }
        _ => false,
    }
}

struct Facts {
    ends: Timestamp,
    names: Vec<String>,
}

fn facts(pem: &str) -> Option<Facts> {
    use x509_parser::extensions::GeneralName;
    let (_, pem) = parse_x509_pem(pem.as_bytes()).ok()?;
    let cert = pem.parse_x509().ok()?;
    let ends = Timestamp::from_second(cert.validity().not_after.timestamp()).ok()?;
    let sans = cert.subject_alternative_name().ok()?;
    let names = sans.iter().flat_map(|san| &san.value.general_names).filter_map(|name| match name {
        GeneralName::DNSName(dns) => Some((*dns).to_owned()),
        _ => None,
    });
    let names = names.collect();
    Some(Facts { ends, names })
}

fn text(secret: &Secret, key: &str) -> Option<String> {
    String::from_utf8(secret.data.as_ref()?.get(key)?.0.clone()).ok()
}

#[cfg(test)]
mod tests;
