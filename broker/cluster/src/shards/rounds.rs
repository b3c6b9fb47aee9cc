//! Questions that many ask at once: one round runs, and one waits, whose answer is for all who ask before it begins.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};

use super::ShardId;

/// More than is asked about at once: beyond, what was answered is forgotten.
const MANY: usize = 2_048;

/// A round that may not have begun.
#[derive(Clone)]
struct Round<T: Clone> {
    begun: Arc<AtomicBool>,
    answer: Shared<BoxFuture<'static, T>>,
}

/// The rounds of each shard, or whatever is asked about: the latest, which waits for the one before it.
pub(crate) struct Rounds<T: Clone, K = ShardId>(Mutex<HashMap<K, Round<T>>>);

impl<T: Clone, K> Default for Rounds<T, K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone + Send + Sync + 'static, K: Hash + Eq> Rounds<T, K> {
    /// The answer of a round that begins after this call.
    pub(crate) fn join(
        &self,
        about: K,
        ask: impl Future<Output = T> + Send + 'static,
    ) -> Shared<BoxFuture<'static, T>> {
        let mut rounds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = rounds.get(&about).cloned();
        if let Some(round) = before.as_ref().filter(|round| !round.begun.load(Ordering::Acquire)) {
            return round.answer.clone();
        }
        if rounds.len() >= MANY {
            rounds.retain(|_, round| round.answer.peek().is_none());
        }
        let begun = Arc::new(AtomicBool::new(false));
        let begins = Arc::clone(&begun);
        let answer = async move {
            if let Some(before) = before {
                before.answer.await;
            }
            begins.store(true, Ordering::Release);
            ask.await
        };
        let answer = answer.boxed().shared();
        rounds.insert(about, Round { begun, answer: answer.clone() });
        answer
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::atomic::AtomicU64;
    use tokio::sync::Semaphore;

    const SHARD: ShardId = ShardId { number: 1, generation: 1 };

    /// Who asks while a round runs gets the answer of the next one, with all others who do.
    #[tokio::test]
    async fn rounds_are_shared_and_begin_after_the_call() {
        let rounds: Rounds<u64> = Rounds::default();
        let (count, gate) = (Arc::new(AtomicU64::new(0)), Arc::new(Semaphore::new(0)));
        let join = |rounds: &Rounds<u64>| {
            let (count, gate) = (Arc::clone(&count), Arc::clone(&gate));
            tokio::spawn(rounds.join(SHARD, async move {
                let number = count.fetch_add(1, Ordering::SeqCst) + 1;
                gate.acquire().await.unwrap().forget();
                number
            }))
        };
        let first = join(&rounds);
        while count.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let others: Vec<_> = (0..50).map(|_| join(&rounds)).collect();
        gate.add_permits(1);
        assert_eq!(first.await.unwrap(), 1);
        gate.add_permits(9);
        for other in others {
            assert_eq!(other.await.unwrap(), 2);
        }
        assert_eq!(join(&rounds).await.unwrap(), 3);
    }

    /// Who gives up keeps nobody from an answer.
    #[tokio::test]
    async fn who_gives_up_harms_nobody() {
        let rounds: Rounds<u64> = Rounds::default();
        drop(rounds.join(SHARD, async { 1 }));
        assert_eq!(rounds.join(SHARD, async { 2 }).await, 1);
        assert_eq!(rounds.join(SHARD, async { 3 }).await, 3);
    }
}
