//! A node that was a member asks its peers whether they have seen a later start of its directory.

use std::collections::BTreeSet;

use futures::future::join_all;

use crate::error::Fatal;
use crate::identity::{BootVerdict, Membership};
use crate::node::{CALL, Node, RETRY};
use crate::wire::{Fate, Request, Response};

/// Returns when this boot may take part: no peer has seen it before, and with those that said so the node makes a majority of the voters.
pub(crate) async fn ask(node: &Node, membership: Membership) -> Result<(), Fatal> {
    let voters = node.data.known_members().voters;
    let mut fresh: BTreeSet<u64> = BTreeSet::new();
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
            let Ok(Response::Boot(Some((id, verdict, fate)))) = answer else {
                continue;
            };
            match fate {
                Fate::Replaced { id } => return Err(Fatal::Replaced { id }),
                Fate::Left { id } => return Err(Fatal::Left { id }),
                Fate::Unknown | Fate::Active | Fate::Leaving => {}
            }
            match verdict {
                BootVerdict::Fresh => {
                    fresh.insert(id);
                }
                BootVerdict::Stale { recorded } => {
                    return Err(Fatal::StaleDisk { boot: node.data.boot, recorded, witness: address.clone() });
                }
            }
        }
        let agreeing = voters.iter().filter(|id| **id == membership.raft_id || fresh.contains(id)).count();
        // Without a note of the voters (it was lost, or never written) any member will do.
        let enough = if voters.is_empty() { !fresh.is_empty() } else { agreeing > voters.len() / 2 };
        if enough {
            return Ok(());
        }
        node.set_detail(format!(
            "waiting for peers that know this directory: {agreeing} of {} voters, {} needed",
            voters.len(),
            voters.len() / 2 + 1
        ));
        tokio::time::sleep(RETRY).await;
    }
}
