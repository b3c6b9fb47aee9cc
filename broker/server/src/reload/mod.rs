//! Settings that are read again while the node runs.
//!
//! `file → checked as a whole → what can change does → said what changed, and what needs a new start`. A file with an error
//! changes nothing.

mod plan;

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use raftmq_config::{Config, ConfigError};
use raftmq_session::SessionLimits;

use crate::check::{Files, check};
use crate::features::{FeatureError, Rules};
use crate::http::api::Reloaded;
use crate::telemetry::{FilterError, LogControl};
use crate::worker::{ListenerState, Live, NodeShared, listener_limits};

/// Why nothing has changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReloadError {
    #[error("the node was started without --config: there is no file to read again")]
    NoFile,
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Feature(#[from] FeatureError),
    #[error("log: {0}")]
    Log(#[from] FilterError),
}

/// Where the settings come from: the same as at the node's start.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// The file, if there is one.
    pub(crate) file: Option<PathBuf>,
    /// Settings from flags.
    pub(crate) overrides: Vec<(String, String)>,
}

/// Gives a running node new settings.
pub(crate) struct Reloader {
    source: Source,
    /// Those that count now. Locked while others are put in their place: one after the other.
    running: Mutex<Config>,
    shared: Arc<NodeShared>,
    listeners: Vec<ListenerState>,
    log: LogControl,
}

impl Reloader {
    /// For a node that was started with these settings.
    pub(crate) fn new(
        source: Source,
        running: Config,
        shared: Arc<NodeShared>,
        listeners: Vec<ListenerState>,
        log: LogControl,
    ) -> Self {
        Self { source, running: Mutex::new(running), shared, listeners, log }
    }

    /// Reads the settings again, and says in the log what came of it. It waits for files.
    pub(crate) fn reload(&self) -> Result<Reloaded, ReloadError> {
        let result = self.try_reload();
        if let Err(error) = &result {
            tracing::error!(%error, "the settings were read again and nothing has changed");
        }
        result
    }

    fn try_reload(&self) -> Result<Reloaded, ReloadError> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let file = self.source.file.as_deref().ok_or(ReloadError::NoFile)?;
        let (wanted, origins) = Config::load_with_origins(Some(file), std::env::vars(), &self.source.overrides)?;
        check(&wanted, &origins, Files::Read)?;
        let mounts: Vec<_> = self.listeners.iter().map(|listener| listener.limits.mount_point.as_deref()).collect();
        let plan = plan::plan(&running, &wanted, &mounts);
        let applied = plan.applied;
        // Everything that may fail comes before anything is changed.
        let rules = Rules::new(&applied.mqtt)?;
        let filter = applied.log.filter().parse()?;
        let log_changed = applied.log.filter() != running.log.filter();
        let limits = applied.listeners.iter().zip(&mounts).map(|(listener, mount)| {
            Arc::new(SessionLimits { mount_point: mount.map(Arc::from), ..listener_limits(listener, &applied) })
        });
        let live = Live { limits: limits.collect(), rules: Arc::new(rules) };
        let now_ms = self.shared.clock.ms();
        for (listener, state) in applied.listeners.iter().zip(&self.listeners) {
            state.rates.set(listener.rates.as_ref(), now_ms);
        }
        // The workers look at those, too, when they are told.
        self.shared.live.send_replace(Arc::new(live));
        self.shared.overload.set(&applied.overload);
        for (listener, state) in applied.listeners.iter().zip(&self.listeners) {
            state.max_connections.store(listener.max_connections.unwrap_or(0), Ordering::Relaxed);
            // They are looked at from time to time as well.
            if let Some(certificates) = &state.tls {
                certificates.look();
            }
        }
        let done = Reloaded { changed: plan.changed, needs_restart: plan.needs_restart };
        // By the filter that was or by the one that comes, whichever lets it through.
        let by_former = tracing::enabled!(tracing::Level::INFO);
        if by_former {
            say(&done);
        }
        if log_changed {
            // A filter that `raftmq ctl log` has set stays while the file says what it did.
            self.log.set(filter);
        }
        if !by_former {
            say(&done);
        }
        *running = applied;
        Ok(done)
    }
}

fn say(Reloaded { changed, needs_restart }: &Reloaded) {
    let (changed, needs_restart) = (changed.join(", "), needs_restart.join(", "));
    tracing::info!(changed, needs_restart, "settings read again");
}
