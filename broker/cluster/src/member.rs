//! What a member does all the time: its groups, the addresses and boots of the others, its own boot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use raftmq_meta::{Lease, MetaCommand, MetaResponse, Refusal};
use raftmq_raft::{Applied, Group, GroupStatus, Groups, Persistence, Role, WaitError};
use raftmq_routing::RoutesMachine;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::cluster::Forwarded;
use crate::control::GroupInfo;
use crate::error::Fatal;
use crate::identity::{KnownMembers, Membership};
use crate::leader::Desk;
use crate::machine::{MetaAdapter, RoutesAdapter, SharedMachine};
use crate::net::LinkTransport;
use crate::node::{CALL, GROUPS, Node, RETRY, Running};
use crate::shards::{self, Replicas};
use crate::status::Stage;
use crate::wire::Fate;
use crate::{META, ROUTES, bans, bootstrap, driver, fate, leader, lease, permission, routes as own_routes, zone};

/// Starts the groups and everything that a member does.
pub(crate) async fn become_member(node: &Arc<Node>, membership: Membership) -> Result<(), Fatal> {
    let Membership { cluster_id, raft_id } = membership;
    if let Some(links) = node.net.try_links() {
        let mut hello = (*links.hello()).clone();
        hello.raft_id = raft_id;
        links.set_hello(hello).map_err(|e| Fatal::Refused(e.to_string()))?;
    }
    node.shared_routes.set_own_node(raft_id);
    let known = node.data.known_members();
    if !known.members.is_empty() {
        node.net.set_addresses(known.members);
    }
    let started = |group: &'static str| move |e: raftmq_raft::StartError| Fatal::Group { group, reason: e.to_string() };
    let transport = Arc::new(LinkTransport(Arc::clone(&node.net)));
    let snapshots = node.data.path().join("snapshots");
    let options = node.config.raft.clone();
    let groups = Groups::new(raft_id, cluster_id, snapshots, node.wal.clone(), node.store(), transport, options)
        .map_err(|e| Fatal::Refused(e.to_string()))?;
    // Known to the stop even if it comes while the groups are being started.
    node.set_groups(groups.clone());
    let meta =
        groups.start(META, Persistence::Stored, MetaAdapter::new(node.meta.clone())).await.map_err(started("meta"))?;
    let machine = SharedMachine::new(RoutesMachine::new(node.shared_routes.clone()));
    let (own, own_stream) = watch::channel(None);
    let adapter = RoutesAdapter { machine: machine.clone(), node: raft_id, own, net: Arc::clone(&node.net) };
    let routes = groups.start(ROUTES, Persistence::Memory, adapter).await.map_err(started("routes"))?;
    let lease = Mutex::new(Lease::new(node.config.lease, raft_id, node.data.boot));
    let running = Running {
        id: raft_id,
        groups,
        meta,
        routes,
        machine,
        own_stream,
        desk: Desk::default(),
        lease,
        booted: watch::Sender::new(false),
        shards: Replicas::default(),
        shard_rounds: shards::Rounds::default(),
        fence_rounds: shards::Rounds::default(),
        remote: shards::Remote::default(),
        shard_desk: shards::Desk::default(),
    };
    if !node.set_running(running) {
        return Err(Fatal::Refused("the groups run already".into()));
    }
    node.set_stage(Stage::Member);
    node.set_detail("");
    for (name, number) in GROUPS {
        node.spawn(watch_group(Arc::clone(node), name, number));
        node.spawn(driver::drive(Arc::clone(node), name, number));
    }
    node.spawn(watch_members(Arc::clone(node)));
    node.spawn(permission::confirm(Arc::clone(node), membership));
    node.spawn(announce_boot(Arc::clone(node)));
    node.spawn(bootstrap::finish(Arc::clone(node)));
    node.spawn(own_routes::run(Arc::clone(node)));
    node.spawn(lease::renew(Arc::clone(node)));
    node.spawn(lease::watch_phase(Arc::clone(node)));
    node.spawn(lease::report_applied(Arc::clone(node)));
    node.spawn(leader::lead(Arc::clone(node)));
    node.spawn(fate::watch(Arc::clone(node)));
    node.spawn(zone::keep_told(Arc::clone(node)));
    node.spawn(bans::end_those_over(Arc::clone(node)));
    shards::start(node);
    Ok(())
}

