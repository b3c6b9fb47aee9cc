//! What would be lost if a node stopped: the quorums of the cluster, and what the node keeps in its memory alone.

use serde::Serialize;

use crate::http::api::{GroupLoss, Loss, Memory};

/// Both answers as one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NodeLoss {
    /// Its Raft id, if it is a member.
    pub(crate) node: Option<u64>,
    /// Whether it is known that nothing would be lost, of either kind.
    pub(crate) nothing: bool,
    /// What would be lost, as sentences.
    pub(crate) reasons: Vec<String>,
    pub(crate) groups: Vec<GroupLoss>,
    /// `None` where the node cannot be asked.
    pub(crate) memory: Option<Memory>,
}

impl NodeLoss {
    /// `memory` is what the node says of itself, or why it does not.
    pub(crate) fn new(node: &str, quorums: Loss, memory: Result<Memory, String>) -> Self {
        let mut reasons = quorums.reasons;
        if quorums.nothing {
            reasons.push("every group keeps its quorum".to_owned());
        }
        match &memory {
            Ok(memory) => reasons.extend(ends(memory)),
            Err(why) => {
                let why = why.replace('\n', " ");
                reasons.push(format!("what {node} keeps in its memory is not known, since it cannot be asked: {why}"));
            }
        }
        let nothing = quorums.nothing && memory.as_ref().is_ok_and(Memory::is_empty);
        if nothing {
            reasons.clear();
        }
        Self { node: quorums.node, nothing, reasons, groups: quorums.groups, memory: memory.ok() }
    }
}

/// What ends with the process.
fn ends(memory: &Memory) -> Option<String> {
    if memory.is_empty() {
        return Some("its memory holds no sessions and no messages".to_owned());
    }
    let queued = match memory.queued_messages {
        Some(count) => counted(count, "queued message"),
        None => "queued messages that are not counted (mqtt.sys.mosquitto is off)".to_owned(),
    };
    let sessions = match memory.sessions {
        0 => counted(0, "session"),
        count => format!("{} with {queued}", counted(count, "session")),
    };
    Some(format!(
        "what is in its memory alone ends: {sessions}, {}, {}, {}",
        counted(memory.retained_messages, "retained message"),
        counted(memory.delayed_messages, "delayed message"),
        counted(memory.waiting_wills, "waiting will"),
    ))
}

fn counted(count: u64, what: &str) -> String {
    match count {
        0 => format!("no {what}s"),
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: Memory =
        Memory { sessions: 0, queued_messages: Some(0), retained_messages: 0, delayed_messages: 0, waiting_wills: 0 };

    fn of(nothing: bool, memory: Result<Memory, String>) -> NodeLoss {
        let reasons = if nothing { Vec::new() } else { vec!["group meta loses its quorum".to_owned()] };
        NodeLoss::new("a", Loss { node: Some(1), nothing, reasons, groups: Vec::new() }, memory)
    }

    #[test]
    fn nothing_is_lost_only_where_the_node_says_so_too() {
        let none = of(true, Ok(EMPTY));
        assert!(none.nothing && none.reasons.is_empty());
        let memory = Memory { sessions: 1, queued_messages: Some(12), retained_messages: 3, ..EMPTY };
        let some = of(true, Ok(memory));
        assert!(!some.nothing && some.memory == Some(memory));
        let ends = "what is in its memory alone ends: 1 session with 12 queued messages, 3 retained messages, no delayed messages, no \
                    waiting wills";
        assert_eq!(some.reasons, ["every group keeps its quorum", ends]);
        let uncounted = of(true, Ok(Memory { sessions: 2, queued_messages: None, ..EMPTY }));
        assert!(
            !uncounted.nothing && uncounted.reasons[1].contains("2 sessions with queued messages that are not counted")
        );
        for memory in [
            Memory { retained_messages: 1, ..EMPTY },
            Memory { delayed_messages: 1, ..EMPTY },
            Memory { waiting_wills: 1, ..EMPTY },
        ] {
            assert!(!of(true, Ok(memory)).nothing, "{memory:?}");
        }
        let silent = of(true, Err("connection refused".into()));
        assert!(!silent.nothing && silent.memory.is_none());
        let unknown = "what a keeps in its memory is not known, since it cannot be asked: connection refused";
        assert_eq!(silent.reasons[1], unknown);
        let quorum = of(false, Ok(EMPTY));
        assert!(!quorum.nothing);
        assert_eq!(quorum.reasons, ["group meta loses its quorum", "its memory holds no sessions and no messages"]);
    }
}
