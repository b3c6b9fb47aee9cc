//! A load generator for MQTT brokers: `raftmq bench`.
//!
//! `flags → plan → threads → report`. A `plan` says who connects to what; each thread of the `engine` has its part of the clients and one
//! epoll, `conduct` says when they connect, publish and end, and `report` what came of it.
//!
//! It must itself be cheap, since it shares the machine with what it measures: no allocation a message, one read and one write a client
//! and turn, the bytes of a PUBLISH are made once a publisher. A message carries a `stamp`: of whom it is, which one, and when it was due
//! by the `pace`; so the subscriber knows how long it took, and the `track` whether each came once and in order.

mod client;
mod conduct;
mod context;
mod counters;
mod endpoints;
mod engine;
mod failure;
mod flight;
mod link;
mod options;
mod pace;
mod plan;
mod process;
mod protocol;
mod report;
mod shared;
mod stamp;
mod target;
mod template;
mod tls;
mod track;
mod window;
mod wire;
mod ws;

pub use options::BenchOptions;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use plan::Plan;
use report::Report;
use shared::Shared;

/// Files that are open besides the connections.
const OTHER_FILES: u64 = 64;

/// Runs it. The report goes to standard output.
///
/// 0: all was delivered and nothing failed; 1: not so; 2: it could not begin.
pub async fn run(options: BenchOptions) -> ExitCode {
    match measure(options).await {
        Ok((report, json)) => {
            let text = if json {
                serde_json::to_string_pretty(&report).map_or_else(|error| error.to_string(), |text| text + "\n")
            } else {
                report.to_string()
            };
            // Who closed the pipe does not want to read it.
            let _ = std::io::stdout().write_all(text.as_bytes());
            if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("raftmq bench: {error}");
            ExitCode::from(2)
        }
    }
}

async fn measure(options: BenchOptions) -> Result<(Report, bool), String> {
    let plan = Plan::new(options).await?;
    let json = plan.options.json;
    let clients = u64::from(plan.publishers) + u64::from(plan.subscribers);
    process::raise_open_files(clients + OTHER_FILES)?;
    let shared = Arc::new(Shared::new(plan)?);
    let course = conduct::conduct(&shared).await?;
    Ok((Report::new(&shared.plan, &course), json))
}
