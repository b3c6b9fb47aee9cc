//! A node that has too much to do refuses new connections first, then sheds QoS 0 (docs/overload.md).
//!
//! One task measures a few times a second: the process's memory, and how late the workers' loops are. What follows from it ([`level`],
//! [`memory`]) is in one byte, which workers read with a plain load where a CONNECT is answered and where a message with QoS 0 is taken.

mod level;
mod memory;

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use raftmq_config::Overload as Settings;
use raftmq_mqtt::ReasonCode;

use crate::http::api::Overload as Answer;
use crate::metrics::{Encoder, Metrics, catalog};
use crate::worker::{Clock, NodeShared, Wheel};
use level::{Gauge, Lasting, Level, Marks};
use memory::Resident;

/// How often is measured.
const PERIOD: Duration = Duration::from_millis(250);
/// Measurements after which the control group's limit is read again: it may be changed while the process runs.
const LIMIT_EVERY: u32 = 40;
/// What is below so many per cent of a mark of memory is calm.
const CALM_MEMORY: u64 = 90;
/// And of the loops' delay, which goes up and down by more.
const CALM_DELAY: u64 = 50;

/// In `state`: memory has passed its mark for connections, or for QoS 0; the same of the loops' delay.
const MEMORY_REFUSES: u8 = 1;
const DELAY_REFUSES: u8 = 1 << 1;
const MEMORY_SHEDS: u8 = 1 << 2;
const DELAY_SHEDS: u8 = 1 << 3;

/// Why a connection is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: ReasonCode,
    /// For people.
    pub(crate) detail: &'static str,
}

const OF_MEMORY: Refusal =
    Refusal { reason: ReasonCode::QuotaExceeded, detail: "overload: the node is short of memory" };
const OF_DELAY: Refusal = Refusal { reason: ReasonCode::ServerBusy, detail: "overload: the node's workers are late" };

/// What a node refuses now, and why.
#[derive(Debug)]
pub(crate) struct Overload {
    state: AtomicU8,
    /// Of the last measurement.
    memory: AtomicU64,
    /// 0: none.
    memory_limit: AtomicU64,
    delay_ms: AtomicU64,
    settings: Mutex<Settings>,
}

impl Overload {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            state: AtomicU8::new(0),
            memory: AtomicU64::new(0),
            memory_limit: AtomicU64::new(0),
            delay_ms: AtomicU64::new(0),
            settings: Mutex::new(settings.clone()),
        }
    }

    /// Whether, and why, a connection is refused now.
    pub(crate) fn refuses(&self) -> Option<Refusal> {
        match self.state.load(Relaxed) {
            0 => None,
            state if state & MEMORY_REFUSES != 0 => Some(OF_MEMORY),
            _ => Some(OF_DELAY),
        }
    }

    /// Whether messages with QoS 0 are dropped as they come.
    pub(crate) fn sheds(&self) -> bool {
        self.state.load(Relaxed) >= MEMORY_SHEDS
    }

    /// Other settings, from the next measurement on.
    pub(crate) fn set(&self, settings: &Settings) {
        self.lock().clone_from(settings);
    }

    fn lock(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn level(&self) -> Level {
        match self.state.load(Relaxed) {
            0 => Level::Normal,
            state if state < MEMORY_SHEDS => Level::Refuse,
            _ => Level::Shed,
        }
    }

    /// For the control API.
    pub(crate) fn answer(&self) -> Answer {
        let state = self.state.load(Relaxed);
        let limit = self.memory_limit.load(Relaxed);
        let level = match self.level() {
            Level::Normal => "normal",
            Level::Refuse => "refuse",
            Level::Shed => "shed",
        };
        let reasons = [("memory", MEMORY_REFUSES), ("loopDelay", DELAY_REFUSES)];
        Answer {
            level: level.to_owned(),
            reasons: reasons.iter().filter(|(_, bit)| state & bit != 0).map(|(name, _)| (*name).to_owned()).collect(),
            memory_bytes: self.memory.load(Relaxed),
            memory_limit_bytes: (limit > 0).then_some(limit),
            loop_delay_ms: self.delay_ms.load(Relaxed),
        }
    }

    /// For `/metrics`.
    pub(crate) fn report(&self, out: &mut Encoder) {
        out.gauge(&catalog::OVERLOAD_LEVEL, &[], self.level() as u64);
        out.gauge(&catalog::OVERLOAD_MEMORY, &[], self.memory.load(Relaxed));
        out.gauge(&catalog::OVERLOAD_MEMORY_LIMIT, &[], self.memory_limit.load(Relaxed));
    }

    /// As a measurement would say.
    #[cfg(test)]
    pub(crate) fn force(&self, memory: bool, delay: bool, sheds: bool) {
        let bit = |on: bool, refuses: u8, sheds_bit: u8| match (on, sheds) {
            (false, _) => 0,
            (true, false) => refuses,
            (true, true) => refuses | sheds_bit,
        };
        self.state.store(bit(memory, MEMORY_REFUSES, MEMORY_SHEDS) | bit(delay, DELAY_REFUSES, DELAY_SHEDS), Relaxed);
    }
}

