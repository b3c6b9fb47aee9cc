//! Operations, and whether who proposes one may.

use raftmq_planted::{Bug, planted};

use super::ShardMachine;
use crate::answer::OpAnswer;
use crate::command::Op;
use crate::key::{self, Key};
use crate::record::Client;
use crate::slot::slot;
use crate::store::{Store, StoreError};
use crate::{Name, NodeBoot};

/// A connected client.
pub(super) struct Connected {
    pub(super) name: Key,
    pub(super) session: Option<u64>,
}

/// Gives the session of a connected client with a durable one, or answers.
macro_rules! session_of {
    ($machine:expr, $from:expr, $client:expr, $epoch:expr) => {
        match $machine.connected($from, $client, $epoch)? {
            Ok(Connected { session: Some(session), .. }) => session,
            Ok(_) => return Ok(OpAnswer::NoSession),
            Err(refused) => return Ok(refused),
        }
    };
}

impl<S: Store> ShardMachine<S> {
    pub(super) fn op(&mut self, from: NodeBoot, op: Op) -> Result<OpAnswer, StoreError> {
        match op {
            Op::Skip => Ok(OpAnswer::Done),
            Op::Claim(claim) => self.claim(from, *claim),
            Op::Closed { client, epoch } => self.closed(from, &client, epoch),
            Op::Older { client, epoch } => match self.connected(from, &client, epoch)? {
                Ok(connected) => self.older(connected.name),
                Err(refused) => Ok(refused),
            },
            Op::Disconnect { client, epoch, expiry_s, will } => match self.connected(from, &client, epoch)? {
                Ok(connected) => self.disconnect(&connected.name, expiry_s, will),
                Err(refused) => {
                    if refused == OpAnswer::Stale {
                        self.former_ended(from, &client, epoch, will)?;
                    }
                    Ok(refused)
                }
            },
            Op::Subscribe { client, epoch, filters } => {
                let session = session_of!(self, from, &client, epoch);
                self.subscribe(client.namespace, session, filters)
            }
            Op::Unsubscribe { client, epoch, filters } => {
                let session = session_of!(self, from, &client, epoch);
                self.unsubscribe(client.namespace, session, &filters)
            }
            Op::Ack { client, epoch, seqs } => {
                let session = session_of!(self, from, &client, epoch);
                self.acknowledge(session, &seqs)
            }
            Op::Rec { client, epoch, seqs } => {
                let session = session_of!(self, from, &client, epoch);
                self.receive(session, &seqs)
            }
            Op::Grant { client, epoch, up_to } => {
                let session = session_of!(self, from, &client, epoch);
                self.grant(session, up_to)
            }
            Op::Receive2 { client, epoch, packet_id, message, destinations, keeper } => {
                let session = session_of!(self, from, &client, epoch);
                self.receive_inbound(
                    client.namespace,
                    session,
                    packet_id,
                    message,
                    destinations,
                    keeper.map(|keeper| *keeper),
                )
            }
            Op::Outcomes { client, epoch, packet_ids } => {
                let session = session_of!(self, from, &client, epoch);
                self.outcomes(session, &packet_ids)
            }
            Op::Release { client, epoch, packet_id } => {
                let session = session_of!(self, from, &client, epoch);
                self.release_inbound(session, packet_id)
            }
            Op::Publish { namespace, message } => {
                let lifetime = crate::record::lifetime(&message);
                self.publish(namespace, message, lifetime, false)
            }
            Op::Retain { namespace, message, bounds } => {
                let lifetime = crate::record::lifetime(&message);
                self.publish_retained(namespace, message, lifetime, bounds)
            }
            Op::Queue { client, epoch, after, messages } => {
                let session = session_of!(self, from, &client, epoch);
                self.queue_up(client.namespace, session, after, messages)
            }
            Op::Join { client, epoch, subscription, shard } => {
                let session = session_of!(self, from, &client, epoch);
                self.join(session, &subscription, shard)
            }
            Op::JoinClean { client, epoch, subscription, shard, limits } => {
                let session = match self.connected(from, &client, epoch)? {
                    Ok(Connected { session: Some(session), .. }) => session,
                    Ok(Connected { name, session: None }) => self.begin_clean(name, client, limits)?,
                    Err(refused) => return Ok(refused),
                };
                self.join(session, &subscription, shard)
            }
            Op::Return { client, epoch, seqs } => {
                let session = session_of!(self, from, &client, epoch);
                self.give_back_late(session, &seqs)
            }
            Op::Note { source, number, note, message } => self.note(source, number, *note, message),
            Op::Noted { destination, up_to } => self.noted(destination, up_to),
            Op::Delay { namespace, message, delay_ms, bounds } => self.delay(namespace, message, delay_ms, bounds),
            Op::Route { entry, destinations, keeper } => self.route(entry, destinations, keeper.map(|keeper| *keeper)),
            Op::HandOff { source, number, namespace, message, lifetime_ms, keep } => {
                self.hand_off(source, number, namespace, message, lifetime_ms, keep)
            }
            Op::HandedOff { destination, up_to, kept } => self.handed_off(destination, up_to, &kept),
            Op::Announced { up_to } => self.announced(up_to),
        }
    }

    /// An operation of a leader: what it does it does once, whoever says it how often.
    pub(super) fn lead(&mut self, op: Op) -> Result<OpAnswer, StoreError> {
        match op {
            Op::Skip => Ok(OpAnswer::Done),
            Op::Route { entry, destinations, keeper } => self.route(entry, destinations, keeper.map(|keeper| *keeper)),
            Op::HandOff { source, number, namespace, message, lifetime_ms, keep } => {
                self.hand_off(source, number, namespace, message, lifetime_ms, keep)
            }
            Op::Note { source, number, note, message } => self.note(source, number, *note, message),
            Op::Noted { destination, up_to } => self.noted(destination, up_to),
            Op::HandedOff { destination, up_to, kept } => self.handed_off(destination, up_to, &kept),
            Op::Announced { up_to } => self.announced(up_to),
            _ => Ok(OpAnswer::NoStream),
        }
    }

    /// The client, if it is connected to this node under this epoch.
    fn connected(
        &mut self,
        from: NodeBoot,
        client: &Name,
        epoch: u64,
    ) -> Result<Result<Connected, OpAnswer>, StoreError> {
        if let Some(refused) = self.elsewhere(client) {
            return Ok(Err(refused));
        }
        let name = key::client_name(client.namespace, &client.id);
        Ok(match self.cache.get::<Client>(&key::client(&name))? {
            Some(known) if (known.owner == Some(from) && known.epoch == epoch) || planted(Bug::DropEpoch) => {
                let session = known.session;
                Ok(Connected { name, session })
            }
            _ => Err(OpAnswer::Stale),
        })
    }

    /// The answer, if the slot of a client is not this shard's.
    pub(super) fn elsewhere(&self, client: &Name) -> Option<OpAnswer> {
        let own = self.meta.slots.contains(slot(client.namespace, &client.id));
        (!own).then_some(OpAnswer::WrongShard { epoch: self.meta.map_epoch })
    }
}
