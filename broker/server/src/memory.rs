//! What a node keeps in its memory alone, in numbers: it ends with the process.

use raftmq_routing::{Lookup, RetainedCursor, RetainedStore};

use crate::http::api::Memory;
use crate::worker::NodeShared;

/// Topics looked at before the store is given to others for a moment.
const A_LOOK: usize = 4_096;

pub(crate) fn memory(node: &NodeShared) -> Memory {
    // Those of clients in shards outlive the node, or end with their connection anyway.
    let in_shards = node.shards.as_ref().is_some_and(raftmq_cluster::Shards::in_use);
    let sessions = if in_shards { 0 } else { node.registry.len() as u64 };
    let gauges = node.metrics.sys().gauges;
    let own = own_retained(|look| look(&node.features.retained()), node.clock.now().unix_ms);
    Memory {
        sessions,
        // The workers count them for the tree `$SYS/broker`, every few seconds.
        queued_messages: (sessions == 0 || node.features.sys.mosquitto).then_some(gauges.stored_messages),
        retained_messages: (node.features.retained().counters().messages as u64).saturating_sub(own),
        delayed_messages: node.features.delayed.counts().0 as u64,
        waiting_wills: node.metrics.wills_waiting(),
    }
}

/// Retained messages that the node publishes itself, and will again.
fn own_retained(with_store: impl Fn(&mut dyn FnMut(&RetainedStore)), now: u64) -> u64 {
    let mut cursor = RetainedCursor::default();
    let (mut count, mut looked) = (0, Lookup::More);
    while looked == Lookup::More {
        with_store(&mut |store| {
            looked = store.matches("$SYS/#", &mut cursor, A_LOOK, now, |_| {
                count += 1;
                true
            })
        });
    }
    count
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use raftmq_mqtt::{Message, Origin, Properties, Publish, QoS};
    use raftmq_routing::RetainedLimits;

    #[test]
    fn what_the_node_publishes_itself_is_counted_apart() {
        let mut store = RetainedStore::new(RetainedLimits::default());
        let mut keep = |topic: String| {
            let publish = Publish {
                dup: false,
                qos: QoS::AtMostOnce,
                retain: true,
                topic: &topic,
                packet_id: None,
                properties: Properties::EMPTY,
                payload: b"x",
            };
            store.set(&Message::new(&publish, Origin { node: 1, sequence: 1 }, "c", 0, None).unwrap(), 1);
        };
        keep("a/b".to_owned());
        keep("$delayed".to_owned());
        (0..A_LOOK + 3).for_each(|n| keep(format!("$SYS/brokers/{n}")));
        assert_eq!(own_retained(|look| look(&store), 1), (A_LOOK + 3) as u64);
        assert_eq!(store.len(), A_LOOK + 5);
    }
}
