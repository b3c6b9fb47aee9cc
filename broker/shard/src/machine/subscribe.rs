//! Subscriptions of durable sessions.

use std::sync::Arc;

use raftmq_mqtt::topic::TopicFilter;

use super::ShardMachine;
use crate::answer::{OpAnswer, Subscribed, Unsubscribed};
use crate::command::Subscription;
use crate::key::{self, table};
use crate::record::{EndedSubscriptions, OPTIONS_NO_LOCAL, OPTIONS_RETAIN, Options, Session};
use crate::store::{Store, StoreError};

/// How many subscriptions are read at once at a start.
const PAGE: usize = 1_024;

impl<S: Store> ShardMachine<S> {
    /// SUBSCRIBE [MQTT5 3.8.4].
    pub(super) fn subscribe(
        &mut self,
        namespace: u32,
        id: u64,
        filters: Vec<Subscription>,
    ) -> Result<OpAnswer, StoreError> {
        let session_key = key::session(id);
        let Some(mut session) = self.cache.take::<Session>(&session_key)? else { return Ok(OpAnswer::NoSession) };
        let mut outcomes = Vec::with_capacity(filters.len());
        for subscription in filters {
            let outcome = self.subscribe_one(namespace, id, &session, &subscription)?;
            session.subscriptions += u32::from(matches!(outcome, Subscribed::New { .. }));
            outcomes.push(outcome);
        }
        self.cache.put(&session_key, session);
        Ok(OpAnswer::Subscribed(outcomes))
    }

    fn subscribe_one(
        &mut self,
        namespace: u32,
        id: u64,
        session: &Session,
        subscription: &Subscription,
    ) -> Result<Subscribed, StoreError> {
        let filter = &*subscription.filter;
        if TopicFilter::parse(filter).is_ok_and(|filter| filter.group().is_none()) {
            let key = key::subscription(id, filter);
            let known = self.cache.has::<Options>(&key)?;
            if !known && session.subscriptions >= session.limits.max_subscriptions {
                return Ok(Subscribed::TooMany);
            }
            let flag = |set, bit| if set { bit } else { 0 };
            let flags = subscription.qos as u8
                | flag(subscription.no_local, OPTIONS_NO_LOCAL)
                | flag(subscription.retain_as_published, OPTIONS_RETAIN);
            let options = Options { flags, identifier: subscription.identifier };
            self.cache.put(&key, options);
            self.index.insert(namespace, id, true, filter, options);
            if known {
                return Ok(Subscribed::Replaced { route: self.route_of(namespace, filter)? });
            }
            self.meta.subscriptions += 1;
            return Ok(Subscribed::New { route: self.add_route(namespace, filter)? });
        }
        Ok(Subscribed::Invalid)
    }

    /// UNSUBSCRIBE [MQTT5 3.10.4].
    pub(super) fn unsubscribe(
        &mut self,
        namespace: u32,
        id: u64,
        filters: &[Arc<str>],
    ) -> Result<OpAnswer, StoreError> {
        let session_key = key::session(id);
        let Some(mut session) = self.cache.take::<Session>(&session_key)? else { return Ok(OpAnswer::NoSession) };
        let mut outcomes = Vec::with_capacity(filters.len());
        for filter in filters {
            if let Some(note) = self.leave(id, &mut session, filter)? {
                outcomes.push(Unsubscribed::Left { note });
                continue;
            }
            outcomes.push(if self.cache.has::<Options>(&key::subscription(id, filter))? {
                session.subscriptions -= 1;
                self.remove_subscription(namespace, id, filter)?;
                Unsubscribed::Removed
            } else {
                Unsubscribed::Missing
            });
        }
        self.cache.put(&session_key, session);
        Ok(OpAnswer::Unsubscribed(outcomes))
    }

    /// Builds the index from the store. Ended sessions whose subscriptions have not all been removed are in it too.
    pub(super) fn load_subscriptions(&mut self) -> Result<(), StoreError> {
        let (mut from, to) = (key::subscription(0, ""), key::table_end(table::SUBSCRIPTION));
        // Those of a session are together.
        let mut last_session = None;
        loop {
            let page = self.cache.scan::<Options>(&from, &to, PAGE)?;
            for (key, options) in &page {
                let Some((session, filter)) = key::read_subscription(key) else { continue };
                let space = match last_session {
                    Some((known, space)) if known == session => space,
                    _ => self.session_space(session)?,
                };
                last_session = Some((session, space));
                if let Some((namespace, alive)) = space {
                    self.index.insert(namespace, session, alive, filter, *options);
                }
            }
            // The sessions that were looked up: all of them together may be more than there is memory.
            self.cache.trim();
            match page.last() {
                Some((last, _)) if page.len() == PAGE => from = key::after(last),
                _ => return Ok(()),
            }
        }
    }

    /// The namespace of a session with subscriptions, and whether it has not ended.
    pub(crate) fn session_space(&mut self, session: u64) -> Result<Option<(u32, bool)>, StoreError> {
        if let Some(session) = self.cache.get::<Session>(&key::session(session))? {
            return Ok(Some((session.client.namespace, true)));
        }
        let ended = self.cache.get::<EndedSubscriptions>(&key::ended_subscriptions(session))?;
        Ok(ended.map(|ended| (ended.namespace, false)))
    }
}
