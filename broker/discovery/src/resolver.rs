//! Names to addresses, without the C library.
//!
//! hickory answers single questions (and caches them by their time to live); the walk through the search
//! domains is done here, because it must tell "the name does not exist" from "somebody did not
//! answer": the first is an empty set of peers, the second keeps the last one.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures::future::join_all;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{Hosts, TokioResolver, system_conf};
use thiserror::Error;

use crate::address::{AddressError, HostPort};

/// How long an answer of "no such name" is believed: nodes of a new cluster appear any second.
const NEGATIVE_TTL: Duration = Duration::from_secs(1);
/// How long an answer from `/etc/hosts` counts as fresh.
const HOSTS_TTL: Duration = Duration::from_secs(30);
/// How long links believe an address at most: a node that was rescheduled has a new one.
const LINK_TTL: Duration = Duration::from_secs(5);
/// The longest look-up of [`Resolver::system`] and [`Resolver::with_servers`].
const LINK_TIMEOUT: Duration = Duration::from_secs(5);
/// Answers kept: a node asks for the names of its peers and nothing else.
const CACHE_SIZE: u64 = 256;

/// Why a name gave no address.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ResolveError {
    /// The text is not `host:port`.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// Every server asked said that there is no such name, or no address of it.
    #[error("the name {name} has no address")]
    NoAddress {
        /// The name.
        name: String,
    },
    /// A name server answered with an error or not at all.
    #[error("looking up {name} failed: {reason}")]
    Failed {
        /// The name.
        name: String,
        /// What the last failing question got.
        reason: String,
    },
    /// No answer in time.
    #[error("looking up {name} got no answer within {} ms", .after.as_millis())]
    Timeout {
        /// The name.
        name: String,
        /// The time given.
        after: Duration,
    },
    /// The system's configuration cannot be used.
    #[error("the system's name server configuration {path} cannot be used: {reason}")]
    Configuration {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
}

