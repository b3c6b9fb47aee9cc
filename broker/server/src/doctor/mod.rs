//! `raftmq doctor`: what can be looked at from inside an image that has no shell.
//!
//! `flags → looks → findings → lines or JSON, exit status`. Nothing is changed and nothing but names and addresses is asked of
//! others.

mod connect;
mod names;
mod process;
mod report;
mod tls;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};

use report::Report;

/// Look at what a broker has around it: names, network, certificates, limits
///
/// Without a command: what this process sees, one line each. For images without a shell: the binary is all they hold, and all that
/// this needs.
///
/// Exit status: 0 no problem, 1 a problem, 2 wrong usage.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  raftmq doctor
  kubectl exec raftmq-0 -- /raftmq doctor --config /etc/raftmq/config/raftmq.yaml
  kubectl exec raftmq-0 -- /raftmq doctor resolve raftmq-links
  kubectl exec raftmq-0 -- /raftmq doctor connect raftmq-1.raftmq-links.NAMESPACE.svc:9883 --tls --ca /etc/raftmq/pki/ca.crt")]
pub(crate) struct DoctorOptions {
    /// The node's settings (YAML), read with the environment's as `raftmq node` does: its data directory is looked at too
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How findings are shown: lines for people, or JSON
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORM")]
    output: Output,
    #[command(subcommand)]
    command: Option<Command>,
}

/// How findings are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Look a name up as brokers do
    ///
    /// By /etc/hosts, then the name servers and search domains of /etc/resolv.conf: the resolver of discovery and of the links
    /// between nodes. A look-up takes 5 s at most.
    #[command(after_help = "Examples:
  kubectl exec raftmq-0 -- /raftmq doctor resolve raftmq-1.raftmq-links
  kubectl exec raftmq-0 -- /raftmq doctor resolve --srv _links._tcp.raftmq-links")]
    Resolve {
        /// The name, without a port; with a final dot it does not go through the search domains
        #[arg(value_parser = names::name)]
        name: String,
        /// Ask for SRV records: names with ports, whose addresses are looked up too
        #[arg(long)]
        srv: bool,
    },
    Connect(connect::ConnectOptions),
}

/// Looks, and says what was found.
pub(crate) async fn run(options: DoctorOptions) -> ExitCode {
    let report = match (&options.command, &options.config) {
        (Some(_), Some(_)) => {
            eprintln!("raftmq: --config is for `raftmq doctor` without a command");
            return ExitCode::from(2);
        }
        (None, config) => process::look(config.as_deref()),
        (Some(Command::Resolve { name, srv: false }), _) => names::resolve(name).await,
        (Some(Command::Resolve { name, srv: true }), _) => names::services(name).await,
        (Some(Command::Connect(options)), _) => connect::run(options).await,
    };
    show(&report, options.output)
}

fn show(report: &Report, output: Output) -> ExitCode {
    let text = match output {
        Output::Table => report.to_string(),
        Output::Json => report.to_json(),
    };
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever read the answer has seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let _ = writeln!(io::stderr(), "raftmq: cannot write what was found: {error}");
            ExitCode::FAILURE
        }
        _ if report.is_ok() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
