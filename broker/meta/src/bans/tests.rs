#![allow(clippy::unwrap_used)]
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::list::BanRefusal;
use super::*;

fn ban(target: BanTarget, origin: BanOrigin, until_ms: Option<u64>) -> Ban {
    Ban { target, reason: "test".into(), by: "me".into(), origin, since_ms: 1, until_ms }
}

fn of_client(id: &str, origin: BanOrigin, until_ms: Option<u64>) -> Ban {
    ban(BanTarget::ClientId(id.into()), origin, until_ms)
}

fn range(text: &str) -> AddressRange {
    text.parse().unwrap()
}

#[test]
fn ranges_are_read_and_slips_are_named() {
    for (text, shown) in [
        ("10.0.0.7", "10.0.0.7"),
        ("10.0.0.7/32", "10.0.0.7"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("fd00::/16", "fd00::/16"),
        ("FD00:0:0::7", "fd00::7"),
        ("::/0", "::/0"),
        ("::ffff:10.0.0.7", "10.0.0.7"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
    ] {
        assert_eq!(range(text).to_string(), shown, "{text}");
    }
    for (text, error) in [
        ("", "neither an IP address"),
        ("10.0.0", "neither an IP address"),
        ("10.0.0.0/33", "0 to 32"),
        ("fd00::/129", "0 to 128"),
        ("10.0.0.0/", "0 to 32"),
        ("10.0.0.0/+8", "0 to 32"),
        ("10.0.0.7/8", "the range that it is in is 10.0.0.0/8"),
        ("::ffff:10.0.0.0/8", "0 to 128"),
        ("10.0.0.0/8/8", "0 to 32"),
        ("example.com", "neither an IP address"),
    ] {
        let found = text.parse::<AddressRange>().unwrap_err().to_string();
        assert!(found.contains(error), "{text}: {found}");
    }
}

#[test]
fn a_client_is_found_by_what_is_known_of_it() {
    let bans = [
        of_client("c", BanOrigin::Operator, None),
        ban(BanTarget::Username("u".into()), BanOrigin::Operator, None),
        ban(BanTarget::Address(range("10.0.0.0/8")), BanOrigin::Operator, None),
        ban(BanTarget::Address(range("10.1.0.0/16")), BanOrigin::Operator, None),
        ban(BanTarget::Address(range("fd00::7")), BanOrigin::Operator, None),
    ];
    let index = BanIndex::new(&bans);
    let found = |client_id, username, address: &str| {
        let seen = Seen { client_id, username, address: Some(address.parse().unwrap()) };
        index.find(seen).map(|ban| ban.target.to_string())
    };
    assert_eq!(found(Some("c"), None, "192.0.2.1").unwrap(), "clientid \"c\"");
    assert_eq!(found(Some("d"), Some("u"), "192.0.2.1").unwrap(), "username \"u\"");
    assert_eq!(found(Some("u"), Some("c"), "192.0.2.1"), None, "kinds are apart");
    assert_eq!(found(None, None, "10.1.2.3").unwrap(), "address 10.1.0.0/16");
    assert_eq!(found(None, None, "::ffff:10.2.2.3").unwrap(), "address 10.0.0.0/8");
    assert_eq!(found(None, None, "fd00::7").unwrap(), "address fd00::7");
    assert_eq!(found(None, None, "fd00::8"), None);
    assert_eq!(BanKind::ALL.map(|kind| index.count(kind)), [1, 1, 3]);
}

#[test]
fn what_a_node_found_yields_to_what_somebody_asked_for() {
    let mut list = BanList::default();
    let until =
        |list: &BanList| list.get(&BanTarget::ClientId("c".into())).map(|ban| (ban.origin, ban.until_ms)).unwrap();
    list.add(vec![of_client("c", BanOrigin::Flapping, Some(10))]).unwrap();
    list.add(vec![of_client("c", BanOrigin::Flapping, Some(5))]).unwrap();
    assert_eq!(until(&list), (BanOrigin::Flapping, Some(10)), "not shorter");
    list.add(vec![of_client("c", BanOrigin::Flapping, Some(20))]).unwrap();
    assert_eq!(until(&list), (BanOrigin::Flapping, Some(20)));
    list.add(vec![of_client("c", BanOrigin::Operator, Some(7))]).unwrap();
    list.add(vec![of_client("c", BanOrigin::Flapping, Some(30))]).unwrap();
    assert_eq!(until(&list), (BanOrigin::Operator, Some(7)));
    list.add(vec![of_client("c", BanOrigin::Operator, None)]).unwrap();
    list.expire(u64::MAX);
    assert_eq!(until(&list), (BanOrigin::Operator, None));
}

#[test]
fn the_list_is_bounded_and_flapping_clients_leave_room() {
    let mut list = BanList::default();
    let many = |from: usize, to: usize, origin| -> Vec<Ban> {
        (from..to).map(|n| of_client(&n.to_string(), origin, Some(9))).collect()
    };
    let fill = |list: &mut BanList, from: usize, to: usize, origin| {
        for at in (from..to).step_by(MAX_BATCH) {
            list.add(many(at, (at + MAX_BATCH).min(to), origin)).unwrap();
        }
    };
    fill(&mut list, 0, MAX_BANS / 2, BanOrigin::Flapping);
    assert_eq!(list.add(many(MAX_BANS, MAX_BANS + 1, BanOrigin::Flapping)), Err(BanRefusal::Full));
    fill(&mut list, MAX_BANS / 2, MAX_BANS, BanOrigin::Operator);
    assert_eq!(list.add(many(MAX_BANS, MAX_BANS + 1, BanOrigin::Operator)), Err(BanRefusal::Full));
    assert_eq!(list.len(), MAX_BANS);
    // One that is there can change.
    list.add(many(3, 4, BanOrigin::Operator)).unwrap();
    assert!(list.remove(&BanTarget::ClientId("7".into())));
    assert!(!list.remove(&BanTarget::ClientId("7".into())));
    list.add(many(MAX_BANS, MAX_BANS + 1, BanOrigin::Operator)).unwrap();

    let mut list = BanList::default();
    let long = |n: usize| of_client(&format!("{n}{}", "x".repeat(MAX_BAN_VALUE - 5)), BanOrigin::Operator, None);
    let fit = (0..100).take_while(|n| list.add(vec![long(*n)]).is_ok()).count();
    assert!((50..=64).contains(&fit), "{fit}");
}

/// Members of different builds must find the same bans too many.
#[test]
fn what_a_ban_takes_never_changes() {
    let size = |target| ban(target, BanOrigin::Operator, None).size();
    assert_eq!(size(BanTarget::ClientId("client".into())), 128 + 6 + "test".len() + "me".len());
    assert_eq!(size(BanTarget::Username("user".into())), 128 + 4 + "test".len() + "me".len());
    assert_eq!(size(BanTarget::Address(range("10.0.0.0/8"))), 128 + 17 + "test".len() + "me".len());
    assert_eq!(size(BanTarget::Address(range("fd00::/16"))), 128 + 17 + "test".len() + "me".len());
    assert_eq!((MAX_BANS, MAX_BAN_BYTES, MAX_BATCH, MAX_BAN_TEXT, MAX_BAN_VALUE), (10_000, 4_194_304, 64, 256, 65_535));
}

#[test]
fn wrong_bans_change_nothing() {
    let mut list = BanList::default();
    let ok = of_client("c", BanOrigin::Operator, None);
    let empty = of_client("", BanOrigin::Operator, None);
    let long = of_client(&"x".repeat(MAX_BAN_VALUE + 1), BanOrigin::Operator, None);
    let reason = Ban { reason: "x".repeat(MAX_BAN_TEXT + 1), ..ok.clone() };
    for wrong in [empty, long, reason] {
        assert!(matches!(list.add(vec![ok.clone(), wrong]), Err(BanRefusal::Invalid(_))));
    }
    assert!(matches!(list.add(vec![ok.clone(); MAX_BATCH + 1]), Err(BanRefusal::Invalid(_))));
    assert!(list.is_empty());
}

fn address() -> impl Strategy<Value = IpAddr> {
    // Few bits, so that ranges and addresses meet.
    prop_oneof![
        (0u8..4, 0u8..4).prop_map(|(a, b)| IpAddr::V4(Ipv4Addr::new(10 * a, b, a, b))),
        (0u16..4, 0u16..4).prop_map(|(a, b)| IpAddr::V6(Ipv6Addr::new(0xfd00 + a, b, 0, 0, 0, a, 0, b))),
    ]
}

proptest! {
    /// The structure of prefixes finds what looking at each range finds: the smallest that holds the address.
    #[test]
    fn the_index_agrees_with_looking_at_each(
        ranges in prop::collection::vec((address(), 0u8..=128), 0..20), asked in prop::collection::vec(address(), 1..20)
    ) {
        let bans: Vec<Ban> = ranges
            .iter()
            .map(|(at, bits)| ban(BanTarget::Address(AddressRange::around(*at, *bits)), BanOrigin::Operator, None))
            .collect();
        let index = BanIndex::new(&bans);
        for at in asked {
            let bits = |target: &BanTarget| match target {
                BanTarget::Address(range) if range.contains(at) => Some(range.bits()),
                _ => None,
            };
            let expected = bans.iter().filter_map(|ban| bits(&ban.target)).max();
            prop_assert_eq!(index.find_address(at).and_then(|ban| bits(&ban.target)), expected);
        }
    }

    /// What is in force depends on the commands alone, and no ban outlives the command that ends it.
    #[test]
    fn bans_end_by_commands(times in prop::collection::vec((0u8..8, prop::option::of(1u64..50), 0u64..50), 1..60)) {
        let mut list = BanList::default();
        for (id, until, now) in times {
            list.add(vec![of_client(&id.to_string(), BanOrigin::Operator, until)]).unwrap();
            list.expire(now);
            prop_assert!(!list.is_over(now));
            let target = BanTarget::ClientId(id.to_string());
            prop_assert_eq!(list.get(&target).is_some(), until.is_none_or(|until| until > now));
        }
    }
}
