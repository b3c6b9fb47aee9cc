//! `host:port`, checked.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use thiserror::Error;

/// An address as people write it: `name:port`, `192.0.2.1:port` or `[2001:db8::1]:port`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    /// A host name or an IP address (IPv6 without brackets).
    pub host: String,
    /// Never 0.
    pub port: u16,
}

/// What is wrong with a text that should be `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{address:?} is not an address of the form host:port: {reason}")]
pub struct AddressError {
    /// The text, cut to a printable length.
    pub address: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl HostPort {
    /// The socket address, when the host is an IP address.
    #[must_use]
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        let ip: IpAddr = self.host.parse().ok()?;
        Some(SocketAddr::new(ip, self.port))
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for HostPort {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = |reason| AddressError { address: text.chars().take(100).collect(), reason };
        let text_ = text.trim();
        let (host, port) = match text_.strip_prefix('[') {
            Some(rest) => {
                let (host, port) =
                    rest.split_once("]:").ok_or_else(|| wrong("an IPv6 address is written [address]:port"))?;
                host.parse::<Ipv6Addr>().map_err(|_| wrong("what is in brackets is not an IPv6 address"))?;
                (host, port)
            }
            None => {
                let (host, port) = text_.rsplit_once(':').ok_or_else(|| wrong("the port is missing"))?;
                if host.contains(':') {
                    return Err(wrong("an IPv6 address is written [address]:port"));
                }
                check_host(host).map_err(wrong)?;
                (host, port)
            }
        };
        // `u16::from_str` would accept a leading plus sign.
        let port = match port.parse::<u16>() {
            Ok(port) if port > 0 && port_is_digits(text_) => port,
            _ => return Err(wrong("the port is not a number from 1 to 65535")),
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

fn port_is_digits(text: &str) -> bool {
    text.rsplit(':').next().is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Host names of RFC 1123, and the underscore that DNS names in use carry.
pub(crate) fn check_host(host: &str) -> Result<(), &'static str> {
    let labels = host.strip_suffix('.').unwrap_or(host);
    if labels.is_empty() {
        return Err("the host is empty");
    }
    if labels.len() > 253 {
        return Err("the host is longer than 253 characters");
    }
    for label in labels.split('.') {
        if label.is_empty() || label.len() > 63 {
            return Err("a part of the host is empty or longer than 63 characters");
        }
        if !label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') {
            return Err("the host has a character other than letters, digits, '-', '_' and '.'");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_an_address() {
        for (text, host, port) in [
            ("raftmq-0:9883", "raftmq-0", 9883),
            (" raftmq-0.raftmq.svc.:1 ", "raftmq-0.raftmq.svc.", 1),
            ("127.0.0.1:65535", "127.0.0.1", 65535),
            ("[::1]:9883", "::1", 9883),
            ("_links._tcp.example:9883", "_links._tcp.example", 9883),
        ] {
            let parsed: HostPort = text.parse().unwrap();
            assert_eq!((parsed.host.as_str(), parsed.port), (host, port), "{text}");
            assert_eq!(parsed.to_string(), text.trim(), "{text}");
        }
    }

    #[test]
    fn what_is_not() {
        let long = format!("{}:1", "a".repeat(64));
        let longer = format!("{}a:1", "abc.".repeat(64));
        for text in [
            "",
            ":",
            "a",
            "a:",
            ":1",
            "a:0",
            "a:65536",
            "a:-1",
            "a:+1",
            "a:1x",
            "::1:9883",
            "[::1]",
            "[::1]9883",
            "[a]:1",
            "a b:1",
            "a..b:1",
            ".:1",
            "ä:1",
            "a/b:1",
            "http://a:1",
            &long,
            &longer,
        ] {
            let error = text.parse::<HostPort>().unwrap_err();
            assert!(!error.reason.is_empty(), "{text}");
        }
    }
}
