//! Looking a client up.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::{AddressRange, Ban, BanKind, BanTarget};

/// What is known of a client.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seen<'a> {
    /// Its identifier, once it said it.
    pub client_id: Option<&'a str>,
    /// Its user name, if it gave one.
    pub username: Option<&'a str>,
    /// Where it comes from.
    pub address: Option<IpAddr>,
}

/// Bans for looking clients up: an identifier, a name, and one step for each length of prefix that some ban has cost a look into a
/// hash table.
#[derive(Debug, Default)]
pub struct BanIndex {
    client_ids: HashMap<String, Arc<Ban>>,
    usernames: HashMap<String, Arc<Ban>>,
    /// One address is a range as well.
    ranges: HashMap<AddressRange, Arc<Ban>>,
    /// Lengths of prefixes that occur, the longest first.
    v4: Vec<u8>,
    v6: Vec<u8>,
}

impl BanIndex {
    /// Of these bans.
    pub fn new<'a>(bans: impl IntoIterator<Item = &'a Ban>) -> Self {
        let mut index = Self::default();
        for ban in bans {
            let shared = Arc::new(ban.clone());
            match &ban.target {
                BanTarget::ClientId(id) => drop(index.client_ids.insert(id.clone(), shared)),
                BanTarget::Username(name) => drop(index.usernames.insert(name.clone(), shared)),
                BanTarget::Address(range) => {
                    let lengths = if range.first().is_ipv4() { &mut index.v4 } else { &mut index.v6 };
                    lengths.push(range.bits());
                    index.ranges.insert(*range, shared);
                }
            }
        }
        for lengths in [&mut index.v4, &mut index.v6] {
            lengths.sort_unstable_by(|a, b| b.cmp(a));
            lengths.dedup();
        }
        index
    }

    /// The ban that a client is under: of its address, its identifier or its user name, in this order.
    #[must_use]
    pub fn find(&self, seen: Seen<'_>) -> Option<&Arc<Ban>> {
        seen.address
            .and_then(|address| self.find_address(address))
            .or_else(|| self.client_ids.get(seen.client_id?))
            .or_else(|| self.usernames.get(seen.username?))
    }

    /// The ban of an address; of several ranges the smallest.
    #[must_use]
    pub fn find_address(&self, address: IpAddr) -> Option<&Arc<Ban>> {
        if self.ranges.is_empty() {
            return None;
        }
        let address = address.to_canonical();
        let lengths = if address.is_ipv4() { &self.v4 } else { &self.v6 };
        lengths.iter().find_map(|bits| self.ranges.get(&AddressRange::around(address, *bits)))
    }

    /// The identifiers in it.
    pub fn client_ids(&self) -> impl Iterator<Item = &str> {
        self.client_ids.keys().map(String::as_str)
    }

    /// How many bans of a kind.
    #[must_use]
    pub fn count(&self, kind: BanKind) -> usize {
        match kind {
            BanKind::ClientId => self.client_ids.len(),
            BanKind::Username => self.usernames.len(),
            BanKind::Address => self.ranges.len(),
        }
    }
}
