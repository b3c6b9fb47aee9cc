//! The `raftmq` binary.

use std::process::ExitCode;

// Gives back to the system what is free for some seconds, by a thread of its own (`.cargo/config.toml`): a worker whose
// clients have all left does nothing that could do it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    raftmq::cli::run()
}
