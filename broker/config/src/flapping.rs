//! Flapping detection.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::HumanDuration;

/// Clients that connect too often are banned for a while (docs/bans.md).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Flapping {
    /// Whether they are.
    pub enable: bool,
    /// With so many CONNECT packets of one client identifier to one node within the window it is banned.
    #[schemars(range(min = 2, max = 1000000))]
    pub max_count: u32,
    /// The time in which they are counted, from the first.
    #[schemars(extend("x-raftmq-min" = "1s", "x-raftmq-max" = "1d"))]
    pub window: HumanDuration,
    /// How long the client identifier is banned, on all nodes.
    #[schemars(extend("x-raftmq-min" = "1s", "x-raftmq-max" = "365d"))]
    pub ban_time: HumanDuration,
}

impl Default for Flapping {
    fn default() -> Self {
        Self {
            enable: false,
            max_count: 15,
            window: HumanDuration::from_secs(60),
            ban_time: HumanDuration::from_secs(300),
        }
    }
}
