//! Listening sockets: one for each worker on the same address, so that the kernel spreads connections.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that may wait to be accepted, a worker. The kernel lowers it to net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// Why a listener cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    #[error("listener {name}: {address} is in use: stop what listens there, or set another bind address")]
    InUse { name: String, address: SocketAddr },
    #[error("listener {name}: cannot listen on {address}: {source}")]
    Io { name: String, address: SocketAddr, source: io::Error },
}

/// Opens `workers` sockets on one address. Port 0 means any free one, the same for all.
pub(crate) fn open(name: &str, address: SocketAddr, workers: usize) -> Result<Vec<StdListener>, ListenError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse { name: name.to_owned(), address },
        _ => ListenError::Io { name: name.to_owned(), address, source },
    };
    // With SO_REUSEPORT a second process of the same user would share the address without a word: the clients
    // would land on either. A bind without it finds such a listener.
    let probe = socket(address).and_then(|socket| {
        socket.bind(&address.into())?;
        Ok(socket)
    });
    let address = match probe {
        Ok(socket) => {
            let bound = socket.local_addr().map_err(failed)?;
            bound.as_socket().unwrap_or(address)
        }
        Err(error) => return Err(failed(error)),
    };
    (0..workers)
        .map(|_| {
            let socket = socket(address)?;
            socket.set_reuse_port(true)?;
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
            Ok(StdListener::from(socket))
        })
        .collect::<io::Result<_>>()
        .map_err(failed)
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // After a restart old connections linger in TIME_WAIT on the port.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // An IPv4 listener on the same port may stand beside it.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Whether an accept error is about this node's resources: wait a little instead of spinning.
pub(crate) fn is_exhaustion(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn workers_share_an_address_and_a_second_node_is_refused() {
        let first = open("default", "127.0.0.1:0".parse().unwrap(), 2).unwrap();
        let address = first[0].local_addr().unwrap();
        assert_eq!(first[1].local_addr().unwrap(), address);
        let error = open("default", address, 2).unwrap_err();
        assert!(matches!(error, ListenError::InUse { .. }), "{error}");
        assert!(error.to_string().contains(&address.to_string()));
        drop(first);
        open("default", address, 2).unwrap();
    }
}
