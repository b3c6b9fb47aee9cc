//! `raftmq up`: a local cluster of broker processes from an `MqttCluster` resource.
//!
//! `read → plan → certificates and settings → start → bootstrap once → watch → stop`. The brokers are those that run in
//! production, configured by the same translation of the resource as the operator's.

/// A line for whoever watches. Where nobody can read it any more (a closed pipe, a full disk) the cluster runs on.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}

mod cluster;
mod hang_up;
mod health;
mod options;
mod plan;
mod ports;
mod process;
mod state;
mod watch;

use std::io;
use std::path::PathBuf;

use raftmq_crds::{ParseError, PortClash, TranslateError, warnings};

use crate::certs::{CertsError, ClusterPki};
use hang_up::HangUps;
pub(crate) use options::UpOptions;
use plan::Plan;
use ports::PortError;
use process::Launch;
use state::UpDir;
pub(crate) use state::{StateError, UpState, read as read_state};
use watch::Supervisor;

/// Why the local cluster does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpError {
    #[error("{path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Resource(#[from] ParseError),
    #[error(transparent)]
    Clash(#[from] PortClash),
    #[error(transparent)]
    Translate(#[from] TranslateError),
    #[error(transparent)]
    Port(#[from] PortError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Certs(#[from] CertsError),
    #[error("{node} ended while the cluster was being formed ({status}); its log: {log}\n{tail}")]
    Ended { node: String, status: String, log: PathBuf, tail: String },
    #[error("the cluster was not formed within {seconds} s: {reason}\nthe nodes' logs are in {logs}")]
    NotFormed { seconds: u64, reason: String, logs: PathBuf },
    #[error("{node} could not leave within {seconds} s: {reason}")]
    NotLeft { node: String, seconds: u64, reason: String },
    #[error("the data of this cluster is gone from {root}/nodes: put it back, or delete {root} to begin a new cluster")]
    DataGone { root: PathBuf },
    #[error("cannot watch for Ctrl-C: {0}")]
    Signals(io::Error),
    #[error("the terminal is gone")]
    TerminalGone,
    #[error("cannot find the raftmq binary: {0}")]
    Program(io::Error),
    #[error(transparent)]
    Control(#[from] crate::http::client::ClientError),
}

/// Runs until Ctrl-C (or SIGTERM).
pub(crate) async fn run(options: UpOptions) -> Result<(), UpError> {
    let hang_ups = HangUps::listen().map_err(UpError::Signals)?;
    let (resource, source) = plan::read_resource(options.file.as_deref())?;
    let name = resource.metadata.name.clone().ok_or(TranslateError::NoName)?;
    for warning in warnings(&resource.spec) {
        say!("warning: {}", warning.message);
    }
    let program = std::env::current_exe().map_err(UpError::Program)?;

    let dir = UpDir::open(&options.data)?;
    let mut state = dir.load(&name)?;
    let plan = Plan::make(&resource, &state, &options)?;
    say!("{name}: {} from {source}, data in {}", count(plan.replicas, "broker"), dir.root().display());
    let pki = ClusterPki::open(&dir.pki(), &name)?;
    pki.issue_client()?;
    for node in &plan.names {
        pki.issue_node(node, &["localhost".into(), "127.0.0.1".into()])?;
    }
    let configs = plan.write_configs(&resource, &dir)?;
    // Known before it runs: whatever happens next, the next `up` finds every node that may have become a member.
    state.nodes = plan.nodes();
    dir.save(&state)?;

    let launches: Vec<Launch> = plan
        .names
        .iter()
        .zip(configs)
        .map(|(name, config)| {
            let folder = dir.node(name);
            Launch { program: program.clone(), config, log: folder.join("log"), pid: folder.join("pid") }
        })
        .collect();
    let mut supervisor = Supervisor::start(&plan, launches, !options.no_restart, hang_ups)?;
    print_addresses(&plan, &resource);

    let ended = tokio::select! {
        ended = lifetime(&dir, &mut state, &plan, &mut supervisor) => ended,
        interrupted = stop_signal() => interrupted.map_err(UpError::Signals),
    };
    say!("stopping");
    supervisor.stop().await;
    ended
}

/// Forms the cluster, lets surplus nodes leave, and watches. Returns only with an error.
async fn lifetime(
    dir: &UpDir,
    state: &mut state::UpState,
    plan: &Plan,
    supervisor: &mut Supervisor,
) -> Result<(), UpError> {
    let control = cluster::Control::new(dir, &state.cluster, plan)?;
    cluster::form(dir, state, plan, &control, supervisor).await?;
    for surplus in (plan.replicas..plan.names.len()).rev() {
        cluster::retire(surplus, dir, state, plan, &control, supervisor).await?;
    }
    supervisor.watch(&control).await
}

fn print_addresses(plan: &Plan, resource: &raftmq_crds::MqttCluster) {
    let width = plan.names.iter().map(String::len).max().unwrap_or(0);
    for (name, ports) in plan.names.iter().zip(&plan.ports) {
        let listeners: Vec<String> = resource
            .spec
            .listeners
            .iter()
            .zip(&ports.listeners)
            .map(|(listener, port)| format!("{} 127.0.0.1:{port}", listener.name.to_uppercase()))
            .collect();
        say!(
            "  {name:width$}  {}  HTTP 127.0.0.1:{}  metrics http://127.0.0.1:{}/metrics",
            listeners.join("  "),
            ports.http,
            ports.metrics
        );
    }
}

/// Waits for Ctrl-C or SIGTERM.
pub(crate) async fn stop_signal() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
