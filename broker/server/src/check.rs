//! What of the settings only a node can check: its features, and the files that they name.

use std::path::Path;

use raftmq_config::{Config, ConfigError, Origins, TlsFiles};
use raftmq_links::pki::{PkiError, SecretPem, TlsMaterial, server_config};

use crate::{features, listener_tls};

/// Whether the files that settings name are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Files {
    Read,
    Skip,
}

/// All that is wrong, each thing at the place where its setting was written.
///
/// # Errors
/// [`ConfigError::Invalid`]: the node cannot start with these settings.
pub(crate) fn check(config: &Config, origins: &Origins, files: Files) -> Result<(), ConfigError> {
    let mut found = features::violations(&config.mqtt);
    if files == Files::Read {
        for (index, listener) in config.listeners.iter().enumerate() {
            let wrong = listener.tls.iter().flat_map(listener_tls::violations);
            found.extend(wrong.map(|(field, message)| (format!("listeners[{index}].tls.{field}"), message)));
        }
        let links = config.cluster.as_ref().map(|cluster| ("cluster.links.tls", &cluster.links.tls));
        let http = config.http.tls.as_ref().map(|tls| ("http.tls", tls));
        for (path, tls) in links.into_iter().chain(http) {
            found.extend(node_files(tls).into_iter().map(|(field, message)| (format!("{path}.{field}"), message)));
        }
    }
    let problems: Vec<_> = found.into_iter().map(|(path, message)| origins.problem(&path, message)).collect();
    if problems.is_empty() { Ok(()) } else { Err(ConfigError::Invalid(problems)) }
}

/// A file's content, or what is wrong with it.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// What is said of two files that are not of one pair.
pub(crate) fn mismatch(key: &Path, cert: &Path) -> String {
    format!("{}: it is not the key of the certificate {}", key.display(), cert.display())
}

/// What is wrong with a node's own certificate and its authority: (field, message).
fn node_files(files: &TlsFiles) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    let mut text = |field, path: &Path| {
        let read = read(path).and_then(|bytes| {
            String::from_utf8(bytes).map_err(|_| format!("{}: it is not PEM, which is text", path.display()))
        });
        read.map_err(|message| found.push((field, message))).unwrap_or_default()
    };
    let tls = TlsMaterial {
        ca_pem: text("caFile", &files.ca_file),
        cert_pem: text("certFile", &files.cert_file),
        key_pem: SecretPem::new(text("keyFile", &files.key_file)),
    };
    if found.is_empty()
        && let Err(error) = server_config(&tls, &[])
    {
        found.push(match &error {
            PkiError::Tls(rustls::Error::InconsistentKeys(_)) => {
                ("keyFile", mismatch(&files.key_file, &files.cert_file))
            }
            PkiError::Pem { what: "CA", .. } => ("caFile", format!("{}: {error}", files.ca_file.display())),
            PkiError::Pem { what: "key", .. } => ("keyFile", format!("{}: {error}", files.key_file.display())),
            _ => ("certFile", format!("{}: {error}", files.cert_file.display())),
        });
    }
    found
}
