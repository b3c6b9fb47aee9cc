//! The DNS strategy: look up, publish, sleep until the records expire.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::proto::rr::RData;
use tokio::sync::Notify;

use crate::address::HostPort;
use crate::peers::{Peer, Publisher};
use crate::resolver::{Answer, ResolveError, Resolver};
use crate::settings::{DnsRecords, DnsSettings};

/// No look-up comes sooner after the last one, however short the records' time to live.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
/// A node without peers looks often: the others are starting too.
const EMPTY_PAUSE: Duration = Duration::from_secs(2);
/// The pause after the first failure; it doubles with each one.
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// The longest pause after a failure.
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// Searches until it is aborted.
pub(crate) async fn run(settings: DnsSettings, refresh: Duration, publisher: Publisher, now: Arc<Notify>) {
    let resolver = if settings.servers.is_empty() {
        Resolver::system_with(settings.timeout, refresh)
    } else {
        Resolver::servers_with(&settings.servers, settings.timeout, refresh)
    };
    let mut failures = 0_u32;
    loop {
        let pause = match look_up(&resolver, &settings).await {
            Ok((peers, valid_until)) => {
                failures = 0;
                let pause = pause_after(peers.is_empty(), valid_until, refresh);
                publisher.succeeded(peers);
                pause
            }
            Err(error) => {
                let pause = pause_after_failure(failures, refresh);
                failures = failures.saturating_add(1);
                publisher.failed(error.to_string());
                pause
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = now.notified() => {}
        }
    }
}

async fn look_up(resolver: &Resolver, settings: &DnsSettings) -> Result<(Vec<Peer>, Instant), ResolveError> {
    let Answer { data, valid_until } = match settings.records {
        DnsRecords::Address { .. } => resolver.addresses(&settings.name).await?,
        DnsRecords::Srv => resolver.services(&settings.name).await?,
    };
    let peers =
        data.iter().filter_map(|data| address(data, settings.records)).map(|address| Peer { address, node: None });
    Ok((peers.collect(), valid_until))
}

fn address(data: &RData, records: DnsRecords) -> Option<String> {
    match (data, records) {
        (RData::A(a), DnsRecords::Address { port }) => Some(SocketAddr::new(IpAddr::V4(a.0), port).to_string()),
        (RData::AAAA(aaaa), DnsRecords::Address { port }) => {
            Some(SocketAddr::new(IpAddr::V6(aaaa.0), port).to_string())
        }
        (RData::SRV(srv), DnsRecords::Srv) => {
            // RFC 2782: the target "." means that the service is not offered here. The final dot goes, so
            // that a target reads like the address that a node advertises.
            let target = srv.target.to_utf8();
            let address = format!("{}:{}", target.trim_end_matches('.'), srv.port);
            let checked = address.parse::<HostPort>();
            if let Err(error) = &checked {
                tracing::debug!(%error, "an SRV record names no peer");
            }
            checked.ok().map(|address| address.to_string())
        }
        _ => None,
    }
}

/// Until the records expire, but within the bounds.
fn pause_after(empty: bool, valid_until: Instant, refresh: Duration) -> Duration {
    if empty {
        return EMPTY_PAUSE.min(refresh);
    }
    valid_until.saturating_duration_since(Instant::now()).clamp(SHORTEST_PAUSE.min(refresh), refresh)
}

/// 0.5 s, 1 s, 2 s, … up to the interval, or 30 s where that is longer.
fn pause_after_failure(failures: u32, refresh: Duration) -> Duration {
    FIRST_RETRY.saturating_mul(1 << failures.min(10)).min(refresh.min(LONGEST_RETRY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_follows_the_time_to_live_within_bounds() {
        let now = Instant::now();
        let refresh = Duration::from_secs(10);
        let close = |pause: Duration, seconds: u64| {
            let expected = Duration::from_secs(seconds);
            assert!(pause <= expected && expected - pause < Duration::from_secs(1), "{pause:?}");
        };
        close(pause_after(false, now + Duration::from_secs(5), refresh), 5);
        close(pause_after(false, now + Duration::from_secs(86_400), refresh), 10);
        assert_eq!(pause_after(false, now, refresh), SHORTEST_PAUSE);
        assert_eq!(pause_after(true, now + Duration::from_secs(5), refresh), EMPTY_PAUSE);
    }

    #[test]
    fn failures_slow_the_search_down() {
        let pauses: Vec<u128> = (0..8)
            .chain([u32::MAX])
            .map(|failures| pause_after_failure(failures, Duration::from_secs(60)).as_millis())
            .collect();
        let expected = [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000];
        assert_eq!(pauses, expected);
        assert_eq!(pause_after_failure(9, Duration::from_secs(3)), Duration::from_secs(3));
    }
}
