//! Names to sockets.

use std::io;
use std::net::SocketAddr;

use futures::future::BoxFuture;

/// Finds the sockets of an advertised address. Asked at each dial, so that a peer whose address changed is found again.
pub trait Resolver: Send + Sync + 'static {
    /// `address` is `host:port`. Several results are tried in order.
    fn resolve<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>>;
}

/// The operating system's resolver.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

impl Resolver for SystemResolver {
    fn resolve<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host(address).await?.collect()) })
    }
}
