//! The birth of a cluster: permission, agreement on every disk, then the node with the lowest name initialises both groups.
//!
//! A process may die after any line:
//! * before the plan is noted by the initialiser: nothing happened, the caller calls again;
//! * after that, before all agreed: it asks again by itself when it is back; another call with the same names does the same,
//!   one with a new plan replaces what was only agreed to;
//! * after all agreed: the initialiser notes that it is a member before it tells the others and initialises the groups, and goes on
//!   with both until the cluster exists. Who agreed and was not told finds the running cluster, joins, and gets the id of the plan.
//!
//! Agreement is exclusive: a node that is a member agrees to nothing, and one that agreed to another plan since refuses to begin
//! with the first. So of two plans at most one gets a quorum of its groups.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use futures::future::join_all;
use raftmq_meta::{InitialMember, MetaCommand, MetaResponse, voters_for};
use raftmq_raft::MembershipError;
use tracing::{info, warn};

use crate::control::{ControlError, DEADLINE};
use crate::identity::{KnownMembers, Membership, Plan};
use crate::join::probe_all;
use crate::member::propose;
use crate::node::{CALL, Node, RETRY};
use crate::wire::{Probe, Request, Response};

/// How many more rounds an initial member is told to begin when the cluster exists already.
const AFTERWARDS: u32 = 25;

/// The call that lets the nodes of these names form a cluster; carried out by the one with the lowest name.
pub(crate) async fn bootstrap(node: &Node, members: Vec<String>) -> Result<u128, ControlError> {
    let names: BTreeSet<String> = members.iter().cloned().collect();
    if names.is_empty() || names.len() != members.len() || names.len() > raftmq_meta::MAX_MEMBERS {
        return Err(ControlError::Invalid("give the names of the initial members, each once".into()));
    }
    if let Some(done) = already(node, &names)? {
        return Ok(done);
    }
    let lowest = names.first().cloned().unwrap_or_default();
    if lowest == node.config.node {
        return tokio::time::timeout(DEADLINE, form(node, &names))
            .await
            .map_err(|_| ControlError::Unavailable("not all initial members have answered yet".into()))?;
    }
    let probes = probe_all(node).await;
    let Some((address, _)) = probes.iter().find(|(_, p)| p.name == lowest) else {
        return Err(ControlError::Unavailable(format!("node {lowest} is not found yet")));
    };
    match node.net.call(address, &Request::Bootstrap { members }, DEADLINE).await {
        Ok(Response::Bootstrap(result)) => result,
        Ok(_) => Err(ControlError::Unavailable(format!("node {lowest} gave an answer to something else"))),
        Err(error) => Err(ControlError::Unavailable(format!("node {lowest}: {error}"))),
    }
}

/// The cluster that this node is a member of, if the call only repeats what was done.
fn already(node: &Node, names: &BTreeSet<String>) -> Result<Option<u128>, ControlError> {
    let Some(membership) = node.data.identity().member else {
        return Ok(None);
    };
    let state = node.meta_state();
    // Until the first entry is applied the plan tells who is in it.
    let plan = node.data.identity().agreed;
    let known: BTreeSet<String> = match &plan {
        Some(plan) if state.cluster.is_none() => plan.names().into_iter().map(str::to_owned).collect(),
        _ => state.members.values().map(|m| m.name.clone()).collect(),
    };
    if known.is_empty() || names.is_subset(&known) {
        return Ok(Some(membership.cluster_id));
    }
    Err(ControlError::Conflict(format!(
        "this node is a member of cluster {:032x} already; start {} and they will join it",
        membership.cluster_id,
        names.difference(&known).cloned().collect::<Vec<_>>().join(", ")
    )))
}

