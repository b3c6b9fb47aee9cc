//! Whether a node that others do not reach is fenced: it serves none of the clients that it has, and will not before they connect again.
//!
//! The meta leader knows when a node's lease is over ([`raftmq_meta::LeaseTable`]). Before it says so it commits an entry of which the node hears with its next lease, and because
//! of which it then parts from its clients; who asks later in the same time without a lease is answered after a ReadIndex round.

use std::sync::Arc;
use std::time::Duration;

use raftmq_meta::{FENCES_LEVEL, Fence, MetaCommand, MetaResponse};
use raftmq_shard::NodeBoot;
use tracing::{debug, info};

use crate::leader::{leads, propose_as};
use crate::member::propose;
use crate::node::{CALL, Node, Running};
use crate::shards::boot_of;
use crate::wire::{Request, Response};

/// Between two questions about a node that may be serving.
const AGAIN: Duration = Duration::from_millis(50);

/// Whether that life of a node serves none of its clients any more. All who ask at once share a question.
pub(crate) async fn is_fenced(node: &Arc<Node>, at: NodeBoot) -> bool {
    let Some(running) = node.running() else { return false };
    let asking = Arc::clone(node);
    let asked = async move {
        let over = ask(&asking, at).await;
        if !over {
            tokio::time::sleep(AGAIN).await;
        }
        over
    };
    running.fence_rounds.join(at, asked).await
}

async fn ask(node: &Node, at: NodeBoot) -> bool {
    let Some(running) = node.running() else { return false };
    let meta = node.meta_state();
    if meta.members.values().any(|member| member.feature_level < FENCES_LEVEL) {
        return false;
    }
    let leader = running.meta.status().borrow().leader;
    match leader {
        Some(leader) if leader == running.id => may_rely(node, running, at).await,
        Some(leader) => {
            let request = Request::Fenced { node: at.node, boot: at.boot };
            match node.net.call_node(leader, &request, CALL).await {
                Ok(Response::Fenced(over)) => over,
                Ok(_) => false,
                Err(error) => {
                    debug!(node = at.node, %error, "asking whether a node is fenced");
                    false
                }
            }
        }
        None => false,
    }
}

/// The meta leader's answer; false: not now, or not here.
pub(crate) async fn may_rely(node: &Node, running: &Running, at: NodeBoot) -> bool {
    let look = || running.desk.fence(at.node, boot_of(at));
    let Some((term, fence)) = look() else { return false };
    match fence {
        Fence::Open => false,
        Fence::Noted => {
            let confirmed = running.meta.read_index().await.is_ok() && leads(running, term);
            confirmed && look() == Some((term, Fence::Noted))
        }
        Fence::Over => {
            if node.meta_state().feature_level < FENCES_LEVEL {
                // Switched on by the first who needs it.
                let level = propose(&running.meta, &MetaCommand::FeatureLevel { level: FENCES_LEVEL }).await;
                if level != Ok(MetaResponse::Done) {
                    debug!(?level, "nobody can rely on it yet that a node is fenced");
                    return false;
                }
            }
            let noted = match propose_as(running, term, &MetaCommand::Fenced { id: at.node }).await {
                Some(MetaResponse::Fenced { count }) => running.desk.note_fence(term, at.node, count),
                _ => false,
            };
            if noted {
                info!(node = at.node, "fenced: its clients may be served elsewhere");
            }
            noted
        }
    }
}
