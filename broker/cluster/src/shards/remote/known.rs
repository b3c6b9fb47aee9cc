//! What is known of one queue: whether it may have something new, and the part of it that was read and that its worker has not taken.

use raftmq_shard::Deliveries;

/// What a worker wants to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) after: u64,
    pub(super) max: usize,
    pub(super) max_bytes: usize,
}

/// A part that its worker has not taken.
#[derive(Debug)]
pub(super) struct Ready {
    after: u64,
    read: Deliveries,
    more: bool,
}

/// What is known of a queue.
#[derive(Debug)]
pub(super) struct Known {
    /// It may have something behind what was read.
    changed: bool,
    /// It waits for being read, or is.
    under_way: bool,
    /// The worker has asked and got nothing.
    wanted: Option<Wanted>,
    pub(super) ready: Option<Ready>,
    /// The last number that was given to the worker.
    read_to: u64,
    granted: u64,
    last: u64,
}

impl Known {
    pub(super) fn new() -> Self {
        Self { changed: true, under_way: false, wanted: None, ready: None, read_to: 0, granted: 0, last: 0 }
    }

    /// The worker asks: what is there, and whether something is to be read.
    pub(super) fn ask(&mut self, wanted: Wanted) -> (Deliveries, bool) {
        let Wanted { after, .. } = wanted;
        if let Some(Ready { after: from, read, more }) = self.ready.take() {
            self.changed |= more || from != after;
            if from == after && !read.sent.is_empty() {
                self.read_to = read.sent.last().map_or(after, |last| last.seq);
                self.wanted = None;
                return (read, false);
            }
        }
        // What was given could not all be used.
        self.changed |= after < self.read_to;
        self.read_to = after;
        self.wanted = Some(wanted);
        // As long as there may be more, it is not known what is granted of what there is.
        let granted = if self.changed || self.under_way { 0 } else { self.granted };
        let nothing = Deliveries { sent: Vec::new(), granted, last: self.last, waits: false };
        (nothing, self.is_due())
    }

    /// It may have something new. Whether it is to be read.
    pub(super) fn change(&mut self) -> bool {
        self.changed = true;
        self.is_due()
    }

    fn is_due(&mut self) -> bool {
        let due = self.changed && self.wanted.is_some() && !self.under_way;
        self.under_way |= due;
        due
    }

    /// It is read now; what comes up from here on may not be in what is read.
    pub(super) fn begin(&mut self) -> Option<Wanted> {
        self.changed = false;
        self.under_way = self.wanted.is_some();
        self.wanted
    }

    /// It was not read. Whether it is to be read again.
    pub(super) fn fail(&mut self) -> bool {
        self.under_way = false;
        self.change()
    }

    /// It was read. Whether the worker is to look, and whether it is to be read again.
    pub(super) fn read(&mut self, after: u64, read: Deliveries, more: bool) -> (bool, bool) {
        self.under_way = false;
        let news = (read.granted, read.last) != (self.granted, self.last);
        (self.granted, self.last) = (read.granted, read.last);
        if read.sent.is_empty() {
            self.changed |= more;
            return (news, self.is_due());
        }
        self.ready = Some(Ready { after, read, more });
        self.wanted = None;
        (true, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raftmq_shard::{Delivery, Sent};

    fn wanted(after: u64) -> Wanted {
        Wanted { after, max: 10, max_bytes: 1_000 }
    }

    /// Releases of these numbers.
    fn part(seqs: std::ops::Range<u64>) -> Deliveries {
        let sent = seqs.map(|seq| Delivery { seq, sent: Sent::Release }).collect();
        Deliveries { sent, granted: 100, last: 20, waits: false }
    }

    fn asked(known: &mut Known, after: u64) -> (usize, bool) {
        let (read, due) = known.ask(wanted(after));
        (read.sent.len(), due)
    }

    #[test]
    fn a_queue_is_read_when_its_worker_asks_and_it_may_have_something() {
        let mut known = Known::new();
        assert_eq!(asked(&mut known, 0), (0, true), "nobody has looked yet");
        assert_eq!(asked(&mut known, 0), (0, false), "it is under way");
        assert_eq!(known.begin(), Some(wanted(0)));
        assert_eq!(known.read(0, part(1..4), false), (true, false));
        assert_eq!(asked(&mut known, 0), (3, false));
        assert_eq!(asked(&mut known, 3), (0, false), "that was all");
        // What is new is read at once, since the worker waits for it.
        assert!(known.change());
        assert!(!known.change());
        assert_eq!(known.begin(), Some(wanted(3)));
        assert_eq!(known.read(3, part(4..5), true), (true, false));
        assert!(!known.change(), "the worker has to take what is there");
        assert_eq!(asked(&mut known, 3), (1, false));
        assert_eq!(asked(&mut known, 4), (0, true), "there was more");
    }

    #[test]
    fn what_comes_up_while_it_is_read_is_read_again() {
        let mut known = Known::new();
        assert!(asked(&mut known, 0).1);
        known.begin();
        assert!(!known.change());
        // It was read before.
        assert_eq!(known.read(0, part(0..0), false), (true, true));
        known.begin();
        assert_eq!(known.read(0, part(0..0), false), (false, false), "nothing new");
        // The same with something in it.
        assert!(known.change());
        known.begin();
        assert!(!known.change());
        assert_eq!(known.read(0, part(1..2), false), (true, false));
        assert_eq!(asked(&mut known, 0), (1, false));
        assert_eq!(asked(&mut known, 1), (0, true));
    }

    #[test]
    fn what_the_client_could_not_take_is_read_again() {
        let mut known = Known::new();
        asked(&mut known, 0);
        known.begin();
        known.read(0, part(1..6), false);
        assert_eq!(asked(&mut known, 0), (5, false));
        // It had credit for two.
        assert_eq!(asked(&mut known, 2), (0, true));
        known.begin();
        // What was read for another place is of no use.
        known.read(2, part(3..6), false);
        assert_eq!(asked(&mut known, 3), (0, true));
        // And a read that failed is made again.
        known.begin();
        assert!(known.fail());
        assert_eq!(known.begin(), Some(wanted(3)));
    }
}
