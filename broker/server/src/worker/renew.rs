//! Settings that change while the node runs.

use std::rc::Rc;
use std::sync::Arc;

use raftmq_session::SessionLimits;

use super::{ListenerState, Worker};
use crate::features::{Features, Rules};

/// What may change while the node runs. Made once for all workers and never changed itself.
pub(crate) struct Live {
    /// What the clients of each listener may use, by the listener's number.
    pub(crate) limits: Vec<Arc<SessionLimits>>,
    /// Rules for topics.
    pub(crate) rules: Arc<Rules>,
}

impl Live {
    /// What a node begins with.
    pub(crate) fn new(features: &Features, listeners: &[ListenerState]) -> Self {
        Self {
            limits: listeners.iter().map(|listener| Arc::clone(&listener.limits)).collect(),
            rules: Arc::clone(&features.rules),
        }
    }
}

impl Worker {
    /// Takes new settings. Connections from now on have all of them. Those that there are keep what they were told; the rest they have
    /// from now on, and connections with the same limits share the new ones as they did the old ones.
    pub(super) fn renew(&mut self, live: &Live) {
        self.rules = Arc::clone(&live.rules);
        let mut listeners = Vec::clone(&self.listeners);
        for (listener, limits) in listeners.iter_mut().zip(&live.limits) {
            listener.limits = Arc::clone(limits);
        }
        self.listeners = Rc::new(listeners);
        // A few: one for each listener and each time that its limits have changed.
        let mut renewed: Vec<(Arc<SessionLimits>, u16, Arc<SessionLimits>)> = Vec::new();
        for key in self.conns.keys() {
            let Some(conn) = self.conns.get_mut(key) else {
                continue;
            };
            let Some(newest) = live.limits.get(usize::from(conn.listener)) else {
                continue;
            };
            let told = conn.session.limits();
            if conn.session.version().is_none() {
                // It was told nothing yet.
                conn.session.set_limits(Arc::clone(newest));
                self.set_rates(key);
                continue;
            }
            let known = renewed.iter().find(|(old, listener, _)| Arc::ptr_eq(old, told) && *listener == conn.listener);
            let limits = match known {
                Some((_, _, limits)) => Arc::clone(limits),
                None => {
                    let limits = told.renewed(newest);
                    let limits = if limits == **newest { Arc::clone(newest) } else { Arc::new(limits) };
                    renewed.push((Arc::clone(told), conn.listener, Arc::clone(&limits)));
                    limits
                }
            };
            conn.session.set_limits(limits);
            self.set_rates(key);
        }
    }
}
