//! Who may ask: API keys, pages of other origins, and the address that a request really comes from.

use anyhow::{Context, Result, bail, ensure};
use axum::http::{HeaderMap, header};
use sha2::{Digest, Sha256};
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use subtle::{Choice, ConstantTimeEq};

/// Characters of a key at least: 16 random ones cannot be guessed over a network.
const KEY_LENGTH: usize = 16;

/// The keys that open `/v1` and `/metrics`.
pub(crate) struct ApiKeys {
    /// Digests, so that comparing takes the same time whatever was sent, its length included.
    digests: Vec<[u8; 32]>,
}

impl ApiKeys {
    /// One key per line; empty lines and those that begin with `#` do not count.
    ///
    /// # Errors
    /// If the file cannot be read, holds no key or one of fewer than 16 characters or with white
    /// space in it.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("cannot read the API keys in {}", path.display()))?;
        let mut digests = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let key = line.trim();
            if key.is_empty() || key.starts_with('#') {
                continue;
            }
            ensure!(
                key.len() >= KEY_LENGTH && key.chars().all(|c| c.is_ascii_graphic()),
                "{}, line {number}: a key of {} characters, expected at least {KEY_LENGTH} ASCII \
                 letters, digits or signs without spaces, e.g. from: openssl rand -hex 24",
                path.display(),
                key.chars().count()
            );
            digests.push(Sha256::digest(key.as_bytes()).into());
        }
        ensure!(
            !digests.is_empty(),
            "{} holds no key, expected one per line",
            path.display()
        );
        Ok(Self { digests })
    }

    /// Whether the request brings one of the keys. All are compared, each in constant time.
    pub(super) fn allow(&self, headers: &HeaderMap) -> bool {
        let given = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| {
                let (scheme, key) = value.split_once(' ')?;
                scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
            });
        let Some(given) = given else {
            return false;
        };
        let digest: [u8; 32] = Sha256::digest(given.as_bytes()).into();
        let found = self
            .digests
            .iter()
            .fold(Choice::from(0), |found, key| found | key.ct_eq(&digest));
        found.into()
    }
}

/// The origin of a web page, `https://www.musterstadt.de` or `http://localhost:8000`: scheme, host,
/// port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin(String);

impl std::str::FromStr for Origin {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let host = ["https://", "http://"]
            .into_iter()
            .find_map(|scheme| text.strip_prefix(scheme));
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
        match host {
            Some(host) if !host.is_empty() && host.chars().all(allowed) => {
                Ok(Self(text.to_ascii_lowercase()))
            }
            _ => bail!(
                "{text:?} is no origin, expected scheme and host without a path, e.g. \
                 https://www.musterstadt.de"
            ),
        }
    }
}

/// What a request's `Origin` header means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    /// No page: a program, or a page of ours that only reads.
    None,
    /// A page of this server.
    Own,
    /// A page on the list.
    Listed,
    /// Any other page.
    Foreign,
}

/// Where the request comes from, as browsers say it.
pub(super) fn origin_of(headers: &HeaderMap, listed: &[Origin]) -> Page {
    let Some(origin) = headers.get(header::ORIGIN) else {
        return Page::None;
    };
    let origin = origin.to_str().unwrap_or_default().to_ascii_lowercase();
    if listed.iter().any(|listed| listed.0 == origin) {
        return Page::Listed;
    }
    // Behind a proxy that speaks TLS this server does not know its own scheme, but its host.
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .map(str::to_ascii_lowercase);
    let asked = origin.split_once("://").map(|(_, host)| host);
    match (asked, host) {
        (Some(asked), Some(host)) if asked == host => Page::Own,
        _ => Page::Foreign,
    }
}

