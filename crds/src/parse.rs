//! `MqttCluster` resources from a YAML file.

use raftmq_config::schema::{check, schema_of};
use raftmq_config::tree::{Node, Value, parse_documents};
use raftmq_config::{Problem, from_document};
use serde_json::json;

use crate::check::violations;
use crate::{GROUP, MqttCluster, MqttClusterSpec, VERSION};

/// Why a file holds no usable `MqttCluster`.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// Everything that is wrong, in the order of the documents.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Invalid(Vec<Problem>),
    /// No document of the file is one.
    #[error(
        "{file}: holds no MqttCluster; it needs a document with apiVersion: {GROUP}/{VERSION} and kind: MqttCluster"
    )]
    None {
        /// The file as it was given.
        file: String,
    },
    /// There are several, and one is wanted.
    #[error("{file}: holds {} MqttClusters ({}); leave one in the file", .names.len(), .names.join(", "))]
    Several {
        /// The file as it was given.
        file: String,
        /// Their names.
        names: Vec<String>,
    },
}

impl MqttCluster {
    /// The one `MqttCluster` among the documents of a YAML text. `file` is the name for messages.
    ///
    /// # Errors
    /// [`ParseError`]: none or several, or what is wrong with it by setting, line and column.
    pub fn from_yaml(text: &str, file: &str) -> Result<Self, ParseError> {
        let mut all = Self::all_from_yaml(text, file)?;
        match (all.pop(), all.is_empty()) {
            (Some(one), true) => Ok(one),
            (None, _) => Err(ParseError::None { file: file.into() }),
            (Some(last), false) => Err(ParseError::Several {
                file: file.into(),
                names: all.iter().chain([&last]).filter_map(|c| c.metadata.name.clone()).collect(),
            }),
        }
    }

    /// All `MqttCluster` documents of a YAML text; documents of other kinds are left out.
    ///
    /// # Errors
    /// [`ParseError::Invalid`]: what is wrong with them, by setting, line and column.
    pub fn all_from_yaml(text: &str, file: &str) -> Result<Vec<Self>, ParseError> {
        let documents = parse_documents(text, file).map_err(|problem| ParseError::Invalid(vec![problem]))?;
        let mut clusters = Vec::new();
        let mut problems = Vec::new();
        for document in &documents {
            match read(document) {
                Ok(cluster) => clusters.extend(cluster),
                Err(wrong) => problems.extend(wrong),
            }
        }
        if problems.is_empty() { Ok(clusters) } else { Err(ParseError::Invalid(problems)) }
    }
}

/// One document; `None` where it is of another kind.
fn read(document: &Node) -> Result<Option<MqttCluster>, Vec<Problem>> {
    let problem =
        |path: &str, message: String| Problem { path: path.to_owned(), origin: document.locate(path), message };
    if !matches!(document.value, Value::Map(_)) {
        let message = format!("expected a resource with apiVersion and kind, found {}", document.value.kind());
        return Err(vec![problem("", message)]);
    }
    let version = document.text("apiVersion").unwrap_or_default();
    let kind = document.text("kind").unwrap_or_default();
    let ours = version.split('/').next() == Some(GROUP);
    if kind != "MqttCluster" {
        if ours || version.is_empty() || kind.is_empty() {
            let path = if version.is_empty() { "apiVersion" } else { "kind" };
            let message = format!("a resource of {GROUP} has apiVersion: {GROUP}/{VERSION} and kind: MqttCluster");
            return Err(vec![problem(path, message)]);
        }
        return Ok(None);
    }
    if version != format!("{GROUP}/{VERSION}") {
        let message = match version {
            "" => format!("missing; write {GROUP}/{VERSION}"),
            other => format!("{other:?} is not known; write {GROUP}/{VERSION}"),
        };
        return Err(vec![problem("apiVersion", message)]);
    }
    let schema = json!({
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {
            "apiVersion": { "type": "string" },
            "kind": { "type": "string" },
            "metadata": { "type": "object" },
            "spec": schema_of::<MqttClusterSpec>(),
            // What `kubectl get -o yaml` prints can be used as it is.
            "status": { "type": "object" },
        }
    });
    let problems = check(&schema, document);
    if !problems.is_empty() {
        return Err(problems);
    }
    let cluster: MqttCluster = from_document(document).map_err(|p| vec![p])?;
    let problems: Vec<_> = violations(&cluster).into_iter().map(|(path, message)| problem(&path, message)).collect();
    if problems.is_empty() { Ok(Some(cluster)) } else { Err(problems) }
}
