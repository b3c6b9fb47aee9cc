//! A cluster's certificate authority.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

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
        Ok(ClusterCa { issuer: Issuer::new(params, key), cert_pem })
    }

    /// A CA made before (or elsewhere), from its certificate and key.
    pub fn load(cert_pem: &str, key_pem: &SecretPem) -> Result<Self, PkiError> {
        let key = KeyPair::from_pem(key_pem.expose())
            .map_err(|e| PkiError::Pem { what: "CA's key", reason: e.to_string() })?;
        check_is_ca(cert_pem, &key)?;
        Ok(ClusterCa { issuer: Issuer::from_ca_cert_pem(cert_pem, key)?, cert_pem: cert_pem.to_owned() })
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
    pub fn issue_node(&self, cluster: &str, node: &str, extra: &[String]) -> Result<Issued, PkiError> {
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
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params)
    }

    /// A certificate for a client of the control API: URI `raftmq:control:NAME`, common name `NAME`.
    pub fn issue_client(&self, name: &str) -> Result<Issued, PkiError> {
        if name.is_empty()
            || name.len() > 64
            || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._@".contains(&b))
        {
            return Err(
                NameError { what: "client", name: name.to_owned(), rule: "1 to 64 letters, digits and -._@" }.into()
            );
        }
        let mut params = leaf_params(name, YEAR);
        let uri = format!("{CONTROL_URI}{name}");
        params.subject_alt_names.push(SanType::URI(uri.as_str().try_into()?));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params)
    }

    fn issue(&self, params: CertificateParams) -> Result<Issued, PkiError> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Issued { cert_pem: certificate.pem(), key_pem: SecretPem::new(key.serialize_pem()) })
    }
}

/// A certificate that may sign, with this key: else every certificate that it issues would be refused later, by others.
fn check_is_ca(cert_pem: &str, key: &KeyPair) -> Result<(), PkiError> {
    let unusable = |reason: String| PkiError::Pem { what: "CA's certificate", reason };
    let der = CertificateDer::from_pem_slice(cert_pem.as_bytes()).map_err(|error| unusable(error.to_string()))?;
    let (_, parsed) = X509Certificate::from_der(&der).map_err(|error| unusable(error.to_string()))?;
    if !parsed.is_ca() {
        return Err(unusable("it is not a CA's".to_owned()));
    }
    if *parsed.public_key().subject_public_key.data != *key.public_key_raw() {
        return Err(unusable("the key is another one's".to_owned()));
    }
    Ok(())
}

fn leaf_params(common_name: &str, validity: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
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
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._*".contains(&b));
    if !valid {
        return Err(PkiError::San(name.to_owned()));
    }
    Ok(SanType::DnsName(name.try_into()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::pki::{CertIdentity, TlsMaterial, client_config, server_config};

    fn der(pem: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
    }

    #[test]
    fn certificates_say_what_the_table_says() {
        let ca = ClusterCa::create("prod").unwrap();
        let extra = ["10.0.0.7".to_owned(), "n0.prod.svc".to_owned()];
        let node = ca.issue_node("prod", "n0", &extra).unwrap();
        let client = ca.issue_client("admin@example.org").unwrap();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64;
        let table = [
            (ca.cert_pem(), 10 * 365, true, (false, false)),
            (&node.cert_pem, 365, false, (true, true)),
            (&client.cert_pem, 365, false, (false, true)),
        ];
        for (pem, days, is_ca, (server, client)) in table {
            let der = der(pem);
            let (_, parsed) = X509Certificate::from_der(&der).unwrap();
            assert_eq!(parsed.is_ca(), is_ca);
            let validity = parsed.validity();
            assert!((now - 3660..=now - 3600).contains(&validity.not_before.timestamp()));
            let end = validity.not_after.timestamp() - now;
            assert!((days * 86_400 - 60..=days * 86_400).contains(&end), "{end}");
            let usage = parsed.extended_key_usage().unwrap();
            let usage = usage.map_or((false, false), |u| (u.value.server_auth, u.value.client_auth));
            assert_eq!(usage, (server, client));
        }
        let node_der = der(&node.cert_pem);
        let (_, parsed) = X509Certificate::from_der(&node_der).unwrap();
        let sans = parsed.subject_alternative_name().unwrap().unwrap();
        let sans = format!("{:?}", sans.value.general_names);
        for name in ["n0.prod.nodes.raftmq.io", "n0.prod.svc", "[10, 0, 0, 7]"] {
            assert!(sans.contains(name), "{sans}");
        }
        let node = CertIdentity::from_der(&der(&node.cert_pem)).unwrap();
        assert!(node.is_node("prod", "n0") && node.is_member_of("prod"));
        assert!(!node.is_node("prod", "n1") && !node.is_node("test", "n0"));
        assert_eq!(node.control, None);
        let client = CertIdentity::from_der(&der(&client.cert_pem)).unwrap();
        assert_eq!(client.control.as_deref(), Some("admin@example.org"));
        assert!(client.nodes.is_empty());
    }

    #[test]
    fn a_loaded_ca_issues_what_its_first_self_trusts() {
        let ca = ClusterCa::create("prod").unwrap();
        let loaded = ClusterCa::load(ca.cert_pem(), &ca.key_pem()).unwrap();
        let issued = loaded.issue_node("prod", "n0", &[]).unwrap();
        let tls = TlsMaterial { ca_pem: ca.cert_pem().to_owned(), cert_pem: issued.cert_pem, key_pem: issued.key_pem };
        server_config(&tls, &[]).unwrap();
        client_config(&tls, &[]).unwrap();
    }

    #[test]
    fn what_is_no_ca_is_not_loaded() {
        let ca = ClusterCa::create("prod").unwrap();
        let other = ClusterCa::create("prod").unwrap();
        let node = ca.issue_node("prod", "n0", &[]).unwrap();
        let table = [
            (ca.cert_pem(), other.key_pem(), "another"),
            (&node.cert_pem, node.key_pem, "not a CA"),
            ("nothing", ca.key_pem(), "PEM"),
            (ca.cert_pem(), SecretPem::new("nothing"), "PEM"),
        ];
        for (cert, key, expected) in table {
            let error = ClusterCa::load(cert, &key).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn bad_names_are_refused() {
        let ca = ClusterCa::create("prod").unwrap();
        for name in ["", "-a", "a-", "A", "a.b", "a_b", "*", &"a".repeat(64)] {
            assert!(ca.issue_node("prod", name, &[]).is_err(), "{name}");
        }
        for cluster in ["", ".", "a..b", "A", "a.", &"a.".repeat(80)] {
            assert!(ClusterCa::create(cluster).is_err(), "{cluster}");
        }
        for san in ["", "a b", "a,DNS:b", "\u{e9}"] {
            assert!(ca.issue_node("prod", "n0", &[san.to_owned()]).is_err(), "{san}");
        }
        for client in ["", "a b", "a/b", &"a".repeat(65)] {
            assert!(ca.issue_client(client).is_err(), "{client}");
        }
    }

    #[test]
    fn keys_are_not_shown() {
        let ca = ClusterCa::create("prod").unwrap();
        let issued = ca.issue_node("prod", "n0", &[]).unwrap();
        let tls = TlsMaterial {
            ca_pem: ca.cert_pem().to_owned(),
            cert_pem: issued.cert_pem.clone(),
            key_pem: issued.key_pem.clone(),
        };
        for shown in [format!("{ca:?}"), format!("{issued:?}"), format!("{tls:?}")] {
            assert!(!shown.contains("PRIVATE KEY"), "{shown}");
        }
    }
}
