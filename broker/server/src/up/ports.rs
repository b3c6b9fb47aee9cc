//! Ports on the loopback address: the planned ones must be free, and an error names the one that is not.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, TcpListener};

/// A port that cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PortError {
    #[error(
        "port {port} ({purpose} of {node}) is in use: stop what listens there, or choose others with {flag} (or --free-ports)"
    )]
    InUse { port: u16, purpose: &'static str, node: String, flag: &'static str },
    #[error("port {port} ({purpose} of {node}): {source}")]
    Io { port: u16, purpose: &'static str, node: String, source: io::Error },
    #[error("port {port} is named twice ({purpose} of {node})")]
    Twice { port: u16, purpose: &'static str, node: String },
    #[error("no free port: {0}")]
    None(io::Error),
}

/// Where free ports are looked for.
const FREE: std::ops::Range<u16> = 15_000..32_000;
/// How many are tried: a machine on which so many in a row are taken has none.
const TRIES: usize = 1000;

/// Hands out ports, each once.
#[derive(Default)]
pub(crate) struct Ports {
    given: BTreeSet<u16>,
    /// Free ports stay bound until all are chosen, so that none is chosen twice by the system.
    held: Vec<TcpListener>,
}

impl Ports {
    /// The port asked for, when nothing listens on it.
    pub(crate) fn take(
        &mut self,
        port: u16,
        purpose: &'static str,
        node: &str,
        flag: &'static str,
    ) -> Result<u16, PortError> {
        if !self.given.insert(port) {
            return Err(PortError::Twice { port, purpose, node: node.to_owned() });
        }
        // The address that the broker will bind.
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => Ok(port),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                Err(PortError::InUse { port, purpose, node: node.to_owned(), flag })
            }
            Err(source) => Err(PortError::Io { port, purpose, node: node.to_owned(), source }),
        }
    }

    /// Any port that is free now, below those that the system gives to outgoing connections: a broker that comes back must
    /// find its port free.
    pub(crate) fn free(&mut self) -> Result<u16, PortError> {
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for _ in 0..TRIES {
            let port = rand::random_range(FREE);
            match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
                Ok(listener) => {
                    self.held.push(listener);
                    if self.given.insert(port) {
                        return Ok(port);
                    }
                }
                Err(error) => last = error,
            }
        }
        Err(PortError::None(last))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_port_in_use_is_named_with_the_flag_that_helps() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = Ports::default().take(port, "MQTT", "raftmq-0", "--mqtt-ports").unwrap_err().to_string();
        assert!(error.contains(&port.to_string()) && error.contains("raftmq-0") && error.contains("--mqtt-ports"));
    }

    #[test]
    fn free_ports_differ() {
        let mut ports = Ports::default();
        let chosen: BTreeSet<u16> = (0..50).map(|_| ports.free().unwrap()).collect();
        assert_eq!(chosen.len(), 50);
    }
}
