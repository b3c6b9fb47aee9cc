//! How a node is, as `up` shows it.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What a look at `/readyz` found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// The process runs and does not answer yet.
    Starting,
    /// It answers, and does not serve, with the first reason.
    NotReady(String),
    /// It serves.
    Ready,
    /// The process ended, with its status.
    Stopped(String),
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting => f.write_str("starting"),
            Self::NotReady(reasons) => write!(f, "not ready: {reasons}"),
            Self::Ready => f.write_str("ready"),
            Self::Stopped(status) => write!(f, "stopped: {status}"),
        }
    }
}

#[derive(Deserialize)]
struct Readiness {
    #[serde(default)]
    failing: Vec<Failing>,
}

#[derive(Deserialize)]
struct Failing {
    reason: String,
}

/// Longest answer that is read.
const MAX_ANSWER: u64 = 64 * 1024;

/// Asks a node on the loopback address whether it is ready.
pub(crate) async fn ask(port: u16) -> Health {
    match tokio::time::timeout(Duration::from_secs(2), get(port)).await {
        Ok(Ok(answer)) => read(&answer),
        Ok(Err(_)) => Health::Starting,
        Err(_) => Health::NotReady("it does not answer".into()),
    }
}

async fn get(port: u16) -> std::io::Result<String> {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).await?;
    socket.write_all(b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n").await?;
    let mut answer = Vec::new();
    socket.take(MAX_ANSWER).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn read(answer: &str) -> Health {
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        return Health::Starting;
    };
    if head.split(' ').nth(1) == Some("200") {
        return Health::Ready;
    }
    // The conditions come in the order in which they can be met: the others follow from the first.
    let first = serde_json::from_str::<Readiness>(body).ok().and_then(|readiness| readiness.failing.into_iter().next());
    Health::NotReady(first.map_or_else(|| body.trim().chars().take(200).collect(), |failing| failing.reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_and_odd_ones_are_shown() {
        let failing = r#"{"ready":false,"failing":[{"condition":"lease","reason":"no lease"},{"condition":"x","reason":"y: z; z"},{"condition":"w","reason":"v: z; z"}]}"#;
        for (answer, health) in [
            ("HTTP/1.1 200 OK\r\n\r\n{}".to_owned(), Health::Ready),
            (format!("HTTP/1.1 503 Service Unavailable\r\n\r\n{failing}"), Health::NotReady("no lease".into())),
            ("HTTP/1.1 500 Oh\r\n\r\nwell ".to_owned(), Health::NotReady("well".into())),
            ("HTTP/1.1 200 OK".to_owned(), Health::Starting),
        ] {
            assert_eq!(read(&answer), health, "{answer}");
        }
    }
}
