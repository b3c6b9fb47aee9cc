//! An older connection of a client is on another node, which is told to close it.

use std::sync::Arc;
use std::time::Duration;

use raftmq_shard::{Name, NodeBoot};
use tokio::sync::oneshot;
use tracing::debug;

use crate::fence;
use crate::node::{CALL, Node, Running};
use crate::wire::{Request, Response};

/// How long the node that has the connection takes at most: its worker may have much to do.
const CLOSING: Duration = Duration::from_secs(3);

/// After how long without an answer it is asked whether that node is fenced.
const SILENT: Duration = Duration::from_millis(500);

/// A connection of this node that is to be closed, since its client has a newer one.
#[derive(Debug)]
pub struct Kick {
    /// The client.
    pub client: Name,
    /// The epoch of the older connection.
    pub epoch: u64,
    /// To be told when it is closed, or there is none: nothing is sent to its client any more.
    pub closed: oneshot::Sender<()>,
}

/// Closes connections of this node; must not block.
pub type KickHandler = Arc<dyn Fn(Kick) + Send + Sync>;

/// Has the older connection closed on the node that has it. Says whether it is, or that node is fenced: then it serves the client no more.
pub(crate) async fn kick(node: &Arc<Node>, at: NodeBoot, client: Name, epoch: u64) -> bool {
    let Some(running) = node.running() else { return false };
    if at.node == running.id {
        return close(node, at, client, epoch).await;
    }
    let (namespace, id) = (client.namespace, client.id.to_string());
    let request = Request::Kick { boot: at.boot, namespace, id, epoch };
    let asked = async {
        match node.net.call_node(at.node, &request, CLOSING + CALL).await {
            Ok(Response::Kick(closed)) => closed,
            Ok(_) => false,
            Err(error) => {
                debug!(node = at.node, %error, "asking to close an older connection");
                // It may be dead, or cut off.
                fence::is_fenced(node, at).await
            }
        }
    };
    // Or it hangs.
    let fenced = async {
        loop {
            tokio::time::sleep(SILENT).await;
            if fence::is_fenced(node, at).await {
                return;
            }
        }
    };
    tokio::select! {
        closed = asked => closed,
        () = fenced => true,
    }
}

/// Closes a connection of this node.
pub(crate) async fn close(node: &Node, at: NodeBoot, client: Name, epoch: u64) -> bool {
    let life = *node.lanes().life().borrow();
    let own = node.running().map(Running::id_of);
    if own != Some(at.node) {
        return false;
    }
    if life.is_some_and(|life| life.boot != at.boot) {
        // Of a life that is over: its connections were closed when it ended, and the shard's leader says so to the shard.
        return true;
    }
    let Some(handler) = node.on_kick.get() else { return false };
    let (closed, done) = oneshot::channel();
    handler(Kick { client, epoch, closed });
    matches!(tokio::time::timeout(CLOSING, done).await, Ok(Ok(())))
}
