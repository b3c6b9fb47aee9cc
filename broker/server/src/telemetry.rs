//! Logs: tracing events to standard error, as text or JSON, filtered by a level that changes while running.
//!
//! A filter is a level (`info`), or levels of single modules too: `warn,raftmq_raft=debug`. What cannot
//! be understood is refused, instead of being taken for a module's name and silencing everything else.

use std::fmt;
use std::io::{self, IsTerminal};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use raftmq_config::LogFormat;
use thiserror::Error;
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

/// The longest filter that is accepted, in bytes.
const MAX_FILTER: usize = 1024;

/// Libraries that are quieter than the rest: Raft's tells each step of its engine, and each heartbeat that a dead peer missed;
/// the store tells each file.
const QUIET: [(&str, LevelFilter); 3] =
    [("openraft", LevelFilter::ERROR), ("fjall", LevelFilter::WARN), ("lsm_tree", LevelFilter::WARN)];

/// Which events are logged.
#[derive(Debug, Clone, PartialEq)]
pub struct LogFilter {
    text: String,
    targets: Targets,
}

/// Why a filter is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{part:?} is not a log filter: {reason}; allowed is error, warn, info, debug, trace or off, and \
     module=level after commas, as in info,raftmq_raft=debug"
)]
pub struct FilterError {
    /// The part that is wrong, cut to a printable length.
    pub part: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// Why logging could not be set up.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// The filter is wrong.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// Somebody set logging up before.
    #[error("logging was set up twice: {0}")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

impl FromStr for LogFilter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let wrong = |part: &str, reason| FilterError { part: part.chars().take(100).collect(), reason };
        if text.len() > MAX_FILTER {
            return Err(wrong(text, "it is longer than 1024 bytes"));
        }
        let mut targets = Targets::new();
        let mut default = None;
        let mut parts = Vec::new();
        for part in text.split(',').map(str::trim) {
            match part.split_once('=') {
                None => {
                    let level = level(part).ok_or_else(|| wrong(part, "it is not a level"))?;
                    if default.replace(level).is_some() {
                        return Err(wrong(part, "it is the second level without a module"));
                    }
                    parts.push(part.to_ascii_lowercase());
                }
                Some((module, name)) => {
                    let (module, name) = (module.trim(), name.trim());
                    let level = level(name).ok_or_else(|| wrong(part, "what stands after = is not a level"))?;
                    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_:".contains(&byte);
                    if module.is_empty() || !module.bytes().all(allowed) {
                        return Err(wrong(part, "there is no module's name before ="));
                    }
                    targets = targets.with_target(module, level);
                    parts.push(format!("{module}={}", name.to_ascii_lowercase()));
                }
            }
        }
        // Without a level of its own the rest keeps the usual one.
        if default.is_none() {
            parts.insert(0, "info".to_owned());
        }
        let default = default.unwrap_or(LevelFilter::INFO);
        let text = parts.join(",");
        for (module, most) in QUIET {
            // What is said of them by name counts instead.
            if !text.contains(&format!("{module}=")) && !text.contains(&format!("{module}::")) {
                targets = targets.with_target(module, most.min(default));
            }
        }
        Ok(Self { text, targets: targets.with_default(default) })
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn level(text: &str) -> Option<LevelFilter> {
    // `LevelFilter::from_str` takes numbers and the empty text too.
    ["off", "error", "warn", "info", "debug", "trace"]
        .iter()
        .find(|name| name.eq_ignore_ascii_case(text))
        .and_then(|name| name.parse().ok())
}

/// Changes the filter of a running process.
#[derive(Clone)]
pub struct LogControl {
    handle: reload::Handle<Targets, Registry>,
    current: Arc<Mutex<LogFilter>>,
}

impl fmt::Debug for LogControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogControl").field("filter", &self.filter().text).finish_non_exhaustive()
    }
}

impl LogControl {
    /// The filter in force.
    #[must_use]
    pub fn filter(&self) -> LogFilter {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts another filter into force at once, for all threads.
    pub fn set(&self, filter: LogFilter) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        // It fails only when the subscriber is gone, and then there is nothing to filter.
        if self.handle.reload(filter.targets.clone()).is_ok() {
            *current = filter;
        }
    }
}

