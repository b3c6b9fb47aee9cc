#![allow(clippy::unwrap_used)]
use super::*;
use crate::{RoutesMachine, Targets};
use proptest::prelude::*;

const LINGER: u64 = 5_000;

/// A node and a routes group of its own.
struct Pair {
    local: LocalRoutes,
    machine: RoutesMachine,
    index: u64,
    progress: Progress,
}

impl Pair {
    fn new(options: LocalRoutesOptions) -> Self {
        let mut pair = Self {
            local: LocalRoutes::new(SharedRoutes::new(), options),
            machine: RoutesMachine::new(SharedRoutes::new()),
            index: 0,
            progress: Progress::default(),
        };
        pair.reopen(1);
        pair
    }

    fn reopen(&mut self, stream: u64) {
        let command = self.local.reopen(7, 7, 1, stream, &mut self.progress);
        let response = self.apply(command);
        assert_eq!(self.local.on_opened(stream, &response), Outcome::Continue);
    }

    fn apply(&mut self, command: RoutesCommand) -> RoutesResponse {
        self.index += 1;
        self.machine.apply_command(command)
    }

    /// Proposes and answers until nothing is left; gives the number of batches.
    fn settle(&mut self, now: u64) -> usize {
        let mut batches = 0;
        while let Some(batch) = self.local.next_batch(now) {
            batches += 1;
            let response = self.apply(batch.command);
            let outcome =
                self.local.on_result(now, batch.stream, batch.seq, Some((self.index, &response)), &mut self.progress);
            assert_eq!(outcome, Outcome::Continue);
        }
        batches
    }

    fn routed(&self, topic: &str) -> bool {
        let mut targets = Targets::default();
        self.machine.routes().lookup(topic, &mut targets);
        !targets.nodes.is_empty() || !targets.shared().is_empty()
    }
}

#[test]
fn first_and_last_subscriber_only() {
    let mut pair = Pair::new(LocalRoutesOptions::default());
    let Need::Pending(ticket) = pair.local.worker_added("a", 0) else { panic!() };
    assert_eq!(pair.local.worker_added("a", 1), Need::Pending(ticket));
    assert_eq!(pair.settle(0), 1);
    assert_eq!(std::mem::take(&mut pair.progress).committed, [(ticket, 2)]);
    assert_eq!(pair.local.worker_added("a", 2), Need::Barrier(2));
    for worker in 0..3 {
        assert_eq!(pair.local.worker_removed(100, "a", worker), None);
    }
    assert_eq!(pair.local.next_wakeup(), Some(100 + LINGER));
    assert_eq!(pair.settle(99 + LINGER), 0);
    assert!(pair.routed("a"));
    assert_eq!(pair.settle(100 + LINGER), 1);
    assert!(!pair.routed("a") && pair.local.is_empty());
}

#[test]
fn two_filters_with_the_same_key_are_counted() {
    // What a collision of hashes looks like: the same key, twice on a worker.
    let shared = SharedRoutes::new();
    let mut local = LocalRoutes::new(shared.clone(), LocalRoutesOptions::default());
    local.worker_added("a", 3);
    local.worker_added("a", 3);
    let mut targets = Targets::default();
    assert_eq!(local.worker_removed(0, "a", 3), None);
    shared.lookup("a", &mut targets);
    assert_eq!(targets.workers, 1 << 3);
    assert!(local.worker_removed(0, "a", 3).is_some());
    shared.lookup("a", &mut targets);
    assert!(targets.is_empty() && local.is_empty());
}

#[test]
fn churn_costs_nothing() {
    let mut pair = Pair::new(LocalRoutesOptions::default());
    pair.local.worker_added("a", 0);
    pair.settle(0);
    for now in 0..10_000 {
        pair.local.worker_removed(now, "a", 0);
        assert_eq!(pair.local.worker_added("a", 0), Need::Barrier(2));
        assert_eq!(pair.settle(now), 0);
    }
    assert!(pair.local.lingering.len() < 100);
    assert!(pair.routed("a"));
}

