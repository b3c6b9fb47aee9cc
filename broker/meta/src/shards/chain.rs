//! Evening out: the cheapest chain of moves that takes one thing from who has much to who has little.
//!
//! Replicas on members and leaders on members are the same problem. Where the one with too much cannot give to the one with too
//! little (it holds a replica already, the zone is full), a third one takes from the first and gives to the second. While there is such a
//! chain between two whose loads differ by two or more, it makes the loads more even; when there is none, nothing does: it is a flow.

/// One thing of `from` may move to `to`: which, and what it costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Move {
    /// Moves that cost the same are chosen in the order of what moves.
    pub(super) cost: u32,
    /// What moves.
    pub(super) thing: usize,
}

/// Which moves there are between members, one a pair: the cheapest.
pub(super) struct Moves {
    count: usize,
    best: Vec<Option<Move>>,
}

impl Moves {
    pub(super) fn between(count: usize) -> Self {
        Self { count, best: vec![None; count * count] }
    }

    pub(super) fn add(&mut self, from: usize, to: usize, candidate: Move) {
        let place = &mut self.best[from * self.count + to];
        if place.is_none_or(|there| candidate < there) {
            *place = Some(candidate);
        }
    }

    fn get(&self, from: usize, to: usize) -> Option<Move> {
        self.best[from * self.count + to]
    }

    /// The chain to carry out next, as (from, to, thing): the cheapest of all, then the one between the loads that differ most.
    ///
    /// All of its moves can be made: a shortest chain comes by no thing twice, since there would be a shorter one.
    pub(super) fn next(&self, load: &[u32]) -> Option<Vec<(usize, usize, usize)>> {
        let least = load.iter().min()?;
        let mut best: Option<(Reach, u32, usize, usize, Vec<usize>)> = None;
        for from in (0..self.count).filter(|from| load[*from] >= least + 2) {
            let (reach, before) = self.cheapest(from);
            for to in (0..self.count).filter(|to| load[*to] + 2 <= load[from]) {
                let Some(reach) = reach[to] else {
                    continue;
                };
                let gap = load[from] - load[to];
                if best.as_ref().is_none_or(|(r, g, ..)| (reach.cost, *g, reach.hops) < (r.cost, gap, r.hops)) {
                    best = Some((reach, gap, from, to, before.clone()));
                }
            }
        }
        let (_, _, from, to, before) = best?;
        let mut chain = Vec::new();
        let mut at = to;
        while at != from {
            let last = before[at];
            chain.push((last, at, self.get(last, at)?.thing));
            at = last;
        }
        chain.reverse();
        Some(chain)
    }

    /// What it costs to reach each, and by whom: Dijkstra, as there are few members.
    fn cheapest(&self, from: usize) -> (Vec<Option<Reach>>, Vec<usize>) {
        let mut reach = vec![None; self.count];
        let mut before = vec![from; self.count];
        let mut done = vec![false; self.count];
        reach[from] = Some(Reach { cost: 0, hops: 0 });
        loop {
            let open = (0..self.count).filter(|at| !done[*at]);
            let Some((here, at)) = open.filter_map(|at| Some((reach[at]?, at))).min() else {
                return (reach, before);
            };
            done[at] = true;
            for to in 0..self.count {
                let Some(step) = self.get(at, to) else {
                    continue;
                };
                let there = Reach { cost: here.cost + step.cost, hops: here.hops + 1 };
                if !done[to] && reach[to].is_none_or(|known| there < known) {
                    reach[to] = Some(there);
                    before[to] = at;
                }
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Reach {
    cost: u32,
    hops: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cheapest_chain_goes_first() {
        let mut moves = Moves::between(4);
        let step = |cost, thing| Move { cost, thing };
        assert_eq!(moves.next(&[9, 0, 0, 0]), None);
        moves.add(0, 1, step(1, 7));
        moves.add(0, 1, step(1, 5));
        moves.add(0, 1, step(2, 3));
        assert_eq!(moves.next(&[9, 0, 0, 0]), Some(vec![(0, 1, 5)]));
        // One more and one less is even enough; two are not.
        assert_eq!(moves.next(&[1, 0, 0, 0]), None);
        assert_eq!(moves.next(&[2, 0, 2, 2]), Some(vec![(0, 1, 5)]));
        // By a third one, when the cost is the same or less.
        moves.add(1, 2, step(0, 4));
        assert_eq!(moves.next(&[2, 1, 0, 2]), Some(vec![(0, 1, 5), (1, 2, 4)]));
        moves.add(0, 2, step(1, 8));
        assert_eq!(moves.next(&[2, 1, 0, 2]), Some(vec![(0, 2, 8)]));
        moves.add(0, 3, step(0, 6));
        moves.add(3, 2, step(0, 9));
        assert_eq!(moves.next(&[2, 1, 0, 1]), Some(vec![(0, 3, 6), (3, 2, 9)]));
    }
}
