//! A node that was a member asks its peers whether they have seen a later start of its directory: a majority before it takes part, every
//! single one before their groups hear of each other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use crate::error::Fatal;
use crate::fate;
use crate::identity::{BootVerdict, Membership};
use crate::node::{CALL, Node, RETRY};
use crate::wire::{Fate, Request, Response};

/// Between two rounds of questions to those that have not answered; a peer that shows itself is asked sooner, but not more often than this …
const ROUND: Duration = CALL;
/// … apart.
const SOONER: Duration = Duration::from_millis(50);

/// What a peer says to this boot.
struct Answer {
    id: u64,
    verdict: BootVerdict,
    fate: Fate,
    voters: BTreeSet<u64>,
}

/// Returns when this boot may take part: no peer has seen it before, and with those that said so the node makes a majority of the voters.
pub(crate) async fn ask(node: &Node, membership: Membership) -> Result<(), Fatal> {
    let voters = node.data.known_members().voters;
    let mut fresh: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    loop {
        for (address, answer) in ask_these(node, membership, node.candidates()).await {
            match answer.fate {
                Fate::Replaced { id } => return Err(Fatal::Replaced { id }),
                Fate::Left { id } => return Err(Fatal::Left { id }),
                Fate::Unknown | Fate::Active | Fate::Leaving => {}
            }
            judge(node, &address, &answer)?;
            fresh.insert(answer.id, answer.voters);
        }
        if is_enough(membership.raft_id, &voters, &fresh) {
            // A majority of several has said so. An only voter has nobody's word: a copy of what it was then would take part beside those
            // that came later.
            node.net.confirmed_one_by_one(voters.iter().eq([&membership.raft_id]));
            return Ok(());
        }
        let agreeing = voters.iter().filter(|id| **id == membership.raft_id || fresh.contains_key(id)).count();
        node.set_detail(format!(
            "waiting for peers that know this directory: {agreeing} of {} voters, {} needed",
            voters.len(),
            voters.len() / 2 + 1
        ));
        tokio::time::sleep(RETRY).await;
    }
}

/// Goes on asking for as long as the node is a member: an only voter begins with nobody's word, others with that of a majority, and whoever
/// has not answered yet may know better. Until it has, no group of a node that was the only voter talks to one of that peer: of its members
/// such a node knows every one.
pub(crate) async fn confirm(node: Arc<Node>, membership: Membership) {
    let mut settled = Settled::default();
    loop {
        let (known, found) = (node.net.addresses(), node.discovered());
        settled.forget_all_but(&known, &found);
        node.net.keep_known(|id| known.contains_key(&id) || settled.ids.contains(&id));
        let known = known.keys().filter_map(|id| Some((*id, node.net.address_of(*id)?)));
        let known: BTreeMap<u64, String> = known.filter(|(id, _)| *id != membership.raft_id).collect();
        for (address, answer) in ask_these(&node, membership, settled.open(&known, found)).await {
            if let Err(fatal) = judge(&node, &address, &answer) {
                return node.fail(fatal);
            }
            // One that does not know the members yet may learn of a later boot from them.
            if answer.fate != Fate::Unknown {
                settled.ids.insert(answer.id);
                settled.addresses.insert(address, answer.id);
            }
            fate::act_on(&node, answer.fate);
        }
        tokio::time::sleep(SOONER).await;
        // Nothing to be done about which of the two it was.
        let _ = tokio::time::timeout(ROUND, node.net.showed_itself.notified()).await;
    }
}

/// Those whose answer is not asked for any more.
#[derive(Default)]
struct Settled {
    ids: BTreeSet<u64>,
    /// With whose they are, also of those that this node does not know as members yet.
    addresses: BTreeMap<String, u64>,
}

impl Settled {
    fn forget_all_but(&mut self, known: &BTreeMap<u64, String>, found: &[String]) {
        self.addresses.retain(|address, _| found.contains(address));
        self.ids.retain(|id| known.contains_key(id) || self.addresses.values().any(|of| of == id));
    }

    /// Where the others are: members, and what discovery found and is none of them.
    fn open(&self, known: &BTreeMap<u64, String>, found: Vec<String>) -> Vec<String> {
        let members = known.iter().filter(|(id, _)| !self.ids.contains(id)).map(|(_, address)| address.clone());
        let found = found.into_iter().filter(|a| !self.addresses.contains_key(a) && !known.values().any(|k| k == a));
        members.chain(found).collect()
    }
}

