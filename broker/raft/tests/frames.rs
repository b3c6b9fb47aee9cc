//! Frames that are refused, and votes that are seen.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use common::{Cluster, eventually};
use raftmq_raft::{Class, Persistence, RaftOptions, RpcCounters};

const CLUSTER: usize = 2;
const GROUP: usize = 18;
const GENERATION: usize = 22;
const FROM: usize = 26;
const TO: usize = 34;

fn changed(frame: &Bytes, at: usize) -> Bytes {
    let mut frame = BytesMut::from(&frame[..]);
    frame[at] ^= 0x40;
    frame.freeze()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_for_somebody_else_are_refused_and_counted() {
    let cluster = Cluster::of(3, Persistence::Memory, RaftOptions::default()).await;
    let leader = cluster.leader().await;
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    eventually("a heartbeat", || cluster.net.last(leader, follower, Class::Heartbeat).is_some()).await;
    let frame = cluster.net.last(leader, follower, Class::Heartbeat).unwrap();
    let groups = &cluster.nodes[&follower].groups;
    // The refusal's number is the second byte of the answer.
    for (at, number, count) in [
        (CLUSTER, 2, (|c| c.refused_cluster) as fn(RpcCounters) -> u64),
        (TO, 3, |c| c.refused_addressee),
        (GROUP, 4, |c| c.refused_group),
        (GENERATION, 5, |c| c.refused_generation),
        (FROM, 1, |c| c.malformed),
    ] {
        let before = count(groups.counters());
        let answer = groups.handle(changed(&frame, at)).await;
        assert_eq!(answer[1], number, "byte {at}");
        assert_eq!(count(groups.counters()), before + 1, "byte {at}");
    }
    let before = groups.counters().malformed;
    for end in 0..frame.len() {
        let answer = groups.handle(frame.slice(..end)).await;
        assert_ne!(answer[1], 0, "cut at {end}");
    }
    assert_eq!(groups.counters().malformed, before + frame.len() as u64);
    assert_eq!(groups.handle(frame).await[1], 0, "the frame itself is fine");
    assert_eq!(cluster.leader().await, leader);
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_can_be_seen_who_votes() {
    let lines = Lines::default();
    let out = lines.clone();
    tracing_subscriber::fmt()
        .with_env_filter("raftmq::rpc=debug")
        .with_ansi(false)
        .with_writer(move || out.clone())
        .init();
    let cluster = Cluster::of(3, Persistence::Memory, RaftOptions::default()).await;
    let leader = cluster.leader().await;
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let answered = |line: &&str| line.contains("answers about a vote") && line.contains(&format!("from={leader} "));
    let line = text.lines().find(answered).unwrap();
    for part in ["group=1.3", "to=", "term=", "kind=", "granted="] {
        assert!(line.contains(part), "{line}");
    }
}
