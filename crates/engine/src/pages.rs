//! The pages of the KV cache: which are free, and which hold the beginning of a text that somebody may want again.
//!
//! Pages of finished text stay where they are until their memory is needed, as a tree: a page's parent holds the tokens
//! before its own, and a sequence that begins with the same tokens goes down the tree as far as they agree. Tokens are
//! compared themselves, not hashes of them, so that no two texts can be taken for one another; what one
//! [`Scope`] leaves behind no other finds, so that nobody can tell by the time of an answer what others asked.
//!
//! A page is *published* when it hangs in the tree. Full pages are shared by any number of sequences, and never written
//! again. A page that is not full, the end of a text, is taken out of the tree by the one sequence that goes on from it.

use crate::PAGE_LEN;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};

/// Whose texts they are: sequences of one scope share what they have in common, and none with those of another. The default
/// is that of everybody who was given no other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Scope(pub [u8; 32]);

/// What comes before a page's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Parent {
    /// Nothing: the page is the first, of a text in this scope that an adapter sees, if any.
    Root(Scope, Option<u32>),
    /// What this page ends.
    Page(u32),
}

/// A page that was used.
#[derive(Default)]
struct Page {
    /// Sequences that have it.
    users: u32,
    published: Option<Published>,
}

struct Published {
    parent: Parent,
    ids: Vec<u32>,
    /// When the last sequence gave it back, if none has it.
    idle_since: Option<u64>,
}

/// Hands out page numbers below a fixed count.
pub(crate) struct Pages {
    /// Those that were ever used, the lowest numbers: a cache that takes memory at first use stays as small as its use.
    used: Vec<Page>,
    n_pages: u32,
    /// Used before, and hold nothing.
    free: BinaryHeap<Reverse<u32>>,
    /// Published pages that no sequence has, by when they were given back. A page comes before its parent.
    idle: BTreeMap<u64, u32>,
    children: HashMap<Parent, Vec<u32>>,
    /// Counts what was given back.
    clock: u64,
}

impl Pages {
    pub fn new(n_pages: usize) -> Pages {
        Pages {
            used: Vec::new(),
            n_pages: u32::try_from(n_pages).expect("fewer than 2³² pages"),
            free: BinaryHeap::new(),
            idle: BTreeMap::new(),
            children: HashMap::new(),
            clock: 0,
        }
    }

    /// Pages that [`Pages::take`] can still give.
    pub fn n_free(&self) -> usize {
        self.free.len() + self.idle.len() + (self.n_pages as usize - self.used.len())
    }

    /// Pages that some sequence has.
    pub fn n_used(&self) -> usize {
        self.n_pages as usize - self.n_free()
    }

    /// Pages that no sequence has, and that hold a text.
    pub fn n_idle(&self) -> usize {
        self.idle.len()
    }

    /// A page to write to. If need be, the text that was wanted least recently is forgotten for it.
    pub fn take(&mut self) -> Option<u32> {
        let page = if let Some(Reverse(page)) = self.free.pop() {
            page
        } else if self.used.len() < self.n_pages as usize {
            self.used.push(Page::default());
            self.used.len() as u32 - 1
        } else {
            let (_, &page) = self.idle.first_key_value()?;
            self.unpublish(page);
            let freed = self.free.pop();
            debug_assert_eq!(freed, Some(Reverse(page)), "nothing hangs on the page that was idle longest");
            page
        };
        self.used[page as usize].users = 1;
        Some(page)
    }

    /// One sequence less has the page.
    pub fn give_back(&mut self, page: u32) {
        let state = &mut self.used[page as usize];
        state.users -= 1;
        if state.users > 0 {
            return;
        }
        match &mut state.published {
            Some(published) => {
                self.clock += 1;
                published.idle_since = Some(self.clock);
                self.idle.insert(self.clock, page);
            }
            None => self.free.push(Reverse(page)),
        }
    }

    /// The full page behind `parent` that holds the first [`PAGE_LEN`] of `ids`. One sequence more has it then.
    pub fn share(&mut self, parent: Parent, ids: &[u32]) -> Option<u32> {
        let ids = ids.get(..PAGE_LEN)?;
        let page = self.children(parent).find(|page| self.ids(*page) == ids)?;
        let state = &mut self.used[page as usize];
        state.users += 1;
        if let Some(since) = state.published.as_mut().and_then(|published| published.idle_since.take()) {
            self.idle.remove(&since);
        }
        Some(page)
    }

