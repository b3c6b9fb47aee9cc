//! The certificates of a cluster that is not run by the operator: a CA, one certificate a node, one for `raftmq ctl`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use raftmq_links::pki::{ClusterCa, Issued, PkiError, SecretPem, TlsMaterial, client_config};
use rustls::ClientConfig;

use crate::files::write_durably;

/// Make the certificates of a cluster that is run by hand
///
/// Writes into DIR: ca.pem and ca.key (the cluster's own authority, kept where it is there already), NODE.pem and
/// NODE.key for each node, client.pem and client.key for `raftmq ctl`. Run it again with the same DIR to add nodes or to
/// renew certificates, which are valid for a year; nodes read them at their start.
///
/// A node needs ca.pem, its own NODE.pem and NODE.key, in cluster.links.tls and in http.tls. Keep ca.key off the nodes:
/// whoever has it can join the cluster.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  raftmq certs --cluster demo --out pki a b c
  raftmq certs --cluster demo --out pki --san broker.example.org --san 10.0.0.7 a")]
pub(crate) struct CertsOptions {
    /// Name of the cluster, as in cluster.name of every node
    #[arg(long, value_name = "NAME")]
    cluster: String,
    /// Folder of the certificates and keys
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Names of the nodes, as in node.name
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<String>,
    /// A further DNS name or address that the nodes are reached by, besides localhost and 127.0.0.1; may be repeated
    #[arg(long = "san", value_name = "NAME")]
    names: Vec<String>,
}

/// Makes the certificates and says where they are.
pub(crate) fn run(options: &CertsOptions) -> Result<(), CertsError> {
    let pki = ClusterPki::open(&options.out, &options.cluster)?;
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    for name in &options.names {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    for node in &options.nodes {
        pki.issue_node(node, &names)?;
    }
    pki.issue_client()?;
    let out = options.out.display();
    println!("{out}/ca.pem: the authority of cluster {}", options.cluster);
    for node in &options.nodes {
        println!("{out}/{node}.pem, {out}/{node}.key: node {node}");
    }
    println!("{out}/client.pem, {out}/client.key: raftmq ctl");
    println!("keep {out}/ca.key off the nodes: it signs new members");
    Ok(())
}

/// TLS of a client of the control API.
pub(crate) fn client_tls(ca: &Path, cert: &Path, key: &Path) -> Result<Arc<ClientConfig>, CertsError> {
    let read =
        |path: &Path| std::fs::read_to_string(path).map_err(|source| CertsError::Io { path: path.to_owned(), source });
    let tls = TlsMaterial { ca_pem: read(ca)?, cert_pem: read(cert)?, key_pem: SecretPem::new(read(key)?) };
    client_config(&tls, &[]).map(Arc::new).map_err(|source| CertsError::Pki { path: cert.to_owned(), source })
}

/// A folder with `ca.pem`, `ca.key`, `NODE.pem`, `NODE.key`, `client.pem` and `client.key`.
pub(crate) struct ClusterPki {
    folder: PathBuf,
    cluster: String,
    ca: ClusterCa,
}

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertsError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path}: {source}")]
    Pki { path: PathBuf, source: PkiError },
    #[error("{folder} has the certificates of the cluster {found:?}, not of {wanted:?}: name another folder")]
    OtherCluster { folder: PathBuf, found: String, wanted: String },
    #[error("a node cannot be called {0:?}: the file of that name is another certificate's")]
    Reserved(String),
    #[error("{present} is there and {missing} is not: put it back, or move the folder away for a new authority")]
    Half { present: PathBuf, missing: PathBuf },
}

