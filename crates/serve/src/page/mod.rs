//! The page for people: what it looks like, and nothing of how it is asked for (`routes/page*.rs`).
//!
//! All HTML is made here; the script that comes along puts pieces of it in their places, sends what people type, and
//! knows nothing of Markdown, of conversations or of the model.

pub mod view;

pub mod settings;

pub mod markdown;

mod code;

/// A file that the page is made of.
pub struct Asset {
    /// The last part of its address.
    pub name: &'static str,
    /// Its content type.
    pub content_type: &'static str,
    /// What is in it.
    pub content: &'static str,
}

/// All files besides the page itself.
pub const ASSETS: [Asset; 3] = [
    Asset { name: "style.css", content_type: "text/css; charset=utf-8", content: include_str!("style.css") },
    Asset { name: "script.js", content_type: "text/javascript; charset=utf-8", content: include_str!("script.js") },
    Asset { name: "icon.svg", content_type: "image/svg+xml", content: include_str!("icon.svg") },
];

/// What the page may do in a browser: show itself and ask this server. Nothing in an answer can do more.
pub const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                          base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
