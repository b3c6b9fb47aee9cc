//! Prints the reference of all settings: `cargo run -p raftmq-config --example reference > docs/configuration.md`.

fn main() {
    print!("{}", raftmq_config::reference_markdown());
}
