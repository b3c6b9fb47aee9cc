//! From the flags: who connects to what, and what is to be checked before anything is started.

use std::time::Duration;

use raftmq_mqtt::topic::{validate_filter, validate_topic};
use raftmq_mqtt::{QoS, Version};

use crate::endpoints::Endpoints;
use crate::options::{BenchOptions, CommonOptions, FilterOption, LoadOptions, TimeOptions, Work};
use crate::stamp;
use crate::target::Target;
use crate::template::Template;

/// Most pairs of a publisher and one of its subscribers: for each it is known what came.
const MAX_TRACKS: u64 = 16 << 20;
/// Most bytes of payload: more is a file transfer.
const MAX_PAYLOAD: u32 = 16 << 20;
/// Without --duration.
const DURATION: Duration = Duration::from_secs(10);

/// What the clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Pub,
    Sub,
    Conn,
    Pair,
    Fanin,
    Fanout,
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Pub => "pub",
            Self::Sub => "sub",
            Self::Conn => "conn",
            Self::Pair => "pair",
            Self::Fanin => "fanin",
            Self::Fanout => "fanout",
        }
    }

    /// Whether it is known which messages each subscriber has to get.
    pub(crate) const fn is_end_to_end(self) -> bool {
        matches!(self, Self::Pair | Self::Fanin | Self::Fanout)
    }
}

/// Everything about a run.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) kind: Kind,
    /// Tells this run from others: part of topics, client identifiers and stamps.
    pub(crate) run: u32,
    pub(crate) endpoints: Endpoints,
    pub(crate) urls: Vec<String>,
    /// Where subscribers are not where publishers are.
    pub(crate) subscribe_urls: Option<Vec<String>>,
    pub(crate) version: Version,
    pub(crate) publishers: u32,
    /// Of `conn`, the connections.
    pub(crate) subscribers: u32,
    pub(crate) topic: Template,
    pub(crate) filter: Template,
    /// The subscribers share the messages.
    pub(crate) shared: bool,
    pub(crate) subscriptions: u16,
    pub(crate) qos: QoS,
    pub(crate) payload: usize,
    /// Messages a second; 0: no limit.
    pub(crate) rate: f64,
    /// Nanoseconds.
    pub(crate) tick: u64,
    pub(crate) window: u16,
    pub(crate) messages: Option<u64>,
    pub(crate) warmup: Duration,
    /// `None`: no end by time.
    pub(crate) duration: Option<Duration>,
    /// Messages have stamps that are looked at.
    pub(crate) stamps: bool,
    pub(crate) client_id: String,
    pub(crate) threads: usize,
    pub(crate) options: CommonOptions,
    pub(crate) password: Option<String>,
}

impl Plan {
    /// # Errors
    /// What is wrong with the flags, in a sentence.
    pub(crate) async fn new(options: BenchOptions) -> Result<Self, String> {
        let run = rand::random();
        let (kind, counts, load, filter, apart, common) = match options.work {
            Work::Pub(o) => (Kind::Pub, (o.connections, 0), o.load, None, None, o.common),
            Work::Pair(o) => (Kind::Pair, (o.connections, o.connections), o.load, None, Some(o.apart), o.common),
            Work::Fanin(o) => {
                (Kind::Fanin, (o.publishers, o.subscribers), o.load, Some(o.filter), Some(o.apart), o.common)
            }
            Work::Fanout(o) => {
                (Kind::Fanout, (o.publishers, o.subscribers), o.load, Some(o.filter), Some(o.apart), o.common)
            }
            Work::Sub(o) => {
                let mut plan = Self::without_load(Kind::Sub, run, o.connections, o.topic, &[], o.common).await?;
                (plan.qos, plan.stamps, plan.subscriptions) = (o.qos, o.stamps, 1);
                plan.messages = o.messages;
                plan.warmup = o.time.warmup.get();
                plan.duration = o.time.duration.map(|time| time.get()).filter(|time| !time.is_zero());
                return plan.check();
            }
            Work::Conn(o) => {
                let mut plan = Self::without_load(Kind::Conn, run, o.connections, o.topic, &[], o.common).await?;
                plan.subscriptions = o.subscriptions;
                plan.duration = Some(o.hold.get());
                return plan.check();
            }
        };
        let subscribe_at = apart.map_or_else(Vec::new, |option| option.subscribe_url);
        Self::with_load(kind, run, counts, load, filter, &subscribe_at, common).await?.check()
    }

