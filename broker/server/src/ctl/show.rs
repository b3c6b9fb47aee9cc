//! The API's answers for people.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::loss::NodeLoss;
use super::table::Table;
use crate::http::api::{Groups, Leaders, Member, MemberRole, MemberState, Members, NodeStatus, Overload, Reloaded};

pub(crate) fn members(answer: &Members) -> String {
    if answer.cluster.is_none() {
        return "the node belongs to no cluster yet: `raftmq ctl bootstrap` lets empty nodes form one\n".into();
    }
    let mut table =
        Table::new(&["ID", "NAME", "ROLE", "STATE", "UP", "BOOT", "ZONE", "LEADS", "VERSION", "LINKS", "CONTROL"]);
    for member in &answer.members {
        table.row([
            member.id.to_string(),
            member.name.clone(),
            role(member.role).into(),
            state(member.state).into(),
            yes(member.up).into(),
            member.boot.to_string(),
            member.zone.clone().unwrap_or_default(),
            member.leads.join(","),
            member.version.clone(),
            member.links_address.clone(),
            member.control_address.clone().unwrap_or_default(),
        ]);
    }
    table.to_string()
}

pub(crate) fn reloaded(answer: &Reloaded) -> String {
    let mut out = String::new();
    for (title, settings) in [("changed", &answer.changed), ("needs a restart", &answer.needs_restart)] {
        for setting in settings {
            let _ = writeln!(out, "{title}: {setting}");
        }
    }
    if out.is_empty() { "the settings are as they were\n".into() } else { out }
}

/// `members` gives the ids names, where they are known.
pub(crate) fn groups(answer: &Groups, members: &[Member]) -> String {
    let names: BTreeMap<u64, &str> = members.iter().map(|m| (m.id, m.name.as_str())).collect();
    let name = |id: &u64| {
        let known = names.get(id).map(|&name| name.to_owned());
        known.unwrap_or_else(|| id.to_string())
    };
    let list = |ids: &[u64]| ids.iter().map(name).collect::<Vec<_>>().join(",");
    let index = |index: Option<u64>| index.map(|index| index.to_string()).unwrap_or_default();
    let mut table = Table::new(&[
        "GROUP",
        "HERE",
        "TERM",
        "LEADER",
        "LAST",
        "COMMITTED",
        "APPLIED",
        "SNAPSHOT",
        "VOTERS",
        "LEARNERS",
    ]);
    for group in &answer.groups {
        table.row([
            group.name.clone(),
            group.role.clone(),
            group.term.to_string(),
            group.leader.as_ref().map(name).unwrap_or_default(),
            index(group.last_log),
            index(group.committed),
            index(group.applied),
            index(group.snapshot),
            list(&group.voters),
            list(&group.learners),
        ]);
    }
    let mut text = table.to_string();
    for group in &answer.groups {
        if let Some(failure) = &group.failure {
            let _ = writeln!(text, "group {} stopped here: {failure}", group.name);
        }
    }
    text
}

pub(crate) fn leaders(answer: &Leaders) -> String {
    let mut table = Table::new(&["GROUP", "LEADER", "TERM"]);
    for group in &answer.groups {
        let id = group.leader.map(|id| id.to_string());
        table.row([group.group.clone(), group.name.clone().or(id).unwrap_or_default(), group.term.to_string()]);
    }
    table.to_string()
}

