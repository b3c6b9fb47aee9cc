//! Who is connected where.

use raftmq_planted::{Bug, planted};
use smallvec::SmallVec;

use super::ShardMachine;
use crate::answer::{Older, OpAnswer};
use crate::command::{Claim, WillEnd};
use crate::effect::Effect;
use crate::key::{self, Key, timer};
use crate::record::{Client, Former, MAX_OLDER, Owned, Session, Timer};
use crate::store::{Store, StoreError};
use crate::{Name, NodeBoot};

/// A client's record that is being changed, and what other records said because of it.
pub(super) struct Open {
    pub(super) name: Key,
    pub(super) client: Client,
    /// Whether there was a record.
    known: bool,
    mentions: SmallVec<[NodeBoot; 2]>,
    will_at: Option<u64>,
    ends_at: Option<u64>,
}

impl<S: Store> ShardMachine<S> {
    /// A client connects [MQTT5 3.1]. The connection is its own from now on; CONNACK waits for the older ones.
    pub(super) fn claim(&mut self, from: NodeBoot, claim: Claim) -> Result<OpAnswer, StoreError> {
        if let Some(refused) = self.elsewhere(&claim.client) {
            return Ok(refused);
        }
        let mut open = self.open_client(key::client_name(claim.client.namespace, &claim.client.id))?;
        self.settle(&mut open)?;
        let client = &mut open.client;
        let kept = client.session.is_some() && client.expiry_s > 0;
        if claim.yields && (kept || client.owner.is_some_and(|owner| owner.node != from.node)) {
            self.close_client(open);
            return Ok(OpAnswer::Stale);
        }
        if client.owner.is_some() && client.older.len() >= MAX_OLDER {
            self.close_client(open);
            return Ok(OpAnswer::Busy);
        }
        // A session whose connection ends now, with an expiry interval of 0, ends with it [MQTT5 3.1.2.11.2].
        let ends = claim.clean_start || (client.owner.is_some() && client.expiry_s == 0);
        let session = client.session.filter(|_| !ends);
        if let Some(owner) = client.owner.take() {
            let at = Older { node: owner, epoch: client.epoch };
            // The will of the older connection is sent, unless the session goes on and its delay is not over ([MQTT5 3.1.3.2.2], `[MQTT-3.1.4-3]`). Not before its node has said how it
            // ended: a DISCONNECT may be on its way from there.
            let will =
                client.will.take().filter(|will| will.delay_s == 0 || session.is_none() || planted(Bug::WillWhileUp));
            client.older.push(Former { at, will });
        }
        if session.is_some() {
            // A new connection before the will delay is over (`[MQTT-3.1.3-9]`).
            let will = open.client.will.take();
            if planted(Bug::WillWhileUp)
                && let Some(will) = will
            {
                self.publish_will(claim.client.namespace, will)?;
            }
        } else {
            self.end_session(&mut open)?;
        }
        let session_present = session.is_some();
        self.meta.last_epoch += 1;
        let epoch = self.meta.last_epoch;
        let session = match session {
            Some(id) => {
                let key = key::session(id);
                if let Some(mut session) = self.cache.take::<Session>(&key)? {
                    let was_away = !session.connected;
                    session.resumed(claim.limits);
                    if was_away {
                        self.here(id, &session)?;
                    }
                    self.cache.put(&key, session);
                }
                Some(id)
            }
            None if claim.durable => {
                self.meta.sessions += 1;
                // The epoch is the session's number: no other one will have it.
                self.cache.put(&key::session(epoch), Session::new(claim.client.clone(), claim.limits));
                Some(epoch)
            }
            None => None,
        };
        let client = &mut open.client;
        client.owner = Some(from);
        client.epoch = epoch;
        client.expiry_s = claim.expiry_s;
        client.will = claim.will;
        client.session = session;
        client.will_at = None;
        client.ends_at = None;
        let older = client.older.iter().map(|former| former.at).collect();
        self.close_client(open);
        Ok(OpAnswer::Claimed { epoch, session_present, older })
    }

    /// A node closed an older connection.
    pub(super) fn closed(&mut self, from: NodeBoot, client: &Name, epoch: u64) -> Result<OpAnswer, StoreError> {
        if let Some(refused) = self.elsewhere(client) {
            return Ok(refused);
        }
        self.former_ended(from, client, epoch, WillEnd::Keep)?;
        Ok(OpAnswer::Done)
    }

    /// A connection of a client that is connected elsewhere by now had ended before its node heard of that.
    pub(super) fn former_ended(
        &mut self,
        from: NodeBoot,
        client: &Name,
        epoch: u64,
        end: WillEnd,
    ) -> Result<(), StoreError> {
        let mut open = self.open_client(key::client_name(client.namespace, &client.id))?;
        let ended = |older: &Older| older.node == from && older.epoch == epoch;
        if let Some(former) = open.client.older.iter_mut().find(|former| ended(&former.at))
            && end == WillEnd::Drop
        {
            // `[MQTT-3.14.4-3]`
            former.will = None;
        }
        self.no_longer_older(&mut open, ended)?;
        self.close_client(open);
        Ok(())
    }

