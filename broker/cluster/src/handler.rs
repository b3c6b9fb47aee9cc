//! What arrives from other nodes.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use raftmq_links::{Handler, HandlerFuture, PeerHello};
use raftmq_meta::{MemberStatus, MetaCommand, MetaResponse, Refusal};
use raftmq_planted::{Bug, planted};
use raftmq_shard::{Name, NodeBoot};

use crate::cluster::Forwarded;
use crate::identity::{BootVerdict, KnownMembers};
use crate::member::propose;
use crate::node::{CALL, Node, Running};
use crate::shards::{
    ShardId, carry_out, close, follow, in_group_here, initialise, marks, news, parts_for, propose_for, read_index,
    retained_for, session_for,
};
use crate::status::ClusterCounters;
use crate::wire::{self, Fate, LeaseError, Request, Response, kind};
use crate::{bootstrap, driver, fence, lease, lives};

/// Hands frames to the node, as long as it lives.
pub(crate) struct LinkHandler {
    node: Weak<Node>,
}

impl LinkHandler {
    pub(crate) fn new(node: &Arc<Node>) -> Self {
        Self { node: Arc::downgrade(node) }
    }

    fn node(&self) -> Result<Arc<Node>, String> {
        let node = self.node.upgrade().ok_or("the node is shutting down")?;
        if node.net.is_isolated() {
            return Err("cut off by a test".to_owned());
        }
        Ok(node)
    }
}

impl Handler for LinkHandler {
    fn on_hello(&self, peer: &PeerHello) -> Result<(), raftmq_links::Refusal> {
        if let Some(node) = self.node.upgrade() {
            node.net.knows(peer.hello.raft_id, peer.hello.feature_level);
        }
        Ok(())
    }

    fn on_request(&self, peer: Arc<PeerHello>, kind: u16, payload: Bytes) -> HandlerFuture {
        let node = self.node();
        Box::pin(async move {
            let node = node?;
            match kind {
                kind::RAFT => {
                    let running = node.running().ok_or("no group runs here yet")?;
                    // What it answered to a directory that is stale would count for it.
                    if !node.net.is_confirmed(peer.hello.raft_id) {
                        node.net.showed_itself.notify_one();
                        return Err("no word yet that no later start of this node is known there".to_owned());
                    }
                    Ok(running.groups.handle(payload).await)
                }
                kind::CALL => {
                    let request = wire::decode(&payload)?;
                    let response = answer(&node, &peer, request).await?;
                    Ok(wire::encode(&response))
                }
                other => Err(format!("request kind {other} is not known")),
            }
        })
    }

    fn on_frame(&self, peer: &Arc<PeerHello>, kind: u16, payload: Bytes) -> Result<(), String> {
        let node = self.node()?;
        let (life, frame) = match kind {
            kind::FORWARD => (None, payload),
            kind::FORWARD_TO_LIFE => {
                let Some((life, frame)) = lives::split(&payload) else {
                    tracing::warn!(peer = peer.hello.node, "a forwarded publish without a life");
                    return Ok(());
                };
                (Some(life), frame)
            }
            _ => return Ok(()),
        };
        // The others may have declared this node down, as after a pause, and have taken back what they had for it: it would come to
        // somebody twice. If they have not, it comes again.
        // A node that goes on without a lease takes them: its clients are still here, and whose they are meant for.
        let serving = node.lease.is_serving();
        if !serving && !node.lease.is_local() {
            return Err("the node does not serve".to_owned());
        }
        let stream = if serving { node.routes.stream() } else { node.served_stream.load(Ordering::Relaxed) };
        ClusterCounters::add(&node.counters.forwards_in);
        let frame = match life {
            Some(life) if life < (node.data.boot, stream) => {
                ClusterCounters::add(&node.counters.forwards_past);
                lives::inherited(&frame)
            }
            _ => Some(frame),
        };
        if let Some(frame) = frame {
            (node.on_forward)(Forwarded::From(peer.hello.raft_id, frame));
        }
        Ok(())
    }

    fn on_undelivered(&self, kind: u16, payload: Bytes, handled: bool) {
        let Ok(node) = self.node() else { return };
        let frame = match kind {
            kind::FORWARD => Some(payload),
            kind::FORWARD_TO_LIFE => lives::split(&payload).map(|(_, frame)| frame),
            _ => None,
        };
        if let Some(frame) = frame.filter(|frame| raftmq_routing::frame_has_groups(frame)) {
            (node.on_forward)(Forwarded::Back { frame, handled });
        }
    }
}

