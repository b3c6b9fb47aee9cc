//! One address, or all that begin with the same bits.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Addresses that have their first bits in common. An IPv4 address in the clothes of IPv6 (`::ffff:10.0.0.1`) is one of IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AddressRange {
    /// The lowest of them.
    first: IpAddr,
    /// How many bits they share.
    bits: u8,
}

/// A text that is no range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RangeError {
    /// No address.
    #[error("{0:?} is neither an IP address (10.0.0.7, fd00::7) nor a range in CIDR form (10.0.0.0/8, fd00::/16)")]
    Address(String),
    /// No number of bits that the address could have.
    #[error("{text:?}: the number of bits behind the slash must be 0 to {most}")]
    Bits {
        /// What was given.
        text: String,
        /// How many bits an address has.
        most: u8,
    },
    /// Bits are set behind the prefix, which may be a slip.
    #[error("{text:?} has bits set behind the prefix; the range that it is in is {range}")]
    Beyond {
        /// What was given.
        text: String,
        /// What may be meant.
        range: AddressRange,
    },
}

impl AddressRange {
    /// One address.
    #[must_use]
    pub fn one(address: IpAddr) -> Self {
        let first = address.to_canonical();
        Self { first, bits: width(first) }
    }

    /// The range of so many bits that an address is in; more bits than it has are all of them.
    #[must_use]
    pub fn around(address: IpAddr, bits: u8) -> Self {
        let address = address.to_canonical();
        let bits = bits.min(width(address));
        let (number, shift) = (number(address), width(address) - bits);
        // A shift by all bits is not defined.
        let masked = number.checked_shr(shift.into()).unwrap_or(0).checked_shl(shift.into()).unwrap_or(0);
        let first = match address {
            IpAddr::V4(_) => IpAddr::V4(u32::try_from(masked).unwrap_or(0).into()),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(masked)),
        };
        Self { first, bits }
    }

    /// How many bits its addresses share.
    #[must_use]
    pub const fn bits(&self) -> u8 {
        self.bits
    }

    /// The lowest address.
    #[must_use]
    pub const fn first(&self) -> IpAddr {
        self.first
    }

    /// Whether the address is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.first.is_ipv4() && Self::around(address, self.bits) == *self
    }
}

const fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

impl FromStr for AddressRange {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| RangeError::Address(text.to_owned()))?;
        let Some(bits) = bits else {
            return Ok(Self::one(address));
        };
        // As it is written: ::ffff:10.0.0.0/104 is 10.0.0.0/8.
        let most = width(address);
        let wrong = || RangeError::Bits { text: text.to_owned(), most };
        let digits = !bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit());
        let bits = bits.parse::<u8>().ok().filter(|bits| digits && *bits <= most).ok_or_else(wrong)?;
        let canonical = address.to_canonical();
        let mapped = most - width(canonical);
        if bits < mapped {
            return Err(wrong());
        }
        let range = Self::around(canonical, bits - mapped);
        if range.first == canonical { Ok(range) } else { Err(RangeError::Beyond { text: text.to_owned(), range }) }
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.bits == width(self.first) { self.first.fmt(f) } else { write!(f, "{}/{}", self.first, self.bits) }
    }
}
