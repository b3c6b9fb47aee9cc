//! Names: what `/etc/resolv.conf` says, and look-ups by the resolver that nodes use.

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use hickory_resolver::system_conf::parse_resolv_conf;
use raftmq_discovery::{
    Discovery, DiscoverySettings, DnsRecords, DnsSettings, HostPort, PeerSet, ResolveError, Resolver, Strategy,
};

use super::report::{Report, took};

const RESOLV_CONF: &str = "/etc/resolv.conf";
/// What a look-up may take.
const LIMIT: Duration = Duration::from_secs(5);

/// What the resolver makes of `resolv.conf`.
struct System {
    servers: Vec<String>,
    search: Vec<String>,
    ndots: usize,
}

impl System {
    /// With the parser of the resolver itself.
    fn read(path: &Path) -> Result<Self, String> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(format!("{} is not there: only the server on 127.0.0.1 is asked", path.display()));
            }
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        let (config, options) = parse_resolv_conf(text).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut search: Vec<String> = config.search().iter().map(ToString::to_string).collect();
        if search.is_empty() {
            search.extend(config.domain().filter(|domain| !domain.is_root()).map(ToString::to_string));
        }
        let servers = config.name_servers().iter().map(|server| server.ip.to_string()).collect();
        Ok(Self { servers, search, ndots: options.ndots })
    }

    fn search(&self) -> String {
        if self.search.is_empty() { "none".to_owned() } else { self.search.join(" ") }
    }
}

/// Where names are looked up.
pub(super) fn look(report: &mut Report) {
    look_at(Path::new(RESOLV_CONF), report);
}

fn look_at(resolv_conf: &Path, report: &mut Report) {
    match System::read(resolv_conf) {
        Ok(system) => {
            report.fine("name servers", system.servers.join(" "));
            report.fine("search domains", system.search());
            report.fine("ndots", system.ndots.to_string());
        }
        Err(reason) => report.problem("name servers", reason),
    }
}

/// A name to look up, from the command line.
pub(super) fn name(text: &str) -> Result<String, String> {
    if text.contains(':') && text.parse::<IpAddr>().is_err() {
        return Err("a name without a port; `raftmq doctor connect` takes HOST:PORT".to_owned());
    }
    with_port(text).parse::<HostPort>().map_err(|error| error.reason.to_owned())?;
    Ok(text.to_owned())
}

/// The resolver answers with socket addresses: any port does.
fn with_port(name: &str) -> String {
    HostPort { host: name.to_owned(), port: 1 }.to_string()
}

/// The addresses of a name.
pub(super) async fn resolve(name: &str) -> Report {
    let mut report = Report::default();
    if let Some(addresses) = addresses(&Resolver::system(), name, &mut report).await {
        for address in addresses {
            report.fine("address", address.to_string());
        }
    }
    report
}

/// The addresses of a name, and a finding that says how many, how fast, or why there are none.
pub(super) async fn addresses(resolver: &Resolver, name: &str, report: &mut Report) -> Option<Vec<IpAddr>> {
    let begin = Instant::now();
    match resolver.resolve(&with_port(name)).await {
        Ok(found) => {
            let addresses: Vec<IpAddr> = found.iter().map(|address| address.ip()).collect();
            let took = took(begin.elapsed());
            match name.parse::<IpAddr>() {
                Ok(_) => report.fine("name", format!("{name} is an address")),
                Err(_) => report.fine("name", format!("{name}: {} in {took}", count(addresses.len(), "address"))),
            }
            Some(addresses)
        }
        Err(error) => {
            report.problem("name", refused(name, &error, begin.elapsed()));
            None
        }
    }
}

