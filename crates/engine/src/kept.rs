//! Texts that outlive an engine: pages of its prefix cache are read, kept wherever one likes, and put back into another
//! engine of the same model, where sequences find them as if they had been computed there.

use crate::engine::Engine;
use crate::pages::Parent;
use crate::{Error, PAGE_LEN};
use std::collections::HashMap;

/// A page that holds a part of a finished text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept<'a> {
    /// Where it is; see [`Engine::read_page`].
    pub page: u32,
    /// What comes before its tokens. A page is named by its number in the list, counted from 0.
    pub parent: Parent,
    /// Its tokens, at most [`PAGE_LEN`].
    pub ids: &'a [u32],
}

impl Engine {
    /// The pages that hold finished texts, each behind its parent; those first that were wanted last. What comes behind a text
    /// that a sequence has at the moment is not among them.
    pub fn kept(&self) -> Vec<Kept<'_>> {
        let (mut kept, mut numbers) = (Vec::new(), HashMap::new());
        for (page, parent, ids) in self.pages().idle() {
            let parent = match parent {
                Parent::Page(above) => numbers.get(&above).copied().map(Parent::Page),
                root @ Parent::Root(..) => Some(root),
            };
            if let Some(parent) = parent {
                numbers.insert(page, kept.len() as u32);
                kept.push(Kept { page, parent, ids });
            }
        }
        kept
    }

    /// Copies keys and values of a page of [`Engine::kept`]; they replace what `out` held.
    pub fn read_page(&self, page: u32, out: &mut Vec<u8>) {
        self.model().read_page(page, out);
    }

    /// Begins to put pages back.
    pub fn restore(&mut self) -> Restoring<'_> {
        Restoring { engine: self, pages: Vec::new() }
    }
}

/// Pages that are being put back, in the order in which [`Engine::kept`] had them. All are there for others when it is dropped.
pub struct Restoring<'a> {
    engine: &'a mut Engine,
    /// In the cache, and whether each is full.
    pages: Vec<(u32, bool)>,
}

impl Restoring<'_> {
    /// Puts back the next page. False when the cache is full: then all is there that has room.
    ///
    /// # Errors
    /// When it can't be a page of this engine's model, or there is no memory for it.
    pub fn page(&mut self, parent: Parent, ids: &[u32], bytes: &[u8]) -> Result<bool, Error> {
        let n_before = self.pages.len();
        let wrong = |what: &str, expected: String, found: String| {
            Err(Error::Kept { what: format!("{what} of page {n_before}"), expected, found })
        };
        let parent = match parent {
            Parent::Page(number) => match self.pages.get(number as usize) {
                Some((page, true)) => Parent::Page(*page),
                _ => return wrong("the parent", "a full page before it".into(), format!("page {number}")),
            },
            root @ Parent::Root(..) => root,
        };
        let (pages, model) = self.engine.pages_mut();
        if ids.is_empty() || ids.len() > PAGE_LEN {
            return wrong("the tokens", format!("1 to {PAGE_LEN}"), ids.len().to_string());
        }
        let vocab_size = model.config().vocab_size;
        if let Some(id) = ids.iter().find(|id| **id as usize >= vocab_size) {
            return wrong("a token", format!("an id below {vocab_size}"), id.to_string());
        }
        let n_bytes = model.kv_shape().page_bytes();
        if bytes.len() != n_bytes {
            return wrong("keys and values", format!("{n_bytes} bytes"), bytes.len().to_string());
        }
        let Some(page) = pages.take() else { return Ok(false) };
        if let Err(error) = model.write_page(page, bytes) {
            pages.give_back(page);
            return Err(error.into());
        }
        let page = pages.publish(parent, page, ids);
        self.pages.push((page, ids.len() == PAGE_LEN));
        Ok(true)
    }
}

impl Drop for Restoring<'_> {
    fn drop(&mut self) {
        let (pages, _) = self.engine.pages_mut();
        // Those that were wanted last are forgotten last, and each before its parent.
        self.pages.drain(..).rev().for_each(|(page, _)| pages.give_back(page));
    }
}