/// Measures until the node ends.
pub(crate) async fn watch(node: std::sync::Arc<NodeShared>) {
    let mut watch = Watch::new();
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        watch.look(&node.overload, &node.metrics, &node.clock);
    }
}

/// What was measured before.
#[derive(Default)]
struct Watch {
    resident: Option<Resident>,
    group_limit: Option<u64>,
    /// Measurements until it is read again.
    limit_due: u32,
    memory: Gauge,
    lasting: Lasting,
    delay: Gauge,
}

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Measured {
    memory: u64,
    /// `None`: there is none.
    memory_limit: Option<u64>,
    delay_ms: u64,
}

impl Watch {
    fn new() -> Self {
        let resident = Resident::open();
        if let Err(error) = &resident {
            tracing::warn!(%error, "the memory of this process is not known: it is never too much");
        }
        Self { resident: resident.ok(), ..Self::default() }
    }

    fn look(&mut self, overload: &Overload, metrics: &Metrics, clock: &Clock) {
        if self.limit_due == 0 {
            self.group_limit = memory::group_limit();
            self.limit_due = LIMIT_EVERY;
        }
        self.limit_due -= 1;
        let settings = overload.lock().clone();
        let own_limit = settings.memory_limit.bytes();
        let measured = Measured {
            memory: self.resident.as_ref().and_then(|resident| resident.read().ok()).unwrap_or(0),
            memory_limit: if own_limit > 0 { Some(own_limit) } else { self.group_limit },
            delay_ms: millis(metrics.loop_delay(Wheel::period())),
        };
        self.step(overload, &settings, clock.ms(), measured);
    }

    /// What comes of a measurement.
    fn step(&mut self, overload: &Overload, settings: &Settings, now_ms: u64, measured: Measured) {
        let recovery_ms = settings.recovery.as_millis();
        let share = |percent: u8| {
            let limit = u128::from(measured.memory_limit?);
            let mark = limit * u128::from(percent) / 100;
            (percent > 0).then(|| u64::try_from(mark).unwrap_or(u64::MAX))
        };
        let of_memory = Marks {
            refuse: share(settings.memory_refuse),
            shed: share(settings.memory_shed),
            calm_percent: CALM_MEMORY,
            recovery_ms,
        };
        let time = |mark: u64| Some(mark).filter(|mark| *mark > 0);
        let of_delay = Marks {
            refuse: time(settings.loop_delay_refuse.as_millis()),
            shed: time(settings.loop_delay_shed.as_millis()),
            calm_percent: CALM_DELAY,
            recovery_ms,
        };
        let memory = self.memory.measured(now_ms, measured.memory, &of_memory);
        let delay = self.delay.measured(now_ms, self.lasting.of(measured.delay_ms), &of_delay);
        overload.memory.store(measured.memory, Relaxed);
        overload.memory_limit.store(measured.memory_limit.unwrap_or(0), Relaxed);
        overload.delay_ms.store(measured.delay_ms, Relaxed);
        let state = bits(memory, MEMORY_REFUSES, MEMORY_SHEDS) | bits(delay, DELAY_REFUSES, DELAY_SHEDS);
        let before = overload.state.swap(state, Relaxed);
        if before != state {
            say(state, memory.max(delay), measured);
        }
    }
}