/// The address to count requests by: the peer's, or, where the peer is a trusted proxy, the last
/// one in `X-Forwarded-For` that is none itself. What a client writes there on its own stands
/// further left and is not believed.
pub(super) fn client_of(peer: IpAddr, headers: &HeaderMap, proxies: &[IpAddr]) -> IpAddr {
    let peer = peer.to_canonical();
    if !proxies.contains(&peer) {
        return peer;
    }
    let forwarded: Vec<&str> = headers
        .get_all("x-forwarded-for")
        .iter()
        .flat_map(|value| value.to_str().unwrap_or_default().split(','))
        .collect();
    forwarded
        .into_iter()
        .rev()
        .map_while(|part| part.trim().parse::<IpAddr>().ok())
        .map(|address| address.to_canonical())
        .find(|address| !proxies.contains(address))
        .unwrap_or(peer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn keys(text: &str) -> Result<ApiKeys> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        ApiKeys::load(file.path())
    }

    #[test]
    fn keys_open_only_to_themselves() {
        let keys = keys("# test\n\n0123456789abcdef\nfedcba9876543210-x\n").unwrap();
        for (value, allowed) in [
            ("Bearer 0123456789abcdef", true),
            ("bearer fedcba9876543210-x", true),
            ("Bearer 0123456789abcde", false),
            ("Bearer 0123456789abcdef0", false),
            ("Bearer ", false),
            ("Basic 0123456789abcdef", false),
            ("0123456789abcdef", false),
            ("Bearer # test", false),
        ] {
            let found = keys.allow(&headers(&[("authorization", value)]));
            assert_eq!(found, allowed, "{value}");
        }
        assert!(!keys.allow(&HeaderMap::new()));
    }

    #[test]
    fn weak_or_missing_keys_are_errors() {
        for (text, part) in [
            ("", "no key"),
            ("# nothing\n", "no key"),
            ("0123456789abcdef\nkurz\n", "line 2"),
            ("0123456789 abcdef\n", "line 1"),
        ] {
            let error = keys(text).err().unwrap().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn origins_have_no_path_and_a_page_is_known_by_its_host() {
        for wrong in [
            "*",
            "www.stadt.de",
            "https://",
            "https://a.de/",
            "ftp://a.de",
            "https://a b",
        ] {
            assert!(wrong.parse::<Origin>().is_err(), "{wrong}");
        }
        let listed = ["https://www.stadt.de".parse().unwrap()];
        for (origin, expected) in [
            (None, Page::None),
            (Some("https://www.stadt.de"), Page::Listed),
            (Some("http://www.stadt.de"), Page::Foreign),
            (Some("https://www.stadt.de.evil.example"), Page::Foreign),
            (Some("https://chat.stadt.de"), Page::Own),
            (Some("null"), Page::Foreign),
        ] {
            let mut given = headers(&[("host", "chat.stadt.de")]);
            if let Some(origin) = origin {
                given.insert("origin", HeaderValue::from_str(origin).unwrap());
            }
            assert_eq!(origin_of(&given, &listed), expected, "{origin:?}");
        }
    }

    #[test]
    fn forwarded_addresses_are_believed_from_trusted_proxies_only() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let proxies = [address("127.0.0.1"), address("10.0.0.9")];
        for (peer, forwarded, expected) in [
            ("203.0.113.5", vec!["198.51.100.7"], "203.0.113.5"),
            ("127.0.0.1", vec![], "127.0.0.1"),
            ("127.0.0.1", vec!["198.51.100.7"], "198.51.100.7"),
            ("127.0.0.1", vec!["1.2.3.4, 198.51.100.7"], "198.51.100.7"),
            ("127.0.0.1", vec!["198.51.100.7, 10.0.0.9"], "198.51.100.7"),
            (
                "::ffff:127.0.0.1",
                vec!["1.2.3.4", "198.51.100.7"],
                "198.51.100.7",
            ),
            ("127.0.0.1", vec!["unknown"], "127.0.0.1"),
            ("127.0.0.1", vec!["what, 198.51.100.7"], "198.51.100.7"),
            ("127.0.0.1", vec!["10.0.0.9"], "127.0.0.1"),
        ] {
            let pairs: Vec<_> = forwarded.iter().map(|&f| ("x-forwarded-for", f)).collect();
            let found = client_of(address(peer), &headers(&pairs), &proxies);
            assert_eq!(found, address(expected), "{peer} {forwarded:?}");
        }
    }
}
