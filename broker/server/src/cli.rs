//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::check::Files;
use crate::node::{self, NodeOptions};
use crate::{certs, ctl, doctor, up};

/// An MQTT broker cluster
#[derive(Parser)]
#[command(
    name = "raftmq",
    version = crate::VERSION,
    propagate_version = true,
    after_help = "Examples:\n  raftmq up                      three brokers on this machine, one cluster\n  raftmq node                    one broker alone, MQTT on port 1883\n  raftmq ctl members             who is in the local cluster\n  raftmq bench pair -c 200       measure a broker\n\nDocumentation: docs/ in the source, and `raftmq COMMAND --help`."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Up(up::UpOptions),
    /// Run one broker: alone, or as a member of a cluster
    ///
    /// Without a file it is a standalone node: MQTT on port 1883, metrics and health on 9100. Settings come from the file,
    /// then from the environment (RAFTMQ__SECTION__SETTING), then from --set; docs/configuration.md has them all.
    /// It stops on Ctrl-C or SIGTERM.
    Node(NodeArguments),
    Ctl(ctl::CtlOptions),
    Certs(certs::CertsOptions),
    Doctor(doctor::DoctorOptions),
    Bench(Box<raftmq_bench::BenchOptions>),
}

#[derive(clap::Args)]
struct NodeArguments {
    /// The node's settings (YAML)
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One setting, over file and environment; may be given several times
    #[arg(long = "set", value_name = "PATH=VALUE", value_parser = setting)]
    set: Vec<(String, String)>,
    /// Check the settings and the files that they name, print what they come to, and end
    #[arg(long)]
    check: bool,
    /// With --check: leave the files of certificates alone, which are not there on the machine where settings are written
    #[arg(long, requires = "check")]
    skip_files: bool,
    /// End when standard input is closed: ties the broker to the process that started it
    #[arg(long, hide = true)]
    exit_with_stdin: bool,
}

fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((path, value)) if !path.is_empty() => Ok((path.to_owned(), value.to_owned())),
        _ => Err("write PATH=VALUE, as in mqtt.maxInflight=64".to_owned()),
    }
}

/// What the process does, by its arguments.
pub fn run() -> ExitCode {
    match Cli::parse().command {
        Command::Up(options) => finish(in_runtime(up::run(options))),
        Command::Node(arguments) => node::run(&NodeOptions {
            config: arguments.config,
            overrides: arguments.set,
            check: arguments.check.then_some(if arguments.skip_files { Files::Skip } else { Files::Read }),
            exit_with_stdin: arguments.exit_with_stdin,
        }),
        Command::Ctl(options) => in_runtime(ctl::run(options)),
        Command::Certs(options) => finish(certs::run(&options)),
        Command::Doctor(options) => in_runtime(doctor::run(options)),
        Command::Bench(options) => in_runtime(raftmq_bench::run(*options)),
    }
}

fn in_runtime<T>(future: impl Future<Output = T>) -> T {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(future),
        Err(error) => {
            eprintln!("raftmq: cannot start an event loop: {error}");
            std::process::exit(1);
        }
    }
}

fn finish<E: std::fmt::Display>(result: Result<(), E>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("raftmq: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    /// No flag of a command is that of another one, `--version` and its letter included.
    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
