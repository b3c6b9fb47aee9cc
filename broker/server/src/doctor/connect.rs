//! `raftmq doctor connect`: a name, a TCP connection, a TLS handshake, each with the time that it took.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use raftmq_config::HumanDuration;
use raftmq_discovery::{HostPort, Resolver};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::report::{Report, took};
use super::{names, tls};

/// Connect to an address by TCP, or by TLS
///
/// The name is looked up as brokers do it (see `resolve`); its addresses are tried one after another until one connects. With --tls
/// the server's certificate is checked and shown, also when it is refused. No certificate is shown to the server.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  kubectl exec raftmq-0 -- /raftmq doctor connect raftmq:1883
  kubectl exec raftmq-0 -- /raftmq doctor connect raftmq-1.raftmq-links.NAMESPACE.svc:9883 --tls --ca /etc/raftmq/pki/ca.crt")]
pub(super) struct ConnectOptions {
    /// Where to, as broker.example.org:8883 or [2001:db8::1]:8883
    #[arg(value_name = "HOST:PORT")]
    address: HostPort,
    /// How long a connection, and then the handshake, may take
    #[arg(long, default_value = "5s", value_name = "TIME")]
    timeout: HumanDuration,
    /// Do a TLS handshake and show the server's certificate
    #[arg(long)]
    tls: bool,
    /// Trust the authorities of this file (PEM) instead of the image's root certificates
    #[arg(long, requires = "tls", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The name that the certificate must have [default: HOST]
    #[arg(long, requires = "tls", value_name = "NAME")]
    server_name: Option<String>,
}

/// Connects and says how it went, step by step. Addresses that do not answer are problems, also when a later one does.
pub(super) async fn run(options: &ConnectOptions) -> Report {
    let mut report = Report::default();
    let HostPort { host, port } = &options.address;
    let Some(addresses) = names::addresses(&Resolver::system(), host, &mut report).await else {
        return report;
    };
    let limit = options.timeout.get();
    for address in addresses {
        let address = SocketAddr::new(address, *port);
        let begin = Instant::now();
        match connect(address, limit).await {
            Ok(socket) => {
                report.fine("connection", format!("{address} in {}", took(begin.elapsed())));
                if options.tls {
                    handshake(socket, options, &mut report).await;
                }
                break;
            }
            Err(reason) => report.problem("connection", format!("{address}: {reason}")),
        }
    }
    report
}

async fn connect(address: SocketAddr, limit: Duration) -> Result<TcpStream, String> {
    match timeout(limit, TcpStream::connect(address)).await {
        Ok(Ok(socket)) => Ok(socket),
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Err("refused: nothing listens there".to_owned())
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(late("the connection", limit)),
    }
}

async fn handshake(socket: TcpStream, options: &ConnectOptions, report: &mut Report) {
    let name = options.server_name.as_deref().unwrap_or(&options.address.host);
    let roots = match &options.ca {
        Some(file) => tls::Roots::of_file(file),
        None => Ok(tls::Roots::of_system()),
    };
    let client = match roots.and_then(|roots| tls::Client::new(&roots, name)) {
        Ok(client) => client,
        Err(reason) => return report.problem("TLS", reason),
    };
    let limit = options.timeout.get();
    let begin = Instant::now();
    match timeout(limit, client.handshake(socket)).await {
        Ok(Ok(agreed)) => report.fine("TLS", format!("{agreed} in {}", took(begin.elapsed()))),
        Ok(Err(reason)) => report.problem("TLS", reason),
        Err(_) => report.problem("TLS", format!("{}; is this a port of TLS?", late("the handshake", limit))),
    }
    client.certificate(report);
}

fn late(what: &str, limit: Duration) -> String {
    format!("timed out: {what} took longer than {} ms", limit.as_millis())
}
