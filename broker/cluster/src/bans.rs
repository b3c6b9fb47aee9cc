//! Bans: proposed by any node, ended by the meta leader when they are over by its clock.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use raftmq_meta::{BANS_LEVEL, Ban, BanTarget, MetaCommand, MetaResponse, Refusal};
use tracing::{info, warn};

use crate::control::ControlError;
use crate::member::{propose, propose_once};
use crate::node::Node;

/// How often the leader looks whether a ban is over.
const LOOK: Duration = Duration::from_millis(250);

/// Bans clients. Done when it is committed; nodes hold it as soon as they have applied it. Says for how many there was no room.
pub(crate) async fn add(node: &Node, bans: Vec<Ban>) -> Result<usize, ControlError> {
    match ask(node, &MetaCommand::Ban { bans }).await? {
        MetaResponse::BansLeftOut { count } => Ok(count as usize),
        _ => Ok(0),
    }
}

/// Ends a ban.
pub(crate) async fn remove(node: &Node, target: BanTarget) -> Result<(), ControlError> {
    ask(node, &MetaCommand::Unban { target }).await.map(drop)
}

async fn ask(node: &Node, command: &MetaCommand) -> Result<MetaResponse, ControlError> {
    let Some(running) = node.running() else {
        return Err(ControlError::Unavailable("the node is not a member of a cluster yet".into()));
    };
    if node.meta_state().feature_level < BANS_LEVEL {
        // Switched on by the first who needs it; a member with an older binary would not apply what follows.
        refused(node, propose(&running.meta, &MetaCommand::FeatureLevel { level: BANS_LEVEL }).await)?;
    }
    refused(node, propose_once(&running.meta, command).await.map(first_answer))
}

/// A command whose answer was lost is proposed again. That its ban is gone by then is its own doing.
fn first_answer((answer, repeated): (MetaResponse, bool)) -> MetaResponse {
    match answer {
        MetaResponse::Refused(Refusal::NoSuchBan) if repeated => MetaResponse::Done,
        answer => answer,
    }
}

fn refused(node: &Node, answer: Result<MetaResponse, String>) -> Result<MetaResponse, ControlError> {
    match answer.map(MetaResponse::into_result) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(Refusal::NoSuchBan)) => Err(ControlError::NotFound("there is no such ban".into())),
        Ok(Err(Refusal::Invalid(what))) => Err(ControlError::Invalid(what)),
        Ok(Err(Refusal::BansFull)) => {
            Err(ControlError::Conflict("the list of bans is full: end some, or ban a range of addresses".into()))
        }
        Ok(Err(Refusal::FeatureUnknown { id, .. })) => {
            let name = node.meta_state().members.get(&id).map_or_else(|| id.to_string(), |member| member.name.clone());
            let message = format!("{name} runs a version that does not know bans; upgrade all members first");
            Err(ControlError::Conflict(message))
        }
        Ok(Err(other)) => Err(ControlError::Conflict(other.to_string())),
        Err(reason) => Err(ControlError::Unavailable(reason)),
    }
}

/// While this node leads meta: proposes the end of bans that are over.
pub(crate) async fn end_those_over(node: Arc<Node>) {
    let Some(running) = node.running() else {
        return;
    };
    loop {
        tokio::time::sleep(LOOK).await;
        let now_ms = unix_ms();
        if !running.meta.status().borrow().is_leader() || !node.meta_state().bans.is_over(now_ms) {
            continue;
        }
        match propose(&running.meta, &MetaCommand::BansOver { now_ms }).await {
            Ok(_) => info!("bans have ended"),
            Err(reason) => warn!("bans that are over stay for now: {reason}"),
        }
    }
}

fn unix_ms() -> u64 {
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(unix.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ban_that_is_gone_by_the_first_attempt_was_ended() {
        let gone = || MetaResponse::Refused(Refusal::NoSuchBan);
        assert_eq!(first_answer((gone(), false)), gone());
        assert_eq!(first_answer((gone(), true)), MetaResponse::Done);
        let other = || MetaResponse::Refused(Refusal::BansFull);
        assert_eq!(first_answer((other(), true)), other());
    }
}
