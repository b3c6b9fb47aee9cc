//! rumqttc through every scenario: `raftmq-compat-rumqttc tcp|tls|ws|wss [SCENARIO…]`.

mod peer;
mod scenarios;
mod scenarios_v5;
mod settings;
mod v4;
mod v5;

use std::future::Future;
use std::process::ExitCode;

use peer::Version;
use settings::{Result, Transport};

struct Runner {
    only: Vec<String>,
    failed: bool,
}

impl Runner {
    /// Runs a scenario and prints its line.
    async fn run(&mut self, name: &str, scenario: impl Future<Output = Result<()>>) {
        if !self.only.is_empty() && !self.only.iter().any(|only| name.starts_with(only.as_str())) {
            return;
        }
        match scenario.await {
            Ok(()) => println!("ok {name}"),
            Err(error) => {
                self.failed = true;
                println!("FAIL {name}: {}", error.to_string().replace('\n', " "));
            }
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    // rustls wants to be told which of its providers is used.
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    let mut runner = Runner { only: std::env::args().skip(2).collect(), failed: false };

    for (label, version) in [("3.1.1", Version::V311), ("5", Version::V5)] {
        runner.run(&format!("connect/{label}"), scenarios::connect(version)).await;
        runner.run(&format!("qos/{label}"), scenarios::qos(version)).await;
        runner.run(&format!("several/{label}"), scenarios::several(version)).await;
        runner.run(&format!("unsubscribe/{label}"), scenarios::unsubscribe(version)).await;
        runner.run(&format!("retained/{label}"), scenarios::retained(version)).await;
        runner.run(&format!("will/{label}"), scenarios::will(version)).await;
        runner.run(&format!("will-not/{label}"), scenarios::will_not(version)).await;
        runner.run(&format!("session/{label}"), scenarios::session(version)).await;
        runner.run(&format!("shared/{label}"), scenarios::shared(version)).await;
        runner.run(&format!("large/{label}"), scenarios::large(version)).await;
    }

    runner.run("user-properties/5", scenarios_v5::user_properties()).await;
    runner.run("content/5", scenarios_v5::content()).await;
    runner.run("expiry/5", scenarios_v5::expiry()).await;
    runner.run("subscription-identifiers/5", scenarios_v5::subscription_identifiers()).await;
    runner.run("topic-alias/5", scenarios_v5::topic_alias()).await;
    runner.run("session-expiry/5", scenarios_v5::session_expiry()).await;
    runner.run("receive-maximum/5", scenarios_v5::receive_maximum(1)).await;
    runner.run("receive-maximum-qos2/5", scenarios_v5::receive_maximum(2)).await;
    runner.run("reason-codes/5", scenarios_v5::reason_codes()).await;
    runner.run("protocol-error/5", scenarios_v5::protocol_error()).await;
    runner.run("taken-over/5", scenarios_v5::taken_over()).await;
    runner.run("request-response/5", scenarios_v5::request_response()).await;
    runner.run("options/5", scenarios_v5::options()).await;
    runner.run("will-properties/5", scenarios_v5::will_properties()).await;

    let transport = Transport::from_argument();
    if matches!(transport, Transport::Tls | Transport::Wss) {
        runner.run("tls-ca", scenarios::tls_ca()).await;
    }
    if transport == Transport::Tls {
        runner.run("tls-client-certificate", scenarios::tls_client_certificate()).await;
    }
    if runner.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
