//! Values with a unit: durations, sizes, addresses to bind. Each is written as text, and each says what it accepts.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A duration written with its unit: `500ms`, `2s`, `1h30m`, `7d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct HumanDuration(Duration);

impl HumanDuration {
    /// What the schema's pattern and the errors say of durations.
    pub(crate) const ALLOWED: &'static str = "a duration with its unit (ms, s, m, h, d), as 500ms, 2s or 1h30m";
    const PATTERN: &'static str = "^([0-9]+(ms|s|m|h|d))+$";
    const UNITS: [(&'static str, u64); 5] =
        [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

    /// Of so many seconds.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// Of so many milliseconds.
    #[must_use]
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(Duration::from_millis(milliseconds))
    }

    /// As the standard library's type.
    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }

    /// In milliseconds.
    #[must_use]
    pub fn as_millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }

    /// In whole seconds, rounded down.
    #[must_use]
    pub const fn as_secs(self) -> u64 {
        self.0.as_secs()
    }
}

impl From<HumanDuration> for Duration {
    fn from(value: HumanDuration) -> Self {
        value.0
    }
}

impl FromStr for HumanDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not {}", Self::ALLOWED);
        let mut rest = text;
        let mut total: u64 = 0;
        if rest.is_empty() {
            return Err(wrong());
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
            let (number, tail) = rest.split_at(digits);
            let unit_length = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit_length);
            let number: u64 = number.parse().map_err(|_| wrong())?;
            let (_, scale) = Self::UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
            total = number
                .checked_mul(*scale)
                .and_then(|ms| total.checked_add(ms))
                .ok_or_else(|| format!("{text:?} is too long a duration"))?;
            rest = tail;
        }
        Ok(Self::from_millis(total))
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.as_millis();
        if rest == 0 {
            return f.write_str("0s");
        }
        for (unit, scale) in Self::UNITS {
            if rest >= scale {
                write!(f, "{}{unit}", rest / scale)?;
                rest %= scale;
            }
        }
        Ok(())
    }
}

/// A number of bytes written with its unit: `512B`, `64KiB`, `16MiB`, `2GiB` (1 KiB = 1024 bytes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(u64);

impl ByteSize {
    pub(crate) const ALLOWED: &'static str = "a size with its unit (B, KiB, MiB, GiB, TiB), as 512B, 64KiB or 16MiB";
    const PATTERN: &'static str = "^[0-9]+(B|KiB|MiB|GiB|TiB)$";
    const UNITS: [(&'static str, u64); 5] =
        [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

    /// Of so many bytes.
    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Whether it is nothing.
    #[must_use]
    pub const fn is_zero(&self) -> bool {
        self.0 == 0
    }

    /// Of so many KiB.
    #[must_use]
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }

    /// Of so many MiB.
    #[must_use]
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// In bytes, as an index of memory (the largest one where it does not fit).
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not {}", Self::ALLOWED);
        let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let (_, scale) = Self::UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        number.checked_mul(*scale).map(Self).ok_or_else(|| format!("{text:?} is more than 64 bits can count"))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, scale) in Self::UNITS {
            if self.0 >= scale && self.0.is_multiple_of(scale) {
                return write!(f, "{}{unit}", self.0 / scale);
            }
        }
        f.write_str("0B")
    }
}

/// An address to listen on: `IP:PORT`, or `:PORT` for all IPv4 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BindAddr(SocketAddr);

impl BindAddr {
    pub(crate) const ALLOWED: &'static str = "an address to bind, as 0.0.0.0:1883, [::]:1883 or :1883";
    const PATTERN: &'static str = "^([0-9.]+|\\[[0-9a-fA-F:.]+\\])?:[0-9]{1,5}$";

    /// All IPv4 addresses, this port.
    #[must_use]
    pub const fn any(port: u16) -> Self {
        Self(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port))
    }

    /// This address and port.
    #[must_use]
    pub const fn new(addr: SocketAddr) -> Self {
        Self(addr)
    }

    /// As the standard library's type.
    #[must_use]
    pub const fn get(self) -> SocketAddr {
        self.0
    }

    /// The port; 0 is a free port that the system picks.
    #[must_use]
    pub const fn port(self) -> u16 {
        self.0.port()
    }

    /// Whether a socket bound to one of the two takes what a socket bound to the other needs.
    #[must_use]
    pub fn clashes(self, other: Self) -> bool {
        let (a, b) = (self.0.ip(), other.0.ip());
        self.port() != 0 && self.port() == other.port() && (a == b || a.is_unspecified() || b.is_unspecified())
    }
}

impl From<SocketAddr> for BindAddr {
    fn from(addr: SocketAddr) -> Self {
        Self(addr)
    }
}

impl FromStr for BindAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = match text.strip_prefix(':') {
            Some(port) => port.parse().ok().map(Self::any),
            None => text.parse().ok().map(Self),
        };
        parsed.ok_or_else(|| format!("{text:?} is not {}", Self::ALLOWED))
    }
}

impl fmt::Display for BindAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Text in YAML, an own type here: the three differ in name, format and pattern only.
macro_rules! text_value {
    ($type:ident, $format:literal) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl de::Visitor<'_> for Visitor {
                    type Value = $type;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($type::ALLOWED)
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Visitor)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $type::PATTERN, "x-raftmq-format": $format })
            }
        }
    };
}

text_value!(HumanDuration, "duration");
text_value!(ByteSize, "bytes");
text_value!(BindAddr, "bind");

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [("0s", 0), ("500ms", 500), ("2s", 2000), ("1h30m", 5_400_000), ("7d", 604_800_000)] {
            let duration: HumanDuration = text.parse().unwrap();
            assert_eq!(duration.as_millis(), millis);
            assert_eq!(duration.to_string(), text);
        }
        assert_eq!("1500ms".parse::<HumanDuration>().unwrap().to_string(), "1s500ms");
        for text in
            ["", "s", "1", "1.5s", "-1s", "1 s", "1S", "1s ", "99999999999999999999s", "999999999999999999d", "1sm"]
        {
            assert!(text.parse::<HumanDuration>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [("0B", 0), ("512B", 512), ("64KiB", 65_536), ("1536MiB", 1536 << 20), ("3TiB", 3 << 40)] {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!(size.bytes(), bytes);
            assert_eq!(size.to_string(), text);
        }
        assert_eq!("1024KiB".parse::<ByteSize>().unwrap().to_string(), "1MiB");
        for text in ["", "1", "KiB", "1KB", "1kib", "1.5MiB", "-1B", "1 MiB", "99999999999TiB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn addresses() {
        for (text, shown) in [(":1883", "0.0.0.0:1883"), ("127.0.0.1:0", "127.0.0.1:0"), ("[::]:1", "[::]:1")] {
            assert_eq!(text.parse::<BindAddr>().unwrap().to_string(), shown);
        }
        for text in ["", ":", "1883", "a:1", ":65536", "::1:1", "127.0.0.1"] {
            assert!(text.parse::<BindAddr>().is_err(), "{text:?}");
        }
        let bind = |text: &str| text.parse::<BindAddr>().unwrap();
        assert!(bind(":1").clashes(bind("127.0.0.1:1")));
        assert!(!bind("127.0.0.2:1").clashes(bind("127.0.0.1:1")));
        assert!(!bind(":0").clashes(bind(":0")));
    }
}