async fn answer(node: &Arc<Node>, peer: &PeerHello, request: Request) -> Result<Response, String> {
    // Who speaks for a node must be that node: links checked its certificate against its Hello.
    let speaks = |claimed: u64| {
        if peer.hello.raft_id == claimed {
            Ok(())
        } else {
            Err(format!("{} does not speak for node {claimed}", peer.hello.node))
        }
    };
    Ok(match request {
        Request::Probe => Response::Probe(bootstrap::own_probe(node)),
        Request::Boot { incarnation, boot, nonce, cluster_id } => {
            // It is there: if it has to be asked the same, then now.
            node.net.showed_itself.notify_one();
            Response::Boot(on_boot(node, incarnation, boot, nonce, cluster_id).await?)
        }
        Request::Agree(plan) => Response::Agree(bootstrap::on_agree(node, plan).await),
        Request::Begin { cluster_id } => Response::Begin(bootstrap::on_begin(node, cluster_id).await),
        Request::Bootstrap { members } => Response::Bootstrap(bootstrap::bootstrap(node, members).await),
        Request::Join { ref name, incarnation, boot, nonce, .. } => {
            if *name != peer.hello.node && !is_forwarded(node, peer) {
                return Err(format!("{} does not speak for {name}", peer.hello.node));
            }
            Response::Join(on_join(node, incarnation, boot, nonce, request).await)
        }
        Request::Lease(request) => {
            speaks(request.node)?;
            let answer = match node.running() {
                Some(running) => running.desk.request(request).await,
                None => Err(LeaseError::NotLeader),
            };
            match answer {
                Ok(grant) if grant.fences > 0 => {
                    let fences = grant.fences;
                    Response::LeaseSince(grant, fences)
                }
                answer => Response::Lease(answer),
            }
        }
        Request::Fenced { node: id, boot } => {
            let running = running(node)?;
            Response::Fenced(fence::may_rely(node, running, NodeBoot { node: id, boot }).await)
        }
        Request::Applied { node: id, boot, term, applied } => {
            speaks(id)?;
            let running = running(node)?;
            let (term, watermark) = running.desk.applied(id, boot, term, applied);
            Response::Applied { term, watermark }
        }
        Request::Watermark { term, index } => {
            lease::on_watermark(node, running(node)?, term, index);
            Response::Watermark
        }
        Request::ReadIndex { group } => {
            let group = running(node)?.group(group).ok_or("no such group")?;
            Response::ReadIndex(group.read_index().await.ok())
        }
        Request::Fate { incarnation } => Response::Fate(fate(node, incarnation)),
        Request::Transfer { group, to } => Response::Transfer(driver::transfer_here(running(node)?, group, to).await),
        Request::Shard { shard, generation, command } => {
            let shard = ShardId { number: shard, generation };
            Response::Shard(propose_for(running(node)?, shard, command, CALL * 3).await)
        }
        Request::Shards(reports) => {
            running(node)?.shard_desk.report(peer.hello.raft_id, reports);
            Response::Shards
        }
        Request::InitialiseShard { shard, generation, voters } => {
            initialise(running(node)?, ShardId { number: shard, generation }, voters).await;
            Response::InitialiseShard
        }
        Request::Kick { boot, namespace, id, epoch } => {
            let at = NodeBoot { node: running(node)?.id, boot };
            Response::Kick(close(node, at, Name::new(namespace, &id), epoch).await)
        }
        Request::ReadShardIndex { shard, generation } => {
            Response::ReadIndex(read_index(running(node)?, ShardId { number: shard, generation }).await)
        }
        Request::InGroup { shard, generation, namespace, group, member, source } => {
            let shard = ShardId { number: shard, generation };
            Response::InGroup(in_group_here(running(node)?, shard, &Name::new(namespace, &group), &member, source))
        }
        Request::Retained(request) => Response::Retained(retained_for(node, request).await),
        Request::ShardMarks { shard, generation } => Response::ShardMarks(marks(node, shard, generation)),
        Request::Follow(request) => Response::Follow(follow(node, running(node)?, peer.hello.raft_id, request).await),
        Request::News(request) => Response::News(news(node, running(node)?, peer.hello.raft_id, request).await),
        Request::Parts(request) => Response::Parts(parts_for(running(node)?, request).await),
        Request::Session(request) => Response::Session(session_for(running(node)?, request).await),
        Request::ChangeShard(change) => Response::ChangeShard(carry_out(running(node)?, change).await),
        Request::Relays => Response::Relays(relays(node)),
        Request::Loss { node: id } => Response::Loss(driver::loss_here(node, running(node)?, id).await),
    })
}

