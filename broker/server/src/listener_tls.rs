//! The certificates of a listener: read from their files, and read again when these change.
//!
//! Files are compared by what is in them: a Secret of Kubernetes changes by a symbolic link, and times of files say little. A
//! connection has the configuration that it was made with; so open ones go on whatever becomes of the files.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use raftmq_config::{ClientAuth, ListenerTls, TlsVersion};
use raftmq_transport::tls::{CertificatePem, ClientAuth as Auth, MinVersion, TlsConfigError, TlsConfigs, TlsMaterial};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::check;

/// Time between two looks at the files.
const PERIOD: Duration = Duration::from_secs(2);

/// Why a listener has no certificates.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    #[error("{path}: {source}", path = path.display())]
    File { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Tls(#[from] TlsConfigError),
}

/// The certificates of one listener.
pub(crate) struct ListenerCertificates {
    listener: String,
    settings: ListenerTls,
    current: ArcSwap<TlsConfigs>,
    /// What was read last, whether it could be used or not; and the error that was reported.
    seen: Mutex<Seen>,
    reloads: AtomicU64,
    failures: AtomicU64,
}

#[derive(Default)]
struct Seen {
    material: Option<Material>,
    error: Option<String>,
}

impl ListenerCertificates {
    /// Reads the files at the start.
    pub(crate) fn load(listener: &str, settings: &ListenerTls) -> Result<Arc<Self>, CertificateError> {
        let material = Material::read(settings)?;
        let configs = material.build(settings)?;
        tracing::info!(listener, serial = configs.serial, "certificates read");
        Ok(Arc::new(Self {
            listener: listener.to_owned(),
            settings: settings.clone(),
            current: ArcSwap::from_pointee(configs),
            seen: Mutex::new(Seen { material: Some(material), error: None }),
            reloads: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        }))
    }

    /// What new connections are made with.
    pub(crate) fn current(&self) -> Arc<TlsConfigs> {
        self.current.load_full()
    }

    /// Files that changed and were read again: those that could be used, and those that could not.
    pub(crate) fn reloads(&self) -> (u64, u64) {
        (self.reloads.load(Ordering::Relaxed), self.failures.load(Ordering::Relaxed))
    }

    /// Looks at the files once. What cannot be used is said once, and looked at again when it has changed.
    pub(crate) fn look(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let result = match Material::read(&self.settings) {
            Ok(material) if seen.material.as_ref() == Some(&material) => return,
            Ok(material) => {
                let built = material.build(&self.settings).map_err(CertificateError::from);
                seen.material = Some(material);
                built
            }
            Err(error) => {
                // Whatever comes then is new.
                seen.material = None;
                Err(error)
            }
        };
        match result {
            Ok(configs) => {
                tracing::info!(
                    listener = self.listener,
                    serial = configs.serial,
                    "certificates changed: for new connections"
                );
                self.current.store(Arc::new(configs));
                self.reloads.fetch_add(1, Ordering::Relaxed);
                seen.error = None;
            }
            Err(error) => {
                let error = error.to_string();
                if seen.error.as_ref() != Some(&error) {
                    tracing::error!(
                        listener = self.listener,
                        error,
                        "changed certificates cannot be used: the former ones stay"
                    );
                    self.failures.fetch_add(1, Ordering::Relaxed);
                }
                seen.error = Some(error);
            }
        }
    }
}

/// Looks at all files every few seconds, and at SIGHUP. Never ends.
pub(crate) async fn watch(all: Vec<Arc<ListenerCertificates>>) {
    let mut hangups = match signal(SignalKind::hangup()) {
        Ok(hangups) => Some(hangups),
        Err(error) => {
            tracing::error!(%error, "cannot wait for SIGHUP: files are looked at all the same");
            None
        }
    };
    loop {
        tokio::select! {
            () = hung_up(&mut hangups) => tracing::info!("SIGHUP: looking at the certificates"),
            () = tokio::time::sleep(PERIOD), if !all.is_empty() => {}
        }
        let looking = all.clone();
        let looked = tokio::task::spawn_blocking(move || looking.iter().for_each(|one| one.look())).await;
        if let Err(error) = looked {
            tracing::error!(%error, "looking at the certificates failed");
        }
    }
}

async fn hung_up(hangups: &mut Option<Signal>) {
    match hangups {
        Some(hangups) => {
            hangups.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// The contents of the files.
#[derive(PartialEq)]
struct Material {
    default: [Vec<u8>; 2],
    others: Vec<[Vec<u8>; 2]>,
    ca: Option<Vec<u8>>,
    crl: Option<Vec<u8>>,
}

impl Material {
    fn read(settings: &ListenerTls) -> Result<Self, CertificateError> {
        let others = settings.certificates.iter().map(|one| Ok([read(&one.cert_file)?, read(&one.key_file)?]));
        Ok(Self {
            default: [read(&settings.cert_file)?, read(&settings.key_file)?],
            others: others.collect::<Result<_, CertificateError>>()?,
            ca: settings.ca_file.as_deref().map(read).transpose()?,
            crl: settings.crl_file.as_deref().map(read).transpose()?,
        })
    }

    fn build(&self, settings: &ListenerTls) -> Result<TlsConfigs, TlsConfigError> {
        let pem = |(cert_file, key_file): Pair<'_>, [chain, key]: &[Vec<u8>; 2], names: &[String]| CertificatePem {
            label: label(cert_file, key_file),
            server_names: names.to_vec(),
            chain: chain.clone(),
            key: key.clone(),
        };
        let others = settings.certificates.iter().zip(&self.others);
        TlsMaterial {
            default: pem((&settings.cert_file, &settings.key_file), &self.default, &[]),
            others: others.map(|(one, read)| pem((&one.cert_file, &one.key_file), read, &one.server_names)).collect(),
            client_ca: self.ca.clone(),
            client_auth: match settings.client_auth {
                ClientAuth::None => Auth::None,
                ClientAuth::Optional => Auth::Optional,
                ClientAuth::Required => Auth::Required,
            },
            client_crl: self.crl.clone(),
            min_version: match settings.min_version {
                TlsVersion::Tls12 => MinVersion::Tls12,
                TlsVersion::Tls13 => MinVersion::Tls13,
            },
        }
        .build()
    }
}

/// Files of a certificate and its key.
type Pair<'a> = (&'a Path, &'a Path);

/// A certificate in errors: any of the two files may be the wrong one.
fn label(cert: &Path, key: &Path) -> String {
    format!("{} with the key {}", cert.display(), key.display())
}

/// What is wrong with the files that settings name: (field, message).
pub(crate) fn violations(settings: &ListenerTls) -> Vec<(String, String)> {
    let mut pairs = vec![(String::new(), settings.cert_file.as_path(), settings.key_file.as_path())];
    for (index, one) in settings.certificates.iter().enumerate() {
        pairs.push((format!("certificates[{index}]."), &one.cert_file, &one.key_file));
    }
    let others = [("caFile", &settings.ca_file), ("crlFile", &settings.crl_file)];
    let named =
        pairs.iter().flat_map(|(at, cert, key)| [(format!("{at}certFile"), *cert), (format!("{at}keyFile"), *key)]);
    let named = named.chain(others.iter().filter_map(|(field, file)| Some(((*field).to_owned(), file.as_deref()?))));
    let unread: Vec<_> = named.filter_map(|(field, path)| Some((field, check::read(path).err()?))).collect();
    if !unread.is_empty() {
        return unread;
    }
    let built = Material::read(settings).and_then(|material| Ok(material.build(settings)?));
    let Err(error) = built else {
        return Vec::new();
    };
    let file =
        |field: &str, file: &Path, error: &TlsConfigError| (field.to_owned(), format!("{}: {error}", file.display()));
    let ca = settings.ca_file.as_deref().unwrap_or(Path::new(""));
    vec![match &error {
        CertificateError::Tls(TlsConfigError::In { label: found, source }) => {
            let pair = pairs.iter().find(|(_, cert, key)| label(cert, key) == *found);
            let (at, cert, key) = pair.unwrap_or(&pairs[0]);
            match &**source {
                TlsConfigError::KeyMismatch => (format!("{at}keyFile"), check::mismatch(key, cert)),
                TlsConfigError::Pem { what: "key", .. } => file(&format!("{at}keyFile"), key, source),
                TlsConfigError::NoNames | TlsConfigError::ServerName(_) | TlsConfigError::NameTwice(_) => {
                    file(&format!("{at}serverNames"), cert, source)
                }
                _ => file(&format!("{at}certFile"), cert, source),
            }
        }
        CertificateError::Tls(
            error @ (TlsConfigError::Pem { what: "revocation list", .. } | TlsConfigError::RevocationList(_)),
        ) => file("crlFile", settings.crl_file.as_deref().unwrap_or(ca), error),
        CertificateError::Tls(error) => file("caFile", ca, error),
        // It went away this moment.
        CertificateError::File { .. } => ("certFile".to_owned(), error.to_string()),
    }]
}

fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    std::fs::read(path).map_err(|source| CertificateError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn issue(serial: u64) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.serial_number = Some(rcgen::SerialNumber::from(serial));
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    /// Version 1, as `openssl ca -gencrl` makes it without further settings.
    const OLD_LIST: &str = include_str!("listener_tls/version1.crl.pem");

    #[test]
    fn a_revocation_list_of_version_1_is_named_as_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let (chain, key) = issue(1);
        for (name, text) in [("tls.crt", chain.as_str()), ("tls.key", &key), ("crl.pem", OLD_LIST)] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let at = dir.path().display();
        let yaml = format!(
            "{{certFile: {at}/tls.crt, keyFile: {at}/tls.key, clientAuth: required, caFile: {at}/tls.crt, crlFile: {at}/crl.pem}}"
        );
        let settings: ListenerTls = serde_saphyr::from_str(&yaml).unwrap();
        let found = violations(&settings);
        let [(field, message)] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(field, "crlFile");
        assert!(message.contains("crl.pem: the revocation list cannot be used"), "{message}");
        assert!(message.contains("version 2"), "{message}");
    }

    #[test]
    fn changed_files_are_read_again_and_what_is_wrong_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
        let write = |(chain, private): &(String, String)| {
            std::fs::write(&cert, chain).unwrap();
            std::fs::write(&key, private).unwrap();
        };
        let yaml = format!("{{certFile: {}, keyFile: {}}}", cert.display(), key.display());
        let settings: ListenerTls = serde_saphyr::from_str(&yaml).unwrap();
        let missing = ListenerCertificates::load("mqtts", &settings).err().unwrap().to_string();
        assert!(missing.contains("tls.crt"), "{missing}");
        let (first, second) = (issue(1), issue(2));
        write(&first);
        let certificates = ListenerCertificates::load("mqtts", &settings).unwrap();
        let serial = || certificates.current().serial.clone();
        certificates.look();
        assert_eq!((serial(), certificates.reloads()), ("01".into(), (0, 0)));
        // The key is still the other one's.
        std::fs::write(&cert, &second.0).unwrap();
        certificates.look();
        certificates.look();
        assert_eq!((serial(), certificates.reloads()), ("01".into(), (0, 1)));
        std::fs::write(&key, &second.1).unwrap();
        certificates.look();
        assert_eq!((serial(), certificates.reloads()), ("02".into(), (1, 1)));
        std::fs::remove_file(&cert).unwrap();
        certificates.look();
        certificates.look();
        assert_eq!((serial(), certificates.reloads()), ("02".into(), (1, 2)));
        write(&first);
        certificates.look();
        assert_eq!((serial(), certificates.reloads()), ("01".into(), (2, 2)));
    }
}
