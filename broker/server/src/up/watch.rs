//! Watches the broker processes: shows how they are when it changes, starts again what died.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::pin::pin;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use futures::future::{join_all, select_all};

use super::UpError;
use super::cluster::Control;
use super::hang_up::{HangUp, HangUps};
use super::health::{self, Health};
use super::plan::Plan;
use super::process::{Launch, Process};

/// How often the nodes are asked.
const PERIOD: Duration = Duration::from_millis(500);
/// The same while something is waited for.
const BUSY_PERIOD: Duration = Duration::from_millis(200);
/// How often it is asked who leads.
const LEADER_PERIOD: Duration = Duration::from_secs(2);
/// First and longest pause before a broker that died is started again.
const RESTART_FIRST: Duration = Duration::from_millis(500);
const RESTART_LONGEST: Duration = Duration::from_secs(30);
/// A broker that ran this long had a good start: its next death is followed by a quick start again.
const GOOD_RUN: Duration = Duration::from_secs(60);
/// A broker that has just been started is not ready yet, which is no news.
const SETTLE: Duration = Duration::from_secs(3);
/// Time for a broker to close its clients and files.
const STOP_PATIENCE: Duration = Duration::from_secs(15);
/// So much of a log's end is looked at, and shown, when its broker ended.
const TAIL_BYTES: u64 = 16 * 1024;
const TAIL_LINES: usize = 8;

/// One broker and what is known of it.
struct Node {
    name: String,
    metrics_port: u16,
    launch: Launch,
    process: Option<Process>,
    started: Instant,
    restart_at: Option<Instant>,
    pause: Duration,
    shown: Option<Health>,
    /// The cluster cannot do without it: it is none of those that are to leave.
    needed: bool,
    /// Left the cluster: not watched any more.
    retired: bool,
}

/// All brokers of this `up`.
pub(crate) struct Supervisor {
    nodes: Vec<Node>,
    restart: bool,
    /// The cluster is being formed: a broker that ends by itself has a reason that its log tells.
    forming: bool,
    leader: Option<String>,
    leader_asked: Option<Instant>,
    hang_ups: HangUps,
}

impl Supervisor {
    pub(crate) fn start(plan: &Plan, launches: Vec<Launch>, restart: bool, hang_ups: HangUps) -> Result<Self, UpError> {
        let mut nodes = Vec::new();
        let planned = plan.names.iter().zip(&plan.ports).zip(launches);
        for (ordinal, ((name, ports), launch)) in planned.enumerate() {
            let process =
                Process::start(&launch).map_err(|source| UpError::Io { path: launch.program.clone(), source })?;
            nodes.push(Node {
                name: name.clone(),
                metrics_port: ports.metrics,
                launch,
                process: Some(process),
                started: Instant::now(),
                restart_at: None,
                pause: RESTART_FIRST,
                shown: None,
                needed: ordinal < plan.replicas,
                retired: false,
            });
        }
        Ok(Self { nodes, restart, forming: true, leader: None, leader_asked: None, hang_ups })
    }

    /// The cluster is there: from now on a broker that ends is only started again.
    pub(crate) fn formed(&mut self) {
        self.forming = false;
    }

    /// One round: who died, who is to be started again, how everyone is. Prints what changed.
    pub(crate) async fn round(&mut self) -> Result<(), UpError> {
        match self.hang_ups.came() {
            Some(HangUp::Reload) => {
                self.nodes.iter().filter_map(|node| node.process.as_ref()).for_each(Process::hang_up)
            }
            Some(HangUp::TerminalGone) => return Err(UpError::TerminalGone),
            None => {}
        }
        for node in &mut self.nodes {
            let ended = node.reap(self.restart);
            // One that was killed from outside is no broken one.
            if let Some(status) = ended
                && self.forming
                && node.needed
                && status.code().is_some()
            {
                return Err(node.ended(status));
            }
            node.start_again();
        }
        let asked = join_all(self.nodes.iter().map(Node::health)).await;
        for (node, health) in self.nodes.iter_mut().zip(asked) {
            if let Some(health) = health {
                node.show(health);
            }
        }
        Ok(())
    }

