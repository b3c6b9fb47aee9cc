//! The command line of `raftmq bench`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use raftmq_config::HumanDuration;
use raftmq_mqtt::{QoS, Version};

use crate::target::Target;
use crate::template::Template;

/// Measure a broker: make load, and say what became of it
///
/// Clients of any MQTT broker, from this one process: as cheap as it can be, since it often shares the machine with what it measures. Progress goes
/// to standard error, the report to standard output: a table, or with --json one JSON document (docs/bench.md has its fields).
///
/// Exit status: 0 all was delivered and nothing failed; 1 something was lost, repeated at QoS 2, out of order, not acknowledged, or
/// failed; 2 wrong usage. Ctrl-C ends the load early, with a report; a second one at once.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  raftmq bench pair -c 200 --rate 20000                     200 publishers, each with a subscriber of its own
  raftmq bench pair -c 200 --qos 1 --window 50              the same, as fast as the broker can with 50 in flight each
  raftmq bench fanout --subscribers 500 --rate 100          50,000 deliveries a second
  raftmq bench fanin --publishers 200 --qos 1 --rate 10000
  raftmq bench pair --url mqtt://node-a --subscribe-url mqtt://node-b
                                                            every message crosses from one node to another
  raftmq bench conn -c 10000 --connect-rate 2000 --subscriptions 1 --hold 1m
  raftmq bench pub -c 10 --qos 1 --url mqtts://broker.example.org --ca ca.pem")]
pub struct BenchOptions {
    #[command(subcommand)]
    pub(crate) work: Work,
}