impl From<ResolveError> for std::io::Error {
    fn from(error: ResolveError) -> Self {
        use std::io::ErrorKind;
        let kind = match &error {
            ResolveError::Address(_) => ErrorKind::InvalidInput,
            ResolveError::NoAddress { .. } => ErrorKind::NotFound,
            ResolveError::Timeout { .. } => ErrorKind::TimedOut,
            ResolveError::Failed { .. } | ResolveError::Configuration { .. } => ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// Resolves `host:port` for node links, by the system's configuration or by given servers. Cheap to
/// clone; clones share the cache.
///
/// The system's configuration is read again when `/etc/resolv.conf` or `/etc/hosts` change.
#[derive(Clone)]
pub struct Resolver {
    inner: Arc<Inner>,
}

struct Inner {
    source: Source,
    timeout: Duration,
    max_ttl: Duration,
    ready: Mutex<Option<Ready>>,
}

enum Source {
    System { resolv_conf: PathBuf, hosts: PathBuf },
    Given(Box<(ResolverConfig, ResolverOpts)>),
}

/// What was built from a source, and from which version of its files.
#[derive(Clone)]
struct Ready {
    made_from: [Option<SystemTime>; 2],
    stub: Arc<Stub>,
}

struct Stub {
    dns: TokioResolver,
    search: Vec<Name>,
    hosts: Hosts,
}

/// What a name has.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The data of the records asked for; empty when the name does not exist or has none.
    pub(crate) data: Vec<RData>,
    /// When to ask again.
    pub(crate) valid_until: Instant,
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

impl Resolver {
    /// By `/etc/hosts` and the name servers and search domains of `/etc/resolv.conf`. Without that file
    /// the server on 127.0.0.1 is asked, as the C library does.
    #[must_use]
    pub fn system() -> Self {
        Self::system_with(LINK_TIMEOUT, LINK_TTL)
    }

    /// By these name servers (UDP, and TCP for long answers), without search domains.
    #[must_use]
    pub fn with_servers(servers: &[SocketAddr]) -> Self {
        Self::servers_with(servers, LINK_TIMEOUT, LINK_TTL)
    }

    pub(crate) fn system_with(timeout: Duration, max_ttl: Duration) -> Self {
        let source = Source::System { resolv_conf: "/etc/resolv.conf".into(), hosts: "/etc/hosts".into() };
        Self::new(source, timeout, max_ttl)
    }

    pub(crate) fn servers_with(servers: &[SocketAddr], timeout: Duration, max_ttl: Duration) -> Self {
        let config = ResolverConfig::from_parts(None, Vec::new(), servers.iter().map(name_server).collect());
        let mut options = ResolverOpts::default();
        // One retry fits into the time given.
        options.timeout = (timeout / 2).max(Duration::from_millis(50));
        options.attempts = 1;
        Self::new(Source::Given(Box::new((config, options))), timeout, max_ttl)
    }

    fn new(source: Source, timeout: Duration, max_ttl: Duration) -> Self {
        Self { inner: Arc::new(Inner { source, timeout, max_ttl, ready: Mutex::new(None) }) }
    }

    /// The socket addresses of `host:port`, IPv4 before IPv6, at least one. An IP address is
    /// answered without a question to anybody. Takes 5 s at most.
    ///
    /// # Errors
    ///
    /// See [`ResolveError`]; all but [`ResolveError::Address`] may heal by themselves.
    pub async fn resolve(&self, address: &str) -> Result<Vec<SocketAddr>, ResolveError> {
        let address: HostPort = address.parse()?;
        if let Some(known) = address.socket_addr() {
            return Ok(vec![known]);
        }
        let answer = self.addresses(&address.host).await?;
        let found: BTreeSet<SocketAddr> =
            answer.data.iter().filter_map(RData::ip_addr).map(|ip| SocketAddr::new(ip, address.port)).collect();
        if found.is_empty() {
            return Err(ResolveError::NoAddress { name: address.host });
        }
        Ok(found.into_iter().collect())
    }

    /// A and AAAA records of a name.
    pub(crate) async fn addresses(&self, host: &str) -> Result<Answer, ResolveError> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(Answer { data: vec![RData::from(ip)], valid_until: Instant::now() + HOSTS_TTL });
        }
        self.lookup(host, &[RecordType::A, RecordType::AAAA]).await
    }

    /// SRV records of a name.
    pub(crate) async fn services(&self, name: &str) -> Result<Answer, ResolveError> {
        self.lookup(name, &[RecordType::SRV]).await
    }

    async fn lookup(&self, text: &str, types: &[RecordType]) -> Result<Answer, ResolveError> {
        let name = Name::from_str_relaxed(text)
            .map_err(|error| ResolveError::Failed { name: text.to_owned(), reason: error.to_string() })?;
        let stub = self.stub()?;
        match tokio::time::timeout(self.inner.timeout, stub.walk(text, name, types)).await {
            Ok(answer) => answer,
            Err(_) => Err(ResolveError::Timeout { name: text.to_owned(), after: self.inner.timeout }),
        }
    }

    /// The stub resolver, made anew when the files it came from changed.
    fn stub(&self) -> Result<Arc<Stub>, ResolveError> {
        let made_from = match &self.inner.source {
            Source::System { resolv_conf, hosts } => [modified(resolv_conf), modified(hosts)],
            Source::Given(_) => [None, None],
        };
        let mut ready = self.inner.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ready) = ready.as_ref().filter(|ready| ready.made_from == made_from) {
            return Ok(Arc::clone(&ready.stub));
        }
        let stub = Arc::new(self.build()?);
        *ready = Some(Ready { made_from, stub: Arc::clone(&stub) });
        Ok(stub)
    }

    fn build(&self) -> Result<Stub, ResolveError> {
        let (mut config, mut options, hosts) = match &self.inner.source {
            Source::System { resolv_conf, hosts } => {
                let (config, options) = read_resolv_conf(resolv_conf)?;
                (config, options, read_hosts(hosts))
            }
            Source::Given(given) => (given.0.clone(), given.1.clone(), Hosts::default()),
        };
        // The walk through the domains is done by this module.
        let mut search = std::mem::take(&mut config.search);
        if search.is_empty() {
            search.extend(config.domain.take().filter(|domain| !domain.is_root()));
        }
        config.domain = None;
        options.use_hosts_file = ResolveHosts::Never;
        options.cache_size = CACHE_SIZE;
        options.positive_max_ttl = Some(self.inner.max_ttl);
        options.negative_max_ttl = Some(NEGATIVE_TTL);
        options.preserve_intermediates = false;
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        let dns = builder.build().map_err(|error| ResolveError::Configuration {
            path: self.inner.source.name(),
            reason: error.to_string(),
        })?;
        Ok(Stub { dns, search, hosts })
    }
}

impl Source {
    fn name(&self) -> String {
        match self {
            Self::System { resolv_conf, .. } => resolv_conf.display().to_string(),
            Self::Given(_) => "given by the settings".to_owned(),
        }
    }
}