    /// Does some work and watches meanwhile.
    pub(crate) async fn watch_during<T>(&mut self, work: impl Future<Output = T>) -> Result<T, UpError> {
        let mut work = pin!(work);
        loop {
            let watch = async {
                self.round().await?;
                tokio::time::sleep(BUSY_PERIOD).await;
                Ok::<(), UpError>(())
            };
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                watched = watch => watched?,
            }
        }
    }

    /// How many of the nodes that stay serve, once all of them that run do.
    pub(crate) fn serving(&self) -> Option<usize> {
        let running =
            self.nodes.iter().filter(|node| node.needed && (node.process.is_some() || node.restart_at.is_some()));
        let mut serving = 0;
        for node in running {
            if node.process.is_none() || node.shown != Some(Health::Ready) {
                return None;
            }
            serving += 1;
        }
        (serving > 0).then_some(serving)
    }

    /// Watches for ever.
    pub(crate) async fn watch(&mut self, control: &Control) -> Result<(), UpError> {
        loop {
            self.round().await?;
            self.show_leader(control).await;
            let deaths: Vec<_> = self
                .nodes
                .iter_mut()
                .filter_map(|node| node.process.as_mut())
                .map(|process| Box::pin(process.ended()))
                .collect();
            if deaths.is_empty() {
                tokio::time::sleep(PERIOD).await;
            } else {
                // A death is shown at once, the rest by the period.
                let _ = tokio::time::timeout(PERIOD, select_all(deaths)).await;
            }
        }
    }

    /// Stops one broker that has left.
    pub(crate) async fn retire(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.retired = true;
        node.restart_at = None;
        if let Some(process) = node.process.take() {
            process.stop(STOP_PATIENCE).await;
        }
        let _ = std::fs::remove_file(&node.launch.pid);
        say!("  {}  left the cluster, stopped", node.name);
    }

    /// Stops all brokers, side by side.
    pub(crate) async fn stop(&mut self) {
        let stops = self.nodes.iter_mut().filter_map(|node| {
            let process = node.process.take()?;
            let (name, pid) = (&node.name, &node.launch.pid);
            Some(async move {
                if process.stop(STOP_PATIENCE).await {
                    say!("  {name}  stopped");
                } else {
                    let seconds = STOP_PATIENCE.as_secs();
                    say!("  {name}  killed: it did not stop within {seconds} s");
                }
                let _ = std::fs::remove_file(pid);
            })
        });
        join_all(stops).await;
    }

    async fn show_leader(&mut self, control: &Control) {
        if self.leader_asked.is_some_and(|asked| asked.elapsed() < LEADER_PERIOD) {
            return;
        }
        let leader = control.leader().await;
        self.leader_asked = Some(Instant::now());
        if let Some(leader) = leader
            && self.leader.as_ref() != Some(&leader)
        {
            say!("  {leader}  leads the cluster");
            self.leader = Some(leader);
        }
    }
}

impl Node {
    /// Notes that the process ended, if it did.
    fn reap(&mut self, restart: bool) -> Option<ExitStatus> {
        let status = self.process.as_mut().and_then(Process::try_ended)?;
        self.process = None;
        // The number may soon be another process's.
        let _ = std::fs::remove_file(&self.launch.pid);
        if restart && !self.retired {
            if self.started.elapsed() > GOOD_RUN {
                self.pause = RESTART_FIRST;
            }
            self.restart_later();
        }
        let wait = self.restart_at.map(|at| at.saturating_duration_since(Instant::now()).as_secs_f64());
        let again = wait.map_or_else(String::new, |wait| format!("; starts again in {wait:.1} s"));
        let log = self.launch.log.display();
        self.show(Health::Stopped(format!("{status}; its log: {log}{again}")));
        Some(status)
    }

    fn restart_later(&mut self) {
        self.restart_at = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(RESTART_LONGEST);
    }

    fn start_again(&mut self) {
        if self.restart_at.is_none_or(|at| at > Instant::now()) {
            return;
        }
        self.restart_at = None;
        match Process::start(&self.launch) {
            Ok(process) => {
                self.started = Instant::now();
                self.process = Some(process);
            }
            // The program may be on its way to the disk, built anew.
            Err(error) => {
                self.restart_later();
                self.show(Health::Stopped(format!("it cannot be started: {error}")));
            }
        }
    }

