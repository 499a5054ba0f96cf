//! The HTTP server, and the page and widget that it sends.

pub mod assets;
