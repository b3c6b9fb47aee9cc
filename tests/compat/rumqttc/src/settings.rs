//! Where the broker is, by the environment, and how a connection to it is made.

use std::sync::atomic::{AtomicU32, Ordering};

use rumqttc::Transport as Rumqttc;

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Tls,
    /// TLS with a client certificate, or without where the listener wants one.
    Mtls {
        certificate: bool,
    },
    Ws,
    Wss,
}

impl Transport {
    pub fn from_argument() -> Self {
        match std::env::args().nth(1).as_deref() {
            None | Some("tcp") => Self::Tcp,
            Some("tls") => Self::Tls,
            Some("ws") => Self::Ws,
            Some("wss") => Self::Wss,
            Some(other) => {
                eprintln!("no transport {other}: tcp, tls, ws or wss");
                std::process::exit(2)
            }
        }
    }

    /// Host or, for WebSocket, URL; port; and rumqttc's own idea of the transport, with the authority in this file.
    pub fn address(self, ca: &str) -> Result<(String, u16, Rumqttc)> {
        let host = setting("HOST").unwrap_or("localhost".into());
        let name = match self {
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::Mtls { .. } => "MTLS",
            Self::Ws => "WS",
            Self::Wss => "WSS",
        };
        let port = setting(name)?.parse()?;
        let path = setting("WS_PATH").unwrap_or("/mqtt".into());
        let read = |file: String| std::fs::read(file);
        let authority = || -> Result<Vec<u8>> { Ok(read(setting(ca)?)?) };
        Ok(match self {
            Self::Tcp => (host, port, Rumqttc::tcp()),
            Self::Tls | Self::Mtls { certificate: false } => (host, port, Rumqttc::tls(authority()?, None, None)),
            Self::Mtls { certificate: true } => {
                let client = (read(setting("CERT")?)?, read(setting("KEY")?)?);
                (host, port, Rumqttc::tls(authority()?, Some(client), None))
            }
            Self::Ws => (format!("ws://{host}:{port}{path}"), port, Rumqttc::ws()),
            Self::Wss => (format!("wss://{host}:{port}{path}"), port, Rumqttc::wss(authority()?, None, None)),
        })
    }
}

pub fn setting(name: &str) -> Result<String> {
    let name = format!("RAFTMQ_COMPAT_{name}");
    std::env::var(&name).map_err(|_| format!("{name} is not set").into())
}

/// A name that no other run and no other call has.
fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_micros());
    format!("{:x}{:x}", now & 0xffff_ffff, NEXT.fetch_add(1, Ordering::Relaxed))
}

pub fn topic(name: &str) -> String {
    format!("compat/{}/{name}", unique())
}

pub fn client_id() -> String {
    format!("compat{}", unique())
}

/// A failure with both values unless they are equal.
pub fn equal<T: PartialEq + std::fmt::Debug>(what: &str, found: T, wanted: T) -> Result<()> {
    if found == wanted { Ok(()) } else { Err(format!("{what}: {found:?} instead of {wanted:?}").into()) }
}
