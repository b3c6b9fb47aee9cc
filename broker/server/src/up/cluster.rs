//! The cluster that the brokers make: formed once, seen ready, left by the nodes that are too many.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::UpError;
use super::plan::Plan;
use super::state::{Bootstrap, UpDir, UpState};
use super::watch::Supervisor;
use crate::certs::client_tls;
use crate::http::api::{BootstrapRequest, LeaveRequest};
use crate::http::client::{ClientError, ControlClient, Target};
use crate::http::error::Reason;

/// Longest time for the nodes to come up and agree on a cluster, and for a node to leave it.
const DEADLINE: Duration = Duration::from_secs(60);
/// After so long it is said what is waited for.
const REMIND: Duration = Duration::from_secs(30);
/// Pause between two tries.
const RETRY: Duration = Duration::from_millis(250);
/// For questions that any node answers from what it knows.
const QUICK: Duration = Duration::from_secs(2);
/// For operations that other nodes have a part in.
const OPERATION: Duration = Duration::from_secs(15);

/// The control APIs of all nodes.
pub(crate) struct Control {
    cluster: String,
    nodes: Vec<Calls>,
}

/// One node's control API, with patience and without.
struct Calls {
    quick: ControlClient,
    operation: ControlClient,
}

impl Control {
    /// With the certificates of the directory.
    pub(crate) fn new(dir: &UpDir, cluster: &str, plan: &Plan) -> Result<Self, UpError> {
        let pki = dir.pki();
        let tls = client_tls(&pki.join("ca.pem"), &pki.join("client.pem"), &pki.join("client.key"))?;
        let calls = plan.names.iter().zip(&plan.ports).map(|(name, ports)| {
            let target = Target {
                address: format!("127.0.0.1:{}", ports.http),
                cluster: Some(cluster.to_owned()),
                node: Some(name.clone()),
            };
            Calls {
                quick: ControlClient::new(target.clone(), Arc::clone(&tls), QUICK),
                operation: ControlClient::new(target, Arc::clone(&tls), OPERATION),
            }
        });
        Ok(Self { cluster: cluster.to_owned(), nodes: calls.collect() })
    }

    /// Name of the node that leads the meta group, in the eyes of the first that knows.
    pub(crate) async fn leader(&self) -> Option<String> {
        for node in &self.nodes {
            let Ok(leaders) = node.quick.leaders().await else {
                continue;
            };
            let meta = leaders.groups.into_iter().find(|group| group.group == "meta");
            if let Some(name) = meta.and_then(|group| group.name) {
                return Some(name);
            }
        }
        None
    }

