//! What `raftmq up` remembers between runs: `up.json` in its data directory.
//!
//! The bootstrap permission is given once in the life of a cluster. The intent is on the disk before the
//! call is made, so a run that died in between makes the same call again (the same names: the brokers take
//! it as the same permission), and never a second cluster.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::files::write_durably;

/// How far the one bootstrap of this cluster has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "phase")]
pub(crate) enum Bootstrap {
    /// No permission was given yet.
    #[default]
    None,
    /// It is about to be given, or was given without an answer.
    Intended {
        /// Names of the initial members: the call is repeated with these, whatever the resource says by then.
        members: Vec<String>,
    },
    /// The cluster exists. Never bootstrapped again, whatever its nodes say.
    #[serde(rename_all = "camelCase")]
    Done {
        /// The cluster's id, 32 hexadecimal digits.
        cluster_id: String,
    },
}

/// Where one node listens on the loopback address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NodePorts {
    /// One for each listener of the resource, in its order.
    pub(crate) listeners: Vec<u16>,
    /// Control API.
    pub(crate) http: u16,
    /// Metrics and health.
    pub(crate) metrics: u16,
    /// Links between nodes.
    pub(crate) links: u16,
}

/// The contents of `up.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct UpState {
    /// Version of this file's form.
    pub(crate) format: u32,
    /// Name of the cluster: data of one cluster is not started as another.
    pub(crate) cluster: String,
    /// How far the bootstrap has come.
    pub(crate) bootstrap: Bootstrap,
    /// The nodes that have data, by name.
    pub(crate) nodes: BTreeMap<String, NodePorts>,
}

/// What can be wrong with the data directory.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "{path} is not what `raftmq up` wrote ({source}); put the right one back, or move the whole directory away to begin a new cluster"
    )]
    Parse { path: PathBuf, source: serde_json::Error },
    #[error("{path} has format {found}, this raftmq knows {known}: use the raftmq that wrote it, or a newer one")]
    Format { path: PathBuf, found: u32, known: u32 },
    #[error("{path} holds the data of the cluster {found:?}, not of {wanted:?}: choose another directory with --data")]
    OtherCluster { path: PathBuf, found: String, wanted: String },
    #[error("another `raftmq up` runs on {path}: stop it, or choose another directory with --data")]
    Locked { path: PathBuf },
}

const FORMAT: u32 = 1;
const FILE: &str = "up.json";

/// The data directory of `up`, locked for as long as this lives.
pub(crate) struct UpDir {
    root: PathBuf,
    _lock: File,
}

impl UpDir {
    /// Opens or makes the directory.
    pub(crate) fn open(root: &Path) -> Result<Self, StateError> {
        let io = |source| StateError::Io { path: root.to_owned(), source };
        std::fs::create_dir_all(root).map_err(io)?;
        let root = root.canonicalize().map_err(io)?;
        let lock = File::create(root.join("lock")).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { root, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StateError::Locked { path: root }),
            Err(TryLockError::Error(source)) => Err(io(source)),
        }
    }

    /// The directory itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// What one node keeps.
    pub(crate) fn node(&self, name: &str) -> PathBuf {
        self.root.join("nodes").join(name)
    }

    /// Keys and certificates.
    pub(crate) fn pki(&self) -> PathBuf {
        self.root.join("pki")
    }

    /// The state of the last run, or that of a new cluster.
    pub(crate) fn load(&self, cluster: &str) -> Result<UpState, StateError> {
        let Some(state) = read(&self.root)? else {
            return Ok(UpState {
                format: FORMAT,
                cluster: cluster.to_owned(),
                bootstrap: Bootstrap::None,
                nodes: BTreeMap::new(),
            });
        };
        if state.cluster != cluster {
            return Err(StateError::OtherCluster {
                path: self.root.clone(),
                found: state.cluster,
                wanted: cluster.to_owned(),
            });
        }
        Ok(state)
    }

    /// Writes the state durably: when this returns, it survives a power cut.
    pub(crate) fn save(&self, state: &UpState) -> Result<(), StateError> {
        let path = self.root.join(FILE);
        let text = serde_json::to_vec_pretty(state).expect("plain data has a JSON form");
        write_durably(&path, &text, 0o644).map_err(|source| StateError::Io { path, source })
    }
}

/// What a run of `up` left in the directory, whether it runs now or not; `None` where there is nothing of it.
pub(crate) fn read(root: &Path) -> Result<Option<UpState>, StateError> {
    /// All that is read of a format that may be another one.
    #[derive(Deserialize)]
    struct Head {
        format: u32,
    }
    let path = root.join(FILE);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StateError::Io { path, source }),
    };
    let parse = |source| StateError::Parse { path: path.clone(), source };
    let Head { format } = serde_json::from_slice(&text).map_err(parse)?;
    if format != FORMAT {
        return Err(StateError::Format { path, found: format, known: FORMAT });
    }
    serde_json::from_slice(&text).map(Some).map_err(parse)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_saved_comes_back_and_a_second_run_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let up = UpDir::open(dir.path()).unwrap();
        let mut state = up.load("demo").unwrap();
        assert_eq!(state.bootstrap, Bootstrap::None);
        state.bootstrap = Bootstrap::Intended { members: vec!["demo-0".into()] };
        state
            .nodes
            .insert("demo-0".into(), NodePorts { listeners: vec![1883], http: 18083, metrics: 9100, links: 9883 });
        up.save(&state).unwrap();
        assert_eq!(up.load("demo").unwrap(), state);
        assert!(matches!(up.load("other"), Err(StateError::OtherCluster { .. })));
        assert!(matches!(UpDir::open(dir.path()), Err(StateError::Locked { .. })));
    }

    #[test]
    fn a_damaged_or_newer_file_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let up = UpDir::open(dir.path()).unwrap();
        std::fs::write(dir.path().join("up.json"), "{").unwrap();
        assert!(up.load("demo").unwrap_err().to_string().contains("up.json"));
        std::fs::write(dir.path().join("up.json"), r#"{"format":9,"clusters":["demo"]}"#).unwrap();
        assert!(matches!(up.load("demo"), Err(StateError::Format { found: 9, .. })));
    }
}