pub(crate) fn status(answer: &NodeStatus) -> String {
    let lease = answer.lease_remaining_ms;
    let cluster = answer.cluster.as_ref();
    let memory = answer.memory;
    let mut table = Table::new(&["NODE", &answer.node]);
    let optional = |value: Option<u64>| value.map(|value| value.to_string()).unwrap_or_default();
    for (name, value) in [
        ("version", answer.version.clone()),
        ("cluster", cluster.map(|c| c.name.clone()).unwrap_or_default()),
        ("cluster id", cluster.map(|c| c.id.clone()).unwrap_or_default()),
        ("raft id", optional(answer.raft_id)),
        ("incarnation", answer.incarnation.clone().unwrap_or_default()),
        ("boot", optional(answer.boot)),
        ("uptime", format!("{} s", answer.uptime_seconds)),
        ("clients", answer.clients.to_string()),
        ("sessions in memory", optional(memory.map(|memory| memory.sessions))),
        ("queued in memory", optional(memory.and_then(|memory| memory.queued_messages))),
        ("retained in memory", optional(memory.map(|memory| memory.retained_messages))),
        ("delayed in memory", optional(memory.map(|memory| memory.delayed_messages))),
        ("wills in memory", optional(memory.map(|memory| memory.waiting_wills))),
        ("lease", lease.map(|left| format!("{left} ms")).unwrap_or_default()),
        ("ready", yes(answer.ready).to_owned()),
    ] {
        table.row([name.to_owned(), value]);
    }
    if let Some(overload) = answer.overload.as_ref().filter(|overload| overload.level != "normal") {
        table.row(["overload".to_owned(), overloaded(overload)]);
    }
    for peer in &answer.relayed {
        table.row(["not reached".to_owned(), format!("{}, but by way of {}", peer.node, peer.by)]);
    }
    for failing in &answer.failing {
        table.row([format!("  {}", failing.condition), failing.reason.clone()]);
    }
    table.to_string()
}

/// What is refused, and why, in figures.
fn overloaded(overload: &Overload) -> String {
    let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
    let why = overload.reasons.iter().map(|reason| match reason.as_str() {
        "memory" => {
            let limit = overload.memory_limit_bytes.map(|limit| format!(" of {}", mib(limit)));
            format!("memory {}{}", mib(overload.memory_bytes), limit.unwrap_or_default())
        }
        "loopDelay" => format!("loop delay {} ms", overload.loop_delay_ms),
        other => other.to_owned(),
    });
    format!("{} ({})", overload.level, why.collect::<Vec<_>>().join(", "))
}

pub(crate) fn loss(node: &str, answer: &NodeLoss) -> String {
    let mut table = Table::new(&["GROUP", "VOTES", "ALIVE AFTER", "NEEDED", "QUORUM"]);
    for group in &answer.groups {
        let quorum = match (group.has_quorum, group.loses_quorum) {
            (_, true) => "lost",
            (false, false) => "missing already",
            (true, false) => "kept",
        };
        table.row([
            group.group.clone(),
            yes(group.votes).to_owned(),
            group.live_after.to_string(),
            group.quorum.to_string(),
            quorum.to_owned(),
        ]);
    }
    let mut text = table.to_string();
    match (answer.nothing, answer.reasons.is_empty()) {
        (true, _) => {
            let _ = writeln!(text, "nothing would be lost if {node} stopped now");
        }
        (false, true) => {}
        (false, false) => {
            let _ = writeln!(text, "if {node} stopped now:");
        }
    }
    for reason in &answer.reasons {
        let _ = writeln!(text, "  {reason}");
    }
    text
}

fn role(role: MemberRole) -> &'static str {
    match role {
        MemberRole::Leader => "leader",
        MemberRole::Voter => "voter",
        MemberRole::Learner => "learner",
        MemberRole::Changing => "changing",
    }
}

fn state(state: MemberState) -> &'static str {
    match state {
        MemberState::Active => "active",
        MemberState::Leaving => "leaving",
        MemberState::Replaced => "replaced",
    }
}

