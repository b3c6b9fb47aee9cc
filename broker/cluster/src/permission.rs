//! A node that was a member asks its peers whether they have seen a later start of its directory.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;

use crate::error::Fatal;
use crate::identity::{BootVerdict, Membership};
use crate::node::{CALL, Node, RETRY};
use crate::wire::{Fate, Request, Response};

/// Returns when this boot may take part: no peer has seen it before, and with those that said so the node makes a majority of the voters.
pub(crate) async fn ask(node: &Node, membership: Membership) -> Result<(), Fatal> {
    let voters = node.data.known_members().voters;
    let mut fresh: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    loop {
        let request = Request::Boot {
            incarnation: node.data.incarnation,
            boot: node.data.boot,
            nonce: node.data.nonce,
            cluster_id: membership.cluster_id,
        };
        let candidates = node.candidates();
        let calls = candidates.iter().map(|address| node.net.call(address, &request, CALL));
        for (address, answer) in candidates.iter().zip(join_all(calls).await) {
            let Ok(Response::Boot(Some((id, verdict, fate, voters)))) = answer else {
                continue;
            };
            match fate {
                Fate::Replaced { id } => return Err(Fatal::Replaced { id }),
                Fate::Left { id } => return Err(Fatal::Left { id }),
                Fate::Unknown | Fate::Active | Fate::Leaving => {}
            }
            match verdict {
                BootVerdict::Fresh => {
                    fresh.insert(id, voters);
                }
                BootVerdict::Stale { recorded } => {
                    return Err(Fatal::StaleDisk { boot: node.data.boot, recorded, witness: address.clone() });
                }
            }
        }
        if is_enough(membership.raft_id, &voters, &fresh) {
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
