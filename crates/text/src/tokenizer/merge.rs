//! Byte-pair merging of one piece: which neighbours become one token, and in which order.
//!
//! Both algorithms give the same tokens: always the pair of lowest rank, the leftmost of equals. Short pieces (nearly all)
//! are scanned again after every merge, in arrays that fit a few cache lines; long ones use a heap, since scanning is
//! quadratic and a text may be a megabyte of one letter.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::TokenId;
use super::vocabulary::{FoldState, Vocabulary};

/// Pieces of at most this many symbols are scanned.
const SHORT: usize = 64;

/// A symbol that is no token (yet): a character that the vocabulary has only inside longer tokens.
pub(super) const NO_TOKEN: TokenId = TokenId::MAX;

/// No merge.
const NO_RANK: u32 = u32::MAX;

/// Which pairs merge, and how early.
pub(super) enum Merges {
    /// A list of pairs: (left, right) to (rank, merged token).
    Pairs(HashMap<u64, (u32, TokenId), FoldState>),
    /// Any two symbols that together spell a token; the earlier the lower its id (tiktoken).
    ById,
    /// The same, of tokens with fewer bytes than this.
    ByIdBelow(usize),
    /// The same, with a rank for every token: lower for a higher score (SentencePiece).
    ByRank(Vec<u32>),
}

/// The key of a pair in [`Merges::Pairs`].
pub(super) fn pair(left: TokenId, right: TokenId) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

/// The pair with this key.
pub(super) fn unpair(key: u64) -> (TokenId, TokenId) {
    ((key >> 32) as TokenId, key as TokenId)
}

impl Merges {
    /// Rank and token of two neighbours that together spell `both`.
    #[inline]
    fn merge(&self, vocabulary: &Vocabulary, left: TokenId, right: TokenId, both: &[u8]) -> Option<(u32, TokenId)> {
        match self {
            Merges::Pairs(pairs) => pairs.get(&pair(left, right)).copied(),
            Merges::ById => vocabulary.find(both).map(|id| (id, id)),
            Merges::ByIdBelow(n_bytes) if both.len() >= *n_bytes => None,
            Merges::ByIdBelow(_) => vocabulary.find(both).map(|id| (id, id)),
            Merges::ByRank(ranks) => {
                let id = vocabulary.find(both)?;
                Some((*ranks.get(id as usize)?, id))
            }
        }
    }
}

/// A run of bytes of a piece that is one token, or [`NO_TOKEN`].
#[derive(Clone, Copy)]
pub(super) struct Symbol {
    /// First byte in the piece; the symbol ends where the next one starts.
    pub(super) start: u32,
    pub(super) id: TokenId,
}

/// The two tokens that a token is the merge of under [`Merges::ById`]; `byte_tokens` has the token of each byte. None
/// where merging its bytes does not end with it.
///
/// There is one such pair, wherever the token comes up in a text: until it does, nothing was merged across its ends, so
/// all between them was merged as if it stood alone.
pub(super) fn pair_of(
    vocabulary: &Vocabulary,
    byte_tokens: &[TokenId; 256],
    token: &[u8],
) -> Option<(TokenId, TokenId)> {
    let mut symbols: Vec<Symbol> =
        token.iter().zip(0..).map(|(byte, start)| Symbol { start, id: byte_tokens[usize::from(*byte)] }).collect();
    let mut left = Vec::new();
    // The token itself is the one that has all the bytes: it merges from the last two that are left without it.
    merge(vocabulary, &Merges::ByIdBelow(token.len()), token, &mut symbols, |id, _| left.push(id));
    <[TokenId; 2]>::try_from(left).ok().map(|[one, other]| (one, other))
}

