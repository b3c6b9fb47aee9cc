//! Certificates and keys.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;

use super::ValidatedCluster;

/// Key of the authority's certificates in a Secret.
pub const AUTHORITY: &str = "ca.crt";
/// Key of a certificate in a Secret.
pub const CERT: &str = "tls.crt";
/// Key of a private key in a Secret.
pub const KEY: &str = "tls.key";
/// Suffix of the name of the authority's own Secret. Pods never see it: who has its key can join the cluster.
pub const CA: &str = "ca";

/// What a Secret holds, as PEM.
#[derive(Clone)]
pub struct Pem {
    /// Certificates of the authority.
    pub authority: String,
    /// The certificate.
    pub cert: String,
    /// Its key.
    pub key: raftmq_links::pki::SecretPem,
}

/// The Secret `CLUSTER-suffix` (kubernetes.io/tls).
#[must_use]
pub fn secret(cluster: &ValidatedCluster, suffix: &str, pem: &Pem) -> Secret {
    let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
    Secret {
        metadata: cluster.meta(&format!("{}-{suffix}", cluster.name)),
        type_: Some("kubernetes.io/tls".into()),
        data: Some(BTreeMap::from([
            (AUTHORITY.to_owned(), bytes(&pem.authority)),
            (CERT.to_owned(), bytes(&pem.cert)),
            (KEY.to_owned(), bytes(pem.key.expose())),
        ])),
        ..Secret::default()
    }
}
