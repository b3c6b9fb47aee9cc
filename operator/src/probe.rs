//! A question to a running operator, for `helm test`: the image has no other program that could ask.

use std::time::Duration;

use raftmq_discovery::{ResolveError, Resolver};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// For the whole of it.
const DEADLINE: Duration = Duration::from_secs(20);
/// The largest answer that is read, in bytes.
const MAX_ANSWER: u64 = 64 * 1024;

/// Why an operator is not known to be ready.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// The address is wrong or has no socket address.
    #[error("{0}")]
    Resolve(#[from] ResolveError),
    /// It cannot be asked.
    #[error("cannot ask {address}: {source}")]
    Io {
        /// The address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// It answered something else.
    #[error("{address} answered {answer:?}")]
    Answer {
        /// The address.
        address: String,
        /// The first line of the answer.
        answer: String,
    },
    /// It did not answer in time.
    #[error("no answer from {0} in time")]
    Timeout(String),
}

/// Asks `host:port` for `/readyz`.
///
/// # Errors
/// [`ProbeError`]: it is not ready, or cannot be asked.
pub async fn probe(address: &str) -> Result<(), ProbeError> {
    match tokio::time::timeout(DEADLINE, ask(address)).await {
        Ok(result) => result,
        Err(_) => Err(ProbeError::Timeout(address.to_owned())),
    }
}

async fn ask(address: &str) -> Result<(), ProbeError> {
    let io = |source| ProbeError::Io { address: address.to_owned(), source };
    // The resolver of the brokers: the one of a static C library does not read all of /etc/resolv.conf.
    let sockets = Resolver::system().resolve(address).await?;
    let mut socket = TcpStream::connect(sockets.as_slice()).await.map_err(io)?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.map_err(io)?;
    let mut bytes = Vec::new();
    socket.take(MAX_ANSWER).read_to_end(&mut bytes).await.map_err(io)?;
    let text = String::from_utf8_lossy(&bytes);
    match text.lines().next().unwrap_or_default() {
        line if line.starts_with("HTTP/1.1 200") => Ok(()),
        line => Err(ProbeError::Answer { address: address.to_owned(), answer: line.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::http::{Health, serve};
    use tokio::sync::watch;

    #[tokio::test]
    async fn an_operator_is_ready_when_it_says_so() {
        let (sender, health) = watch::channel(Health::Starting);
        let address =
            serve("127.0.0.1:0".parse().unwrap(), std::sync::Arc::default(), std::sync::Arc::default(), health)
                .await
                .unwrap();
        let error = probe(&address.to_string()).await.unwrap_err().to_string();
        assert!(error.contains("503"), "{error}");
        sender.send_replace(Health::Ready);
        probe(&address.to_string()).await.unwrap();
        probe("nonsense").await.unwrap_err();
    }
}