    /// The page behind `parent` of which most tokens agree with `ids`, if nobody has it and nothing hangs on it: it is the
    /// caller's alone from now on, as far as it agrees.
    pub fn take_over(&mut self, parent: Parent, ids: &[u32]) -> Option<(u32, usize)> {
        let agreeing = |page: u32| self.ids(page).iter().zip(ids).take_while(|(a, b)| a == b).count();
        let alone =
            |page: &u32| self.used[*page as usize].users == 0 && !self.children.contains_key(&Parent::Page(*page));
        let best = self.children(parent).filter(alone).map(|page| (agreeing(page), Reverse(page))).max();
        let (n, Reverse(page)) = best.filter(|(n, _)| *n > 0)?;
        self.unpublish(page);
        self.free.retain(|free| *free != Reverse(page));
        self.used[page as usize].users = 1;
        Some((page, n))
    }

    /// How many of `ids` behind `parent` lie in full pages that could be shared, and how many of these pages some sequence
    /// has already.
    pub fn n_shared(&self, mut parent: Parent, ids: &[u32]) -> (usize, usize) {
        let (mut n, mut n_used) = (0, 0);
        for ids in ids.chunks_exact(PAGE_LEN) {
            let Some(page) = self.children(parent).find(|page| self.ids(*page) == ids) else { break };
            parent = Parent::Page(page);
            n += PAGE_LEN;
            n_used += usize::from(self.used[page as usize].users > 0);
        }
        (n, n_used)
    }

    /// Hangs a page of the caller's alone into the tree. If one with the same tokens hangs there already, the caller gets
    /// that instead and has lost its own: the two hold the same bits. Behind a page that was taken out of the tree nothing
    /// can hang.
    pub fn publish(&mut self, parent: Parent, page: u32, ids: &[u32]) -> u32 {
        debug_assert!(self.used[page as usize].published.is_none() && self.used[page as usize].users == 1);
        if matches!(parent, Parent::Page(parent) if self.used[parent as usize].published.is_none()) {
            return page;
        }
        if let Some(twin) = self.share(parent, ids) {
            self.give_back(page);
            return twin;
        }
        self.used[page as usize].published = Some(Published { parent, ids: ids.to_vec(), idle_since: None });
        self.children.entry(parent).or_default().push(page);
        page
    }

    /// Takes a page, and all that hangs on it, out of the tree.
    pub fn unpublish(&mut self, page: u32) {
        let mut doomed = vec![page];
        while let Some(page) = doomed.pop() {
            doomed.extend(self.children.remove(&Parent::Page(page)).into_iter().flatten());
            let state = &mut self.used[page as usize];
            let Some(Published { parent, idle_since, .. }) = state.published.take() else { continue };
            if let Some(siblings) = self.children.get_mut(&parent) {
                siblings.retain(|sibling| *sibling != page);
                if siblings.is_empty() {
                    self.children.remove(&parent);
                }
            }
            if let Some(since) = idle_since {
                self.idle.remove(&since);
                self.free.push(Reverse(page));
            }
        }
    }

    /// The pages that no sequence has, each behind its parent; those first that were wanted last.
    pub fn idle(&self) -> impl Iterator<Item = (u32, Parent, &[u32])> {
        self.idle.values().rev().filter_map(|page| {
            let published = self.used[*page as usize].published.as_ref()?;
            Some((*page, published.parent, &published.ids[..]))
        })
    }

    /// Sequences that have the page.
    pub fn n_users(&self, page: u32) -> u32 {
        self.used[page as usize].users
    }