const fn bits(level: Level, refuses: u8, sheds: u8) -> u8 {
    match level {
        Level::Normal => 0,
        Level::Refuse => refuses,
        Level::Shed => refuses | sheds,
    }
}

fn say(state: u8, level: Level, measured: Measured) {
    let Measured { memory: memory_bytes, memory_limit, delay_ms: loop_delay_ms } = measured;
    let memory_limit_bytes = memory_limit.unwrap_or(0);
    let reason = match (state & MEMORY_REFUSES != 0, state & DELAY_REFUSES != 0) {
        (true, true) => "memory, loop delay",
        (true, false) => "memory",
        (false, true) => "loop delay",
        (false, false) => {
            tracing::info!(memory_bytes, memory_limit_bytes, loop_delay_ms, "overload is over");
            return;
        }
    };
    tracing::warn!(level = level.name(), reason, memory_bytes, memory_limit_bytes, loop_delay_ms, "overload");
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use raftmq_config::{ByteSize, HumanDuration};

    fn settings() -> Settings {
        Settings {
            memory_limit: ByteSize::from_bytes(1_000),
            recovery: HumanDuration::from_millis(0),
            loop_delay_refuse: HumanDuration::from_millis(100),
            loop_delay_shed: HumanDuration::from_millis(200),
            ..Settings::default()
        }
    }

    /// Memory, its limit, delay; what is refused then, whether QoS 0 is shed, and what the control API says.
    #[test]
    fn what_was_measured_decides_what_is_refused_and_why() {
        let overload = Overload::new(&settings());
        let mut watch = Watch::default();
        let steps = [
            ((799, Some(1_000), 0), None, false, "normal", ""),
            ((800, Some(1_000), 0), Some(OF_MEMORY), false, "refuse", "memory"),
            ((900, Some(1_000), 0), Some(OF_MEMORY), true, "shed", "memory"),
            // One level at a time.
            ((0, Some(1_000), 0), Some(OF_MEMORY), false, "refuse", "memory"),
            ((0, Some(1_000), 0), None, false, "normal", ""),
            // Without a limit there is no mark.
            ((u64::MAX, None, 0), None, false, "normal", ""),
            // Late once is nothing.
            ((0, None, 150), None, false, "normal", ""),
            ((0, None, 150), Some(OF_DELAY), false, "refuse", "loopDelay"),
            ((0, None, 300), Some(OF_DELAY), false, "refuse", "loopDelay"),
            ((0, None, 250), Some(OF_DELAY), true, "shed", "loopDelay"),
            ((850, Some(1_000), 250), Some(OF_MEMORY), true, "shed", "memory loopDelay"),
            ((0, Some(1_000), 90), Some(OF_DELAY), false, "refuse", "loopDelay"),
            ((0, Some(1_000), 40), None, false, "normal", ""),
        ];
        for (now_ms, (measured, refused, sheds, level, reasons)) in steps.into_iter().enumerate() {
            let (memory, memory_limit, delay_ms) = measured;
            watch.step(&overload, &settings(), now_ms as u64, Measured { memory, memory_limit, delay_ms });
            assert_eq!((overload.refuses(), overload.sheds()), (refused, sheds), "{measured:?} at {now_ms}");
            let answer = overload.answer();
            assert_eq!((&*answer.level, &*answer.reasons.join(" ")), (level, reasons), "{measured:?} at {now_ms}");
            assert_eq!((answer.memory_bytes, answer.memory_limit_bytes, answer.loop_delay_ms), measured);
        }
    }

    #[test]
    fn marks_of_0_are_none() {
        let never = Settings {
            memory_refuse: 0,
            memory_shed: 0,
            loop_delay_refuse: HumanDuration::from_secs(0),
            loop_delay_shed: HumanDuration::from_secs(0),
            ..settings()
        };
        let overload = Overload::new(&never);
        let mut watch = Watch::default();
        for now_ms in 0..3 {
            let measured = Measured { memory: u64::MAX, memory_limit: Some(1), delay_ms: u64::MAX };
            watch.step(&overload, &never, now_ms, measured);
            assert_eq!((overload.refuses(), overload.sheds()), (None, false));
        }
    }
}