impl ClusterPki {
    /// Loads the cluster's authority from the folder, or makes one where there is none.
    pub(crate) fn open(folder: &Path, cluster: &str) -> Result<Self, CertsError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| CertsError::Io { path, source }
        };
        std::fs::create_dir_all(folder).map_err(io(folder))?;
        let named = folder.join("cluster");
        match std::fs::read_to_string(&named) {
            Ok(found) if found.trim() != cluster => {
                return Err(CertsError::OtherCluster {
                    folder: folder.to_owned(),
                    found: found.trim().to_owned(),
                    wanted: cluster.to_owned(),
                });
            }
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                write_durably(&named, format!("{cluster}\n").as_bytes(), 0o644).map_err(io(&named))?;
            }
            Err(source) => return Err(CertsError::Io { path: named, source }),
        }
        let (cert, key) = (folder.join("ca.pem"), folder.join("ca.key"));
        let ca = match (cert.exists(), key.exists()) {
            (true, true) => {
                let cert_pem = std::fs::read_to_string(&cert).map_err(io(&cert))?;
                let key_pem = SecretPem::new(std::fs::read_to_string(&key).map_err(io(&key))?);
                ClusterCa::load(&cert_pem, &key_pem).map_err(|source| CertsError::Pki { path: cert.clone(), source })?
            }
            (true, false) => {
                return Err(CertsError::Half { present: cert, missing: key });
            }
            // The key is written first: alone it has signed nothing.
            (false, _) => {
                let ca = ClusterCa::create(cluster).map_err(|source| CertsError::Pki { path: cert.clone(), source })?;
                write_durably(&key, ca.key_pem().expose().as_bytes(), 0o600).map_err(io(&key))?;
                write_durably(&cert, ca.cert_pem().as_bytes(), 0o644).map_err(io(&cert))?;
                ca
            }
        };
        Ok(Self { folder: folder.to_owned(), cluster: cluster.to_owned(), ca })
    }

    /// Issues a node's certificate anew; `names` are further DNS names and addresses that it is reached by.
    pub(crate) fn issue_node(&self, node: &str, names: &[String]) -> Result<(), CertsError> {
        if ["ca", "client"].contains(&node) {
            return Err(CertsError::Reserved(node.to_owned()));
        }
        self.write(node, self.ca.issue_node(&self.cluster, node, names))
    }

    /// Issues the certificate of `raftmq ctl` anew.
    pub(crate) fn issue_client(&self) -> Result<(), CertsError> {
        self.write("client", self.ca.issue_client("raftmq-ctl"))
    }

    fn write(&self, name: &str, issued: Result<Issued, PkiError>) -> Result<(), CertsError> {
        let path = self.folder.join(format!("{name}.pem"));
        let issued = issued.map_err(|source| CertsError::Pki { path: path.clone(), source })?;
        let key = self.folder.join(format!("{name}.key"));
        write_durably(&key, issued.key_pem.expose().as_bytes(), 0o600)
            .map_err(|source| CertsError::Io { path: key.clone(), source })?;
        write_durably(&path, issued.cert_pem.as_bytes(), 0o644).map_err(|source| CertsError::Io { path, source })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_authority_stays_and_keys_are_the_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        ClusterPki::open(dir.path(), "demo").unwrap().issue_client().unwrap();
        let ca = std::fs::read(dir.path().join("ca.pem")).unwrap();
        let pki = ClusterPki::open(dir.path(), "demo").unwrap();
        pki.issue_node("demo-0", &["127.0.0.1".into()]).unwrap();
        assert_eq!(std::fs::read(dir.path().join("ca.pem")).unwrap(), ca);
        for key in ["ca.key", "client.key", "demo-0.key"] {
            let mode = std::fs::metadata(dir.path().join(key)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{key}");
        }
        assert!(matches!(pki.issue_node("ca", &[]), Err(CertsError::Reserved(_))));
        pki.issue_client().unwrap();
        let file = |name: &str| dir.path().join(name);
        client_tls(&file("ca.pem"), &file("client.pem"), &file("client.key")).unwrap();
        let missing = client_tls(&file("ca.pem"), &file("nobody.pem"), &file("client.key"));
        assert!(missing.unwrap_err().to_string().contains("nobody.pem"));
        assert!(matches!(ClusterPki::open(dir.path(), "other"), Err(CertsError::OtherCluster { .. })));
        std::fs::remove_file(dir.path().join("ca.key")).unwrap();
        assert!(matches!(ClusterPki::open(dir.path(), "demo"), Err(CertsError::Half { .. })));
    }
}