fn yes(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::api::{ClusterIdentity, Group, GroupLoss, Loss};

    fn member() -> Member {
        Member {
            id: 7,
            name: "raftmq-0".into(),
            incarnation: "ab".repeat(16),
            boot: 3,
            version: "0.1.0".into(),
            links_address: "127.0.0.1:9883".into(),
            control_address: None,
            zone: Some("north".into()),
            state: MemberState::Active,
            up: true,
            role: MemberRole::Leader,
            leads: vec!["meta".into(), "routes".into()],
        }
    }

    #[test]
    fn members_and_groups_are_called_by_name() {
        let cluster = ClusterIdentity { id: "0f".repeat(16), name: "demo".into() };
        let shown = members(&Members { cluster: Some(cluster.clone()), members: vec![member()] });
        let row: Vec<&str> = shown.lines().nth(1).unwrap_or_default().split_whitespace().collect();
        assert_eq!(row[..5], ["7", "raftmq-0", "leader", "active", "yes"]);
        assert_eq!(row[6..8], ["north", "meta,routes"]);
        let unknown = Member { zone: None, ..member() };
        let shown = members(&Members { cluster: Some(cluster), members: vec![unknown] });
        assert!(shown.lines().nth(1).unwrap_or_default().contains(" -"), "{shown}");

        let group = Group {
            name: "meta".into(),
            number: 1,
            generation: 1,
            term: 4,
            leader: Some(7),
            role: "leader".into(),
            has_quorum: Some(true),
            last_log: Some(12),
            committed: Some(12),
            applied: None,
            snapshot: None,
            purged: None,
            voters: vec![7, 9],
            learners: Vec::new(),
            followers: Vec::new(),
            failure: Some("the disk is full".into()),
        };
        let shown = groups(&Groups { groups: vec![group] }, &[member()]);
        assert!(shown.contains("raftmq-0,9"), "{shown}");
        assert!(shown.ends_with("group meta stopped here: the disk is full\n"));
    }

    #[test]
    fn a_status_has_what_the_node_keeps() {
        let memory = |memory: serde_json::Value| {
            let answer = serde_json::json!({
                "node": "a", "version": "1", "uptimeSeconds": 1, "clients": 2, "ready": true, "failing": [], "memory": memory,
            });
            let shown = status(&serde_json::from_value(answer).expect("a status"));
            let cells = shown.lines().filter_map(|line| line.rsplit_once(' '));
            cells.map(|(name, cell)| format!("{} {cell}", name.trim())).collect::<Vec<_>>()
        };
        let told = serde_json::json!({
            "sessions": 3, "queuedMessages": null, "retainedMessages": 4, "delayedMessages": 5, "waitingWills": 6,
        });
        let expected = [
            "clients 2",
            "sessions in memory 3",
            "queued in memory -",
            "retained in memory 4",
            "delayed in memory 5",
            "wills in memory 6",
        ];
        assert_eq!(memory(told)[8..14], expected);
        // Of an earlier version.
        assert_eq!(memory(serde_json::Value::Null)[8..10], ["clients 2", "sessions in memory -"]);
    }

    #[test]
    fn an_overload_is_told_with_its_figures_and_only_then() {
        let shown = |overload: serde_json::Value| {
            let answer = serde_json::json!({
                "node": "a", "version": "1", "uptimeSeconds": 1, "clients": 2, "ready": true, "failing": [], "overload": overload,
            });
            let shown = status(&serde_json::from_value(answer).expect("a status"));
            shown.lines().find(|line| line.starts_with("overload")).map(|line| line[8..].trim().to_owned())
        };
        let told = |level: &str, reasons: &[&str], limit: Option<u64>| {
            serde_json::json!({
                "level": level, "reasons": reasons, "memoryBytes": 900 << 20, "memoryLimitBytes": limit, "loopDelayMs": 1200,
            })
        };
        assert_eq!(shown(told("normal", &[], Some(1 << 30))), None);
        assert_eq!(shown(serde_json::Value::Null), None);
        let memory = shown(told("refuse", &["memory"], Some(1 << 30)));
        assert_eq!(memory.as_deref(), Some("refuse (memory 900 MiB of 1024 MiB)"));
        let both = shown(told("shed", &["memory", "loopDelay"], None));
        assert_eq!(both.as_deref(), Some("shed (memory 900 MiB, loop delay 1200 ms)"));
    }

    #[test]
    fn a_loss_says_which_group_and_why() {
        let answer = Loss {
            node: Some(7),
            nothing: false,
            reasons: vec!["group meta loses its quorum".into()],
            groups: vec![GroupLoss {
                group: "meta".into(),
                votes: true,
                live_after: 1,
                quorum: 2,
                has_quorum: true,
                loses_quorum: true,
            }],
        };
        let shown = loss("raftmq-0", &NodeLoss::new("raftmq-0", answer, Err("no answer".into())));
        assert!(shown.contains("  lost\nif raftmq-0 stopped now:\n  group meta loses its quorum\n"), "{shown}");
        assert!(!shown.contains("nothing would be lost"));
    }
}
