//! Sockets of connections between nodes.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;

/// What the kernel holds for a connection and has not sent. With the default of megabytes a large frame would be in the kernel at once, and
/// who then waits for its answer on a narrow link would hold the peer for dead while it arrives.
#[cfg(target_os = "linux")]
const UNSENT_BYTES: u32 = 128 << 10;

/// For both sides of a connection.
pub(crate) fn prepare(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    // A kernel without it serves too.
    #[cfg(target_os = "linux")]
    let _ = socket2::SockRef::from(tcp).set_tcp_notsent_lowat(UNSENT_BYTES);
    Ok(())
}

pub(crate) async fn connect(remote: SocketAddr) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect(remote).await?;
    prepare(&tcp)?;
    Ok(tcp)
}

/// The first of these sockets that can be connected to, each within its part of the time.
pub(crate) async fn connect_any(resolved: Vec<SocketAddr>, limit: Duration) -> io::Result<(TcpStream, SocketAddr)> {
    let mut last = io::Error::other("the address resolves to nothing");
    let limit = limit / if resolved.len() > 1 { 3 } else { 1 };
    for remote in resolved {
        match tokio::time::timeout(limit, connect(remote)).await {
            Ok(Ok(stream)) => return Ok((stream, remote)),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}