/// Merges the symbols of a piece; `emit` gets what is left, in order, each with its bytes.
///
/// The symbols are in order, and a piece is shorter than 4 GiB.
pub(super) fn merge(
    vocabulary: &Vocabulary,
    merges: &Merges,
    piece: &[u8],
    symbols: &mut [Symbol],
    mut emit: impl FnMut(TokenId, &[u8]),
) {
    if symbols.len() <= SHORT {
        let n = merge_short(vocabulary, merges, piece, symbols);
        for idx in 0..n {
            let end = symbols.get(idx + 1).filter(|_| idx + 1 < n).map_or(piece.len(), |next| next.start as usize);
            emit(symbols[idx].id, &piece[symbols[idx].start as usize..end]);
        }
    } else {
        merge_long(vocabulary, merges, piece, symbols, emit);
    }
}

/// Merges in place; the first so many symbols are the result.
fn merge_short(vocabulary: &Vocabulary, merges: &Merges, piece: &[u8], symbols: &mut [Symbol]) -> usize {
    let mut n = symbols.len();
    // The merge of each symbol with the next.
    let mut next: [(u32, TokenId); SHORT] = [(NO_RANK, NO_TOKEN); SHORT];
    let candidate = |symbols: &[Symbol], n: usize, idx: usize| -> (u32, TokenId) {
        if idx + 1 >= n {
            return (NO_RANK, NO_TOKEN);
        }
        let (left, right) = (symbols[idx], symbols[idx + 1]);
        let end = if idx + 2 < n { symbols[idx + 2].start as usize } else { piece.len() };
        let both = &piece[left.start as usize..end];
        merges.merge(vocabulary, left.id, right.id, both).unwrap_or((NO_RANK, NO_TOKEN))
    };
    for (idx, next) in next.iter_mut().enumerate().take(n.saturating_sub(1)) {
        *next = candidate(symbols, n, idx);
    }
    while n > 1 {
        let mut best = 0;
        for idx in 1..n - 1 {
            if next[idx].0 < next[best].0 {
                best = idx;
            }
        }
        let (rank, id) = next[best];
        if rank == NO_RANK {
            break;
        }
        symbols[best].id = id;
        symbols.copy_within(best + 2..n, best + 1);
        next.copy_within(best + 1..n, best);
        n -= 1;
        next[best] = candidate(symbols, n, best);
        if best > 0 {
            next[best - 1] = candidate(symbols, n, best - 1);
        }
    }
    n
}

/// A symbol in a list linked both ways, with its merge with the next.
struct Node {
    start: u32,
    id: TokenId,
    before: u32,
    after: u32,
    rank: u32,
    merged: TokenId,
}

/// End of the list.
const NONE: u32 = u32::MAX;

fn merge_long(
    vocabulary: &Vocabulary,
    merges: &Merges,
    piece: &[u8],
    symbols: &[Symbol],
    mut emit: impl FnMut(TokenId, &[u8]),
) {
    let n = symbols.len() as u32;
    let mut nodes: Vec<Node> = symbols
        .iter()
        .zip(0..n)
        .map(|(symbol, idx)| Node {
            start: symbol.start,
            id: symbol.id,
            before: idx.checked_sub(1).unwrap_or(NONE),
            after: if idx + 1 < n { idx + 1 } else { NONE },
            rank: NO_RANK,
            merged: NO_TOKEN,
        })
        .collect();
    let end = |nodes: &[Node], idx: u32| match nodes[idx as usize].after {
        NONE => piece.len(),
        after => nodes[after as usize].start as usize,
    };
    // Sets the merge of a symbol with the next, and gives the heap's entry for it.
    let update = |nodes: &mut [Node], idx: u32| -> Option<Reverse<u64>> {
        let node = &nodes[idx as usize];
        let found = match node.after {
            NONE => None,
            after => {
                let both = &piece[node.start as usize..end(nodes, after)];
                merges.merge(vocabulary, node.id, nodes[after as usize].id, both)
            }
        };
        let node = &mut nodes[idx as usize];
        (node.rank, node.merged) = found.unwrap_or((NO_RANK, NO_TOKEN));
        found.map(|(rank, _)| Reverse(u64::from(rank) << 32 | u64::from(idx)))
    };
    let mut heap: BinaryHeap<Reverse<u64>> = (0..n).filter_map(|idx| update(&mut nodes, idx)).collect();
    while let Some(Reverse(entry)) = heap.pop() {
        let (rank, idx) = ((entry >> 32) as u32, entry as u32);
        // Entries are not taken back when a merge changes a pair; such a one no longer agrees with its symbol.
        let node = &nodes[idx as usize];
        if node.rank != rank || node.rank == NO_RANK {
            continue;
        }
        let gone = node.after;
        let after = nodes[gone as usize].after;
        nodes[gone as usize].rank = NO_RANK;
        if after != NONE {
            nodes[after as usize].before = idx;
        }
        let node = &mut nodes[idx as usize];
        node.id = node.merged;
        node.after = after;
        let before = node.before;
        heap.extend(update(&mut nodes, idx));
        if before != NONE {
            heap.extend(update(&mut nodes, before));
        }
    }
    let mut idx = 0;
    while idx != NONE {
        let node = &nodes[idx as usize];
        emit(node.id, &piece[node.start as usize..end(&nodes, idx)]);
        idx = node.after;
    }
}

