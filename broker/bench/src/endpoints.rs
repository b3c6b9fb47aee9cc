//! `--url` and `--subscribe-url`: the addresses behind them, and which client goes to which.

use std::net::SocketAddr;
use std::sync::Arc;

use raftmq_discovery::Resolver;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use crate::options::CommonOptions;
use crate::plan::Side;
use crate::target::Target;
use crate::tls::{self, TlsFlags};

/// One address of a broker.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    /// With the port, for the header of WebSocket.
    pub(crate) host: String,
    pub(crate) ws_path: Option<String>,
    pub(crate) tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

/// All addresses of a run.
#[derive(Debug)]
pub(crate) struct Endpoints {
    /// Publishers go to these, and who else connects.
    common: Vec<Endpoint>,
    /// Subscribers go to these; empty: to the others.
    subscribers: Vec<Endpoint>,
}

impl Endpoints {
    /// Looks the hosts up.
    ///
    /// # Errors
    /// A host that is not found, files of TLS that cannot be used, flags of TLS where there is none.
    pub(crate) async fn resolve(options: &CommonOptions, subscribe_at: &[Target]) -> Result<Self, String> {
        let flags = TlsFlags {
            ca: options.ca.as_deref(),
            cert: options.cert.as_deref(),
            key: options.key.as_deref(),
            insecure: options.insecure,
        };
        let needs_tls = options.url.iter().chain(subscribe_at).any(|url| url.scheme.is_tls());
        if !needs_tls && (flags.ca.is_some() || flags.cert.is_some() || flags.insecure) {
            return Err(
                "--ca, --cert, --key and --insecure are of TLS: the --url begins with mqtts: or wss:".to_owned()
            );
        }
        let config = needs_tls.then(|| tls::config(&flags)).transpose()?;
        let resolver = Resolver::system();
        Ok(Self {
            common: of_urls(&options.url, config.as_ref(), &resolver).await?,
            subscribers: of_urls(subscribe_at, config.as_ref(), &resolver).await?,
        })
    }

    /// Where client `index` of a side connects to.
    ///
    /// In turn; and the two ends of a pair, which have the same index, meet on every combination of an address of the one and an address of the other.
    pub(crate) fn of(&self, side: Side, index: u32) -> &Endpoint {
        let (publishers, subscribers) = (self.common.len(), self.list(Side::Subscriber).len());
        let n = index as usize;
        let list = self.list(side);
        // After so many the two turns would begin again together.
        let shift = if side == Side::Publisher { n / lcm(publishers, subscribers) } else { 0 };
        &list[(n + shift) % list.len()]
    }

    fn list(&self, side: Side) -> &[Endpoint] {
        if side == Side::Subscriber && !self.subscribers.is_empty() { &self.subscribers } else { &self.common }
    }
}

const fn lcm(a: usize, b: usize) -> usize {
    let (mut divisor, mut rest) = (a, b);
    while rest > 0 {
        (divisor, rest) = (rest, divisor % rest);
    }
    a / divisor * b
}

/// In turn over the URLs first, then over the addresses of each.
async fn of_urls(
    urls: &[Target],
    config: Option<&Arc<ClientConfig>>,
    resolver: &Resolver,
) -> Result<Vec<Endpoint>, String> {
    let mut lists = Vec::new();
    for url in urls {
        lists.push(of_url(url, config, resolver).await?);
    }
    let longest = lists.iter().map(Vec::len).max().unwrap_or(0);
    Ok((0..longest).flat_map(|n| lists.iter().map(move |list| list[n % list.len()].clone())).collect())
}

async fn of_url(
    url: &Target,
    config: Option<&Arc<ClientConfig>>,
    resolver: &Resolver,
) -> Result<Vec<Endpoint>, String> {
    let name = match config.filter(|_| url.scheme.is_tls()) {
        Some(config) => {
            let name = ServerName::try_from(url.address.host.trim_end_matches('.').to_owned())
                .map_err(|_| format!("{url}: the host cannot be the name in a certificate"))?;
            Some((Arc::clone(config), name))
        }
        None => None,
    };
    let addresses = url.resolve(resolver).await?;
    let endpoint = |address| Endpoint {
        address,
        host: url.address.to_string(),
        ws_path: url.scheme.is_ws().then(|| url.path.clone()),
        tls: name.clone(),
    };
    Ok(addresses.into_iter().map(endpoint).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn endpoints(common: &[u16], subscribers: &[u16]) -> Endpoints {
        let list = |ports: &[u16]| {
            let of = |port: &u16| Endpoint {
                address: SocketAddr::from(([127, 0, 0, 1], *port)),
                host: String::new(),
                ws_path: None,
                tls: None,
            };
            ports.iter().map(of).collect()
        };
        Endpoints { common: list(common), subscribers: list(subscribers) }
    }

    fn ports(endpoints: &Endpoints, side: Side, count: u32) -> Vec<u16> {
        (0..count).map(|index| endpoints.of(side, index).address.port()).collect()
    }

    #[test]
    fn clients_go_to_all_addresses_in_turn() {
        let one_list = endpoints(&[1, 2, 3], &[]);
        assert_eq!(ports(&one_list, Side::Subscriber, 6), [1, 2, 3, 1, 2, 3]);
        assert_eq!(ports(&one_list, Side::Publisher, 6), [1, 2, 3, 2, 3, 1]);
    }

    #[test]
    fn subscribers_are_apart_where_they_have_addresses_of_their_own() {
        let apart = endpoints(&[1], &[2]);
        assert_eq!(ports(&apart, Side::Publisher, 3), [1, 1, 1]);
        assert_eq!(ports(&apart, Side::Subscriber, 3), [2, 2, 2]);
        let more = endpoints(&[1], &[2, 3]);
        assert_eq!(ports(&more, Side::Publisher, 4), [1, 1, 1, 1]);
        assert_eq!(ports(&more, Side::Subscriber, 4), [2, 3, 2, 3]);
    }

    #[test]
    fn pairs_meet_on_every_combination_and_equally_often() {
        for (publishers, subscribers) in [(1, 1), (3, 0), (1, 3), (2, 3), (2, 4), (4, 6), (3, 3), (6, 4)] {
            let common: Vec<u16> = (1..=publishers).collect();
            let own: Vec<u16> = (11..11 + subscribers).collect();
            let both = endpoints(&common, &own);
            let all = u32::from(publishers * if subscribers == 0 { publishers } else { subscribers });
            let met = ports(&both, Side::Publisher, all).into_iter().zip(ports(&both, Side::Subscriber, all));
            assert_eq!(met.collect::<BTreeSet<_>>().len(), all as usize, "{publishers} and {subscribers}");
        }
    }
}