async fn form(node: &Node, names: &BTreeSet<String>) -> Result<u128, ControlError> {
    let _one = node.bootstrapping.lock().await;
    if let Some(done) = already(node, names)? {
        return Ok(done);
    }
    let probes = probe_all(node).await;
    let mut found: HashMap<&str, (&str, &Probe)> = HashMap::new();
    for (address, probe) in &probes {
        if probe.member_of.is_some() {
            return Err(ControlError::Conflict(format!(
                "node {} at {address} has been a member of a cluster; a new one beside it is not formed",
                probe.name
            )));
        }
        let other = found.insert(&probe.name, (address, probe));
        if other.is_some_and(|(_, o)| o.incarnation != probe.incarnation) {
            return Err(ControlError::Conflict(format!("two nodes are called {}", probe.name)));
        }
    }
    let mut initial = Vec::new();
    for (id, name) in (1..).zip(names) {
        let probe = if *name == node.config.node {
            own_probe(node)
        } else {
            let Some((_, probe)) = found.get(name.as_str()) else {
                return Err(ControlError::Unavailable(format!("node {name} is not found yet")));
            };
            (*probe).clone()
        };
        initial.push(InitialMember {
            id,
            name: name.clone(),
            incarnation: probe.incarnation,
            boot: probe.boot,
            nonce: probe.nonce,
            addresses: probe.addresses,
            version: probe.version,
            feature_level: probe.feature_level,
        });
    }
    // A plan noted before is carried on with when it is about the same directories.
    let same = |plan: &Plan| {
        let key = |m: &InitialMember| (m.id, m.name.clone(), m.incarnation);
        plan.members.iter().map(key).eq(initial.iter().map(key))
    };
    let cluster_id = match node.data.identity().agreed.filter(same) {
        Some(plan) => plan.cluster_id,
        None => rand::random::<u128>().max(1),
    };
    let plan = Plan { cluster_id, members: initial };
    let noted = plan.clone();
    node.on_disk(move |data| data.update(|i| i.agreed = Some(noted))).await.map_err(ControlError::Unavailable)?;
    agree_and_begin(node, &plan).await?;
    Ok(cluster_id)
}

/// Goes on with a plan of this node's own that it noted before it died. Says why it could not be completed now.
pub(crate) async fn resume(node: &Node) -> Option<String> {
    let plan = node.data.identity().agreed?;
    let _one = node.bootstrapping.try_lock().ok()?;
    let initialises = plan.members.first().is_some_and(|m| m.incarnation == node.data.incarnation);
    if !initialises {
        return None;
    }
    agree_and_begin(node, &plan).await.err().map(|error| error.to_string())
}

async fn agree_and_begin(node: &Node, plan: &Plan) -> Result<(), ControlError> {
    let others: Vec<_> = plan.members.iter().filter(|m| m.incarnation != node.data.incarnation).collect();
    let request = Request::Agree(plan.clone());
    let calls = others.iter().map(|m| node.net.call(&m.addresses.link, &request, CALL * 3));
    for (member, answer) in others.iter().zip(join_all(calls).await) {
        let name = &member.name;
        match answer {
            Ok(Response::Agree(Ok(()))) => {}
            Ok(Response::Agree(Err(reason))) => {
                return Err(ControlError::Conflict(format!("node {name} does not agree: {reason}")));
            }
            Ok(_) => {
                return Err(ControlError::Unavailable(format!("node {name} gave an answer to something else")));
            }
            Err(error) => return Err(ControlError::Unavailable(format!("node {name}: {error}"))),
        }
    }
    info!(cluster = %format!("{:032x}", plan.cluster_id), "all initial members agreed");
    take_part(node, plan.cluster_id).await.map_err(ControlError::Unavailable)
}

/// This node becomes a member by the plan that it agreed to. The plan stays noted: see [`finish`].
async fn take_part(node: &Node, cluster_id: u128) -> Result<(), String> {
    let incarnation = node.data.incarnation;
    let plan = node.data.identity().agreed.filter(|p| p.cluster_id == cluster_id);
    let plan = plan.ok_or("this node did not agree to that cluster")?;
    let raft_id = plan.id_of(incarnation).ok_or("this node is not in the plan")?;
    let now = node
        .on_disk(move |data| {
            data.remember_members(KnownMembers::of_plan(&plan))?;
            // Unless it agreed to something else at the same moment: then what it said last counts.
            data.update(|i| {
                if i.member.is_none() && i.agreed.as_ref().is_some_and(|p| p.cluster_id == cluster_id) {
                    i.member = Some(Membership { cluster_id, raft_id });
                }
            })
        })
        .await?;
    if now.member.is_none_or(|m| m.cluster_id != cluster_id) {
        return Err("this node agreed to another cluster meanwhile".into());
    }
    node.begun.notify_one();
    Ok(())
}

