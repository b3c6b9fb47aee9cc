//! The flags of `raftmq ctl`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use raftmq_config::HumanDuration;

use super::bans::BansCommand;

/// Look at a running cluster and operate it
///
/// Talks to the control API of the nodes. Which nodes and with which certificate: those of the local cluster in --data
/// (./.raftmq by default, as `raftmq up` makes it), or the ones that --endpoint, --ca, --cert and --key name. Of several
/// nodes the first that is ready is asked.
///
/// Exit status: 0 done, 1 failed or refused, 2 wrong usage.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Environment: RAFTMQ_CTL_DATA, RAFTMQ_CTL_ENDPOINT, RAFTMQ_CTL_CA, RAFTMQ_CTL_CERT and RAFTMQ_CTL_KEY stand \
for the flags of these names; a flag counts first.

Examples:
  raftmq ctl members                          the local cluster in ./.raftmq
  raftmq ctl -o json groups
  raftmq ctl transfer meta raftmq-1
  raftmq ctl log info,raftmq_raft=debug --node raftmq-2
  raftmq ctl --endpoint https://10.0.0.7:18083 --ca pki/ca.pem --cert pki/client.pem --key pki/client.key members"
)]
pub(crate) struct CtlOptions {
    #[command(flatten)]
    pub(crate) access: Access,
    /// How answers are shown: a table for people, or the API's answer as JSON
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORM")]
    pub(crate) output: Output,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Whom to ask, and as who.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Access {
    /// Directory of a local cluster: its nodes and certificates are used [default: ./.raftmq]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Control API of a node; may be repeated or separated by commas
    #[arg(long, global = true, value_delimiter = ',', value_name = "https://HOST:PORT")]
    pub(crate) endpoint: Vec<String>,
    /// Certificate of the cluster's authority [default: DIR/pki/ca.pem]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Certificate to show [default: DIR/pki/client.pem]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) cert: Option<PathBuf>,
    /// Its private key [default: DIR/pki/client.key]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
}

/// How answers are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    Table,
    /// The API's answer.
    Json,
}

/// Which nodes form a cluster.
#[derive(Clone, Debug, Args)]
pub(crate) struct Bootstrap {
    /// Names of the initial members
    #[arg(required = true, value_name = "NODE")]
    pub(crate) nodes: Vec<String>,
    /// Name of the cluster, checked against the node's configuration
    #[arg(long, value_name = "NAME")]
    pub(crate) cluster: Option<String>,
    /// Longest time to wait until the nodes are found and serve, as 45s or 2m
    #[arg(long, default_value = "30s", value_name = "DURATION")]
    pub(crate) timeout: HumanDuration,
    /// Call once, and do not wait for anything
    #[arg(long, conflicts_with = "timeout")]
    pub(crate) no_wait: bool,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// The members: name, role, whether they are up
    ///
    /// ROLE is leader (votes and leads the meta group), voter, learner (follows without a vote) or changing (on its way
    /// from one to another). UP says whether the cluster holds the member to be alive. LEADS names the groups it leads.
    Members {
        /// Ask this node instead of the first that is ready
        #[arg(long, value_name = "NAME")]
        node: Option<String>,
    },
    /// The Raft groups as one node sees them
    ///
    /// Terms, indexes of the log, who votes. HERE is the answering node's part in the group.
    Groups {
        /// Ask this node instead of the first that is ready
        #[arg(long, value_name = "NAME")]
        node: Option<String>,
    },
    /// Who leads each group
    Leader {
        /// Ask this node instead of the first that is ready
        #[arg(long, value_name = "NAME")]
        node: Option<String>,
    },
    /// How a node is doing
    ///
    /// Identity, boot, clients, what it keeps for them in its memory alone, serving lease, and what keeps it from being ready.
    Status {
        /// Ask this node instead of the first that is ready
        #[arg(long, value_name = "NAME")]
        node: Option<String>,
    },
    /// Let empty nodes form a cluster; given once in a cluster's life
    ///
    /// Give the names of all initial members. They must run with empty data directories; it waits until they have found each other, and then
    /// until all of them serve clients. Repeating the call with the same names is harmless. Nodes that are started later join by themselves.
    #[command(after_help = "Example:\n  raftmq ctl bootstrap a b c")]
    Bootstrap(Bootstrap),
    /// Take a member out of the cluster for good
    ///
    /// It is asked first what would be lost: where a group would lose its quorum, nothing is done unless --force is given. What the member keeps in
    /// its memory alone (`ctl loss`) does not move to others: it ends with its process.
    /// The member's data directory never becomes a member again; stop the node when `members` does not show it any more.
    Leave {
        /// Its name, or its id
        node: String,
        /// Also where a group would lose its quorum
        #[arg(long)]
        force: bool,
    },
    /// Hand the leadership of a group to another member
    #[command(after_help = "Example:\n  raftmq ctl transfer meta raftmq-1")]
    Transfer {
        /// The group: meta, routes, or a shard, as `shard 3`
        group: String,
        /// Name of a voter
        node: String,
    },
    /// What would be lost if a node stopped now
    ///
    /// Of the cluster: groups that would lose their quorum. Of the node: sessions, queued, retained and delayed messages and wills that it keeps
    /// in its memory alone, which end with its process. The node itself is asked for these; where it does not answer, that is said.
    Loss {
        /// Its name, or its id
        node: String,
    },
    /// Let a node read its settings again, while it runs
    ///
    /// The whole file is checked first: with an error in it nothing changes. Says which settings changed and which need a new start. A node that
    /// gets SIGHUP does the same.
    #[command(after_help = "Example:\n  raftmq ctl reload --node raftmq-1")]
    Reload {
        /// Ask this node instead of the first that is ready
        #[arg(long, value_name = "NAME")]
        node: Option<String>,
    },
    /// Who may not connect: list, add, delete
    ///
    /// By client identifier, user name, IP address or range of addresses, for a time or until the ban is deleted. Bans hold on every node, also for
    /// connections that are open.
    Bans {
        #[command(subcommand)]
        command: BansCommand,
    },
    /// Show or change what a node logs, while it runs
    #[command(after_help = "Examples:
  raftmq ctl log                                    what the first node that is ready logs
  raftmq ctl log debug --node raftmq-1
  raftmq ctl log info,raftmq_raft=debug --node raftmq-1")]
    Log {
        /// A level (error, warn, info, debug, trace), or levels of modules: info,raftmq_raft=debug
        filter: Option<String>,
        /// Ask this node instead of the first that is ready
        #[arg(long, value_name = "NAME")]
        node: Option<String>,
    },
}
