//! Subscriptions that the server makes for a client without a SUBSCRIBE.

use raftmq_mqtt::{ReasonCode, SubOptions, Subscription};

use crate::{Connection, SubscribeItem, SubscriptionInfo};

impl Connection {
    /// Adds a subscription, as if the client had asked for it in a SUBSCRIBE of its own, but without an answer: the server says by [`Connection::settle`] whether it could make it. The filter is written as a
    /// client writes it: the mount point is put in front. The client can end it like any other.
    ///
    /// # Errors
    /// What SUBACK would say: an invalid filter, something that there is not here, too many subscriptions.
    pub fn subscribe_unasked(&mut self, filter: &str, options: SubOptions) -> Result<SubscribeItem, ReasonCode> {
        let (filter, qos) =
            self.check_subscription(&Subscription { filter, options }).map_err(|refusal| refusal.reason)?;
        let options = SubOptions { qos, ..options };
        let replaced = self.state.subscribe(&filter, SubscriptionInfo { options, sub_id: 0 });
        Ok(SubscribeItem { filter, options, sub_id: 0, replaced })
    }
}
