//! The operator's binary.

use std::process::ExitCode;

use clap::Parser;
use raftmq_operator::options::Options;

#[tokio::main]
async fn main() -> ExitCode {
    match raftmq_operator::run::run(Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("raftmq-operator: {error}");
            ExitCode::FAILURE
        }
    }
}