#[cfg(test)]
mod tests {
    use super::super::vocabulary::Kind;
    use super::*;
    use proptest::prelude::*;

    /// Letters a to d, then some words of them.
    fn vocabulary() -> Vocabulary {
        let words = ["a", "b", "c", "d", "ab", "cd", "abcd", "aa", "bb", "aaa", "dc", "ba", "aaaa", "bcd", "abab"];
        let mut vocabulary = Vocabulary::with_capacity(words.len()).unwrap();
        for word in words {
            vocabulary.push(word.as_bytes(), Kind::Ordinary).unwrap();
        }
        vocabulary
    }

    fn symbols(piece: &[u8]) -> Vec<Symbol> {
        piece.iter().zip(0..).map(|(byte, start)| Symbol { start, id: u32::from(byte - b'a') }).collect()
    }

    /// The definition, as slow as it is short.
    fn merge_by_definition(vocabulary: &Vocabulary, merges: &Merges, piece: &[u8]) -> Vec<TokenId> {
        let mut parts: Vec<(TokenId, Vec<u8>)> =
            symbols(piece).iter().map(|symbol| (symbol.id, vec![b'a' + symbol.id as u8])).collect();
        loop {
            let best = parts
                .windows(2)
                .enumerate()
                .filter_map(|(idx, two)| {
                    let both = [&two[0].1[..], &two[1].1].concat();
                    let (rank, id) = merges.merge(vocabulary, two[0].0, two[1].0, &both)?;
                    Some((rank, idx, id, both))
                })
                .min_by_key(|(rank, idx, ..)| (*rank, *idx));
            match best {
                None => return parts.into_iter().map(|(id, _)| id).collect(),
                Some((_, idx, id, both)) => {
                    parts[idx] = (id, both);
                    parts.remove(idx + 1);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn scan_and_heap_follow_the_definition(text in "[a-d]{1,64}", kind in 0..3_usize) {
            let vocabulary = vocabulary();
            let merges = match kind {
                0 => Merges::ById,
                // Equal scores, as SentencePiece vocabularies have for added words.
                1 => Merges::ByRank((0..15).map(|id| (15 - id) / 2).collect()),
                _ => Merges::Pairs([(0, 1, 4), (2, 3, 5), (4, 5, 6), (0, 0, 7), (1, 0, 11), (4, 4, 14)].iter().enumerate()
                    .map(|(rank, &(left, right, id))| (pair(left, right), (rank as u32, id))).collect()),
            };
            let expected = merge_by_definition(&vocabulary, &merges, text.as_bytes());
            let mut short = Vec::new();
            merge(&vocabulary, &merges, text.as_bytes(), &mut symbols(text.as_bytes()), |id, bytes| {
                assert_eq!(vocabulary.token(id), Some(bytes));
                short.push(id);
            });
            let mut long = Vec::new();
            merge_long(&vocabulary, &merges, text.as_bytes(), &symbols(text.as_bytes()), |id, bytes| {
                assert_eq!(vocabulary.token(id), Some(bytes));
                long.push(id);
            });
            prop_assert_eq!(&short, &expected);
            prop_assert_eq!(&long, &expected);
        }
    }
}
