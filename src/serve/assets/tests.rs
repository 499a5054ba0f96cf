//! What must hold of the embedded files, read off their text; `tests/web/` looks at them in a
//! browser.

use super::*;
use crate::knowledge::Knowledge;
use std::fs;
use std::path::Path;

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/serve/web");

fn content(path: &str) -> &'static str {
    std::str::from_utf8(asset(path).unwrap().body).unwrap()
}

/// The values of an attribute in a page.
fn attributes<'a>(page: &'a str, name: &str) -> Vec<&'a str> {
    page.split(&format!(" {name}=\""))
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap())
        .collect()
}

#[test]
fn every_file_has_its_type_and_a_tag_of_its_content() {
    let tags: std::collections::BTreeSet<_> = FILES
        .iter()
        .map(|(path, ..)| asset(path).unwrap().etag)
        .collect();
    assert_eq!(tags.len(), FILES.len());
    assert!(
        tags.iter()
            .all(|tag| tag.len() == 26 && tag.starts_with('"') && tag.ends_with('"'))
    );
    for (path, content_type) in [
        ("/", "text/html; charset=utf-8"),
        ("/widget.js", "text/javascript; charset=utf-8"),
        ("/page.css", "text/css; charset=utf-8"),
        ("/favicon.svg", "image/svg+xml"),
    ] {
        assert_eq!(asset(path).unwrap().content_type, content_type);
        assert_eq!(asset(path).unwrap().for_other_pages, path == "/widget.js");
    }
    assert!(asset("/widget").is_none() && asset("").is_none() && asset("/../Cargo.toml").is_none());
}

#[test]
fn everything_that_a_page_names_is_embedded() {
    let mut named = 0;
    for page in ["/", "/datenschutz"] {
        let html = content(page);
        let ids = attributes(html, "id");
        for target in [attributes(html, "href"), attributes(html, "src")].concat() {
            let (file, fragment) = target.split_once('#').unwrap_or((target, ""));
            let here = file.is_empty();
            let file = if file == "." { "" } else { file };
            assert!(
                here || asset(&format!("/{file}")).is_some(),
                "{page} names {target}"
            );
            let anchors = if here {
                ids.clone()
            } else {
                attributes(content(&format!("/{file}")), "id")
            };
            assert!(
                fragment.is_empty() || anchors.contains(&fragment),
                "{page} names {target}"
            );
            named += 1;
        }
    }
    assert!(named >= 12, "only {named} references were read");
}

#[test]
fn every_source_file_is_embedded() {
    let mut read = 0;
    for folder in [SOURCES.to_string(), format!("{SOURCES}/widget")] {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let text = fs::read_to_string(&path).unwrap();
                assert!(
                    FILES.iter().any(|(.., content)| content.contains(&text)),
                    "{} is not sent",
                    path.display()
                );
                read += 1;
            }
        }
    }
    assert!(read > 8, "only {read} files found");
}

/// No third party is asked, nothing is kept on the citizen's device, no text becomes markup or
/// code.
#[test]
fn nothing_is_loaded_from_elsewhere_kept_or_run() {
    for (path, _, text) in FILES {
        for (number, line) in text.lines().enumerate() {
            let line = line
                .replace("http://www.w3.org/2000/svg", "")
                .replace(r"/https?:\/\/[", "");
            for word in [
                "://",
                "url(",
                "@import",
                "src=\"//",
                "href=\"//",
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "new Function",
                "document.cookie",
                "localStorage",
                "sessionStorage",
                "indexedDB",
                "sendBeacon",
                "<style",
                " style=\"",
                "javascript:",
            ] {
                assert!(!line.contains(word), "{path}, line {}: {word}", number + 1);
            }
        }
    }
    for page in ["/", "/datenschutz"] {
        let html = content(page);
        assert!(!html.contains(" onclick=") && !html.contains(" onload="));
        assert_eq!(
            html.matches("<script").count(),
            html.matches("<script src=").count(),
            "{page} holds an inline script"
        );
    }
}

/// The questions that the widget begins with are real ones, and each office has some.
#[test]
fn the_examples_stand_in_the_knowledge_base() {
    let knowledge =
        Knowledge::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("knowledge")).unwrap();
    let mut offices = std::collections::BTreeMap::new();
    let lines = WIDGET
        .lines()
        .filter(|line| line.trim_start().starts_with("{ service: \""));
    for line in lines {
        let mut quoted = line.split('"').skip(1).step_by(2);
        let (id, question) = (quoted.next().unwrap(), quoted.next().unwrap());
        let (office, service) = knowledge
            .offices
            .iter()
            .find_map(|office| {
                let service = office.services.iter().find(|s| s.id.as_str() == id)?;
                Some((office, service))
            })
            .unwrap_or_else(|| panic!("no service {id}"));
        assert!(
            service
                .facts
                .values()
                .any(|fact| fact.questions.iter().any(|q| q.as_str() == question)),
            "{id}: {question}"
        );
        *offices.entry(office.id()).or_insert(0) += 1;
    }
    assert_eq!(offices.len(), knowledge.offices.len());
    assert!(offices.values().all(|&count| count == 3), "{offices:?}");
}