    async fn health(&self) -> Option<Health> {
        match &self.process {
            Some(_) => Some(health::ask(self.metrics_port).await),
            None => None,
        }
    }

    fn show(&mut self, health: Health) {
        // A start goes through many states in a moment: what lasts is shown.
        let starting = matches!(health, Health::NotReady(_)) && self.started.elapsed() < SETTLE;
        if starting && !matches!(self.shown, Some(Health::Ready)) {
            return;
        }
        if self.shown.as_ref() != Some(&health) {
            say!("  {}  {health}", self.name);
            self.shown = Some(health);
        }
    }

    fn ended(&self, status: ExitStatus) -> UpError {
        UpError::Ended {
            node: self.name.clone(),
            status: status.to_string(),
            log: self.launch.log.clone(),
            tail: tail(&self.launch.log).unwrap_or_default(),
        }
    }
}

/// The last lines of a log, for an error message.
fn tail(log: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut text = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    Ok(last.iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::up::state::NodePorts;

    /// Two nodes whose program ends at once with status 1; the cluster needs the first only.
    fn failing(folder: &Path, restart: bool) -> Supervisor {
        let ports = NodePorts { listeners: Vec::new(), http: 1, metrics: 1, links: 1 };
        let plan =
            Plan { replicas: 1, names: vec!["demo-0".into(), "demo-1".into()], ports: vec![ports.clone(), ports] };
        let launches = plan.names.iter().map(|name| Launch {
            program: "false".into(),
            config: "absent".into(),
            log: folder.join(format!("{name}.log")),
            pid: folder.join(format!("{name}.pid")),
        });
        let launches: Vec<Launch> = launches.collect();
        std::fs::write(&launches[0].log, "the disk is full\n").unwrap();
        Supervisor::start(&plan, launches, restart, HangUps::listen().unwrap()).unwrap()
    }

    async fn all_ended(supervisor: &mut Supervisor) {
        for node in &mut supervisor.nodes {
            node.process.as_mut().unwrap().ended().await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_broker_that_ends_while_the_cluster_is_formed_is_an_error_with_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let mut supervisor = failing(dir.path(), true);
        // The one that is to leave may have left in the last run: it is no error that it does not run.
        supervisor.nodes.swap(0, 1);
        all_ended(&mut supervisor).await;
        let error = supervisor.round().await.unwrap_err().to_string();
        assert!(error.contains("demo-0 ended") && error.contains("    the disk is full"), "{error}");
        assert!(supervisor.nodes[0].process.is_none());
    }

    #[tokio::test]
    async fn a_broker_that_ends_later_is_started_again_unless_that_is_not_wanted() {
        for restart in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let mut supervisor = failing(dir.path(), restart);
            supervisor.formed();
            all_ended(&mut supervisor).await;
            supervisor.round().await.unwrap();
            let node = &mut supervisor.nodes[0];
            assert!(matches!(node.shown, Some(Health::Stopped(_))));
            assert_eq!(node.restart_at.is_some(), restart);
            assert_eq!(supervisor.serving(), None);
            if restart {
                let node = &mut supervisor.nodes[0];
                assert_eq!(node.pause, RESTART_FIRST * 2);
                node.restart_at = Some(Instant::now());
                node.start_again();
                assert!(node.process.is_some() && node.restart_at.is_none());
            }
        }
    }

    #[test]
    fn the_tail_is_the_last_lines_however_long_the_log() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let lines: Vec<String> = (0..9000).map(|number| format!("line {number}")).collect();
        std::fs::write(file.path(), lines.join("\n")).unwrap();
        let shown = tail(file.path()).unwrap();
        assert_eq!(shown.lines().count(), TAIL_LINES);
        assert!(shown.starts_with("    line 8992\n") && shown.ends_with("    line 8999"));
        std::fs::write(file.path(), "one\n").unwrap();
        assert_eq!(tail(file.path()).unwrap(), "    one");
        assert!(tail(Path::new("/does/not/exist")).is_err());
    }
}