/// A peer asks this node to agree.
pub(crate) async fn on_agree(node: &Node, plan: Plan) -> Result<(), String> {
    let identity = node.data.identity();
    if let Some(member) = identity.member {
        return if member.cluster_id == plan.cluster_id {
            Ok(())
        } else {
            Err("it is a member of another cluster".into())
        };
    }
    let own = plan.members.iter().find(|m| m.incarnation == identity.incarnation);
    if own.is_none_or(|m| m.name != node.config.node) {
        return Err("the plan is about another data directory".into());
    }
    let _one = node.bootstrapping.try_lock().map_err(|_| "it is forming a cluster itself")?;
    let cluster_id = plan.cluster_id;
    let change = move |i: &mut crate::identity::Identity| {
        if i.member.is_none() {
            i.agreed = Some(plan);
        }
    };
    let now = node.on_disk(move |data| data.update(change)).await?;
    match now.member {
        Some(member) if member.cluster_id != cluster_id => Err("it became a member of another cluster".into()),
        _ => Ok(()),
    }
}

/// A peer says that all agreed.
pub(crate) async fn on_begin(node: &Node, cluster_id: u128) -> Result<(), String> {
    match node.data.identity().member {
        Some(member) if member.cluster_id == cluster_id => Ok(()),
        Some(_) => Err("it is a member of another cluster".into()),
        None => take_part(node, cluster_id).await,
    }
}

/// The initialiser's part after all agreed, repeated until the cluster exists; then the plan is forgotten, on every member.
pub(crate) async fn finish(node: Arc<Node>) {
    let Some(running) = node.running() else {
        return;
    };
    let identity = node.data.identity();
    let Some(plan) = identity.agreed else { return };
    let initialises = plan.members.first().is_some_and(|m| m.incarnation == identity.incarnation);
    if initialises {
        let begin = Request::Begin { cluster_id: plan.cluster_id };
        let voters: BTreeSet<u64> = plan.members.iter().take(voters_for(plan.members.len())).map(|m| m.id).collect();
        let init = MetaCommand::Init {
            cluster_id: plan.cluster_id,
            name: node.config.cluster.clone(),
            members: plan.members.clone(),
        };
        let mut told: BTreeSet<u64> = BTreeSet::from([running.id]);
        let mut made = false;
        let mut said = None;
        // Who is not told once the cluster exists finds it by itself: it may have moved, and not be where the plan says.
        let mut after = 0;
        while told.len() < plan.members.len() || !made {
            for member in &plan.members {
                if !told.contains(&member.id)
                    && let Ok(Response::Begin(answer)) = node.net.call(&member.addresses.link, &begin, CALL).await
                {
                    if let Err(reason) = answer {
                        warn!("node {} does not begin: {reason}", member.name);
                    }
                    told.insert(member.id);
                }
            }
            if !made {
                let reason = initialise(running, &voters, &init).await.err();
                made = reason.is_none();
                if let Some(reason) = &reason
                    && said.as_ref() != Some(reason)
                {
                    warn!("forming the cluster: {reason}");
                }
                said = reason;
            } else if after == AFTERWARDS {
                break;
            } else {
                after += 1;
            }
            if told.len() < plan.members.len() || !made {
                tokio::time::sleep(RETRY).await;
            }
        }
    }
    let mut state = node.meta.subscribe();
    if state.wait_for(|s| s.cluster.is_some()).await.is_ok() {
        // Failure is told by the node.
        let _ = node.on_disk(|data| data.update(|i| i.agreed = None)).await;
    }
}

async fn initialise(running: &crate::node::Running, voters: &BTreeSet<u64>, init: &MetaCommand) -> Result<(), String> {
    for group in [&running.meta, &running.routes] {
        match group.initialize(voters.clone()).await {
            Ok(()) | Err(MembershipError::Initialized) => {}
            Err(error) => return Err(format!("initialising group {}: {error}", group.id())),
        }
    }
    match propose(&running.meta, init).await {
        Ok(MetaResponse::Done) => Ok(()),
        Ok(other) => Err(format!("the first entry: {other:?}")),
        Err(error) => Err(format!("the first entry: {error}")),
    }
}

/// What this node says about itself.
pub(crate) fn own_probe(node: &Node) -> Probe {
    let state = node.meta_state();
    Probe {
        name: node.config.node.clone(),
        incarnation: node.data.incarnation,
        boot: node.data.boot,
        nonce: node.data.nonce,
        addresses: node.addresses(),
        version: node.config.version.clone(),
        feature_level: node.config.feature_level(),
        member_of: node.data.identity().member.map(|m| m.cluster_id),
        running: node.running().is_some() && state.cluster.is_some(),
        peers: state.members.values().map(|m| m.addresses.link.clone()).collect(),
    }
}
