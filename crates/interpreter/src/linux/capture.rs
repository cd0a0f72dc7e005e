//! Keeps the two ends of an output, however long it is.

use crate::Stream;
use std::collections::VecDeque;

/// The beginning and the end of an output.
pub struct Capture {
    /// Bytes that are kept of each end.
    head_limit: usize,
    tail_limit: usize,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    total: u64,
}

impl Capture {
    /// Keeps `limit` bytes.
    pub fn new(limit: u32) -> Self {
        let limit = limit as usize;
        let head_limit = limit / 2;
        Self { head_limit, tail_limit: limit - head_limit, head: Vec::new(), tail: VecDeque::new(), total: 0 }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let (head, tail) = bytes.split_at(bytes.len().min(self.head_limit - self.head.len()));
        self.head.extend(head);
        self.tail.extend(tail);
        let over = self.tail.len().saturating_sub(self.tail_limit);
        self.tail.drain(..over);
    }

    /// Bytes so far, those that were dropped included.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// As text.
    pub fn finish(self) -> Stream {
        let (mut head, mut tail) = (self.head, Vec::from(self.tail));
        if self.total == (head.len() + tail.len()) as u64 {
            head.append(&mut tail);
            return Stream { text: String::from_utf8_lossy(&head).into_owned(), dropped: 0 };
        }
        // Characters that were cut through are left out as a whole.
        if let Err(error) = str::from_utf8(&head)
            && error.error_len().is_none()
        {
            head.truncate(error.valid_up_to());
        }
        let continuation = tail.iter().take(3).take_while(|&&byte| byte & 0xC0 == 0x80).count();
        tail.drain(..continuation);
        let dropped = self.total - (head.len() + tail.len()) as u64;
        let (head, tail) = (String::from_utf8_lossy(&head), String::from_utf8_lossy(&tail));
        Stream { text: format!("{head}\n[{dropped} bytes are left out here]\n{tail}"), dropped }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn capture(limit: u32, chunks: &[Vec<u8>]) -> Stream {
        let mut capture = Capture::new(limit);
        chunks.iter().for_each(|chunk| capture.push(chunk));
        capture.finish()
    }

    #[test]
    fn characters_are_not_cut_through() {
        let stream = capture(11, &["ääääääää".into()]);
        assert_eq!(stream, Stream { text: "ää\n[6 bytes are left out here]\näää".into(), dropped: 6 });
    }

    proptest! {
        #[test]
        fn what_fits_is_whole(text in ".{0,40}", cut in 0usize..200) {
            let bytes = text.as_bytes();
            let (a, b) = bytes.split_at(cut.min(bytes.len()));
            let stream = capture(160, &[a.into(), b.into()]);
            prop_assert_eq!(stream, Stream { text, dropped: 0 });
        }

        #[test]
        fn every_byte_is_kept_or_counted(text in "[a-zä€𝄞]{0,400}", limit in 0u32..200, size in 1usize..50) {
            let chunks: Vec<_> = text.as_bytes().chunks(size).map(Vec::from).collect();
            let stream = capture(limit, &chunks);
            let note = format!("\n[{} bytes are left out here]\n", stream.dropped);
            let kept = stream.text.replace(&note, "");
            prop_assert_eq!(kept.len() as u64 + stream.dropped, text.len() as u64);
            prop_assert!(kept.len() <= limit as usize || stream.dropped == 0);
            if stream.dropped > 0 {
                let (head, tail) = stream.text.split_once(&note).unwrap();
                prop_assert!(text.starts_with(head) && text.ends_with(tail));
            }
        }

        #[test]
        fn any_bytes_are_made_text(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..9)) {
            let stream = capture(64, &chunks);
            prop_assert!(stream.text.len() <= 64 * 3 + 60);
        }
    }
}
