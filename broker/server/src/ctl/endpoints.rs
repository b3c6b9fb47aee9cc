//! Whom `ctl` asks, and as who: from flags, environment and a local cluster's directory.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use raftmq_discovery::HostPort;
use rustls::ClientConfig;

use super::CtlError;
use super::options::Access;
use crate::certs::client_tls;
use crate::http::api::{Memory, NodeStatus};
use crate::http::client::{ClientError, ControlClient, Target};
use crate::up::{UpState, read_state};

/// Where a local cluster is unless something else is said.
const DATA: &str = "./.raftmq";
/// For the question whether a node is ready: then the next one is asked.
const PROBE: Duration = Duration::from_secs(3);
/// For an operation; the API has a deadline of its own that is shorter.
const OPERATION: Duration = Duration::from_secs(40);

/// The nodes that are known, and the certificate to show them.
pub(crate) struct Endpoints {
    targets: Vec<Target>,
    tls: Arc<ClientConfig>,
    /// The local cluster's directory, where they are from there.
    data: Option<PathBuf>,
}

/// What flags and environment say, before any file is read.
#[derive(Debug, PartialEq, Eq)]
struct Choice {
    from: Source,
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
}

/// Where the nodes' addresses are from.
#[derive(Debug, PartialEq, Eq)]
enum Source {
    Data(PathBuf),
    Given(Vec<Target>),
}

impl Endpoints {
    /// # Errors
    /// [`CtlError::Usage`] for what is written wrongly, others for files that cannot be used.
    pub(crate) fn open(access: &Access) -> Result<Self, CtlError> {
        let choice = choose(access, |name| std::env::var(name).ok())?;
        let (targets, data) = match choice.from {
            Source::Given(targets) => (targets, None),
            Source::Data(data) => match read_state(&data)? {
                Some(state) => (local_targets(&state), Some(data)),
                None => return Err(CtlError::NoData(data)),
            },
        };
        let tls = client_tls(&choice.ca, &choice.cert, &choice.key)?;
        Ok(Self { targets, tls, data })
    }

    /// A client of the node of this name, or else of the first that is ready, or else of the first that answers.
    pub(crate) async fn pick(&self, node: Option<&str>) -> Result<ControlClient, CtlError> {
        match node {
            Some(node) => self.named(node).await,
            None => self.first().await,
        }
    }

    async fn first(&self) -> Result<ControlClient, CtlError> {
        let (target, ready) = self.first_target().await?;
        if !ready {
            let name = target.node.as_deref().unwrap_or(&target.address);
            // Beside the answer, not in it.
            let _ = writeln!(
                std::io::stderr(),
                "warning: no node that answers is ready; this is what {name} knew last, and may have changed"
            );
        }
        Ok(self.client(&target, OPERATION))
    }

    /// A client of the first node that is ready, or else of the first that answers: for who knows that they need not be ready.
    pub(crate) async fn first_that_answers(&self) -> Result<ControlClient, CtlError> {
        self.first_target().await.map(|(target, _)| self.client(&target, OPERATION))
    }

    async fn first_target(&self) -> Result<(Target, bool), CtlError> {
        let mut answered = None;
        let mut errors = Vec::new();
        for target in &self.targets {
            match self.client(target, PROBE).status().await {
                Ok(status) => {
                    // Whoever is asked next is to be the node that answered now.
                    let node = Some(status.node);
                    let target = Target { node, ..target.clone() };
                    if status.ready {
                        return Ok((target, true));
                    }
                    answered.get_or_insert(target);
                }
                Err(error) => errors.push(error),
            }
        }
        match answered {
            Some(target) => Ok((target, false)),
            None => Err(self.unreachable(errors)),
        }
    }

