//! Clients of the API server. None of them waits for ever: a connection of which the other end is gone looks like a server that thinks.

use std::time::Duration;

use kube::client::ClientBuilder;
use kube::{Client, Config};
use tower::timeout::TimeoutLayer;

/// Seconds that a watch lasts before the API server ends it and it is begun again. With a little more, how long a dead one goes unnoticed.
pub const WATCH_SECONDS: u32 = 60;

/// For a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// For the answer to a request, tries of the client included, and for each further piece of it.
const ANSWER: Duration = Duration::from_secs(10);
/// The same about the Lease: several of these fit into its duration.
const LEASE_ANSWER: Duration = Duration::from_secs(4);
/// For a piece of what a watch says. Nothing is said where nothing happens, until the watch ends.
const WATCH_PIECE: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 15);

/// A client for each purpose, with connections of its own.
#[derive(Clone)]
pub struct Clients {
    /// Reads and writes.
    pub requests: Client,
    /// Watches, and the lists that they begin with.
    pub watches: Client,
    /// The Lease.
    pub lease: Client,
}

impl Clients {
    /// By the service account of the pod, or by KUBECONFIG.
    ///
    /// # Errors
    /// There is neither, or it cannot be understood.
    pub async fn infer() -> Result<Self, kube::Error> {
        Self::new(&Config::infer().await.map_err(kube::Error::InferConfig)?)
    }

    /// For this API server.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub fn new(config: &Config) -> Result<Self, kube::Error> {
        Ok(Self {
            requests: client(config, ANSWER, ANSWER)?,
            watches: client(config, ANSWER, WATCH_PIECE)?,
            lease: client(config, LEASE_ANSWER, LEASE_ANSWER)?,
        })
    }
}

fn client(config: &Config, answer: Duration, piece: Duration) -> Result<Client, kube::Error> {
    let mut config = config.clone();
    config.connect_timeout = Some(CONNECT.min(answer));
    config.read_timeout = Some(piece);
    config.write_timeout = Some(piece);
    // The time in which a connection was idle is no time in which the server did not answer.
    config.reset_reader_on_write = true;
    // Around everything else: the tries again of a server that is busy may otherwise take minutes.
    Ok(ClientBuilder::try_from(config)?.with_layer(&TimeoutLayer::new(answer)).build())
}

/// What went wrong in the API server's own words, where they are its; kube adds how its types look inside.
#[must_use]
pub fn plain(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        kube::Error::Api(status) => format!("{} {}", status.code, status.reason).trim_end().to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use futures::StreamExt;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::Api;
    use kube::api::WatchParams;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    const HEADER: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";

    /// A server that takes each request, says this, and no more.
    async fn server(says: &'static str) -> Config {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let mut open = Vec::new();
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut request = [0; 4096];
                assert!(socket.read(&mut request).await.unwrap() > 0);
                socket.write_all(says.as_bytes()).await.unwrap();
                open.push(socket);
            }
        });
        // Without TLS, so that no authority is needed either.
        let mut config = Config::new(format!("http://{address}").parse().unwrap());
        config.root_cert = Some(Vec::new());
        config
    }

    #[tokio::test]
    async fn a_server_that_does_not_answer_or_stops_in_the_middle_is_given_up() {
        let short = Duration::from_millis(50);
        for says in ["", HEADER] {
            let api: Api<ConfigMap> = Api::namespaced(client(&server(says).await, short, short).unwrap(), "mq");
            let answer = tokio::time::timeout(Duration::from_secs(10), api.get("x")).await;
            assert!(answer.is_ok_and(|answer| answer.is_err()), "{says:?}");
        }
    }

    #[tokio::test]
    async fn a_watch_lives_while_nothing_happens_and_no_longer_than_it_may() {
        let config = server(HEADER).await;
        let (answer, piece) = (Duration::from_secs(1), Duration::from_secs(2));
        let api: Api<ConfigMap> = Api::namespaced(client(&config, answer, piece).unwrap(), "mq");
        let mut watch = api.watch(&WatchParams::default(), "0").await.unwrap().boxed();
        let begun = Instant::now();
        let end = tokio::time::timeout(Duration::from_secs(10), watch.next()).await.unwrap();
        assert!(end.is_none_or(|item| item.is_err()));
        assert!(begun.elapsed() > answer, "the deadline for an answer is not one for a watch");
    }
}