    async fn with_load(
        kind: Kind,
        run: u32,
        (publishers, subscribers): (u32, u32),
        load: LoadOptions,
        filter: Option<FilterOption>,
        subscribe_at: &[Target],
        common: CommonOptions,
    ) -> Result<Self, String> {
        let default = if kind == Kind::Pub { "raftmq-bench/%i" } else { "raftmq-bench/%r/%i" };
        let topic = load.topic.map_or_else(|| default.parse(), Ok)?;
        let filter = match (kind, filter.and_then(|option| option.filter)) {
            (_, Some(filter)) => filter,
            (Kind::Fanin | Kind::Fanout, None) => topic.wildcard(),
            (_, None) => topic.clone(),
        };
        if kind == Kind::Pair && topic.has_client_id() {
            return Err("--topic: a publisher and its subscriber have different client identifiers: use %i".to_owned());
        }
        if kind == Kind::Pair && publishers > 1 && !topic.varies() {
            return Err("--topic: each pair needs a topic of its own: put %i into it".to_owned());
        }
        let mut plan = Self::without_load(kind, run, subscribers, filter, subscribe_at, common).await?;
        let TimeOptions { duration, warmup } = load.time;
        plan.warmup = warmup.get();
        plan.duration = match duration {
            Some(time) if time.get().is_zero() => None,
            Some(time) => Some(time.get()),
            None => load.messages.is_none().then_some(DURATION),
        };
        plan.publishers = publishers;
        plan.subscriptions = 1;
        plan.topic = topic;
        plan.qos = load.qos;
        plan.payload = usize::try_from(load.payload_size.min(MAX_PAYLOAD + 1)).unwrap_or(usize::MAX);
        plan.rate = load.rate;
        plan.tick = load.tick;
        plan.window = load.window;
        plan.messages = load.messages;
        plan.stamps = plan.payload >= stamp::LENGTH;
        Ok(plan)
    }

    async fn without_load(
        kind: Kind,
        run: u32,
        subscribers: u32,
        filter: Template,
        subscribe_at: &[Target],
        common: CommonOptions,
    ) -> Result<Self, String> {
        let client_id = common.client_id.clone().unwrap_or_else(|| format!("bench-{run:08x}-"));
        Ok(Self {
            kind,
            run,
            endpoints: Endpoints::resolve(&common, subscribe_at).await?,
            urls: common.url.iter().map(ToString::to_string).collect(),
            subscribe_urls: (!subscribe_at.is_empty()).then(|| subscribe_at.iter().map(ToString::to_string).collect()),
            version: common.mqtt_version.into(),
            publishers: 0,
            subscribers,
            shared: filter.fill(0, "", run).starts_with("$share/"),
            topic: filter.clone(),
            filter,
            subscriptions: 0,
            qos: QoS::AtMostOnce,
            payload: 0,
            rate: 0.0,
            tick: 1_000_000,
            window: 1,
            messages: None,
            warmup: Duration::ZERO,
            duration: None,
            stamps: false,
            client_id,
            threads: usize::from(common.threads),
            password: password(&common)?,
            options: common,
        })
    }