    async fn named(&self, node: &str) -> Result<ControlClient, CtlError> {
        let known = |target: &&Target| target.node.as_deref() == Some(node);
        if let Some(target) = self.targets.iter().find(known) {
            return Ok(self.client(target, OPERATION));
        }
        let mut errors = Vec::new();
        for target in &self.targets {
            let client = self.client(target, PROBE);
            match client.status().await {
                Ok(status) if status.node == node => return Ok(self.client(target, OPERATION)),
                Ok(_) => {}
                Err(error) => {
                    errors.push(error);
                    continue;
                }
            }
            // The members know where each other's control API is.
            let Ok(members) = client.members().await else {
                continue;
            };
            let member = members.members.into_iter().find(|member| member.name == node);
            if let Some(address) = member.and_then(|member| member.control_address) {
                let target = Target {
                    address,
                    cluster: members.cluster.map(|cluster| cluster.name),
                    node: Some(node.to_owned()),
                };
                return Ok(self.client(&target, OPERATION));
            }
        }
        if errors.len() == self.targets.len() {
            return Err(self.unreachable(errors));
        }
        Err(CtlError::UnknownNode(node.to_owned()))
    }

    /// What the node of this name keeps in its memory alone, or why that is not known.
    pub(crate) async fn memory_of(&self, node: &str) -> Result<Memory, String> {
        let status = self.status_of(node).await?;
        status.memory.ok_or_else(|| "its version does not tell".to_owned())
    }

    /// How the node of this name is doing, or why it cannot be asked.
    pub(crate) async fn status_of(&self, node: &str) -> Result<NodeStatus, String> {
        let asked = async { Ok::<_, CtlError>(self.named(node).await?.status().await?) };
        match tokio::time::timeout(PROBE * 2, asked).await {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {} s", (PROBE * 2).as_secs())),
        }
    }

    fn unreachable(&self, errors: Vec<ClientError>) -> CtlError {
        let reasons: Vec<String> = errors.iter().map(|error| format!("\n  {error}")).collect();
        let hint = match &self.data {
            Some(data) => format!("\nis `raftmq up` running on {}?", data.display()),
            None => String::new(),
        };
        CtlError::Unreachable(reasons.concat() + &hint)
    }

    fn client(&self, target: &Target, deadline: Duration) -> ControlClient {
        ControlClient::new(target.clone(), Arc::clone(&self.tls), deadline)
    }
}

fn local_targets(state: &UpState) -> Vec<Target> {
    let targets = state.nodes.iter().map(|(name, ports)| Target {
        address: format!("127.0.0.1:{}", ports.http),
        cluster: Some(state.cluster.clone()),
        node: Some(name.clone()),
    });
    targets.collect()
}

/// Flags count before the environment, endpoints before a directory.
fn choose(access: &Access, env: impl Fn(&str) -> Option<String>) -> Result<Choice, CtlError> {
    let env = |name: &str| env(name).filter(|value| !value.is_empty());
    let path = |flag: &Option<PathBuf>, name| flag.clone().or_else(|| env(name).map(PathBuf::from));
    let mut endpoints = access.endpoint.clone();
    if endpoints.is_empty() && access.data.is_none() {
        let listed = env("RAFTMQ_CTL_ENDPOINT").unwrap_or_default();
        endpoints = listed.split(',').filter(|endpoint| !endpoint.is_empty()).map(str::to_owned).collect();
    }
    let data = path(&access.data, "RAFTMQ_CTL_DATA").unwrap_or_else(|| DATA.into());
    let pki = data.join("pki");
    let file = |flag, name, file: &str| path(flag, name).unwrap_or_else(|| pki.join(file));
    Ok(Choice {
        ca: file(&access.ca, "RAFTMQ_CTL_CA", "ca.pem"),
        cert: file(&access.cert, "RAFTMQ_CTL_CERT", "client.pem"),
        key: file(&access.key, "RAFTMQ_CTL_KEY", "client.key"),
        from: if endpoints.is_empty() {
            Source::Data(data)
        } else {
            let targets = endpoints.iter().map(|endpoint| target(endpoint));
            Source::Given(targets.collect::<Result<_, _>>()?)
        },
    })
}