/// What the clients do.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Work {
    /// Publish; nobody of this run subscribes
    ///
    /// The latency is that of the acknowledgement (QoS 1 and 2).
    Pub(PubOptions),
    /// Subscribe, and count what comes
    Sub(SubOptions),
    /// Connect, stay, disconnect: the cost of connections
    Conn(ConnOptions),
    /// Each publisher has a subscriber of its own
    Pair(PairOptions),
    /// Many publishers, few subscribers that each get everything
    Fanin(FaninOptions),
    /// Few publishers, many subscribers that each get everything
    Fanout(FanoutOptions),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct PubOptions {
    /// Number of publishers
    #[arg(short, long, default_value_t = 10, value_name = "N")]
    pub(crate) connections: u32,
    #[command(flatten)]
    pub(crate) load: LoadOptions,
    #[command(flatten)]
    pub(crate) common: CommonOptions,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct SubOptions {
    /// Number of subscribers
    #[arg(short, long, default_value_t = 1, value_name = "N")]
    pub(crate) connections: u32,
    /// What each subscribes to: %i is its number, %c its client identifier
    #[arg(short, long, default_value = "raftmq-bench/#", value_name = "FILTER")]
    pub(crate) topic: Template,
    /// Quality of service asked for
    #[arg(short, long, default_value = "0", value_name = "0|1|2", value_parser = qos)]
    pub(crate) qos: QoS,
    /// The messages are those of `raftmq bench` on this machine: measure their latency, and look for repeated ones and gaps
    #[arg(long)]
    pub(crate) stamps: bool,
    /// End after so many messages, all subscribers together
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) messages: Option<u64>,
    #[command(flatten)]
    pub(crate) time: TimeOptions,
    #[command(flatten)]
    pub(crate) common: CommonOptions,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ConnOptions {
    /// Number of connections
    #[arg(short, long, default_value_t = 1000, value_name = "N")]
    pub(crate) connections: u32,
    /// Subscriptions of each, to `TOPIC/n`
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) subscriptions: u16,
    /// What the subscriptions begin with: %i is the number of the client, %c its client identifier
    #[arg(short, long, default_value = "raftmq-bench/%r/%i", value_name = "TOPIC")]
    pub(crate) topic: Template,
    /// How long they stay once all are there
    #[arg(long, default_value = "0s", value_name = "TIME")]
    pub(crate) hold: HumanDuration,
    #[command(flatten)]
    pub(crate) common: CommonOptions,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct PairOptions {
    /// Number of pairs
    #[arg(short, long, visible_alias = "pairs", default_value_t = 10, value_name = "N")]
    pub(crate) connections: u32,
    #[command(flatten)]
    pub(crate) apart: ApartOption,
    #[command(flatten)]
    pub(crate) load: LoadOptions,
    #[command(flatten)]
    pub(crate) common: CommonOptions,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct FaninOptions {
    /// Number of publishers
    #[arg(short = 'c', long, visible_alias = "connections", default_value_t = 10, value_name = "N")]
    pub(crate) publishers: u32,
    /// Number of subscribers
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) subscribers: u32,
    #[command(flatten)]
    pub(crate) filter: FilterOption,
    #[command(flatten)]
    pub(crate) apart: ApartOption,
    #[command(flatten)]
    pub(crate) load: LoadOptions,
    #[command(flatten)]
    pub(crate) common: CommonOptions,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct FanoutOptions {
    /// Number of publishers
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) publishers: u32,
    /// Number of subscribers
    #[arg(short = 'c', long, visible_alias = "connections", default_value_t = 10, value_name = "N")]
    pub(crate) subscribers: u32,
    #[command(flatten)]
    pub(crate) filter: FilterOption,
    #[command(flatten)]
    pub(crate) apart: ApartOption,
    #[command(flatten)]
    pub(crate) load: LoadOptions,
    #[command(flatten)]
    pub(crate) common: CommonOptions,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct FilterOption {
    /// What subscribers subscribe to [default: --topic with + for what differs from publisher to publisher]
    ///
    /// With $share/GROUP/FILTER the subscribers share the messages: each is expected once.
    #[arg(long, value_name = "FILTER")]
    pub(crate) filter: Option<Template>,
}

/// Subscribers that are not where the publishers are.
#[derive(Clone, Debug, Args)]
pub(crate) struct ApartOption {
    /// Where the subscribers connect to; --url is of the publishers then [default: --url]
    ///
    /// In turn, as with --url. With two nodes of one cluster, every message crosses from the one to the other.
    #[arg(long, value_name = "URL", help_heading = "Connections")]
    pub(crate) subscribe_url: Vec<Target>,
}

/// What publishers send.
#[derive(Clone, Debug, Args)]
pub(crate) struct LoadOptions {
    /// Topic of each publisher: %i is its number, %c its client identifier, %r a number of this run [default: raftmq-bench/%r/%i; of
    /// pub: raftmq-bench/%i]
    #[arg(short, long, value_name = "TOPIC", help_heading = "Load")]
    pub(crate) topic: Option<Template>,
    /// Quality of service of messages and subscriptions
    #[arg(short, long, default_value = "0", value_name = "0|1|2", value_parser = qos, help_heading = "Load")]
    pub(crate) qos: QoS,
    /// Bytes of payload; the first 16 say who sent it when, below that there is no latency
    #[arg(short = 's', long, default_value_t = 64, value_name = "BYTES", help_heading = "Load")]
    pub(crate) payload_size: u32,
    /// Messages published a second, all publishers together; 0: as fast as the window allows
    #[arg(short, long, default_value_t = 0.0, value_name = "RATE", help_heading = "Load")]
    pub(crate) rate: f64,
    /// Most messages in flight of each publisher: not acknowledged (QoS 1 and 2), or not at all of its subscribers yet
    ///
    /// `pub` with QoS 0 has neither: there the socket's buffer is the limit.
    #[arg(short, long, default_value_t = 50, value_name = "N", help_heading = "Load",
        value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) window: u16,
    /// End after so many messages, all publishers together; without --duration there is no other end
    #[arg(short = 'n', long, value_name = "N", help_heading = "Load")]
    pub(crate) messages: Option<u64>,
    /// At a fixed rate, what is due within this time is sent together (ns, us, ms, s)
    #[arg(long, default_value = "1ms", value_name = "TIME", value_parser = tick, help_heading = "Load")]
    pub(crate) tick: u64,
    #[command(flatten)]
    pub(crate) time: TimeOptions,
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct TimeOptions {
    /// How long is measured; 0s: until Ctrl-C [default: 10s, of sub: 0s]
    #[arg(short, long, value_name = "TIME", help_heading = "Load")]
    pub(crate) duration: Option<HumanDuration>,
    /// How long it runs before it is measured
    #[arg(long, default_value = "0s", value_name = "TIME", help_heading = "Load")]
    pub(crate) warmup: HumanDuration,
}

/// What all have.
#[derive(Clone, Debug, Args)]
pub(crate) struct CommonOptions {
    /// Where to: mqtt, mqtts, ws or wss://HOST[:PORT][/PATH]; given several times, clients are spread over them in turn, as over
    /// the addresses of a name
    #[arg(short, long, default_value = "mqtt://127.0.0.1:1883", value_name = "URL", help_heading = "Connections")]
    pub(crate) url: Vec<Target>,
    /// Version of MQTT
    #[arg(long, value_enum, default_value_t = MqttVersion::V5, value_name = "4|5", help_heading = "Connections")]
    pub(crate) mqtt_version: MqttVersion,
    /// Connections begun a second; 0: as fast as they come up
    #[arg(long, default_value_t = 0.0, value_name = "RATE", help_heading = "Connections")]
    pub(crate) connect_rate: f64,
    /// Connections that come up at the same time, of each thread. More in all than a listener's backlog (100 of many brokers) lose SYNs, and each waits a second
    /// until it is sent again
    #[arg(long, default_value_t = 64, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Connections")]
    pub(crate) connecting: u32,
    /// What client identifiers begin with; `p` or `s` and a number follow [default: bench-RUN-]
    #[arg(long, value_name = "TEXT", help_heading = "Connections")]
    pub(crate) client_id: Option<String>,
    /// Begin with a new session (MQTT 3.1.1: clean session)
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "true|false", help_heading = "Connections")]
    pub(crate) clean_start: bool,
    /// How long the server keeps the session (MQTT 5)
    #[arg(long, default_value = "0s", value_name = "TIME", help_heading = "Connections")]
    pub(crate) session_expiry: HumanDuration,
    /// Keep-alive; 0s: none
    #[arg(long, default_value = "60s", value_name = "TIME", help_heading = "Connections")]
    pub(crate) keep_alive: HumanDuration,
    /// User name
    #[arg(long, env = "RAFTMQ_BENCH_USERNAME", value_name = "NAME", help_heading = "Connections")]
    pub(crate) username: Option<String>,
    /// Password; whoever may list processes sees it: better RAFTMQ_BENCH_PASSWORD, or --password-file
    #[arg(
        long,
        env = "RAFTMQ_BENCH_PASSWORD",
        hide_env_values = true,
        value_name = "TEXT",
        help_heading = "Connections"
    )]
    pub(crate) password: Option<Password>,
    /// The first line of this file is the password
    #[arg(long, conflicts_with = "password", value_name = "FILE", help_heading = "Connections")]
    pub(crate) password_file: Option<PathBuf>,
    /// Trust the authorities of this file (PEM) instead of the system's
    #[arg(long, value_name = "FILE", help_heading = "Connections")]
    pub(crate) ca: Option<PathBuf>,
    /// Certificate to show to the server (PEM)
    #[arg(long, requires = "key", value_name = "FILE", help_heading = "Connections")]
    pub(crate) cert: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, requires = "cert", value_name = "FILE", help_heading = "Connections")]
    pub(crate) key: Option<PathBuf>,
    /// Take any certificate of the server
    #[arg(long, conflicts_with = "ca", help_heading = "Connections")]
    pub(crate) insecure: bool,
    /// Source addresses, used in turn: each has some 28,000 ports to one address of a broker
    #[arg(long, value_delimiter = ',', value_name = "ADDRESS", help_heading = "Connections")]
    pub(crate) bind: Vec<IpAddr>,
    /// How long anything may be waited for: a connection, an acknowledgement, the last deliveries
    #[arg(long, default_value = "10s", value_name = "TIME", help_heading = "Connections")]
    pub(crate) timeout: HumanDuration,
    /// Threads, each with its part of the clients
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256), help_heading = "Run")]
    pub(crate) threads: u16,
    /// One JSON document instead of a table
    #[arg(long, help_heading = "Run")]
    pub(crate) json: bool,
    /// A line a second on standard error [default: where that is a terminal]
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "true|false", help_heading = "Run")]
    pub(crate) progress: Option<bool>,
    /// Processes of the broker on this machine: report the processor time and memory that they take meanwhile
    #[arg(long, value_delimiter = ',', value_name = "PID", help_heading = "Run")]
    pub(crate) watch_pid: Vec<u32>,
}

