//! The page, the widget and the privacy notice, embedded into the binary: the server needs no
//! folder beside it, and what is sent is what was tested. `widget.js` is one file for a city's page
//! to name; its sources are the parts in `web/widget/`, put together here, so that no build step
//! and no second request is needed.

use sha2::{Digest, Sha256};
use std::sync::LazyLock;

/// The Content-Security-Policy of the pages: everything comes from the server itself, no script or
/// style stands in the page, no text becomes markup. A page that embeds the widget has a policy of
/// its own.
pub(crate) const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src \
    'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

/// A file to be sent as it stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asset {
    /// The value of `Content-Type`.
    pub content_type: &'static str,
    /// The file.
    pub body: &'static [u8],
    /// The value of `ETag`: quoted, of the content's SHA-256. Answer `304` to an equal
    /// `If-None-Match`.
    pub etag: &'static str,
    /// Whether other origins may load it (`Cross-Origin-Resource-Policy: cross-origin`): the widget
    /// stands in their pages.
    pub for_other_pages: bool,
}

const WIDGET: &str = concat!(
    "(() => {\n\"use strict\";\n",
    include_str!("web/widget/labels.js"),
    include_str!("web/widget/look.js"),
    include_str!("web/widget/stream.js"),
    include_str!("web/widget/view.js"),
    include_str!("web/widget/element.js"),
    include_str!("web/widget/start.js"),
    "})();\n"
);

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const PICTURE: &str = "image/svg+xml";

/// Path, content type, content.
const FILES: [(&str, &str, &str); 6] = [
    ("/", HTML, include_str!("web/index.html")),
    ("/datenschutz", HTML, include_str!("web/datenschutz.html")),
    ("/page.css", CSS, include_str!("web/page.css")),
    ("/page.js", SCRIPT, include_str!("web/page.js")),
    ("/widget.js", SCRIPT, WIDGET),
    ("/favicon.svg", PICTURE, include_str!("web/favicon.svg")),
];

static TAGS: LazyLock<[String; FILES.len()]> = LazyLock::new(|| {
    FILES.map(|(_, _, content)| {
        let digest = Sha256::digest(content.as_bytes());
        let hex: String = digest.iter().take(12).map(|b| format!("{b:02x}")).collect();
        format!("\"{hex}\"")
    })
});

/// The file at an absolute path without query, e.g. `/widget.js`.
pub(crate) fn asset(path: &str) -> Option<Asset> {
    let index = FILES.iter().position(|(known, ..)| *known == path)?;
    let (_, content_type, content) = FILES[index];
    Some(Asset {
        content_type,
        body: content.as_bytes(),
        etag: &TAGS[index],
        for_other_pages: path == "/widget.js",
    })
}

#[cfg(test)]
mod tests;