async fn watch_group(node: Arc<Node>, name: &'static str, number: u32) {
    let Some(group) = node.running().and_then(|r| r.group(number)) else {
        return;
    };
    let mut status = group.status();
    let stopped = status.wait_for(|s| s.failure.is_some()).await.ok().and_then(|s| s.failure.clone());
    if let Some(reason) = stopped {
        node.fail(Fatal::Group { group: name, reason });
    }
}

/// Keeps addresses, boots of peers and the notes for the next start as the meta group has them.
async fn watch_members(node: Arc<Node>) {
    let Some(running) = node.running() else {
        return;
    };
    let mut state = node.meta.subscribe();
    let mut status = running.meta.status();
    let mut seen: BTreeMap<u64, (String, u64)> = BTreeMap::new();
    let mut down: BTreeSet<u64> = BTreeSet::new();
    let mut failed: Option<String> = None;
    loop {
        let now = Arc::clone(&state.borrow_and_update());
        let voters = status.borrow_and_update().voters.clone();
        if now.cluster.is_some() {
            let addresses: BTreeMap<u64, String> =
                now.members.values().map(|m| (m.id, m.addresses.link.clone())).collect();
            node.net.set_addresses(addresses.clone());
            node.net.lives.set_members(&now);
            let links = node.net.links();
            for member in now.members.values().filter(|m| m.id != running.id) {
                let fact = (member.addresses.link.clone(), member.boot);
                if seen.insert(member.id, fact.clone()).as_ref() != Some(&fact) {
                    node.net.set_moved(member.id, None);
                    links.expect(&member.addresses.link, member.incarnation, member.boot);
                }
            }
            let dead: BTreeSet<u64> =
                now.members.values().filter(|m| m.id != running.id && !m.up).map(|m| m.id).collect();
            if dead != down {
                // Before anything is chosen for its groups again.
                node.net.set_down(dead.clone());
            }
            for member in dead.difference(&down).filter_map(|id| now.members.get(id)) {
                // Its clients are gone: others of their groups get what waits for it.
                let taken = node.net.take_back(&member.addresses.link);
                if !taken.is_empty() {
                    info!(node = member.name, messages = taken.len(), "messages of groups go to others than this node");
                }
                for (frame, handled) in taken {
                    (node.on_forward)(Forwarded::Back { frame, handled });
                }
            }
            down = dead;
            seen.retain(|id, (address, _)| {
                let stays = now.members.contains_key(id);
                if !stays && !addresses.values().any(|a| a == address) {
                    links.forget(address);
                }
                stays
            });
            // A replica that has no log yet does not know who votes; what was noted stays.
            let voters = if voters.is_empty() { node.data.known_members().voters } else { voters };
            let known = KnownMembers::of_state(&now, &voters);
            let error = node.on_disk(move |data| data.remember_members(known)).await.err();
            if let Some(error) = &error
                && failed.as_ref() != Some(error)
            {
                warn!("noting the members for the next start: {error}");
            }
            failed = error;
            fate::own(&node, running, &now);
        }
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            changed = status.changed() => if changed.is_err() { return },
        }
        // The status changes with every entry; the members do not.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Has the boot recorded by the meta group; from then on the node may ask for a lease.
async fn announce_boot(node: Arc<Node>) {
    let Some(running) = node.running() else {
        return;
    };
    let command = MetaCommand::Boot {
        id: running.id,
        incarnation: node.data.incarnation,
        boot: node.data.boot,
        nonce: node.data.nonce,
        addresses: node.addresses(),
        version: node.config.version.clone(),
        feature_level: node.config.feature_level(),
    };
    let index = loop {
        let refusal = match proposed(&running.meta, &command).await {
            Ok((MetaResponse::Refused(refusal), _)) => refusal,
            Ok((_, applied)) => break applied.index,
            // It is out, and its groups are stopped.
            Err(_) if *node.stage.borrow() == Stage::Left => return node.set_detail(""),
            Err(reason) => {
                node.set_detail(format!("waiting for the meta group: {reason}"));
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        match refusal {
            Refusal::NotInitialised => tokio::time::sleep(RETRY).await,
            Refusal::Stale { boot, recorded } => {
                return node.fail(Fatal::StaleDisk { boot, recorded, witness: "the meta group".into() });
            }
            Refusal::Replaced { id } => return node.fail(Fatal::Replaced { id }),
            Refusal::Left { id } => {
                node.set_detail("");
                return fate::act_on(&node, Fate::Left { id });
            }
            other => return node.fail(Fatal::Refused(other.to_string())),
        }
    };
    // What the cluster has decided until now holds for whoever this node serves: whether sessions are in shards, who is banned.
    while let Err(error) = running.meta.wait_applied(index, CALL).await {
        if matches!(error, WaitError::Shutdown) {
            return;
        }
        node.set_detail("waiting for this node's replica of the meta group");
    }
    node.set_detail("");
    // Before it serves, so that no replica comes to it only to go elsewhere; whatever becomes of that.
    zone::tell(&node, running).await;
    running.booted.send_replace(true);
}

/// Proposes to the meta group through its leader.
pub(crate) async fn propose(meta: &Group, command: &MetaCommand) -> Result<MetaResponse, String> {
    propose_once(meta, command).await.map(|(answer, _)| answer)
}

/// As [`propose`], for what can be done once only: also says whether the command may have been applied before, and the answer be that to a
/// repetition.
pub(crate) async fn propose_once(meta: &Group, command: &MetaCommand) -> Result<(MetaResponse, bool), String> {
    proposed(meta, command).await.map(|(answer, applied)| (answer, applied.repeated))
}

async fn proposed(meta: &Group, command: &MetaCommand) -> Result<(MetaResponse, Applied), String> {
    let applied =
        meta.propose_anywhere(command.encode().into(), Duration::from_secs(3)).await.map_err(|e| e.to_string())?;
    let answer = MetaResponse::decode(&applied.response).map_err(|e| e.to_string())?;
    Ok((answer, applied))
}

pub(crate) fn group_infos(node: &Node) -> Vec<GroupInfo> {
    let Some(running) = node.running() else {
        return Vec::new();
    };
    let meta = node.meta_state();
    let info = |name: String, s: GroupStatus| GroupInfo {
        name,
        number: s.group.number,
        generation: s.group.generation,
        term: s.term,
        role: match s.role {
            Role::Leader => "leader",
            Role::Follower => "follower",
            Role::Candidate => "candidate",
            Role::Learner => "learner",
            Role::Stopped => "stopped",
        }
        .to_owned(),
        leader_name: s.leader.and_then(|id| meta.members.get(&id)).map(|m| m.name.clone()),
        leader: s.leader,
        voters: s.voters.into_iter().collect(),
        learners: s.learners.into_iter().collect(),
        last_log: s.last_log,
        committed: s.committed,
        applied: s.applied,
        snapshot: s.snapshot,
        purged: s.purged,
    };
    let fixed = GROUPS.iter().filter_map(|(name, n)| Some(((*name).to_owned(), running.any_group(*n)?)));
    let shards = running.shards.all().into_iter().map(|replica| (shards::group_name(replica.id.number), replica.group));
    fixed.chain(shards).map(|(name, group)| info(name, group.status().borrow().clone())).collect()
}
