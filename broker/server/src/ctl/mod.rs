//! `raftmq ctl`: the control API from a terminal.
//!
//! `flags → nodes and certificate → the first ready node → one operation → a table or JSON`.

mod bans;
mod bootstrap;
mod endpoints;
mod loss;
mod options;
mod show;
mod table;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use raftmq_config::HumanDuration;
use serde::Serialize;

use crate::certs::CertsError;
use crate::http::api::{LeaveRequest, LogLevel, TransferRequest};
use crate::http::client::{ClientError, ControlClient};
use crate::up::StateError;
use endpoints::Endpoints;
use loss::NodeLoss;
pub(crate) use options::CtlOptions;
use options::{Command, Output};

/// Why nothing was done, or not all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CtlError {
    #[error("{0}")]
    Usage(String),
    #[error("{}", endpoints::no_data(.0))]
    NoData(PathBuf),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("{0} (the files of --ca, --cert and --key)")]
    Certs(#[from] CertsError),
    #[error("no node answers:{0}")]
    Unreachable(String),
    #[error("no node is called {0:?}; `raftmq ctl members` shows the names")]
    UnknownNode(String),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("{node} stays: {reasons} (--force lets it leave all the same)")]
    WouldLose { node: String, reasons: String },
    #[error("not within {after}: {missing}")]
    NotYet { after: HumanDuration, missing: String },
    #[error("cannot write the answer: {0}")]
    Output(io::Error),
}

/// Does what was asked for and says how it went: 0 done, 1 failed, 2 wrong usage.
pub(crate) async fn run(options: CtlOptions) -> ExitCode {
    match carry_out(&options).await {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the answer has seen enough.
        Err(CtlError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "raftmq: {error}");
            ExitCode::from(match error {
                CtlError::Usage(_) => 2,
                _ => 1,
            })
        }
    }
}

async fn carry_out(options: &CtlOptions) -> Result<(), CtlError> {
    let endpoints = Endpoints::open(&options.access)?;
    if let Command::Bootstrap(asked) = &options.command {
        return bootstrap::run(&endpoints, asked, options.output).await;
    }
    let node = match &options.command {
        Command::Members { node }
        | Command::Groups { node }
        | Command::Leader { node }
        | Command::Status { node }
        | Command::Reload { node }
        | Command::Log { node, .. } => node.as_deref(),
        _ => None,
    };
    let client = endpoints.pick(node).await?;
    let output = options.output;
    match &options.command {
        Command::Members { .. } => {
            let answer = client.members().await?;
            print(output, &answer, || show::members(&answer))
        }
        Command::Groups { .. } => {
            let answer = client.groups().await?;
            // Names are a comfort: without them ids are shown.
            let members = match output {
                Output::Table => client.members().await.map(|m| m.members).unwrap_or_default(),
                Output::Json => Vec::new(),
            };
            print(output, &answer, || show::groups(&answer, &members))
        }
        Command::Leader { .. } => {
            let answer = client.leaders().await?;
            print(output, &answer, || show::leaders(&answer))
        }
        Command::Status { .. } => {
            let answer = client.status().await?;
            print(output, &answer, || show::status(&answer))
        }
        // It waits for a node that answers, which the others do not.
        Command::Bootstrap(_) => Ok(()),
        Command::Leave { node, force } => leave(&client, node, *force, output).await,
        Command::Transfer { group, node } => {
            let request = TransferRequest { group: group.clone(), to: node.clone() };
            let answer = client.transfer(&request).await?;
            print(output, &answer, || format!("{node} leads the group {group} in term {}\n", answer.term))
        }
        Command::Loss { node } => {
            let (quorums, name) = (client.loss(node).await?, name_of(&client, node).await);
            let answer = NodeLoss::new(&name, quorums, endpoints.memory_of(&name).await);
            print(output, &answer, || show::loss(&name, &answer))
        }
        Command::Reload { .. } => {
            let answer = client.reload().await?;
            print(output, &answer, || show::reloaded(&answer))
        }
        Command::Bans { command } => bans::run(&client, command, output).await,
        Command::Log { filter, .. } => {
            let answer = match filter {
                None => client.log().await?,
                Some(filter) => {
                    let filter = filter.clone();
                    client.set_log(&LogLevel { filter }).await?
                }
            };
            let node = client.target().node.as_ref();
            let asked = node.unwrap_or(&client.target().address);
            print(output, &answer, || format!("{asked} logs {}\n", answer.filter))
        }
    }
}

/// A member's name, of its name or its id.
async fn name_of(client: &ControlClient, node: &str) -> String {
    let members = client.members().await.map(|answer| answer.members).unwrap_or_default();
    if members.iter().any(|member| member.name == node) {
        return node.to_owned();
    }
    let member = members.into_iter().find(|member| node.parse() == Ok(member.id));
    member.map_or_else(|| node.to_owned(), |member| member.name)
}

async fn leave(client: &ControlClient, node: &str, force: bool, output: Output) -> Result<(), CtlError> {
    if !force {
        let loss = client.loss(node).await?;
        if loss.groups.iter().any(|group| group.loses_quorum) {
            return Err(CtlError::WouldLose { node: node.to_owned(), reasons: loss.reasons.join("; ") });
        }
    }
    let request = LeaveRequest { node: node.to_owned() };
    let answer = client.leave(&request).await?;
    print(output, &answer, || {
        let name = &answer.name;
        if answer.done {
            format!("{name} has left the cluster; its node can be stopped\n")
        } else {
            format!("{name} leaves the cluster; stop its node when `raftmq ctl members` does not show it any more\n")
        }
    })
}

fn print<T: Serialize>(output: Output, answer: &T, table: impl FnOnce() -> String) -> Result<(), CtlError> {
    let text = match output {
        Output::Table => table(),
        Output::Json => {
            let json = serde_json::to_string_pretty(answer);
            json.expect("the API's types have no maps with odd keys") + "\n"
        }
    };
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(CtlError::Output)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        ctl: CtlOptions,
    }

    #[test]
    fn flags_stand_before_or_behind_the_command() {
        let line = |line: &str| Cli::try_parse_from(line.split(' ')).map(|cli| cli.ctl);
        let ctl = line("ctl --data d -o json members").unwrap();
        assert_eq!(ctl.output, Output::Json);
        let ctl = line("ctl members --data d --output json").unwrap();
        assert_eq!(ctl.access.data, Some("d".into()));
        assert_eq!(ctl.output, Output::Json);
        let ctl = line("ctl log debug --node n --endpoint https://a:1,https://b:2").unwrap();
        assert_eq!(ctl.access.endpoint.len(), 2);
        assert!(matches!(ctl.command, Command::Log { filter: Some(_), node: Some(_) }));
        for asked in ["members", "groups", "leader", "status", "reload", "log"] {
            assert!(line(&format!("ctl {asked} --node n")).is_ok(), "{asked}");
        }
        for wrong in ["ctl", "ctl bootstrap", "ctl leave", "ctl -o yaml members", "ctl member"] {
            assert_eq!(line(wrong).unwrap_err().exit_code(), 2, "{wrong}");
        }
    }
}