    fn check(self) -> Result<Self, String> {
        let clients = u64::from(self.publishers) + u64::from(self.subscribers);
        if clients == 0 || (self.kind.is_end_to_end() && (self.publishers == 0 || self.subscribers == 0)) {
            return Err("there is nothing to do without a client".to_owned());
        }
        if self.publishers > stamp::MAX_PUBLISHERS {
            return Err(format!("there can be {} publishers at most", stamp::MAX_PUBLISHERS));
        }
        for (name, rate) in [("--rate", self.rate), ("--connect-rate", self.options.connect_rate)] {
            if !rate.is_finite() || !(0.0..=1e9).contains(&rate) {
                return Err(format!("{name} is from 0 to 1000000000 a second"));
            }
        }
        if self.payload > MAX_PAYLOAD as usize {
            return Err(format!("--payload-size is {MAX_PAYLOAD} bytes at most"));
        }
        if self.kind.is_end_to_end() && self.kind != Kind::Pair {
            let tracks = u64::from(self.publishers) * u64::from(self.subscribers);
            if tracks > MAX_TRACKS {
                return Err(format!(
                    "{} publishers with {} subscribers each are too many to keep track of ({MAX_TRACKS})",
                    self.publishers, self.subscribers
                ));
            }
            if !self.stamps && (self.publishers > 1 || self.shared) {
                return Err(format!(
                    "--payload-size: with less than {} bytes nobody can tell whose message it is",
                    stamp::LENGTH
                ));
            }
        }
        if self.options.keep_alive.as_secs() > u64::from(u16::MAX) {
            return Err("--keep-alive is 65535 seconds at most".to_owned());
        }
        if self.options.timeout.as_secs() == 0 {
            return Err("--timeout is a second at least".to_owned());
        }
        if self.options.session_expiry.as_secs() > 0 && self.version != Version::V5 {
            return Err("--session-expiry is of MQTT 5; in MQTT 3.1.1, --clean-start false keeps a session".to_owned());
        }
        if self.password.is_some() && self.options.username.is_none() && self.version != Version::V5 {
            return Err("MQTT 3.1.1 has no password without a user name: --username".to_owned());
        }
        if self.publishers > 0 {
            let topic = self.topic.fill(0, &self.client_id(Side::Publisher, 0), self.run);
            validate_topic(&topic).map_err(|error| format!("--topic: {topic:?} {error}"))?;
        }
        if self.subscriptions > 0 {
            let filter = self.filter.fill(0, &self.client_id(Side::Subscriber, 0), self.run);
            validate_filter(&filter).map_err(|error| format!("the filter {filter:?} {error}"))?;
        }
        Ok(self)
    }

    /// The client identifier of a client.
    pub(crate) fn client_id(&self, side: Side, index: u32) -> String {
        let letter = if side == Side::Publisher { 'p' } else { 's' };
        format!("{}{letter}{index}", self.client_id)
    }

    /// How many subscribers have to get each message.
    pub(crate) const fn copies(&self) -> u32 {
        match self.kind {
            Kind::Pub | Kind::Sub | Kind::Conn => 0,
            Kind::Pair => 1,
            Kind::Fanin | Kind::Fanout if self.shared => 1,
            Kind::Fanin | Kind::Fanout => self.subscribers,
        }
    }

    /// Those of a thread: subscribers first, they have to be there first.
    pub(crate) fn clients_of(&self, thread: usize) -> Vec<(Side, u32)> {
        let mine = |count: u32| (thread as u32..count).step_by(self.threads);
        let subscribers = mine(self.subscribers).map(|index| (Side::Subscriber, index));
        subscribers.chain(mine(self.publishers).map(|index| (Side::Publisher, index))).collect()
    }

    /// Where publisher `index` is: its thread, and its place in [`Plan::clients_of`].
    pub(crate) const fn place_of(&self, index: u32) -> (usize, u32) {
        let threads = self.threads as u32;
        let thread = index % threads;
        // So many subscribers of this thread are before it.
        let subscribers = (self.subscribers + threads - 1 - thread) / threads;
        (thread as usize, subscribers + index / threads)
    }
}

/// What a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Publisher,
    Subscriber,
}

