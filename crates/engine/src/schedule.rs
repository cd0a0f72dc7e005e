//! Who comes next, and who gets how much of a step: pure rules, without a model.

use crate::{RequestId, Scope};
use std::collections::{BTreeMap, HashMap, VecDeque};

/// Deals the tokens of one step: everybody gets what he has left to compute, or an equal share of what the smaller ones
/// leave (max-min fairness). So a short prompt, and an answer that needs one token, never wait for a long prompt; and the
/// long prompt gets all that they do not need.
pub(crate) fn deal(left: &[usize], budget: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..left.len()).collect();
    order.sort_by_key(|idx| left[*idx]);
    let (mut shares, mut budget) = (vec![0; left.len()], budget);
    for (n_before, idx) in order.into_iter().enumerate() {
        // Rounded up, so that a budget smaller than the number of requests is still dealt.
        let share = left[idx].min(budget.div_ceil(left.len() - n_before));
        shares[idx] = share;
        budget -= share;
    }
    shares
}

/// Requests that wait. Scopes take turns by how many tokens were computed for them (the virtual token counter of Sheng et
/// al. 2024, arXiv 2401.00588); within a scope, who came first is first.
#[derive(Default)]
pub(crate) struct Queue {
    /// What each scope has had.
    served: HashMap<Scope, u64>,
    waiting: BTreeMap<RequestId, Scope>,
    lines: HashMap<Scope, VecDeque<RequestId>>,
    /// No scope starts with less than the one that was last let in had: nobody saves up by being away.
    floor: u64,
}

/// Scopes that are remembered while they have no request waiting.
const REMEMBERED: usize = 4096;

impl Queue {
    pub fn push(&mut self, id: RequestId, scope: Scope) {
        self.enter(id, scope, false);
    }

    /// Puts a request that was in already back to the front of its scope's line.
    pub fn put_back(&mut self, id: RequestId, scope: Scope) {
        self.enter(id, scope, true);
    }

    fn enter(&mut self, id: RequestId, scope: Scope, front: bool) {
        let line = self.lines.entry(scope).or_default();
        if line.is_empty() {
            if self.served.len() >= REMEMBERED && !self.served.contains_key(&scope) {
                let lines = &self.lines;
                // What is forgotten is at most a debt that was paid by waiting as long as everybody else.
                self.served.retain(|scope, _| lines.get(scope).is_some_and(|line| !line.is_empty()));
            }
            let served = self.served.entry(scope).or_default();
            *served = (*served).max(self.floor);
        }
        let line = self.lines.entry(scope).or_default();
        if front {
            line.push_front(id)
        } else {
            line.push_back(id)
        }
        self.waiting.insert(id, scope);
    }

    /// Who is to be let in next.
    pub fn next(&self) -> Option<RequestId> {
        let heads = self.lines.iter().filter_map(|(scope, line)| {
            let served = self.served.get(scope).copied().unwrap_or_default();
            line.front().map(|head| (served, *head))
        });
        heads.min().map(|(_, head)| head)
    }

    /// Takes a request out, wherever it stands.
    pub fn remove(&mut self, id: RequestId) -> bool {
        let Some(scope) = self.waiting.remove(&id) else { return false };
        if let Some(line) = self.lines.get_mut(&scope) {
            line.retain(|waiting| *waiting != id);
            if line.is_empty() {
                self.lines.remove(&scope);
            }
        }
        true
    }

    /// Takes out the request that [`Queue::next`] named.
    pub fn let_in(&mut self, id: RequestId) {
        if let Some(served) = self.waiting.get(&id).and_then(|scope| self.served.get(scope)) {
            self.floor = self.floor.max(*served);
        }
        self.remove(id);
    }

    /// So many tokens were computed for a scope.
    pub fn charge(&mut self, scope: Scope, n_tokens: usize) {
        if let Some(served) = self.served.get_mut(&scope) {
            *served = served.saturating_add(n_tokens as u64);
        }
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_small_get_all_and_the_large_the_rest() {
        assert_eq!(deal(&[1, 1000, 1], 100), [1, 98, 1]);
        assert_eq!(deal(&[1000, 10, 1000], 100), [45, 10, 45]);
        assert_eq!(deal(&[5, 5], 100), [5, 5]);
        assert_eq!(deal(&[], 100), Vec::<usize>::new());
        assert_eq!(deal(&[1, 1, 1], 2).iter().sum::<usize>(), 2);
    }

    proptest! {
        #[test]
        fn nothing_is_left_that_somebody_needs(left in proptest::collection::vec(0usize..500, 0..20), budget in 0usize..600) {
            let shares = deal(&left, budget);
            prop_assert!(shares.iter().zip(&left).all(|(share, left)| share <= left));
            prop_assert_eq!(shares.iter().sum::<usize>(), budget.min(left.iter().sum()));
            // Who gets less than he needs gets as much as anybody, but for rounding.
            let most = shares.iter().copied().max().unwrap_or(0);
            prop_assert!(shares.iter().zip(&left).all(|(share, left)| share == left || share + 1 >= most));
        }
    }

    fn scope(n: u8) -> Scope {
        Scope([n; 32])
    }

    #[test]
    fn scopes_take_turns_by_what_they_had() {
        let mut queue = Queue::default();
        (0..4).for_each(|id| queue.push(RequestId(id), scope(0)));
        queue.push(RequestId(10), scope(1));
        let mut order = Vec::new();
        while let Some(id) = queue.next() {
            queue.let_in(id);
            queue.charge(if id.0 < 10 { scope(0) } else { scope(1) }, 100);
            order.push(id.0);
        }
        assert_eq!(order, [0, 10, 1, 2, 3]);
    }

    #[test]
    fn nobody_saves_up_by_being_away() {
        let mut queue = Queue::default();
        queue.push(RequestId(0), scope(0));
        queue.charge(scope(0), 1_000_000);
        queue.push(RequestId(1), scope(0));
        queue.let_in(RequestId(0));
        queue.push(RequestId(2), scope(1));
        queue.push(RequestId(3), scope(1));
        // The newcomer starts where the other is, and then they alternate.
        assert_eq!(queue.next(), Some(RequestId(1)));
        queue.let_in(RequestId(1));
        queue.charge(scope(0), 10);
        assert_eq!(queue.next(), Some(RequestId(2)));
    }

    #[test]
    fn who_was_in_is_first_and_who_leaves_is_gone() {
        let mut queue = Queue::default();
        queue.push(RequestId(5), scope(0));
        queue.push(RequestId(6), scope(0));
        queue.put_back(RequestId(7), scope(0));
        assert_eq!(queue.next(), Some(RequestId(7)));
        assert!(queue.remove(RequestId(7)) && !queue.remove(RequestId(7)));
        assert!(queue.remove(RequestId(6)));
        assert_eq!((queue.next(), queue.len()), (Some(RequestId(5)), 1));
    }
}
