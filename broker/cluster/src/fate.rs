//! What becomes of this node: asked to leave, replaced, removed while it did not listen, or only cut off.

use std::sync::Arc;
use std::time::Duration;

use raftmq_meta::{MemberStatus, MetaState};
use tracing::info;

use crate::error::Fatal;
use crate::join::probe_all;
use crate::lease;
use crate::node::{CALL, Node, RETRY, Running};
use crate::status::Stage;
use crate::wire::{Fate, Request, Response};

/// Called whenever the meta state changed: what it means for this node itself.
pub(crate) fn own(node: &Arc<Node>, running: &Running, state: &MetaState) {
    let fate = match state.members.get(&running.id) {
        Some(m) if m.incarnation != node.data.incarnation => Fate::Replaced { id: running.id },
        Some(m) => match m.status {
            MemberStatus::Active => Fate::Active,
            MemberStatus::Leaving => Fate::Leaving,
            MemberStatus::Replaced => Fate::Replaced { id: running.id },
        },
        None if state.left.contains_key(&node.data.incarnation) => Fate::Left { id: running.id },
        None => Fate::Unknown,
    };
    act_on(node, fate);
}

/// Does what a node does of which this has become, whoever says so.
pub(crate) fn act_on(node: &Arc<Node>, fate: Fate) {
    match fate {
        Fate::Unknown | Fate::Active => {}
        Fate::Replaced { id } => node.fail(Fatal::Replaced { id }),
        Fate::Left { id } => {
            let stage = node.stage.borrow().clone();
            match stage {
                Stage::Leaving => {
                    node.set_stage(Stage::Left);
                    node.spawn(retire(Arc::clone(node)));
                }
                // The groups stopped talking to it before it heard that it was asked to leave.
                Stage::Member => {
                    if begin_to_leave(node) {
                        node.spawn(leave_at_once(Arc::clone(node)));
                    }
                }
                Stage::Left => {}
                // It was not a member yet in this run: its directory is of no use any more.
                _ => node.fail(Fatal::Left { id }),
            }
        }
        Fate::Leaving => {
            if begin_to_leave(node) {
                node.spawn(depart(Arc::clone(node)));
            }
        }
    }
}

/// Whether this was the first to say so.
fn begin_to_leave(node: &Node) -> bool {
    let first = node.stage.send_if_modified(|stage| {
        let first = *stage == Stage::Member;
        if first {
            *stage = Stage::Leaving;
        }
        first
    });
    if first {
        info!("leaving the cluster");
    }
    first
}

/// It is out already.
async fn leave_at_once(node: Arc<Node>) {
    if let Some(running) = node.running() {
        lease::release(&node, running).await;
    }
    node.set_stage(Stage::Left);
    retire(node).await;
}

/// The others have forgotten this node, but its own log may call it a voter still: without this it would ask for votes for ever.
async fn retire(node: Arc<Node>) {
    if let Some(running) = node.running() {
        running.groups.shutdown().await;
    }
}

/// A node that leaves serves no more, and learns from others when it is out: the groups do not tell it.
async fn depart(node: Arc<Node>) {
    let Some(running) = node.running() else { return };
    lease::release(&node, running).await;
    while *node.stage.borrow() == Stage::Leaving {
        ask(&node).await;
        tokio::time::sleep(RETRY).await;
    }
}

/// A node without a lease for long finds out why: it may have been replaced or removed while it was cut off, and its groups tell
/// it nothing any more; or all members moved to other addresses while nobody could be told.
pub(crate) async fn watch(node: Arc<Node>) {
    let pause = Duration::from_nanos(node.config.lease.length / 2);
    loop {
        tokio::time::sleep(pause).await;
        if node.lease.is_serving() || *node.stage.borrow() != Stage::Member {
            continue;
        }
        node.discovery.refresh();
        ask(&node).await;
        find_moved(&node).await;
    }
}

async fn ask(node: &Arc<Node>) {
    let request = Request::Fate { incarnation: node.data.incarnation };
    for address in node.candidates() {
        if let Ok(Response::Fate(fate @ (Fate::Left { .. } | Fate::Replaced { .. }))) =
            node.net.call(&address, &request, CALL).await
        {
            return act_on(node, fate);
        }
    }
}

async fn find_moved(node: &Node) {
    let Some(own) = node.data.identity().member else { return };
    let state = node.meta_state();
    for (_, probe) in probe_all(node).await {
        let member = state.by_incarnation(probe.incarnation);
        if probe.member_of == Some(own.cluster_id)
            && let Some(member) = member
            && member.addresses.link != probe.addresses.link
            && node.net.set_moved(member.id, Some(probe.addresses.link.clone()))
        {
            info!(node = member.name, address = probe.addresses.link, "found under another address");
        }
    }
}