fn password(options: &CommonOptions) -> Result<Option<String>, String> {
    let Some(file) = &options.password_file else {
        return Ok(options.password.clone().map(|password| password.0));
    };
    let text = std::fs::read_to_string(file).map_err(|error| format!("--password-file {}: {error}", file.display()))?;
    Ok(Some(text.lines().next().unwrap_or_default().to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: BenchOptions,
    }

    fn plan(arguments: &str) -> Result<Plan, String> {
        let cli = Cli::try_parse_from(["bench"].into_iter().chain(arguments.split_whitespace())).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(Plan::new(cli.options))
    }

    #[test]
    fn every_client_has_one_place() {
        for (publishers, subscribers) in [(1, 500), (200, 1), (7, 7), (3, 10)] {
            for threads in 1..5 {
                let plan =
                    plan(&format!("fanin --publishers {publishers} --subscribers {subscribers} --threads {threads}"))
                        .unwrap();
                let places: Vec<Vec<(Side, u32)>> = (0..threads).map(|thread| plan.clients_of(thread)).collect();
                assert_eq!(places.iter().map(Vec::len).sum::<usize>(), (publishers + subscribers) as usize);
                for index in 0..publishers {
                    let (thread, slot) = plan.place_of(index);
                    assert_eq!(places[thread][slot as usize], (Side::Publisher, index));
                }
            }
        }
    }

    #[test]
    fn a_pair_is_on_one_thread() {
        let plan = plan("pair -c 10 --threads 3").unwrap();
        for thread in 0..3 {
            let clients = plan.clients_of(thread);
            let (subscribers, publishers) = clients.split_at(clients.len() / 2);
            assert!(subscribers.iter().map(|(_, index)| index).eq(publishers.iter().map(|(_, index)| index)));
        }
    }

    #[test]
    fn filters_by_default() {
        let filter = |arguments: &str| {
            let plan = plan(arguments).unwrap();
            (plan.filter.fill(3, "id", 1), plan.copies())
        };
        assert_eq!(filter("pair -c 2 --topic a/%i"), ("a/3".to_owned(), 1));
        assert_eq!(filter("fanin --subscribers 2 --topic a/%i/b"), ("a/+/b".to_owned(), 2));
        assert_eq!(filter("fanout --subscribers 5 --topic a"), ("a".to_owned(), 5));
        assert_eq!(filter("fanout --subscribers 5 --filter $share/g/x"), ("$share/g/x".to_owned(), 1));
    }

    #[test]
    fn what_cannot_be_done_is_said() {
        for (arguments, word) in [
            ("pair -c 2 --topic a", "%i"),
            ("pair -c 2 --topic a/%c", "%i"),
            ("pair -c 0", "without a client"),
            ("pub --topic a/+", "wildcard"),
            ("fanin --payload-size 15", "--payload-size"),
            ("fanin --publishers 100000 --subscribers 1000", "too many"),
            ("pub --rate=-1", "--rate"),
            ("pub --rate NaN", "--rate"),
            ("pub --payload-size 99999999", "--payload-size"),
            ("pub --keep-alive 1d", "--keep-alive"),
            ("pub --mqtt-version 4 --session-expiry 1m", "--session-expiry"),
            ("pub --mqtt-version 4 --password x", "--username"),
            ("pub --insecure", "mqtts"),
            ("pair --subscribe-url mqtt://127.0.0.1 --insecure", "mqtts"),
            ("pair --subscribe-url mqtts://127.0.0.1 --ca /nonexistent", "/nonexistent"),
            ("fanin --subscribe-url mqtt://no-such-host.invalid", "no-such-host.invalid"),
            ("pub --url mqtts://127.0.0.1 --ca /nonexistent", "/nonexistent"),
            ("pub --password-file /nonexistent", "/nonexistent"),
            ("sub --topic a#", "filter"),
        ] {
            let error = plan(arguments).unwrap_err();
            assert!(error.contains(word), "{arguments}: {error}");
        }
    }

    #[test]
    fn how_long() {
        let time = |arguments: &str| plan(arguments).unwrap().duration.map(|time| time.as_secs());
        assert_eq!(time("pub"), Some(10));
        assert_eq!(time("pub -n 5"), None);
        assert_eq!(time("pub -n 5 -d 3s"), Some(3));
        assert_eq!(time("pub -d 0s"), None);
        assert_eq!(time("sub"), None);
        assert_eq!(time("conn --hold 7s"), Some(7));
    }
}