#[test]
fn a_filter_that_left_before_it_was_proposed() {
    let mut local = LocalRoutes::new(SharedRoutes::new(), LocalRoutesOptions::default());
    for i in 0..1_000 {
        let Need::Pending(ticket) = local.worker_added(&format!("f{i}"), 0) else { panic!() };
        assert_eq!(local.worker_removed(0, &format!("f{i}"), 0), Some(ticket));
    }
    assert!(local.is_empty() && local.queue.len() < 100);
}

#[test]
fn back_again_while_the_removal_is_on_its_way() {
    let mut pair = Pair::new(LocalRoutesOptions { window: 4, ..LocalRoutesOptions::default() });
    pair.local.worker_added("a", 0);
    pair.settle(0);
    pair.local.worker_removed(0, "a", 0);
    let removal = pair.local.next_batch(LINGER).unwrap();
    let Need::Pending(ticket) = pair.local.worker_added("a", 0) else { panic!() };
    let addition = pair.local.next_batch(LINGER).unwrap();
    pair.progress = Progress::default();
    for batch in [removal, addition] {
        let response = pair.apply(batch.command);
        pair.local.on_result(LINGER, 1, batch.seq, Some((pair.index, &response)), &mut pair.progress);
    }
    assert_eq!(pair.progress.committed, [(ticket, pair.index)]);
    assert!(pair.routed("a"));
}

#[test]
fn node_down_then_a_new_stream() {
    let mut pair = Pair::new(LocalRoutesOptions::default());
    pair.local.worker_added("a/+", 0);
    pair.settle(0);
    pair.apply(RoutesCommand::NodeDown { node: 7, through: None });
    pair.local.worker_added("b", 0);
    let batch = pair.local.next_batch(0).unwrap();
    let response = pair.apply(batch.command);
    let outcome = pair.local.on_result(0, 1, batch.seq, Some((pair.index, &response)), &mut pair.progress);
    assert_eq!(outcome, Outcome::Reopen);
    assert!(matches!(pair.local.worker_added("a/+", 1), Need::Pending(_)));
    pair.reopen(2);
    pair.settle(0);
    assert!(pair.routed("a/x") && pair.routed("b"));
}

#[test]
fn batches_are_bounded() {
    let mut pair = Pair::new(LocalRoutesOptions { batch_routes: 10, ..LocalRoutesOptions::default() });
    for i in 0..95 {
        pair.local.worker_added(&format!("a{i}"), 0);
    }
    assert_eq!(pair.settle(0), 10);
    assert_eq!(pair.machine.routes_of(7), 95);
}

#[test]
fn a_standalone_node_waits_for_nothing() {
    let shared = SharedRoutes::new();
    let mut local =
        LocalRoutes::new(shared.clone(), LocalRoutesOptions { standalone: true, ..LocalRoutesOptions::default() });
    assert_eq!(local.worker_added("a", 5), Need::Nothing);
    let mut targets = Targets::default();
    shared.lookup("a", &mut targets);
    assert_eq!(targets.workers, 1 << 5);
    assert_eq!(local.next_batch(0), None);
    local.worker_removed(0, "a", 5);
    assert!(local.is_empty() && local.queue.is_empty());
    shared.lookup("a", &mut targets);
    assert!(targets.is_empty());
}

#[test]
fn a_group_tells_about_how_many_members_it_has() {
    let mut pair = Pair::new(LocalRoutesOptions { linger_ms: 0, ..LocalRoutesOptions::default() });
    let filter = |member: u8| if member.is_multiple_of(2) { "$queue/a" } else { "$share/$queue/a" };
    let mut known = Vec::new();
    let mut look = |pair: &mut Pair| {
        let proposed = pair.settle(0) > 0;
        let mut targets = Targets::default();
        pair.machine.routes().lookup("a", &mut targets);
        assert!(targets.nodes.is_empty());
        let members = targets.shared().first().map_or(0, |group| group.nodes[0].members);
        assert_eq!(proposed, known.last() != Some(&members), "{known:?} {members}");
        known.push(members);
    };
    for member in 1..=14 {
        assert!(matches!(pair.local.worker_added(filter(member), member % 3), Need::Pending(_) | Need::Barrier(2)));
        look(&mut pair);
    }
    for member in 1..=14 {
        assert_eq!(pair.local.worker_removed(0, filter(member), member % 3), None);
        look(&mut pair);
    }
    let up = [1, 2, 3, 4, 5, 6, 7, 8, 8, 8, 8, 12, 12];
    let down = [12, 12, 8, 8, 8, 8, 7, 6, 5, 4, 3, 2, 1, 0];
    assert_eq!(known, [&up[..], &[12], &down[..]].concat());
    assert!(pair.local.is_empty());
    assert_eq!(pair.machine.routes_of(7), 0);
}

