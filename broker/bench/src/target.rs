//! `--url`: what to connect to.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use raftmq_discovery::{HostPort, Resolver};

/// What carries MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Mqtt,
    Mqtts,
    Ws,
    Wss,
}

impl Scheme {
    const fn default_port(self) -> u16 {
        match self {
            Self::Mqtt => 1883,
            Self::Mqtts => 8883,
            Self::Ws => 8083,
            Self::Wss => 8084,
        }
    }

    pub(crate) const fn is_tls(self) -> bool {
        matches!(self, Self::Mqtts | Self::Wss)
    }

    pub(crate) const fn is_ws(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Mqtt => "mqtt",
            Self::Mqtts => "mqtts",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }
}

/// A URL of a broker: `mqtt://host:port`, `mqtts://…`, `ws://host:port/path`, `wss://…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) scheme: Scheme,
    pub(crate) address: HostPort,
    /// Of WebSocket.
    pub(crate) path: String,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.name(), self.address)?;
        if self.scheme.is_ws() { f.write_str(&self.path) } else { Ok(()) }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").ok_or("write SCHEME://HOST:PORT, as in mqtt://127.0.0.1:1883")?;
        let scheme = match scheme {
            "mqtt" | "tcp" => Scheme::Mqtt,
            "mqtts" | "ssl" | "tls" => Scheme::Mqtts,
            "ws" => Scheme::Ws,
            "wss" => Scheme::Wss,
            _ => return Err("the scheme is one of mqtt, mqtts, ws, wss".to_owned()),
        };
        let (host, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        if host.contains('@') {
            return Err("user name and password are given by --username and --password-file".to_owned());
        }
        if path.chars().any(|c| c.is_control() || c == ' ') {
            return Err("the path holds a character that a URL has not".to_owned());
        }
        if !scheme.is_ws() && !matches!(path, "" | "/") {
            return Err(format!("{} has no path", scheme.name()));
        }
        let has_port = host.rsplit_once(':').is_some_and(|(before, _)| !before.contains(':') || before.ends_with(']'));
        let address = if has_port { host.to_owned() } else { format!("{host}:{}", scheme.default_port()) };
        let address = address.parse().map_err(|error| format!("{error}"))?;
        let path = if path.is_empty() { "/mqtt".to_owned() } else { path.to_owned() };
        Ok(Self { scheme, address, path })
    }
}

impl Target {
    /// Its addresses: all of a name, of one family (IPv4 where there is one).
    pub(crate) async fn resolve(&self, resolver: &Resolver) -> Result<Vec<SocketAddr>, String> {
        let name = self.address.to_string();
        let mut found =
            resolver.resolve(&name).await.map_err(|error| format!("{self}: the host is not found: {error}"))?;
        let v4 = found.iter().any(SocketAddr::is_ipv4);
        found.retain(|address| address.is_ipv4() == v4);
        if found.is_empty() {
            return Err(format!("{self}: the host has no address"));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn urls() {
        for (text, shown) in [
            ("mqtt://127.0.0.1:1884", "mqtt://127.0.0.1:1884"),
            ("mqtt://broker", "mqtt://broker:1883"),
            ("tcp://broker/", "mqtt://broker:1883"),
            ("mqtts://broker.example.org", "mqtts://broker.example.org:8883"),
            ("ws://broker:80", "ws://broker:80/mqtt"),
            ("wss://[::1]/x/y?z=1", "wss://[::1]:8084/x/y?z=1"),
            ("mqtt://[::1]:7", "mqtt://[::1]:7"),
        ] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), shown, "{text}");
        }
        for wrong in [
            "broker:1883",
            "http://a",
            "mqtt://",
            "mqtt://a:0",
            "mqtt://a:b",
            "mqtt://u:p@a",
            "mqtt://a/b",
            "ws://a/b c",
        ] {
            assert!(wrong.parse::<Target>().is_err(), "{wrong}");
        }
        // A password in the wrong place is not repeated in the message.
        assert!(!"mqtt://u:secret@a".parse::<Target>().unwrap_err().contains("secret"));
    }
}
