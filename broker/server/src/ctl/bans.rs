//! `raftmq ctl bans`: who may not connect.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand, ValueEnum};
use raftmq_config::HumanDuration;

use super::options::Output;
use super::table::Table;
use super::{CtlError, print};
use crate::http::api::{Ban, BanKind, BanRequest, Bans, UnbanRequest};
use crate::http::client::ControlClient;

/// What to do with the bans.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum BansCommand {
    /// All bans of the cluster
    List,
    /// Ban clients on all nodes: connections that are open are closed, new ones refused
    ///
    /// A ban of the same kind and value is replaced.
    #[command(after_help = "Examples:
  raftmq ctl bans add clientid pump-7 --reason 'sends nonsense' --for 10m
  raftmq ctl bans add username guest
  raftmq ctl bans add address 10.1.0.0/16 --until 2027-01-01T00:00:00Z")]
    Add(Add),
    /// End a ban
    #[command(alias = "remove")]
    Delete {
        /// What VALUE is
        #[arg(value_enum)]
        kind: Kind,
        /// As `list` shows it
        value: String,
    },
}

/// A new ban.
#[derive(Clone, Debug, Args)]
pub(crate) struct Add {
    /// What VALUE is
    #[arg(value_enum)]
    kind: Kind,
    /// Client identifier, user name, IP address, or range of addresses in CIDR form
    value: String,
    /// Why, for people; at most 256 bytes
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    /// It ends after this time, as 10m or 2h; without it and --until: when it is deleted
    #[arg(long = "for", value_name = "DURATION", conflicts_with = "until")]
    lasts: Option<HumanDuration>,
    /// It ends at this time in UTC, as 2027-01-01T00:00:00Z
    #[arg(long, value_name = "TIME", value_parser = read_time)]
    until: Option<u64>,
}

/// By what a ban knows its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// The client identifier.
    Clientid,
    /// The user name.
    Username,
    /// Where the client comes from.
    Address,
}

impl From<Kind> for BanKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Clientid => Self::ClientId,
            Kind::Username => Self::Username,
            Kind::Address => Self::Address,
        }
    }
}

pub(super) async fn run(client: &ControlClient, command: &BansCommand, output: Output) -> Result<(), CtlError> {
    match command {
        BansCommand::List => {
            let answer = client.bans().await?;
            print(output, &answer, || table(&answer, now_ms()))
        }
        BansCommand::Add(add) => {
            let request = BanRequest {
                kind: add.kind.into(),
                value: add.value.clone(),
                reason: add.reason.clone(),
                for_ms: add.lasts.map(HumanDuration::as_millis),
                until_ms: add.until,
            };
            let answer = client.ban(&request).await?;
            print(output, &answer, || {
                format!("{} {:?} is banned{}\n", name(answer.kind), answer.value, ends(&answer, now_ms()))
            })
        }
        BansCommand::Delete { kind, value } => {
            let answer = client.unban(&UnbanRequest { kind: (*kind).into(), value: value.clone() }).await?;
            print(output, &answer, || format!("{} {:?} may connect again\n", name(answer.kind), answer.value))
        }
    }
}

const fn name(kind: BanKind) -> &'static str {
    match kind {
        BanKind::ClientId => "clientid",
        BanKind::Username => "username",
        BanKind::Address => "address",
    }
}

fn table(answer: &Bans, now_ms: u64) -> String {
    if answer.bans.is_empty() {
        return "nobody is banned\n".into();
    }
    let mut table = Table::new(&["KIND", "VALUE", "ENDS", "REASON", "BY"]);
    for ban in &answer.bans {
        let left = ban.until_ms.map_or_else(|| "never".to_owned(), |until| left(until, now_ms));
        table.row([name(ban.kind).to_owned(), ban.value.clone(), left, ban.reason.clone(), ban.by.clone()]);
    }
    table.to_string()
}

fn ends(ban: &Ban, now_ms: u64) -> String {
    ban.until_ms.map_or_else(String::new, |until| format!("; it ends {}", left(until, now_ms)))
}

fn left(until_ms: u64, now_ms: u64) -> String {
    let seconds = until_ms.saturating_sub(now_ms).div_ceil(1000);
    match seconds {
        0 => "now".into(),
        _ => format!("in {}", HumanDuration::from_secs(seconds)),
    }
}

fn now_ms() -> u64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(unix.as_millis()).unwrap_or(u64::MAX)
}

/// `2027-01-01T00:00:00Z` in milliseconds since the Unix epoch.
fn read_time(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a time in UTC as 2027-01-01T00:00:00Z");
    let shape = |(at, byte): (usize, u8)| match at {
        4 | 7 => byte == b'-',
        10 => byte == b'T',
        13 | 16 => byte == b':',
        19 => byte == b'Z',
        _ => byte.is_ascii_digit(),
    };
    if text.len() != 20 || !text.bytes().enumerate().all(shape) {
        return Err(wrong());
    }
    let number = |from: usize, to: usize| text[from..to].parse::<u64>().map_err(|_| wrong());
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let month = usize::try_from(month).ok().and_then(|month| month.checked_sub(1)).filter(|month| *month < 12);
    let month = month.ok_or_else(wrong)?;
    if year < 1970 || day == 0 || day > days[month] || hour > 23 || minute > 59 || second > 59 {
        return Err(wrong());
    }
    let years: u64 = (1970..year).map(|year| 365 + u64::from(leap(year))).sum();
    let day = years + days[..month].iter().sum::<u64>() + day - 1;
    Ok((((day * 24 + hour) * 60 + minute) * 60 + second) * 1000)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, unix_ms) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T00:00:00Z", 951_782_400_000),
            ("2025-04-01T07:00:00Z", 1_743_490_800_000),
            ("2100-03-01T00:00:00Z", 4_107_542_400_000),
        ] {
            assert_eq!(read_time(text).unwrap(), unix_ms, "{text}");
        }
        for wrong in [
            "",
            "2027-01-01",
            "2027-02-29T00:00:00Z",
            "2027-13-01T00:00:00Z",
            "2027-01-01T00:00:00+",
            "2027-01-01T24:00:00Z",
        ] {
            assert!(read_time(wrong).is_err(), "{wrong}");
        }
    }
}