    fn children(&self, parent: Parent) -> impl Iterator<Item = u32> + '_ {
        self.children.get(&parent).into_iter().flatten().copied()
    }

    fn ids(&self, page: u32) -> &[u32] {
        self.used[page as usize].published.as_ref().map_or(&[], |published| &published.ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn root(scope: u8) -> Parent {
        Parent::Root(Scope([scope; 32]), None)
    }

    fn full(first: u32) -> Vec<u32> {
        (first..first + PAGE_LEN as u32).collect()
    }

    #[test]
    fn what_agrees_is_found_in_its_scope_alone() {
        let mut pages = Pages::new(8);
        let (a, b) = (pages.take().expect("free"), pages.take().expect("free"));
        assert_eq!(pages.publish(root(1), a, &full(0)), a);
        assert_eq!(pages.publish(Parent::Page(a), b, &full(100)[..10]), b);
        pages.give_back(b);
        pages.give_back(a);
        assert_eq!((pages.n_free(), pages.n_idle()), (8, 2));
        assert_eq!(pages.n_shared(root(1), &[full(0), full(100)].concat()), (PAGE_LEN, 0));
        assert_eq!(pages.share(root(2), &full(0)), None);
        assert_eq!(pages.share(root(1), &full(1)), None);
        assert_eq!(pages.share(root(1), &full(0)), Some(a));
        // Of the end as much as agrees.
        let found = [full(100)[..7].to_vec(), vec![5, 5]].concat();
        assert_eq!(pages.take_over(Parent::Page(a), &found), Some((b, 7)));
        assert_eq!(pages.take_over(Parent::Page(a), &found), None);
        assert_eq!((pages.n_used(), pages.n_idle()), (2, 0));
    }

    #[test]
    fn twins_become_one() {
        let mut pages = Pages::new(8);
        let (a, b) = (pages.take().expect("free"), pages.take().expect("free"));
        assert_eq!(pages.publish(root(1), a, &full(0)), a);
        assert_eq!(pages.publish(root(1), b, &full(0)), a);
        assert_eq!((pages.n_used(), pages.n_users(a)), (1, 2));
    }

    proptest! {
        /// Texts come and go; every page is at one place, and the tree hangs together.
        #[test]
        fn no_page_is_lost(steps in proptest::collection::vec((0u8..4, 0u32..3, 0u32..3, 0u32..3), 1..200)) {
            const N: usize = 7;
            let mut pages = Pages::new(N);
            // Sequences of at most three pages, each page of one of three texts.
            let mut sequences: Vec<Vec<u32>> = Vec::new();
            for (what, a, b, c) in steps {
                if what == 0 && !sequences.is_empty() {
                    let sequence = sequences.remove(a as usize % sequences.len());
                    sequence.into_iter().rev().for_each(|page| pages.give_back(page));
                } else if what == 1 && !sequences.is_empty() {
                    let sequence = &sequences[a as usize % sequences.len()];
                    pages.unpublish(sequence[b as usize % sequence.len()]);
                } else {
                    let (mut parent, mut sequence) = (root(0), Vec::new());
                    for text in [a, b, c] {
                        let ids = full(1000 * text);
                        let page = match pages.share(parent, &ids) {
                            Some(page) => page,
                            None => match pages.take() {
                                Some(page) => pages.publish(parent, page, &ids),
                                None => break,
                            },
                        };
                        parent = Parent::Page(page);
                        sequence.push(page);
                    }
                    if !sequence.is_empty() {
                        sequences.push(sequence);
                    }
                }
                let mut users = [0; N];
                sequences.iter().flatten().for_each(|page| users[*page as usize] += 1);
                for (page, state) in pages.used.iter().enumerate() {
                    prop_assert_eq!(state.users, users[page]);
                    let idle = state.published.as_ref().and_then(|published| published.idle_since);
                    let free = pages.free.iter().filter(|free| free.0 as usize == page).count();
                    prop_assert_eq!(usize::from(state.users > 0) + free + usize::from(idle.is_some()), 1);
                    if let Some(published) = &state.published {
                        prop_assert!(pages.children[&published.parent].contains(&(page as u32)));
                        if let Parent::Page(parent) = published.parent {
                            let parent = &pages.used[parent as usize];
                            let above = parent.published.as_ref().expect("a parent hangs in the tree");
                            prop_assert!(above.idle_since.is_none_or(|above| idle.is_some_and(|idle| idle < above)));
                        }
                    }
                }
                prop_assert_eq!(pages.n_used(), users.iter().filter(|n| **n > 0).count());
            }
            for sequence in sequences {
                sequence.into_iter().rev().for_each(|page| pages.give_back(page));
            }
            prop_assert_eq!(pages.n_free(), N);
        }
    }
}