/// The answers of those that have one. What they answer is on their disks.
async fn ask_these(node: &Node, membership: Membership, addresses: Vec<String>) -> Vec<(String, Answer)> {
    let request = Request::Boot {
        incarnation: node.data.incarnation,
        boot: node.data.boot,
        nonce: node.data.nonce,
        cluster_id: membership.cluster_id,
    };
    let answers = join_all(addresses.iter().map(|address| node.net.call(address, &request, CALL))).await;
    let answers = addresses.into_iter().zip(answers).filter_map(|(address, answer)| match answer {
        Ok(Response::Boot(Some((id, verdict, fate, voters)))) => Some((address, Answer { id, verdict, fate, voters })),
        _ => None,
    });
    answers.collect()
}

/// From here on the groups of the two may talk to each other.
fn judge(node: &Node, address: &str, answer: &Answer) -> Result<(), Fatal> {
    match answer.verdict {
        BootVerdict::Fresh => {
            node.net.confirm(answer.id);
            Ok(())
        }
        BootVerdict::Stale { recorded } => {
            Err(Fatal::StaleDisk { boot: node.data.boot, recorded, witness: address.to_owned() })
        }
    }
}

/// Whether those that answered *fresh*, each with the voters that it knows, make a majority with this node: of the voters that this node
/// knew, or of others that a majority of them agrees on. All voters may have been replaced while this node was down.
fn is_enough(own: u64, known: &BTreeSet<u64>, fresh: &BTreeMap<u64, BTreeSet<u64>>) -> bool {
    if known.is_empty() {
        // The note was lost, or never written: any member will do.
        return !fresh.is_empty();
    }
    let majority = |voters: &BTreeSet<u64>, agrees: &dyn Fn(&u64) -> bool| {
        voters.iter().filter(|id| **id == own || agrees(id)).count() > voters.len() / 2
    };
    majority(known, &|id| fresh.contains_key(id))
        || fresh.values().any(|voters| majority(voters, &|id| fresh.get(id) == Some(voters)))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Answers<'a> = &'a [(u64, &'a [u64])];

    #[test]
    fn who_answered_is_not_asked_again_but_in_another_place() {
        let known: BTreeMap<u64, String> = [(2, "b:1".to_owned()), (3, "c:1".to_owned())].into();
        let found = || vec!["10.0.0.2:1".to_owned(), "b:1".to_owned(), "d:1".to_owned()];
        let mut settled = Settled::default();
        assert_eq!(settled.open(&known, found()), ["b:1", "c:1", "10.0.0.2:1", "d:1"]);
        // By a name that the member does not give itself.
        settled.ids.insert(2);
        settled.addresses.insert("10.0.0.2:1".to_owned(), 2);
        assert_eq!(settled.open(&known, found()), ["c:1", "d:1"]);
        // It is found, and not known as a member (any more, or yet).
        let others: BTreeMap<u64, String> = [(3, "c:1".to_owned())].into();
        settled.forget_all_but(&others, &["10.0.0.2:1".to_owned()]);
        assert!(settled.ids.contains(&2));
        settled.forget_all_but(&others, &["d:1".to_owned()]);
        assert!(settled.ids.is_empty() && settled.addresses.is_empty());
    }

    #[test]
    fn a_majority_of_the_voters_known_here_or_agreed_on_there() {
        let set = |ids: &[u64]| ids.iter().copied().collect::<BTreeSet<u64>>();
        let answers = |of: Answers| of.iter().map(|(id, voters)| (*id, set(voters))).collect();
        let table: [(&str, u64, &[u64], Answers, bool); 9] = [
            ("alone of three", 1, &[1, 2, 3], &[], false),
            ("two of three", 1, &[1, 2, 3], &[(2, &[1, 2, 3])], true),
            ("the only voter", 1, &[1], &[], true),
            ("a learner needs the voter", 2, &[1], &[(3, &[1])], false),
            ("nothing noted", 2, &[], &[(3, &[])], true),
            ("all were replaced", 4, &[1, 2, 3], &[(5, &[5, 6, 7]), (6, &[5, 6, 7])], true),
            ("one of the new ones", 4, &[1, 2, 3], &[(5, &[5, 6, 7])], false),
            ("they do not agree", 4, &[1, 2, 3], &[(5, &[5, 6, 7]), (6, &[6, 9, 10])], false),
            ("learners know them, and are none", 4, &[1, 2, 3], &[(8, &[5, 6, 7]), (9, &[5, 6, 7])], false),
        ];
        for (name, own, known, fresh, enough) in table {
            assert_eq!(is_enough(own, &set(known), &answers(fresh)), enough, "{name}");
        }
    }
}