/// A secret: its debug form is nothing.
#[derive(Clone)]
pub(crate) struct Password(pub(crate) String);

impl std::str::FromStr for Password {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

/// `--mqtt-version`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum MqttVersion {
    /// MQTT 3.1.1.
    #[value(name = "4", alias = "3.1.1")]
    V4,
    /// MQTT 5.0.
    #[value(name = "5", alias = "5.0")]
    V5,
}

impl From<MqttVersion> for Version {
    fn from(version: MqttVersion) -> Self {
        match version {
            MqttVersion::V4 => Self::V3_1_1,
            MqttVersion::V5 => Self::V5,
        }
    }
}

fn qos(text: &str) -> Result<QoS, String> {
    text.parse().ok().and_then(QoS::from_u8).ok_or_else(|| "it is 0, 1 or 2".to_owned())
}

/// A short duration, in nanoseconds.
fn tick(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = match unit {
        "ns" => 1,
        "us" | "µs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        _ => return Err("write a number with its unit (ns, us, ms, s), as 100us or 1ms".to_owned()),
    };
    let ticks = number.parse::<u64>().ok().and_then(|number| number.checked_mul(scale));
    ticks.filter(|ticks| (1_000..=1_000_000_000).contains(ticks)).ok_or_else(|| "it is from 1us to 1s".to_owned())
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

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn a_password_is_never_shown() {
        let cli = Cli::try_parse_from(["bench", "pub", "--username", "u", "--password", "secret"]).unwrap();
        assert!(!format!("{:?}", cli.options).contains("secret"));
    }

    #[test]
    fn ticks() {
        assert_eq!((tick("100us"), tick("1ms"), tick("1s")), (Ok(100_000), Ok(1_000_000), Ok(1_000_000_000)));
        for wrong in ["", "1", "ms", "1m", "999ns", "2s", "-1ms", "99999999999999999999s"] {
            assert!(tick(wrong).is_err(), "{wrong}");
        }
    }
}
