//! An empty node looks for a cluster.

use futures::future::join_all;
use raftmq_meta::{MetaResponse, Refusal};
use tokio::time::sleep;

use crate::bootstrap;
use crate::error::Fatal;
use crate::identity::Membership;
use crate::node::{CALL, Node, RETRY};
use crate::status::Stage;
use crate::wire::{Probe, Request, Response};

/// Returns when the node is a member: it joined an existing cluster, or a bootstrap made it one.
pub(crate) async fn find(node: &Node) -> Result<Membership, Fatal> {
    let mut peers = node.discovery.peers();
    loop {
        if let Some(membership) = node.data.identity().member {
            return Ok(membership);
        }
        let probes = probe_all(node).await;
        let mut clusters: Vec<u128> =
            probes.iter().filter(|(_, p)| p.running).filter_map(|(_, p)| p.member_of).collect();
        clusters.sort_unstable();
        clusters.dedup();
        match clusters.as_slice() {
            [] => {
                node.set_stage(Stage::WaitingForCluster);
                let unfinished = bootstrap::resume(node).await;
                node.set_detail(match (unfinished, node.data.identity().agreed) {
                    (Some(reason), _) => format!("forming the cluster goes on later: {reason}"),
                    (None, Some(_)) => "agreed to form a cluster, waiting for the others".to_owned(),
                    (None, None) => {
                        "no cluster found; waiting for one, or for the call that lets the initial members form it"
                            .to_owned()
                    }
                });
            }
            [cluster] => {
                node.set_stage(Stage::Joining);
                let mut reasons = Vec::new();
                let members = probes.iter().filter(|(_, p)| p.running && p.member_of == Some(*cluster));
                for (address, _) in members {
                    match join(node, address).await {
                        Ok(membership) => return Ok(membership),
                        Err(JoinError::Fatal(fatal)) => return Err(fatal),
                        Err(JoinError::Later(reason)) => reasons.push(format!("{address}: {reason}")),
                    }
                }
                // One text a round, the same as long as the answers are: it is logged when it changes.
                reasons.sort_unstable();
                node.set_detail(format!("joining by {}", reasons.join("; by ")));
            }
            _ => node.set_detail("peers are members of different clusters; not joining any of them"),
        }
        tokio::select! {
            () = node.begun.notified() => {}
            changed = peers.changed() => if changed.is_err() { sleep(RETRY).await },
            () = sleep(RETRY * 2) => {}
        }
    }
}

/// Asks everybody who they are.
pub(crate) async fn probe_all(node: &Node) -> Vec<(String, Probe)> {
    let mut candidates = node.candidates();
    let mut found = Vec::new();
    // Whoever answers may know others that the discovery does not.
    for _ in 0..2 {
        let calls = candidates.iter().map(|address| node.net.call(address, &Request::Probe, CALL));
        let answers = join_all(calls).await;
        let mut more = Vec::new();
        for (address, answer) in candidates.iter().zip(answers) {
            if let Ok(Response::Probe(probe)) = answer
                && probe.incarnation != node.data.incarnation
            {
                more.extend(probe.peers.iter().cloned());
                found.push((address.clone(), probe));
            }
        }
        more.sort_unstable();
        more.dedup();
        more.retain(|a| *a != node.config.advertise && !candidates.contains(a));
        more.truncate(raftmq_meta::MAX_MEMBERS);
        candidates = more;
        if candidates.is_empty() {
            break;
        }
    }
    found
}

enum JoinError {
    Later(String),
    Fatal(Fatal),
}

async fn join(node: &Node, address: &str) -> Result<Membership, JoinError> {
    let request = Request::Join {
        name: node.config.node.clone(),
        incarnation: node.data.incarnation,
        boot: node.data.boot,
        nonce: node.data.nonce,
        addresses: node.addresses(),
        version: node.config.version.clone(),
        feature_level: node.config.feature_level(),
    };
    let later = |reason: String| JoinError::Later(reason);
    let answer = node.net.call(address, &request, CALL * 5).await.map_err(|e| later(e.to_string()))?;
    let Response::Join(answer) = answer else {
        return Err(later("an answer to something else".into()));
    };
    let (response, known) = answer.map_err(later)?;
    let refusal = match response {
        MetaResponse::Joined { id, cluster_id } => {
            let membership = Membership { cluster_id, raft_id: id };
            // The id is written before it is used; if the node dies before this, it asks again and gets the same.
            node.on_disk(move |data| {
                data.remember_members(known)?;
                data.update(|identity| {
                    identity.member = Some(membership);
                    identity.agreed = None;
                })
            })
            .await
            .map_err(later)?;
            return Ok(membership);
        }
        MetaResponse::Refused(refusal) => refusal,
        MetaResponse::Done | MetaResponse::BansLeftOut { .. } | MetaResponse::Fenced { .. } => {
            return Err(later("an answer to something else".into()));
        }
    };
    Err(JoinError::Fatal(match refusal {
        Refusal::Stale { boot, recorded } => Fatal::StaleDisk { boot, recorded, witness: address.to_owned() },
        Refusal::Replaced { id } => Fatal::Replaced { id },
        Refusal::Left { id } => Fatal::Left { id },
        Refusal::NotInitialised | Refusal::Full => {
            return Err(JoinError::Later(refusal.to_string()));
        }
        other => Fatal::Refused(other.to_string()),
    }))
}