/// The SRV records of a name and the addresses of their targets: by discovery itself, which is where nodes ask for them.
pub(super) async fn services(name: &str) -> Report {
    let mut report = Report::default();
    let settings = DiscoverySettings {
        strategy: Strategy::Dns(DnsSettings {
            name: name.to_owned(),
            records: DnsRecords::Srv,
            servers: Vec::new(),
            timeout: LIMIT,
        }),
        refresh: Duration::from_secs(60),
    };
    let begin = Instant::now();
    let found = match Discovery::start(settings) {
        Ok(discovery) => first(&discovery).await,
        Err(error) => Err(error.to_string()),
    };
    let elapsed = took(begin.elapsed());
    let targets: Vec<String> = match found {
        Ok(set) if set.peers.is_empty() => {
            report.problem("SRV", format!("{name} has no SRV record, after {elapsed}; {}", tried(name)));
            return report;
        }
        Ok(set) => set.addresses().map(str::to_owned).collect(),
        Err(reason) => {
            report.problem("SRV", format!("{reason}, after {elapsed}; {}", tried(name)));
            return report;
        }
    };
    report.fine("SRV", format!("{name}: {} in {elapsed}", count(targets.len(), "target")));
    let resolver = Resolver::system();
    for target in targets {
        match resolver.resolve(&target).await {
            Ok(addresses) => {
                let addresses: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
                report.fine("target", format!("{target}: {}", addresses.join(" ")));
            }
            Err(error) => report.problem("target", format!("{target}: {error}")),
        }
    }
    report
}

/// What the first look-up found.
async fn first(discovery: &Discovery) -> Result<PeerSet, String> {
    let mut peers = discovery.peers();
    // The look-up has its own limit: this one is only against waiting for ever.
    let waited = tokio::time::timeout(LIMIT + Duration::from_secs(1), async {
        peers.wait_for(|set| set.refreshes + set.failures > 0).await.map(|set| PeerSet::clone(&set)).ok()
    });
    match waited.await.ok().flatten() {
        Some(set) if set.refreshes > 0 => Ok(set),
        Some(set) => Err(set.last_failure.map_or_else(String::new, |failure| failure.message)),
        None => Err("no answer".to_owned()),
    }
}

fn refused(name: &str, error: &ResolveError, elapsed: Duration) -> String {
    format!("{error}, after {}; {}", took(elapsed), tried(name))
}

/// What was tried for a name, as resolv.conf has it.
fn tried(name: &str) -> String {
    match System::read(Path::new(RESOLV_CONF)) {
        Ok(system) => tried_by(&system, name),
        Err(reason) => reason,
    }
}

fn tried_by(system: &System, name: &str) -> String {
    let servers = system.servers.join(" ");
    if name.ends_with('.') || system.search.is_empty() {
        return format!("tried: /etc/hosts, name servers {servers}, without search domains");
    }
    format!("tried: /etc/hosts, name servers {servers}, search domains {} (ndots {})", system.search(), system.ndots)
}

fn count(number: usize, what: &str) -> String {
    match (number, what) {
        (1, _) => format!("1 {what}"),
        (_, "address") => format!("{number} addresses"),
        _ => format!("{number} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn report_of(resolv_conf: Option<&str>) -> Report {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        if let Some(text) = resolv_conf {
            std::fs::write(&path, text).unwrap();
        }
        let mut report = Report::default();
        look_at(&path, &mut report);
        report
    }

    #[test]
    fn a_pods_resolv_conf_is_told() {
        let report = report_of(Some(
            "search mq.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n",
        ));
        assert_eq!(
            report.to_string(),
            "ok       name servers    10.96.0.10\n\
             ok       search domains  mq.svc.cluster.local svc.cluster.local cluster.local\n\
             ok       ndots           5\n"
        );
    }

    #[test]
    fn a_missing_or_empty_resolv_conf_is_a_problem() {
        for (text, said) in [(None, "is not there"), (Some("search a.example\n"), "no nameservers")] {
            let report = report_of(text);
            assert!(!report.is_ok());
            assert!(report.to_string().contains(said), "{report}");
        }
    }

    #[test]
    fn what_was_tried_has_the_search_domains_where_they_count() {
        let system = System { servers: vec!["10.0.0.1".into()], search: vec!["a.example".into()], ndots: 5 };
        let all = "tried: /etc/hosts, name servers 10.0.0.1, search domains a.example (ndots 5)";
        assert_eq!(tried_by(&system, "b"), all);
        assert!(tried_by(&system, "b.").ends_with("without search domains"));
    }

    #[test]
    fn a_name_is_no_host_with_port() {
        for right in ["a", "a.b.", "_links._tcp.a", "::1", "10.0.0.1"] {
            assert_eq!(name(right).as_deref(), Ok(right));
        }
        for wrong in ["a:1883", "", "a b", "a..b"] {
            assert!(name(wrong).is_err(), "{wrong}");
        }
    }
}