/// How many connections between other nodes this one passes on.
pub(crate) fn relays(node: &Node) -> u64 {
    node.net.try_links().map_or(0, |links| links.metrics().relayed.load(Ordering::Relaxed))
}

fn running(node: &Node) -> Result<&Running, String> {
    node.running().ok_or_else(|| "not a member yet".to_owned())
}

/// A member that passes on what another node asked it.
fn is_forwarded(node: &Node, peer: &PeerHello) -> bool {
    node.meta_state().members.get(&peer.hello.raft_id).is_some_and(|m| m.incarnation == peer.hello.incarnation)
}

/// The boot is on this node's disk before the answer is sent.
async fn on_boot(
    node: &Node,
    incarnation: u128,
    boot: u64,
    nonce: u64,
    cluster_id: u128,
) -> Result<Option<(u64, BootVerdict, Fate, BTreeSet<u64>)>, String> {
    let identity = node.data.identity();
    // One that agreed and was not told to begin yet is a witness as well: else nobody could begin after a restart.
    let own = match (identity.member, &identity.agreed) {
        (Some(member), _) if member.cluster_id == cluster_id => Some(member.raft_id),
        (None, Some(plan)) if plan.cluster_id == cluster_id => plan.id_of(identity.incarnation),
        _ => None,
    };
    let Some(own) = own else { return Ok(None) };
    let verdict = node.on_disk(move |data| data.judge_boot(incarnation, boot, nonce)).await?;
    // What the meta group has recorded counts as seen.
    let verdict = match node.meta_state().by_incarnation(incarnation) {
        Some(m) if boot < m.boot || (boot == m.boot && nonce != m.nonce) => BootVerdict::Stale { recorded: m.boot },
        _ => verdict,
    };
    Ok(Some((own, verdict, fate(node, incarnation), node.data.known_members().voters)))
}

fn fate(node: &Node, incarnation: u128) -> Fate {
    let state = node.meta_state();
    if let Some(&id) = state.left.get(&incarnation) {
        return Fate::Left { id };
    }
    match state.by_incarnation(incarnation) {
        None => Fate::Unknown,
        Some(m) => match m.status {
            MemberStatus::Active => Fate::Active,
            MemberStatus::Leaving => Fate::Leaving,
            MemberStatus::Replaced => Fate::Replaced { id: m.id },
        },
    }
}

async fn on_join(
    node: &Arc<Node>,
    incarnation: u128,
    boot: u64,
    nonce: u64,
    request: Request,
) -> Result<(MetaResponse, KnownMembers), String> {
    let running = running(node)?;
    let state = node.meta_state();
    if state.cluster.is_none() {
        return Err("the cluster is being formed".into());
    }
    let verdict = node.on_disk(move |data| data.judge_boot(incarnation, boot, nonce)).await?;
    if let BootVerdict::Stale { recorded } = verdict {
        return Ok((MetaResponse::Refused(Refusal::Stale { boot, recorded }), KnownMembers::default()));
    }
    let status = running.meta.status().borrow().clone();
    if planted(Bug::ReuseId)
        && let Some(known) = state.by_incarnation(incarnation)
    {
        let cluster_id = state.cluster.as_ref().map_or(0, |cluster| cluster.id);
        let response = MetaResponse::Joined { id: known.id, cluster_id };
        return Ok((response, KnownMembers::of_state(&state, &status.voters)));
    }
    if !status.is_leader() {
        let leader = status.leader.filter(|l| *l != running.id).ok_or("no leader is known")?;
        return match node.net.call_node(leader, &request, CALL * 4).await {
            Ok(Response::Join(answer)) => answer,
            Ok(_) => Err("the leader gave an answer to something else".into()),
            Err(error) => Err(format!("the leader: {error}")),
        };
    }
    let Request::Join { name, addresses, version, feature_level, .. } = request else {
        return Err("not a join".into());
    };
    // A name is taken over only when its holder cannot be serving: two living nodes with one name by mistake must
    // not throw each other out.
    let holder = state.by_name(&name).filter(|m| m.incarnation != incarnation);
    if let Some(holder) = holder
        && running.desk.is_holder(holder.id).unwrap_or(true)
    {
        return Err(format!(
            "node {} of that name may still be serving; asking again until its lease is over",
            holder.id
        ));
    }
    let command = MetaCommand::Join { name, incarnation, boot, nonce, addresses, version, feature_level };
    let response = propose(&running.meta, &command).await?;
    Ok((response, KnownMembers::of_state(&node.meta_state(), &status.voters)))
}
