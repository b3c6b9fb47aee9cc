//! What can go wrong with a connection, in words that say what to do; counted by those words.

use std::collections::BTreeMap;
use std::io;

use raftmq_mqtt::{PacketType, ReasonCode};

use crate::wire::WireError;
use crate::ws::WsError;

/// Most different texts that are kept; further ones are counted together.
const MAX_REASONS: usize = 64;

/// Why a connection, or something on it, failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("refused: nothing listens on that port")]
    Refused,
    #[error(
        "too many open files: raise the hard limit (ulimit -Hn, or LimitNOFILE= of a service) or use fewer connections"
    )]
    Files,
    #[error(
        "no local port is left: --bind further source addresses (127.0.0.2, …), give another --url, or widen net.ipv4.ip_local_port_range"
    )]
    Ports,
    #[error("cannot connect from --bind {0}: {1}")]
    Bind(std::net::IpAddr, io::Error),
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("no answer within {0} s: {1}")]
    Late(u64, &'static str),
    #[error("TLS: {0}")]
    Tls(String),
    #[error(transparent)]
    Ws(#[from] WsError),
    #[error("connection refused by CONNACK: {0}")]
    ConnAck(ReasonCode),
    #[error("subscription refused by SUBACK: {0}")]
    SubAck(ReasonCode),
    #[error("SUBACK granted QoS {0}, less than was asked for")]
    Granted(u8),
    #[error("message refused by {0}: {1}")]
    Ack(PacketType, ReasonCode),
    #[error("disconnected by the server: {0}")]
    Disconnect(ReasonCode),
    #[error("the server closed the connection {0}")]
    Closed(&'static str),
    #[error("connection lost: {0}")]
    Io(io::Error),
    #[error("malformed packet from the server: {0}")]
    Wire(#[from] WireError),
    #[error("malformed packet from the server: {0}")]
    Malformed(raftmq_mqtt::DecodeError),
    #[error("the server sent {0}, which it must not now")]
    Unexpected(PacketType),
    #[error("the server sent {0} with an identifier that is not in use")]
    UnknownId(PacketType),
    #[error("the server takes no more of what is sent to it")]
    Clogged,
    #[error("no answer to PINGREQ")]
    NoPing,
    #[error("a window was full for {0} s: what was sent was neither acknowledged nor delivered")]
    Stalled(u64),
}

impl Failure {
    /// Of connecting.
    pub(crate) fn connect(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::AddrNotAvailable => Self::Ports,
            _ if matches!(error.raw_os_error(), Some(24 | 23)) => Self::Files,
            _ => Self::Connect(error),
        }
    }
}

/// How often each thing went wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Errors(BTreeMap<String, u64>);

impl Errors {
    pub(crate) fn add(&mut self, reason: &impl ToString) {
        self.count(reason.to_string(), 1);
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (reason, count) in &other.0 {
            self.count(reason.clone(), *count);
        }
    }

    fn count(&mut self, reason: String, count: u64) {
        let reason = if self.0.len() >= MAX_REASONS && !self.0.contains_key(&reason) {
            "other reasons".to_owned()
        } else {
            reason
        };
        *self.0.entry(reason).or_default() += count;
    }

    /// The most frequent first.
    pub(crate) fn list(&self) -> Vec<(&str, u64)> {
        let mut list: Vec<_> = self.0.iter().map(|(reason, count)| (reason.as_str(), *count)).collect();
        list.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_counted_and_bounded() {
        let mut errors = Errors::default();
        for n in 0..1_000 {
            errors.add(&Failure::Refused);
            errors.add(&format!("reason {n}"));
        }
        let mut both = errors.clone();
        both.merge(&errors);
        let list = both.list();
        assert_eq!(list.len(), MAX_REASONS + 1);
        assert_eq!(list.iter().map(|(_, count)| count).sum::<u64>(), 4_000);
        assert_eq!(list[0].1, 2_000);
    }

    #[test]
    fn errors_of_connecting_say_what_to_do() {
        let text = |errno| Failure::connect(io::Error::from_raw_os_error(errno)).to_string();
        assert!(text(111).contains("nothing listens"));
        assert!(text(24).contains("ulimit"));
        assert!(text(99).contains("--bind"));
        assert!(text(113).contains("cannot connect: "));
    }
}