    /// One call of the bootstrap, at the first node. `Ok(Err)` is worth another try.
    async fn bootstrap(&self, members: &[String]) -> Result<Result<String, String>, UpError> {
        let request = BootstrapRequest { cluster: Some(self.cluster.clone()), members: members.to_vec() };
        match self.nodes[0].operation.bootstrap(&request).await {
            Ok(done) => Ok(Ok(done.cluster.id)),
            Err(error) if passes(&error) => Ok(Err(error.to_string())),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the node is a member, in the eyes of the first of `0..askable` that answers.
    async fn is_member(&self, name: &str, askable: usize) -> Result<bool, String> {
        let mut last = "no node was asked".to_owned();
        for node in &self.nodes[..askable] {
            match node.quick.members().await {
                Ok(members) if members.cluster.is_some() => {
                    return Ok(members.members.iter().any(|member| member.name == name));
                }
                Ok(_) => {
                    last = format!("{} is no member yet", node.quick.target().address);
                }
                Err(error) => last = error.to_string(),
            }
        }
        Err(last)
    }

    /// Asks the nodes of `0..askable` in turn to let the node leave.
    async fn leave(&self, name: &str, askable: usize) -> Result<(), String> {
        let request = LeaveRequest { node: name.to_owned() };
        let mut last = "no node was asked".to_owned();
        for node in &self.nodes[..askable] {
            match node.operation.leave(&request).await {
                Ok(_) => return Ok(()),
                Err(error) => last = error.to_string(),
            }
        }
        Err(last)
    }
}

/// Whether an error may pass while the nodes come up.
fn passes(error: &ClientError) -> bool {
    match error {
        ClientError::Connect { .. }
        | ClientError::Tls { .. }
        | ClientError::Broken { .. }
        | ClientError::Timeout { .. } => true,
        ClientError::Api { error, .. } => {
            matches!(error.reason, Reason::Unavailable | Reason::Timeout | Reason::NoQuorum | Reason::NotLeader)
        }
        _ => false,
    }
}

/// Makes the cluster where there is none yet, and waits until it serves.
pub(crate) async fn form(
    dir: &UpDir,
    state: &mut UpState,
    plan: &Plan,
    control: &Control,
    supervisor: &mut Supervisor,
) -> Result<(), UpError> {
    let members = match &state.bootstrap {
        Bootstrap::None => Some(plan.names[..plan.replicas].to_vec()),
        Bootstrap::Intended { members } => Some(members.clone()),
        Bootstrap::Done { .. } => None,
    };
    if members.is_none() && plan.names.iter().all(|name| !dir.node(name).join("data").join("identity").exists()) {
        // The permission was given once. Without it the nodes would wait for ever.
        return Err(UpError::DataGone { root: dir.root().to_owned() });
    }
    if let Some(members) = members {
        state.bootstrap = Bootstrap::Intended { members: members.clone() };
        dir.save(state)?;
        let cluster_id = bootstrap(dir, &members, control, supervisor).await?;
        say!("  cluster {cluster_id} is formed");
        state.bootstrap = Bootstrap::Done { cluster_id };
        dir.save(state)?;
    }
    let serving = wait_until_serving(supervisor).await?;
    supervisor.formed();
    say!("the cluster is ready: {serving} of {} nodes serve (Ctrl-C stops it)", plan.replicas);
    Ok(())
}

async fn bootstrap(
    dir: &UpDir,
    members: &[String],
    control: &Control,
    supervisor: &mut Supervisor,
) -> Result<String, UpError> {
    let started = Instant::now();
    let mut reminded = started;
    loop {
        let call = control.bootstrap(members);
        let reason = match supervisor.watch_during(call).await?? {
            Ok(cluster_id) => return Ok(cluster_id),
            Err(reason) => reason,
        };
        if started.elapsed() > DEADLINE {
            return Err(UpError::NotFormed { seconds: DEADLINE.as_secs(), reason, logs: dir.root().join("nodes") });
        }
        if reminded.elapsed() > REMIND / 3 {
            reminded = Instant::now();
            say!("  still forming the cluster: {reason}");
        }
        supervisor.watch_during(tokio::time::sleep(RETRY)).await?;
    }
}

/// Waits without a deadline: what is missing is shown, and may well come from outside.
async fn wait_until_serving(supervisor: &mut Supervisor) -> Result<usize, UpError> {
    let mut reminded = Instant::now();
    loop {
        supervisor.round().await?;
        if let Some(serving) = supervisor.serving() {
            return Ok(serving);
        }
        if reminded.elapsed() > REMIND {
            reminded = Instant::now();
            say!("  still waiting for the nodes to be ready (Ctrl-C stops them)");
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Lets a node leave that is one too many, stops it and puts its data aside: a directory that left is never a
/// member again.
pub(crate) async fn retire(
    index: usize,
    dir: &UpDir,
    state: &mut UpState,
    plan: &Plan,
    control: &Control,
    supervisor: &mut Supervisor,
) -> Result<(), UpError> {
    let name = &plan.names[index];
    say!("  {name}  leaves the cluster");
    let left = leave(name, plan.replicas, control);
    if let Err(reason) = supervisor.watch_during(left).await? {
        return Err(UpError::NotLeft { node: name.clone(), seconds: DEADLINE.as_secs(), reason });
    }
    supervisor.retire(index).await;
    // Aside before it is forgotten: a later node of this name must not find it.
    put_aside(&dir.node(name))?;
    state.nodes.remove(name);
    dir.save(state)?;
    Ok(())
}

/// Repeats the call until the member is gone: which is also what a run before this one may have reached.
async fn leave(name: &str, askable: usize, control: &Control) -> Result<(), String> {
    let started = Instant::now();
    let mut asked = false;
    loop {
        let reason = match control.is_member(name, askable).await {
            Ok(false) => return Ok(()),
            Ok(true) if asked => "it is still a member".to_owned(),
            Ok(true) => match control.leave(name, askable).await {
                Ok(()) => {
                    asked = true;
                    continue;
                }
                Err(reason) => reason,
            },
            Err(reason) => reason,
        };
        if started.elapsed() > DEADLINE {
            return Err(reason);
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Renames `NAME` to the first free `NAME.left-N`.
fn put_aside(folder: &Path) -> Result<(), UpError> {
    let aside = |number: u32| -> PathBuf {
        let mut name = folder.file_name().unwrap_or_default().to_owned();
        name.push(format!(".left-{number}"));
        folder.with_file_name(name)
    };
    let free = (1..).map(aside).find(|path| !path.exists());
    match free.map(|to| std::fs::rename(folder, to)) {
        Some(Err(source)) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(UpError::Io { path: folder.to_owned(), source })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::http::error::ApiError;

    #[test]
    fn data_put_aside_takes_the_next_free_name() {
        let dir = tempfile::tempdir().unwrap();
        let node = dir.path().join("demo-3");
        for number in 1..=2 {
            std::fs::create_dir(&node).unwrap();
            put_aside(&node).unwrap();
            assert!(dir.path().join(format!("demo-3.left-{number}")).is_dir());
            assert!(!node.exists());
        }
        // A run before this one did it and died.
        put_aside(&node).unwrap();
    }

    #[test]
    fn only_errors_that_pass_are_tried_again() {
        let api = |reason| ClientError::Api {
            address: "a:1".to_owned(),
            status: Default::default(),
            error: ApiError::new(reason, "x"),
        };
        for reason in [Reason::Unavailable, Reason::Timeout, Reason::NoQuorum] {
            assert!(passes(&api(reason)), "{reason:?}");
        }
        for reason in [Reason::Conflict, Reason::Invalid, Reason::Forbidden] {
            assert!(!passes(&api(reason)), "{reason:?}");
        }
        assert!(passes(&ClientError::Timeout { address: "a:1".to_owned(), after: QUICK }));
        assert!(!passes(&ClientError::WrongServer {
            address: "a:1".to_owned(),
            expected: "x".to_owned(),
            found: "y".to_owned(),
        }));
    }
}
