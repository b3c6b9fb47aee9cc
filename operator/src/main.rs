//! The operator's binary.

use std::process::ExitCode;

use clap::Parser;
use raftmq_operator::options::Options;

fn main() -> ExitCode {
    let options = Options::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("raftmq-operator: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(raftmq_operator::run::run(options));
    // Whoever must not act any more waits for nobody, a name server that does not answer for example.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("raftmq-operator: {error}");
            ExitCode::FAILURE
        }
    }
}
