//! Where MQTT clients connect.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::BindAddr;

/// One address where MQTT clients connect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Listener {
    /// Name of the listener in metrics and logs, unique on the node: lower-case letters, digits and hyphens, at most 15.
    #[schemars(length(min = 1, max = 15))]
    pub name: String,
    /// The protocol under MQTT.
    #[serde(rename = "type", default)]
    pub type_: ListenerType,
    /// Address and port. `:1883` is port 1883 on all IPv4 addresses, `[::]:1883` on all addresses. Port 0: a free port.
    pub bind: BindAddr,
    /// Connections that this listener keeps at a time; further ones are closed at once. Absent: no limit but the process's open files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_connections: Option<u32>,
}

impl Default for Listener {
    fn default() -> Self {
        Self { name: "mqtt".into(), type_: ListenerType::Tcp, bind: BindAddr::any(1883), max_connections: None }
    }
}

/// The protocol under MQTT. This version serves `tcp`; the others are known names and refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum ListenerType {
    /// Plain TCP.
    #[default]
    Tcp,
    /// TLS.
    Tls,
    /// WebSocket.
    Ws,
    /// WebSocket under TLS.
    Wss,
}

impl ListenerType {
    /// The name in YAML.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }

    /// Whether connections of this type need a certificate.
    #[must_use]
    pub fn uses_tls(self) -> bool {
        matches!(self, Self::Tls | Self::Wss)
    }

    /// Whether this version can serve the type.
    #[must_use]
    pub fn is_available(self) -> bool {
        matches!(self, Self::Tcp)
    }
}
