//! A cluster's certificate authority.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};

use super::identity::CONTROL_URI;
use super::{NameError, PkiError, SecretPem, check_cluster_name, node_dns_name};

const HOUR: Duration = Duration::from_secs(3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// A certificate and its key, as PEM.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The certificate.
    pub cert_pem: String,
    /// Its private key (PKCS #8); write it readable by its owner only.
    pub key_pem: SecretPem,
}

/// Issues the certificates of one cluster.
pub struct ClusterCa {
    issuer: Issuer<'static, KeyPair>,
    cert_pem: String,
}

impl std::fmt::Debug for ClusterCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterCa").finish_non_exhaustive()
    }
}

impl ClusterCa {
    /// A new CA, valid for 10 years.
    pub fn create(cluster: &str) -> Result<Self, PkiError> {
        check_cluster_name(cluster)?;
        let key = KeyPair::generate()?;
        let mut params = leaf_params(&format!("RaftMQ {cluster} CA"), 10 * YEAR);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.use_authority_key_identifier_extension = false;
        let cert_pem = params.self_signed(&key)?.pem();
        Ok(ClusterCa {
            issuer: Issuer::new(params, key),
            cert_pem,
        })
    }

    /// A CA made before (or elsewhere), from its certificate and key.
    pub fn load(cert_pem: &str, key_pem: &SecretPem) -> Result<Self, PkiError> {
        let key = KeyPair::from_pem(key_pem.expose()).map_err(|e| PkiError::Pem {
            what: "CA's key",
            reason: e.to_string(),
        })?;
        Ok(ClusterCa {
            issuer: Issuer::from_ca_cert_pem(cert_pem, key)?,
            cert_pem: cert_pem.to_owned(),
        })
    }

    /// The CA's certificate.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// The CA's private key.
    pub fn key_pem(&self) -> SecretPem {
        SecretPem::new(self.issuer.key().serialize_pem())
    }

    /// A node's certificate: `NODE.CLUSTER.nodes.raftmq.io` and the `extra` DNS names and IP addresses.
    pub fn issue_node(
        &self,
        cluster: &str,
        node: &str,
        extra: &[String],
    ) -> Result<Issued, PkiError> {
        let own = node_dns_name(cluster, node)?;
        // The common name is for people only and at most 64 characters long.
        let mut params = leaf_params(node, YEAR);
        params.subject_alt_names.push(dns_san(&own)?);
        for name in extra {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(ip) => SanType::IpAddress(ip),
                Err(_) => dns_san(name)?,
            });
        }
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        self.issue(params)
    }

    /// A certificate for a client of the control API: URI `raftmq:control:NAME`, common name `NAME`.
    pub fn issue_client(&self, name: &str) -> Result<Issued, PkiError> {
        if name.is_empty()
            || name.len() > 64
            || !name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-._@".contains(&b))
        {
            return Err(NameError {
                what: "client",
                name: name.to_owned(),
                rule: "1 to 64 letters, digits and -._@",
            }
            .into());
        }
        let mut params = leaf_params(name, YEAR);
        let uri = format!("{CONTROL_URI}{name}");
        params
            .subject_alt_names
            .push(SanType::URI(uri.as_str().try_into()?));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params)
    }

    fn issue(&self, params: CertificateParams) -> Result<Issued, PkiError> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Issued {
            cert_pem: certificate.pem(),
            key_pem: SecretPem::new(key.serialize_pem()),
        })
    }
}

fn leaf_params(common_name: &str, validity: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    let now = SystemTime::now();
    params.not_before = (now - HOUR).into();
    params.not_after = (now + validity).into();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params
}

fn dns_san(name: &str) -> Result<SanType, PkiError> {
    let valid = !name.is_empty()
        && name.len() <= 253
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._*".contains(&b));
    if !valid {
        return Err(PkiError::San(name.to_owned()));
    }
    Ok(SanType::DnsName(name.try_into()?))
}