impl Stub {
    /// Asks for each name of the search list until one has a record.
    async fn walk(&self, text: &str, name: Name, types: &[RecordType]) -> Result<Answer, ResolveError> {
        let mut failure = None;
        for name in candidates(&name, &self.search, self.dns.options().ndots) {
            if let Some(answer) = self.in_hosts(&name, types) {
                return Ok(answer);
            }
            let questions = types.iter().map(|kind| self.dns.lookup(name.clone(), *kind));
            let mut data = Vec::new();
            let mut valid_until: Option<Instant> = None;
            for (kind, answer) in types.iter().zip(join_all(questions).await) {
                match answer {
                    Ok(answer) => {
                        let records = answer.answers().iter();
                        let wanted = records.filter(|record| record.record_type() == *kind);
                        data.extend(wanted.map(|record| record.data.clone()));
                        let until = answer.valid_until();
                        valid_until = Some(valid_until.map_or(until, |other| other.min(until)));
                    }
                    Err(error) if is_negative(&error) => {}
                    Err(error) => failure = Some(error),
                }
            }
            if let (false, Some(valid_until)) = (data.is_empty(), valid_until) {
                return Ok(Answer { data, valid_until });
            }
        }
        match failure {
            // Whoever did not answer may know the name.
            Some(error) => Err(ResolveError::Failed { name: text.to_owned(), reason: error.to_string() }),
            None => Ok(Answer { data: Vec::new(), valid_until: Instant::now() + NEGATIVE_TTL }),
        }
    }

    fn in_hosts(&self, name: &Name, types: &[RecordType]) -> Option<Answer> {
        let data: Vec<RData> = types
            .iter()
            .filter_map(|kind| {
                let query = Query::query(name.clone(), *kind);
                self.hosts.lookup_static_host(&query)
            })
            .flat_map(|found| {
                let records = found.answers().iter();
                records.map(|record| record.data.clone()).collect::<Vec<_>>()
            })
            .collect();
        (!data.is_empty()).then(|| Answer { data, valid_until: Instant::now() + HOSTS_TTL })
    }
}

/// The names to ask for, in order: resolv.conf(5), `search` and `ndots`.
fn candidates(name: &Name, search: &[Name], ndots: usize) -> Vec<Name> {
    let mut absolute = name.clone();
    absolute.set_fqdn(true);
    if name.is_fqdn() || name.is_localhost() {
        return vec![absolute];
    }
    let mut names: Vec<Name> = search
        .iter()
        // Only a name that grows too long fails here, and no server can know that one.
        .filter_map(|domain| name.clone().append_domain(domain).ok())
        .map(|mut name| {
            name.set_fqdn(true);
            name
        })
        .collect();
    let dots = usize::from(name.num_labels()).saturating_sub(1);
    let place = if dots >= ndots { 0 } else { names.len() };
    names.insert(place, absolute);
    let mut seen = BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

/// NXDOMAIN, or a name without such records. An error code of the server is no answer.
fn is_negative(error: &NetError) -> bool {
    matches!(
        error,
        NetError::Dns(DnsError::NoRecordsFound(none))
            if matches!(none.response_code, ResponseCode::NXDomain | ResponseCode::NoError)
    )
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    server.connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()]
        .into_iter()
        .map(|mut connection| {
            connection.port = address.port();
            connection
        })
        .collect();
    server
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|meta| meta.modified()).ok()
}

fn read_resolv_conf(path: &Path) -> Result<(ResolverConfig, ResolverOpts), ResolveError> {
    let wrong = |reason: String| ResolveError::Configuration { path: path.display().to_string(), reason };
    match fs::read(path) {
        Ok(text) => system_conf::parse_resolv_conf(text).map_err(|error| wrong(error.to_string())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            system_conf::parse_resolv_conf("nameserver 127.0.0.1").map_err(|error| wrong(error.to_string()))
        }
        Err(error) => Err(wrong(error.to_string())),
    }
}

/// A hosts file that is missing or broken is one without the name.
fn read_hosts(path: &Path) -> Hosts {
    let mut hosts = Hosts::default();
    let read = fs::File::open(path).and_then(|file| hosts.read_hosts_conf(file));
    match read {
        Ok(()) => hosts,
        Err(error) => {
            tracing::debug!(path = %path.display(), %error, "the hosts file cannot be read");
            Hosts::default()
        }
    }
}

#[cfg(test)]
#[path = "resolver_tests.rs"]
mod tests;
