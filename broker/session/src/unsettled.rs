//! Subscriptions that the server has said neither yes nor no to.

use std::{collections::BTreeMap, sync::Arc};

use smallvec::SmallVec;

use crate::SubscriptionInfo;

/// By filter, the requests that may still decide what the session has by it, in the order in which they came. They belong to the
/// session: they wait also when their connection has ended.
///
/// A request is known by its filter as an allocation, which each request has of its own: equal requests are different ones, and one of
/// a session that has ended is none of the session that came after it.
#[derive(Debug, Default)]
pub(crate) struct Unsettled(BTreeMap<Arc<str>, SmallVec<[Waiting; 1]>>);

#[derive(Debug)]
struct Waiting {
    filter: Arc<str>,
    /// What the session had before this request and those before it that were refused.
    replaced: Option<SubscriptionInfo>,
}

impl Unsettled {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn add(&mut self, filter: &Arc<str>, replaced: Option<SubscriptionInfo>) {
        self.0.entry(Arc::clone(filter)).or_default().push(Waiting { filter: Arc::clone(filter), replaced });
    }

    /// Those that came before it decide nothing any more.
    pub(crate) fn grant(&mut self, filter: &Arc<str>) {
        if let Some((at, waiting)) = self.find(filter) {
            waiting.drain(..=at);
            self.tidy(filter);
        }
    }

    /// What the session has by the filter from now on. `None`: as it is, since a later request has replaced this one, or it decides nothing
    /// any more.
    pub(crate) fn refuse(&mut self, filter: &Arc<str>) -> Option<Option<SubscriptionInfo>> {
        let (at, waiting) = self.find(filter)?;
        let replaced = waiting.remove(at).replaced;
        if let Some(later) = waiting.get_mut(at) {
            later.replaced = replaced;
            return None;
        }
        self.tidy(filter);
        Some(replaced)
    }

    /// The subscription has been ended: what was asked for before that decides nothing any more.
    pub(crate) fn end(&mut self, filter: &str) {
        self.0.remove(filter);
    }

    /// Those for which something waits.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn filters(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|(_, waiting)| !waiting.is_empty()).map(|(filter, _)| &**filter)
    }

    fn find(&mut self, filter: &Arc<str>) -> Option<(usize, &mut SmallVec<[Waiting; 1]>)> {
        let waiting = self.0.get_mut(filter)?;
        // The last first: who answers a request with a filter many times begins at its end.
        let at = waiting.iter().rposition(|waiting| Arc::ptr_eq(&waiting.filter, filter))?;
        Some((at, waiting))
    }

    fn tidy(&mut self, filter: &Arc<str>) {
        if self.0.get(filter).is_some_and(|waiting| waiting.is_empty()) {
            self.0.remove(filter);
        }
    }
}
