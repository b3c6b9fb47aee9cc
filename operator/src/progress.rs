//! Whether what has to move moves: what `/healthz` answers by.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often what runs for ever says that it moves.
pub const BEAT: Duration = Duration::from_secs(5);
/// After which silence it is taken for stuck.
pub const SILENCE: Duration = Duration::from_secs(60);

/// All parts of the process that have to move.
#[derive(Debug, Default)]
pub struct Progress(Mutex<Parts>);

#[derive(Debug, Default)]
struct Parts {
    next: u64,
    moving: BTreeMap<u64, Moving>,
}

#[derive(Debug)]
struct Moving {
    what: String,
    limit: Duration,
    last: Instant,
}

impl Progress {
    /// Something begins that moves at least this often, or ends within that time.
    pub fn begin(self: &Arc<Self>, what: impl Into<String>, limit: Duration) -> Part {
        let mut parts = self.parts();
        let id = parts.next;
        parts.next += 1;
        parts.moving.insert(id, Moving { what: what.into(), limit, last: Instant::now() });
        Part { progress: Arc::clone(self), id }
    }

    /// What has not moved for too long, for people.
    #[must_use]
    pub fn stuck(&self) -> Vec<String> {
        self.stuck_at(Instant::now())
    }

    fn stuck_at(&self, now: Instant) -> Vec<String> {
        let parts = self.parts();
        let silence = |part: &Moving| now.saturating_duration_since(part.last);
        let stuck = parts.moving.values().filter(|part| silence(part) > part.limit);
        stuck.map(|part| format!("{} has not moved for {} s", part.what, silence(part).as_secs())).collect()
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something that has to move until it is dropped.
#[derive(Debug)]
pub struct Part {
    progress: Arc<Progress>,
    id: u64,
}

impl Part {
    /// It moves.
    pub fn beat(&self) {
        self.beat_at(Instant::now());
    }

    fn beat_at(&self, now: Instant) {
        if let Some(part) = self.progress.parts().moving.get_mut(&self.id) {
            part.last = now;
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.progress.parts().moving.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_move_is_named_until_it_moves_or_ends() {
        let progress: Arc<Progress> = Arc::default();
        let (often, seldom) = (Duration::from_secs(5), Duration::from_secs(100));
        let loops = progress.begin("the loop", often);
        let long = progress.begin("the reconciliation of mq/demo", seldom);
        let later = |seconds| Instant::now() + Duration::from_secs(seconds);
        assert!(progress.stuck().is_empty());
        assert_eq!(progress.stuck_at(later(7)).len(), 1);
        assert!(progress.stuck_at(later(7))[0].starts_with("the loop has not moved for "));
        assert_eq!(progress.stuck_at(later(200)).len(), 2);
        drop(long);
        assert_eq!(progress.stuck_at(later(200)).len(), 1);
        loops.beat_at(later(195));
        assert!(progress.stuck_at(later(199)).is_empty());
        drop(loops);
        assert!(progress.stuck_at(later(200)).is_empty());
    }
}
