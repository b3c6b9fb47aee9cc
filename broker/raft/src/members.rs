//! Who belongs to a group, and who leads it.

use std::collections::{BTreeMap, BTreeSet};

use openraft::ChangeMembers;
use openraft::error::{ChangeMembershipError, ClientWriteError, Fatal, InitializeError, RaftError};

use crate::NodeId;
use crate::error::{MembershipError, WaitError};
use crate::group::Group;
use crate::types::Types;

impl Group {
    /// Makes the group, with these voters: once in its life, on one of them.
    ///
    /// # Errors
    /// [`MembershipError::Initialized`] if there is a log or a vote; [`MembershipError::Impossible`] if this node is not among
    /// the voters.
    pub async fn initialize(&self, voters: BTreeSet<NodeId>) -> Result<(), MembershipError> {
        let voters: BTreeMap<NodeId, ()> = voters.into_iter().map(|id| (id, ())).collect();
        match self.inner.raft.initialize(voters).await {
            Ok(()) => Ok(()),
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Err(MembershipError::Initialized),
            Err(RaftError::APIError(other @ InitializeError::NotInMembers(_))) => {
                Err(MembershipError::Impossible(other.to_string()))
            }
            Err(RaftError::Fatal(fatal)) => Err(stopped(&fatal)),
        }
    }

    /// Adds a learner. Does not wait until it has caught up: see [`crate::GroupStatus::followers`]. Fine if it is a member.
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub async fn add_learner(&self, node: NodeId) -> Result<(), MembershipError> {
        if self.inner.status.borrow().is_member(node) && self.inner.status.borrow().is_leader() {
            return Ok(());
        }
        let answer = self.inner.raft.add_learner(node, (), false).await.map_err(membership_error)?;
        self.seen(answer.log_id.index).await
    }

    /// Replaces the voters; all of them must be members already. Goes over both sets together (joint consensus) and
    /// waits for the quorums of both; see [`Group::finish_change`] for what a leader before left in the middle. Those who are no
    /// voters any more stay as learners, or leave the group.
    ///
    /// # Errors
    /// [`MembershipError::Impossible`] if one is no member.
    pub async fn change_voters(&self, voters: BTreeSet<NodeId>, keep_removed: bool) -> Result<(), MembershipError> {
        let stays = voters.contains(&self.inner.sender.node);
        let change = ChangeMembers::ReplaceAllVoters(voters);
        self.change(change, keep_removed).await?;
        if !stays && keep_removed {
            // openraft takes care of a leader that has left, not of one that leads without a vote.
            self.hand_over();
        }
        Ok(())
    }

    /// Completes a change of the voters that a leader before began and did not live to complete
    /// ([`GroupStatus::change_unfinished`](crate::GroupStatus::change_unfinished)): until then every decision needs the quorums of both
    /// sets. Who is no voter any more stays as a learner.
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub async fn finish_change(&self) -> Result<(), MembershipError> {
        let change = ChangeMembers::AddVoterIds(BTreeSet::new());
        self.change(change, true).await?;
        let deadline = self.inner.sender.options.transfer_deadline;
        match self.wait(deadline, |s| !s.change_unfinished).await {
            Ok(status) if status.is_leader() && !status.voters.contains(&status.node) => self.hand_over(),
            Ok(_) | Err(WaitError::Timeout) => {}
            Err(WaitError::Shutdown) => return Err(MembershipError::Shutdown),
        }
        Ok(())
    }

    /// Removes a member, voter or learner. Fine if it is none. A leader may remove itself; it then hands the
    /// leadership on.
    ///
    /// # Errors
    /// [`MembershipError::Impossible`] if it is the last voter.
    pub async fn remove(&self, node: NodeId) -> Result<(), MembershipError> {
        let (voter, learner, settled) = {
            let status = self.inner.status.borrow();
            (status.voters.contains(&node), status.learners.contains(&node), status.membership_settled)
        };
        if voter || !settled {
            let change = ChangeMembers::RemoveVoters(BTreeSet::from([node]));
            self.change(change, false).await?;
        }
        if learner && !voter {
            let change = ChangeMembers::RemoveNodes(BTreeSet::from([node]));
            self.change(change, false).await?;
        }
        Ok(())
    }

    /// Hands the leadership to another voter and waits until it leads.
    ///
    /// # Errors
    /// [`MembershipError::Timeout`] if it does not lead within [`crate::RaftOptions::transfer_deadline`].
    pub async fn transfer_leader(&self, to: NodeId) -> Result<(), MembershipError> {
        {
            let status = self.inner.status.borrow();
            if !status.is_leader() {
                return Err(MembershipError::NotLeader { leader: status.leader });
            }
            if !status.voters.contains(&to) {
                return Err(MembershipError::Impossible(format!("{to} is no voter")));
            }
            if to == status.node {
                return Ok(());
            }
        }
        self.inner.raft.trigger().transfer_leader(to).await.map_err(|fatal| stopped(&fatal))?;
        match self.wait(self.inner.sender.options.transfer_deadline, |status| status.leader == Some(to)).await {
            Ok(_) => Ok(()),
            Err(WaitError::Timeout) => Err(MembershipError::Timeout),
            Err(WaitError::Shutdown) => Err(MembershipError::Shutdown),
        }
    }

    /// Changes who belongs to the group, and waits until the status shows it.
    async fn change(&self, change: ChangeMembers<NodeId, ()>, keep_removed: bool) -> Result<(), MembershipError> {
        let answer = self.inner.raft.change_membership(change, keep_removed).await.map_err(membership_error)?;
        self.seen(answer.log_id.index).await
    }

    /// The status follows a little behind what openraft answers: whoever asks it after a change sees that.
    async fn seen(&self, index: u64) -> Result<(), MembershipError> {
        match self.wait_applied(index, self.inner.sender.options.transfer_deadline).await {
            // It is done all the same.
            Ok(()) | Err(WaitError::Timeout) => Ok(()),
            Err(WaitError::Shutdown) => Err(MembershipError::Shutdown),
        }
    }
}

fn stopped(fatal: &Fatal<Types>) -> MembershipError {
    match fatal {
        Fatal::Stopped => MembershipError::Shutdown,
        fatal => MembershipError::Failed(fatal.to_string()),
    }
}

fn membership_error(error: RaftError<Types, ClientWriteError<Types>>) -> MembershipError {
    match error {
        RaftError::APIError(
            ClientWriteError::ForwardToLeader(forward) | ClientWriteError::LogEntryDiscarded(forward),
        ) => MembershipError::NotLeader { leader: forward.leader_id },
        RaftError::APIError(ClientWriteError::ChangeMembershipError(
            ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_),
        )) => MembershipError::InProgress,
        RaftError::APIError(other) => MembershipError::Impossible(other.to_string()),
        RaftError::Fatal(fatal) => stopped(&fatal),
    }
}
