//! The end of a session.

use super::ShardMachine;
use super::registry::Open;
use crate::effect::Effect;
use crate::key;
use crate::record::{BLOCK, EndedQueue, EndedSubscriptions, Session};
use crate::store::{Store, StoreError};

impl<S: Store> ShardMachine<S> {
    /// The session of a client ends, if it has one, and a will that waits is published (`[MQTT-3.1.2-8]`). What it had goes step by step:
    /// a session may have a million messages.
    pub(super) fn end_session(&mut self, open: &mut Open) -> Result<(), StoreError> {
        open.client.will_at = None;
        open.client.ends_at = None;
        if let Some(will) = open.client.will.take() {
            let (namespace, _) = key::read_client_name(&open.name).unwrap_or_default();
            self.publish_will(namespace, will)?;
        }
        let Some(id) = open.client.session.take() else { return Ok(()) };
        let key = key::session(id);
        let Some(mut session) = self.cache.take::<Session>(&key)? else { return Ok(()) };
        self.away(id, &mut session, true)?;
        self.meta.sessions -= 1;
        self.end_queue(id, &session);
        self.effects.push(Effect::Ended { client: session.client });
        Ok(())
    }

    /// A session's record, its subscriptions and its queue go; or those of a group.
    pub(super) fn end_queue(&mut self, id: u64, session: &Session) {
        let key = key::session(id);
        self.cache.remove(&key);
        self.meta.queued -= u64::from(session.messages);
        self.meta.queued_bytes -= session.bytes;
        if session.subscriptions > 0 {
            self.index.end(id);
            let ended = EndedSubscriptions { namespace: session.client.namespace };
            self.cache.put(&key::ended_subscriptions(id), ended);
            self.meta.ended_subscriptions += 1;
        }
        if session.messages > 0 {
            let block = |seq: u64| seq / BLOCK;
            let in_use = (block(session.floor), block(session.last_in_use()));
            let waiting = (block(session.front.max(session.floor)), block(session.next - 1));
            self.cache.put(&key::ended_queue(id), EndedQueue { ranges: [in_use, waiting] });
            self.meta.ended_queues += 1;
        }
    }
}
