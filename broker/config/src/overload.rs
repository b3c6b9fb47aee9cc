//! What a node does when it has too much to do.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ByteSize, HumanDuration};

/// When memory or a worker's loop delay passes a mark, new connections are refused first, then QoS 0 is shed (docs/overload.md).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Overload {
    /// Memory that the process may have, of which the next two are shares. `0B`: the limit of its control group; without one, memory is
    /// not looked at. Where several nodes are in one control group, as with `raftmq up`, each needs its own part of it.
    #[schemars(extend("x-raftmq-min" = "0B", "x-raftmq-max" = "64TiB"))]
    pub memory_limit: ByteSize,
    /// Per cent of the memory limit from which on new connections are refused with 0x97. 0: never.
    #[schemars(range(min = 0, max = 100))]
    pub memory_refuse: u8,
    /// Per cent of the memory limit from which on QoS 0 messages are shed as well. 0: never.
    #[schemars(range(min = 0, max = 100))]
    pub memory_shed: u8,
    /// Time by which a worker's loop is late from which on new connections are refused with 0x89. `0s`: never.
    #[schemars(extend("x-raftmq-min" = "0s", "x-raftmq-max" = "1h"))]
    pub loop_delay_refuse: HumanDuration,
    /// Time by which a worker's loop is late from which on QoS 0 messages are shed as well. `0s`: never.
    #[schemars(extend("x-raftmq-min" = "0s", "x-raftmq-max" = "1h"))]
    pub loop_delay_shed: HumanDuration,
    /// Time for which memory must be below 9/10, or the loop delay below half, of a mark before what began there ends.
    #[schemars(extend("x-raftmq-min" = "0s", "x-raftmq-max" = "1h"))]
    pub recovery: HumanDuration,
}

impl Default for Overload {
    fn default() -> Self {
        Self {
            memory_limit: ByteSize::from_bytes(0),
            memory_refuse: 80,
            memory_shed: 90,
            loop_delay_refuse: HumanDuration::from_secs(1),
            loop_delay_shed: HumanDuration::from_secs(5),
            recovery: HumanDuration::from_secs(5),
        }
    }
}
