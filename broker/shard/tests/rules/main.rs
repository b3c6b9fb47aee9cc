//! The rules, one table or story each.

#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod connections;
mod decided;
mod keeping;
mod queues;
mod retained;
mod store;

use raftmq_shard::{Op, OpAnswer, Will, WillEnd};

use common::{message, name};

fn disconnect(id: &str, epoch: u64, will: WillEnd) -> Op {
    Op::Disconnect { client: name(id), epoch, expiry_s: None, will }
}

fn will(topic: &str, delay_s: u32) -> Option<Will> {
    Some(Will { message: message(topic, "gone"), delay_s })
}

fn drop_answer(answer: &OpAnswer, dropped: u32) {
    assert_eq!(*answer, OpAnswer::Published { matched: 1, dropped });
}