    /// What a claim still waits for.
    pub(super) fn older(&mut self, name: Key) -> Result<OpAnswer, StoreError> {
        let mut open = self.open_client(name)?;
        self.settle(&mut open)?;
        let client = &open.client;
        let (epoch, session_present, older) =
            (client.epoch, client.session.is_some(), client.older.iter().map(|former| former.at).collect());
        self.close_client(open);
        Ok(OpAnswer::Claimed { epoch, session_present, older })
    }

    /// The connection of a client ended [MQTT5 3.14.4].
    pub(super) fn disconnect(
        &mut self,
        name: &Key,
        expiry_s: Option<u32>,
        will: WillEnd,
    ) -> Result<OpAnswer, StoreError> {
        let mut open = self.open_client(name.clone())?;
        open.client.expiry_s = expiry_s.unwrap_or(open.client.expiry_s);
        self.connection_ended(&mut open, self.meta.now_ms, will)?;
        self.close_client(open);
        Ok(OpAnswer::Done)
    }

    /// Does what nodes that are down leave to be done for a client, before anything else is done for it.
    pub(super) fn settle(&mut self, open: &mut Open) -> Result<(), StoreError> {
        let mut down = SmallVec::<[NodeBoot; 2]>::new();
        for node in open.client.mentions() {
            if let Some(at) = self.down_since(node)? {
                down.push(node);
                if open.client.owner == Some(node) {
                    self.connection_ended(open, at, WillEnd::Keep)?;
                }
            }
        }
        self.no_longer_older(open, |older| down.contains(&older.node))
    }

    /// Takes the record of a client, which may be a new one, to change it.
    pub(super) fn open_client(&mut self, name: Key) -> Result<Open, StoreError> {
        let client = self.cache.take::<Client>(&key::client(&name))?;
        let known = client.is_some();
        let client = client.unwrap_or_default();
        let (mentions, will_at, ends_at) = (client.mentions(), client.will_at, client.ends_at);
        Ok(Open { name, client, known, mentions, will_at, ends_at })
    }

    /// Puts the record back, or removes it when it is over; timers and the registry by node follow what it says.
    pub(super) fn close_client(&mut self, open: Open) {
        let Open { name, client, known, mentions, will_at, ends_at } = open;
        for (kind, before, now) in
            [(timer::WILL, will_at, client.will_at), (timer::SESSION_END, ends_at, client.ends_at)]
        {
            if before != now {
                before.into_iter().for_each(|due| self.cache.remove_known(&key::timer(due, kind, &name)));
                now.into_iter().for_each(|due| self.cache.put(&key::timer(due, kind, &name), Timer { message: 0 }));
            }
        }
        let now = client.mentions();
        for gone in mentions.iter().filter(|node| !now.contains(node)) {
            self.cache.remove_known(&key::owned(*gone, &name));
        }
        for new in now.iter().filter(|node| !mentions.contains(node)) {
            self.cache.put(&key::owned(*new, &name), Owned);
        }
        let key = key::client(&name);
        let over = client.is_over();
        self.meta.clients = self.meta.clients + u64::from(!over) - u64::from(known);
        if over {
            self.cache.remove(&key);
        } else {
            self.cache.put(&key, client);
        }
    }

    /// A connection ended at `at`: the session's expiry and the will's delay begin.
    fn connection_ended(&mut self, open: &mut Open, at: u64, end: WillEnd) -> Result<(), StoreError> {
        let client = &mut open.client;
        client.owner = None;
        // `[MQTT-3.14.4-3]`
        if end == WillEnd::Drop {
            client.will = None;
        }
        let Some(session) = client.session.filter(|_| client.expiry_s > 0) else {
            // `[MQTT-3.1.2-8]`: the end of the session is the latest time for the will.
            return self.end_session(open);
        };
        let key = key::session(session);
        if let Some(mut record) = self.cache.take::<Session>(&key)? {
            record.disconnected();
            self.away(session, &mut record, false)?;
            self.cache.put(&key, record);
        }
        client.ends_at = (client.expiry_s < u32::MAX).then(|| at + u64::from(client.expiry_s) * 1_000);
        match client.will.take() {
            Some(will) if will.delay_s > 0 && end != WillEnd::Publish => {
                // The earlier of the delay and the end of the session [MQTT5 3.1.3.2.2].
                let due = at + u64::from(will.delay_s) * 1_000;
                client.will_at = Some(client.ends_at.map_or(due, |end| end.min(due)));
                client.will = Some(will);
            }
            Some(will) => {
                let (namespace, _) = key::read_client_name(&open.name).unwrap_or_default();
                self.publish_will(namespace, will)?;
            }
            None => {}
        }
        Ok(())
    }

    /// Some older connections are certainly over, and their wills are sent.
    fn no_longer_older(&mut self, open: &mut Open, closed: impl Fn(&Older) -> bool) -> Result<(), StoreError> {
        if open.client.older.is_empty() {
            return Ok(());
        }
        let over: SmallVec<[Former; 1]> = open.client.older.extract_if(.., |former| closed(&former.at)).collect();
        let Some((namespace, id)) = key::read_client_name(&open.name) else { return Ok(()) };
        for will in over.into_iter().filter_map(|former| former.will) {
            self.publish_will(namespace, will)?;
        }
        if open.client.older.is_empty() && open.client.owner.is_some() {
            let (client, epoch) = (Name::new(namespace, id), open.client.epoch);
            self.effects.push(Effect::WaitOver { client, epoch });
        }
        Ok(())
    }
}