/// `https://HOST:PORT`.
fn target(endpoint: &str) -> Result<Target, CtlError> {
    let wrong = |reason: &str| CtlError::Usage(format!("--endpoint {endpoint}: {reason}; write https://HOST:PORT"));
    let address = match endpoint.split_once("://") {
        Some(("https", address)) => address,
        Some(_) => return Err(wrong("the control API is served by HTTPS only")),
        None => endpoint,
    };
    let address = address.strip_suffix('/').unwrap_or(address);
    if let Err(error) = address.parse::<HostPort>() {
        return Err(wrong(&error.to_string()));
    }
    Ok(Target { address: address.to_owned(), cluster: None, node: None })
}

/// The same for both ways that a path is said to be missing.
pub(crate) fn no_data(data: &Path) -> String {
    format!(
        "there is no local cluster in {}: start one with `raftmq up`, name its directory with --data, or a node with --endpoint",
        data.display()
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::HashMap;

    fn chosen(access: &Access, env: &[(&str, &str)]) -> Result<Choice, CtlError> {
        let env: HashMap<&str, &str> = env.iter().copied().collect();
        choose(access, |name| env.get(name).map(|&value| value.to_owned()))
    }

    fn addresses(choice: &Choice) -> Vec<&str> {
        match &choice.from {
            Source::Data(_) => Vec::new(),
            Source::Given(targets) => targets.iter().map(|t| t.address.as_str()).collect(),
        }
    }

    #[test]
    fn nothing_said_means_the_local_cluster() {
        let choice = chosen(&Access::default(), &[("RAFTMQ_CTL_ENDPOINT", "")]).unwrap();
        assert_eq!(choice.from, Source::Data("./.raftmq".into()));
        assert_eq!(choice.cert, Path::new("./.raftmq/pki/client.pem"));
        let choice = chosen(&Access::default(), &[("RAFTMQ_CTL_DATA", "/d")]).unwrap();
        assert_eq!(choice.from, Source::Data("/d".into()));
        assert_eq!(choice.ca, Path::new("/d/pki/ca.pem"));
    }

    #[test]
    fn flags_count_before_the_environment() {
        let env = [
            ("RAFTMQ_CTL_ENDPOINT", "https://a:1,https://b:2"),
            ("RAFTMQ_CTL_KEY", "/env/key"),
            ("RAFTMQ_CTL_CA", "/env/ca"),
        ];
        let choice = chosen(&Access::default(), &env).unwrap();
        assert_eq!(addresses(&choice), ["a:1", "b:2"]);
        let access =
            Access { endpoint: vec!["https://c:3/".into()], key: Some("/flag/key".into()), ..Access::default() };
        let choice = chosen(&access, &env).unwrap();
        assert_eq!(addresses(&choice), ["c:3"]);
        assert_eq!(choice.key, Path::new("/flag/key"));
        assert_eq!(choice.ca, Path::new("/env/ca"));
        // A directory that is named is meant, whatever the environment says.
        let access = Access { data: Some("/flag/data".into()), ..Access::default() };
        assert_eq!(chosen(&access, &env).unwrap().from, Source::Data("/flag/data".into()));
    }

    #[test]
    fn endpoints_are_https_with_host_and_port() {
        for (text, address) in [
            ("https://127.0.0.1:18083", "127.0.0.1:18083"),
            ("https://[::1]:18083/", "[::1]:18083"),
            ("broker.example.org:1", "broker.example.org:1"),
        ] {
            assert_eq!(target(text).unwrap().address, address);
        }
        for text in ["http://a:1", "https://a", "https://a:b", "https://", ":1"] {
            let error = target(text).unwrap_err();
            assert!(matches!(error, CtlError::Usage(_)), "{text}");
            assert!(error.to_string().contains("https://HOST:PORT"), "{error}");
        }
    }
}