/// Sends the process's events to standard error.
///
/// # Errors
///
/// The filter is wrong, or logging has been set up before.
pub fn init(format: LogFormat, filter: &str) -> Result<LogControl, TelemetryError> {
    let colours = io::stderr().is_terminal();
    let (subscriber, control) = build(format, filter.parse()?, colours, io::stderr);
    subscriber.try_init()?;
    Ok(control)
}

fn build<W>(
    format: LogFormat,
    filter: LogFilter,
    colours: bool,
    writer: W,
) -> (Box<dyn Subscriber + Send + Sync>, LogControl)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (layer, handle) = reload::Layer::new(filter.targets.clone());
    let registry = tracing_subscriber::registry().with(layer);
    let output = tracing_subscriber::fmt::layer().with_writer(writer);
    let subscriber: Box<dyn Subscriber + Send + Sync> = match format {
        LogFormat::Text => Box::new(registry.with(output.with_ansi(colours))),
        LogFormat::Json => Box::new(registry.with(output.json().flatten_event(true))),
    };
    let control = LogControl { handle, current: Arc::new(Mutex::new(filter)) };
    (subscriber, control)
}

/// A log that goes nowhere and can be controlled, for tests that must not touch the process's own.
#[cfg(test)]
pub(crate) fn detached() -> LogControl {
    let filter: LogFilter = "info".parse().expect("info is a level");
    let (subscriber, control) = build(LogFormat::Text, filter, false, io::sink);
    // The control works as long as its subscriber lives.
    Box::leak(Box::new(subscriber));
    control
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Captured {
        fn take(&self) -> String {
            String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
        }
    }

    fn with(format: LogFormat, filter: &str, body: impl FnOnce(&Captured, &LogControl)) {
        let captured = Captured::default();
        let writer = captured.clone();
        let (subscriber, control) = build(format, filter.parse().unwrap(), false, move || writer.clone());
        tracing::subscriber::with_default(subscriber, || body(&captured, &control));
    }

    #[test]
    fn the_level_changes_while_running() {
        with(LogFormat::Text, "info", |captured, control| {
            tracing::debug!("hidden");
            tracing::info!(answer = 42, "shown");
            let text = captured.take();
            assert!(text.contains("shown") && text.contains("answer=42"), "{text}");
            assert!(!text.contains("hidden"), "{text}");

            control.set("debug".parse().unwrap());
            tracing::debug!("now shown");
            assert!(captured.take().contains("now shown"));

            control.set("error,elsewhere=debug".parse().unwrap());
            assert_eq!(control.filter().to_string(), "error,elsewhere=debug");
            tracing::info!("hidden");
            tracing::debug!(target: "elsewhere", "by target");
            let text = captured.take();
            assert!(text.contains("by target") && !text.contains("hidden"), "{text}");
        });
    }

    #[test]
    fn json_is_one_object_a_line() {
        with(LogFormat::Json, "info", |captured, _| {
            tracing::warn!(peer = "a:1", "two\nlines");
            let text = captured.take();
            assert_eq!(text.trim_end().lines().count(), 1);
            let event: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(event["message"], "two\nlines");
            assert_eq!(event["peer"], "a:1");
            assert_eq!(event["level"], "WARN");
        });
    }

    #[test]
    fn a_filter_is_understood_or_refused() {
        for (text, normal) in [
            ("info", "info"),
            (" WARN , raftmq_raft = Debug ", "warn,raftmq_raft=debug"),
            ("raftmq::http=trace", "info,raftmq::http=trace"),
            ("off", "off"),
        ] {
            assert_eq!(text.parse::<LogFilter>().unwrap().to_string(), normal);
        }
        let long = "info,".repeat(300);
        for text in ["", "inof", "3", "info,", "info,warn", "a=", "=info", "a=b", "a b=info", "[span]=info", &long] {
            assert!(text.parse::<LogFilter>().is_err(), "{text:?}");
        }
        // What the settings' check lets through is understood here.
        for modules in ["quinn=warn", "a::b=off, c = DEBUG"] {
            let log = raftmq_config::Log { modules: modules.to_owned(), ..raftmq_config::Log::default() };
            let config = raftmq_config::Config { log, ..raftmq_config::Config::default() };
            config.validate().unwrap();
            config.log.filter().parse::<LogFilter>().unwrap();
        }
        let error = "inof".parse::<LogFilter>().unwrap_err().to_string();
        assert!(error.contains("\"inof\" is not a log filter: it is not a level"), "{error}");
    }
}