#[derive(Debug, Clone)]
enum Step {
    Add(u8, u8),
    Remove(u8, u8),
    Send,
    /// A batch on its way arrives (or is lost), and its answer arrives (or is lost).
    Arrive {
        at: usize,
        applied: bool,
        answered: bool,
    },
    Time(u64),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0_u8..6, 0_u8..3).prop_map(|(f, w)| Step::Add(f, w)),
        4 => (0_u8..6, 0_u8..3).prop_map(|(f, w)| Step::Remove(f, w)),
        4 => Just(Step::Send),
        4 => (0_usize..5, any::<bool>(), any::<bool>()).prop_map(|(at, applied, answered)| Step::Arrive { at, applied, answered }),
        2 => (0_u64..8_000).prop_map(Step::Time),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 0..150)
}

proptest! {
    /// Whatever is lost, repeated or late: once all is answered, the group has the filters that have subscribers, and
    /// every ticket was committed or cancelled.
    #[test]
    fn ends_up_with_what_is_subscribed(steps in steps()) {
        let filters = ["a", "b", "c/+", "d/#", "e", "$share/g/f"];
        let mut pair = Pair::new(LocalRoutesOptions { batch_routes: 2, window: 3, ..LocalRoutesOptions::default() });
        let mut model = std::collections::BTreeSet::new();
        let mut flying = Vec::new();
        let (mut now, mut stream) = (0, 1);
        let mut waiting = std::collections::BTreeSet::new();
        let mut cancelled = Vec::new();
        for step in steps {
            match step {
                Step::Add(f, w) => if model.insert((f, w))
                    && let Need::Pending(ticket) = pair.local.worker_added(filters[usize::from(f)], w)
                {
                    waiting.insert(ticket);
                },
                Step::Remove(f, w) => if model.remove(&(f, w)) {
                    cancelled.extend(pair.local.worker_removed(now, filters[usize::from(f)], w));
                },
                Step::Send => flying.extend(pair.local.next_batch(now)),
                Step::Arrive { at, applied, answered } => if at < flying.len() {
                    let batch: BatchToSend = flying.remove(at);
                    let response = applied.then(|| pair.apply(batch.command));
                    let index = pair.index;
                    let result = response.as_ref().filter(|_| answered).map(|response| (index, response));
                    let outcome = pair.local.on_result(now, batch.stream, batch.seq, result, &mut pair.progress);
                    prop_assert_eq!(outcome, Outcome::Continue);
                },
                Step::Time(ms) => now += ms,
                Step::Reopen => {
                    stream += 1;
                    pair.reopen(stream);
                }
            }
        }
        // Late copies arrive, their answers are lost; then the rest.
        for batch in flying {
            pair.apply(batch.command);
            pair.local.on_result(now, batch.stream, batch.seq, None, &mut pair.progress);
        }
        pair.settle(now);
        now += 2 * LINGER;
        pair.settle(now);
        now += 2 * LINGER;
        pair.settle(now);
        for (f, filter) in filters.iter().enumerate() {
            let wanted = model.iter().any(|(number, _)| usize::from(*number) == f);
            let topic = filter.replace("$share/g/", "").replace(['+', '#'], "x");
            prop_assert_eq!(pair.routed(&topic), wanted, "{}", filter);
        }
        let ended: std::collections::BTreeSet<_> = pair.progress.committed.iter().map(|(ticket, _)| *ticket)
            .chain(pair.progress.cancelled.iter().copied()).chain(cancelled).collect();
        prop_assert!(waiting.is_subset(&ended), "{:?} {:?}", waiting, ended);
    }
}
