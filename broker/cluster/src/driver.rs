//! Drives each group's membership towards the plan, on the group's leader; and what people ask of members and groups.

use std::sync::Arc;
use std::time::Instant;

use raftmq_meta::{GroupMembership, LossReport, MetaCommand, MetaResponse, MetaState, Step, plan};
use raftmq_raft::{Group, GroupId, GroupStatus, MembershipError, RaftOptions};
use tracing::{debug, info, warn};

use crate::control::{ControlError, DEADLINE};
use crate::handler::relays;
use crate::member::propose;
use crate::node::{CALL, GROUPS, Node, RETRY, Running};
use crate::status::ClusterCounters;
use crate::wire::{Request, Response};
use crate::{META, ROUTES, leader, shards};

/// A follower that lacks fewer entries than this is caught up: it has the rest within a moment.
const NEARLY: u64 = 256;

/// Executes the plan for one group whenever this node leads it.
pub(crate) async fn drive(node: Arc<Node>, name: &'static str, number: u32) {
    let Some(running) = node.running() else {
        return;
    };
    let Some(group) = running.group(number) else {
        return;
    };
    let mut status = group.status();
    let mut state = node.meta.subscribe();
    // The last step, and what came of it.
    let mut said: Option<(Todo, Option<String>)> = None;
    loop {
        if status.wait_for(|s| s.is_leader()).await.is_err() {
            return;
        }
        let worked = match next_step(&node, running, group).await {
            Some(step) => {
                // The same step is tried again until it is done or another one is due.
                let again = said.as_ref().is_some_and(|(before, _)| *before == step);
                if !again {
                    info!(group = name, ?step, "membership");
                    ClusterCounters::add(&node.counters.membership_steps);
                }
                let error = match carry_out(group, step.clone()).await {
                    Ok(()) => None,
                    Err(MembershipError::Shutdown) => return,
                    Err(error) => Some(error.to_string()),
                };
                let worked = error.is_none() && !again;
                let now = (step, error);
                if said.as_ref() != Some(&now) {
                    if let Some(error) = &now.1 {
                        warn!(group = name, "membership: {error}");
                    }
                    said = Some(now);
                }
                worked
            }
            None => {
                said = None;
                false
            }
        };
        if !worked {
            tokio::select! {
                changed = state.changed() => if changed.is_err() { return },
                // Who is reachable and caught up changes without a sign.
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }
}

/// What is to be done with a group.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Todo {
    /// A leader before died in the middle of a change of the voters.
    Finish,
    Step(Step),
}

async fn next_step(node: &Node, running: &Running, group: &Group) -> Option<Todo> {
    if group.status().borrow().change_unfinished {
        return Some(Todo::Finish);
    }
    let look = || {
        let status = group.status().borrow().clone();
        let state = node.meta_state();
        if !status.is_leader() || !status.membership_settled || state.cluster.is_none() {
            return None;
        }
        let mut membership = membership(&status, &node.config.raft);
        if group.id() != META {
            let meta = running.meta.status().borrow().clone();
            if meta.membership_settled {
                membership.preferred = meta.voters;
            }
        }
        plan(&state, &membership).filter(|step| may_be_taken(group.id(), step, |id| of_routes(running, id)))
    };
    let step = look()?;
    // The members may be known better elsewhere: a step that a look at an old state suggests is not taken.
    let index = read_index(node, running, META.number).await?;
    running.meta.wait_applied(index, CALL).await.ok()?;
    look().filter(|again| *again == step).map(Todo::Step)
}

/// Whether nothing is in the way of a step: a node that has not left the group of routes, which it may lead, has to know the state of the meta
/// group to hand on there. Out of that it would be told of nothing, and stay.
fn may_be_taken(group: GroupId, step: &Step, of_routes: impl Fn(u64) -> bool) -> bool {
    match step {
        Step::RemoveNode(id) => group != META || !of_routes(*id),
        _ => true,
    }
}

/// Whether a node is in the group of routes, by what is known here.
fn of_routes(running: &Running, id: u64) -> bool {
    running.group(ROUTES.number).is_some_and(|routes| routes.status().borrow().is_member(id))
}

async fn carry_out(group: &Group, todo: Todo) -> Result<(), MembershipError> {
    match todo {
        Todo::Finish => group.finish_change().await,
        Todo::Step(Step::AddLearner(id)) => group.add_learner(id).await,
        Todo::Step(Step::TransferLeader(to)) => group.transfer_leader(to).await,
        Todo::Step(Step::ChangeVoters(voters)) => group.change_voters(voters, true).await,
        Todo::Step(Step::RemoveNode(id)) => group.remove(id).await,
    }
}

/// What the leader's status says to the plan.
pub(crate) fn membership(status: &GroupStatus, options: &RaftOptions) -> GroupMembership {
    let recent = options.election_max * 3;
    let now = Instant::now();
    let mut group = GroupMembership {
        leader: status.node,
        voters: status.voters.clone(),
        learners: status.learners.clone(),
        ..GroupMembership::default()
    };
    group.reachable.insert(status.node);
    group.caught_up.insert(status.node);
    for (id, follower) in &status.followers {
        if follower.acked.is_some_and(|at| now.saturating_duration_since(at) < recent) {
            group.reachable.insert(*id);
        }
        let lacks = match (status.last_log, follower.matched) {
            (Some(last), Some(matched)) => last.saturating_sub(matched),
            (None, _) => 0,
            (Some(_), None) => u64::MAX,
        };
        if lacks < NEARLY {
            group.caught_up.insert(*id);
        }
    }
    group
}

/// What a group had committed at some moment after the call, from its leader.
pub(crate) async fn read_index(node: &Node, running: &Running, number: u32) -> Option<u64> {
    let group = running.group(number)?;
    let leader = group.status().borrow().leader?;
    if leader == running.id {
        return group.read_index().await.ok();
    }
    match node.net.call_node(leader, &Request::ReadIndex { group: number }, CALL).await {
        Ok(Response::ReadIndex(index)) => index,
        _ => None,
    }
}

fn member_id(state: &MetaState, node: &str) -> Result<u64, ControlError> {
    let by_id = || node.parse().ok().filter(|id| state.members.contains_key(id));
    let id = state.by_name(node).map(|m| m.id).or_else(by_id);
    id.ok_or_else(|| ControlError::NotFound(format!("no member is called {node}")))
}

fn running_of(node: &Node) -> Result<&Running, ControlError> {
    node.running().ok_or_else(|| ControlError::Unavailable("this node is not a member of a cluster".into()))
}

pub(crate) async fn leave(node: &Node, name: &str) -> Result<(), ControlError> {
    let running = running_of(node)?;
    let state = node.meta_state();
    let id = member_id(&state, name)?;
    if !state.active().any(|m| m.id != id) {
        return Err(ControlError::Conflict(
            "the last member cannot leave: stop it and remove its directory instead".into(),
        ));
    }
    match propose(&running.meta, &MetaCommand::Leave { id }).await {
        Ok(MetaResponse::Refused(refusal)) => Err(ControlError::NotFound(refusal.to_string())),
        Ok(_) => Ok(()),
        Err(error) => Err(ControlError::Unavailable(error)),
    }
}

pub(crate) async fn transfer(node: &Node, group: &str, to: Option<&str>) -> Result<(), ControlError> {
    let running = running_of(node)?;
    let known = GROUPS.iter().find(|(name, _)| *name == group).map(|(_, number)| *number);
    let state = node.meta_state();
    let number = known.or_else(|| shards::group_called(&state, group)).ok_or_else(|| {
        let shards = match state.shards.count() {
            0 => String::new(),
            count => format!(", and `shard 0` to `shard {}`", count - 1),
        };
        ControlError::NotFound(format!("no group is called {group}; there are meta and routes{shards}"))
    })?;
    let to = to.map(|name| member_id(&state, name)).transpose()?;
    let Some(here) = running.any_group(number) else {
        let error =
            format!("this node has no replica of {group}: ask one that has one (`raftmq ctl groups --node NAME`)");
        return Err(ControlError::Unavailable(error));
    };
    let leader = here.status().borrow().leader;
    let leader = leader.ok_or_else(|| ControlError::Unavailable(format!("group {group} has no leader")))?;
    if leader == running.id {
        return transfer_here(running, number, to).await;
    }
    match node.net.call_node(leader, &Request::Transfer { group: number, to }, DEADLINE).await {
        Ok(Response::Transfer(result)) => result,
        Ok(_) => Err(ControlError::Unavailable("the leader gave an answer to something else".into())),
        Err(error) => Err(ControlError::Unavailable(format!("the leader: {error}"))),
    }
}

pub(crate) async fn transfer_here(running: &Running, number: u32, to: Option<u64>) -> Result<(), ControlError> {
    let group = running.any_group(number).ok_or_else(|| ControlError::NotFound(format!("no group {number}")))?;
    let status = group.status().borrow().clone();
    let others = status.followers.iter().filter(|(id, _)| status.voters.contains(id));
    let to = match to {
        Some(to) if to == running.id && status.is_leader() => return Ok(()),
        Some(to) if !status.voters.contains(&to) => {
            return Err(ControlError::Conflict(format!("node {to} does not vote")));
        }
        Some(to) => to,
        None => {
            let best = others.max_by_key(|(_, f)| f.matched).map(|(id, _)| *id);
            best.ok_or_else(|| ControlError::Conflict("no other node votes".into()))?
        }
    };
    group.transfer_leader(to).await.map_err(|error| match error {
        MembershipError::Impossible(reason) => ControlError::Conflict(reason),
        other => ControlError::Unavailable(other.to_string()),
    })
}

/// On the leader, which knows nothing of the others when it reaches no quorum of them.
pub(crate) async fn loss_here(node: &Node, running: &Running, id: u64) -> Result<LossReport, ControlError> {
    if tokio::time::timeout(CALL, running.meta.read_index()).await.is_ok_and(|index| index.is_ok()) {
        let mut report = leader::loss(node, running, id)?;
        // One that cannot be asked passes on nothing.
        let relays = if running.id == id {
            relays(node)
        } else if let Ok(Response::Relays(relays)) = node.net.call_node(id, &Request::Relays, CALL).await {
            relays
        } else {
            0
        };
        report.relays(relays);
        return Ok(report);
    }
    let why = "the meta group has no quorum: what would be lost is not known. Bring the other nodes back first";
    Err(ControlError::Unavailable(why.into()))
}

pub(crate) async fn loss(node: &Node, name: &str) -> Result<LossReport, ControlError> {
    let running = running_of(node)?;
    let id = member_id(&node.meta_state(), name)?;
    let leader = running.meta.status().borrow().leader;
    let leader = leader.ok_or_else(|| ControlError::Unavailable("the meta group has no leader".into()))?;
    if leader == running.id {
        return loss_here(node, running, id).await;
    }
    match node.net.call_node(leader, &Request::Loss { node: id }, CALL * 3).await {
        Ok(Response::Loss(result)) => result,
        Ok(_) => Err(ControlError::Unavailable("the leader gave an answer to something else".into())),
        Err(error) => {
            debug!("asking the leader: {error}");
            Err(ControlError::Unavailable(format!("the leader: {error}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_of_the_routes_is_not_taken_out_of_meta() {
        let leads_routes = |id| id == 3;
        assert!(!may_be_taken(META, &Step::RemoveNode(3), leads_routes));
        assert!(may_be_taken(META, &Step::RemoveNode(2), leads_routes));
        // How it gets out of them.
        assert!(may_be_taken(ROUTES, &Step::RemoveNode(3), leads_routes));
        for step in [Step::ChangeVoters([1, 2].into()), Step::TransferLeader(3), Step::AddLearner(3)] {
            assert!(may_be_taken(META, &step, leads_routes), "{step:?}");
        }
    }
}
