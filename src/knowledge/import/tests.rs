//! Importing the made-up XZuFi file of the fixtures.

use super::*;
use crate::knowledge::{Knowledge, Severity, check_with};

const SAMPLE: &str = include_str!("../../../tests/fixtures/leistungen.xzufi.xml");

fn office() -> ImportedOffice {
    ImportedOffice {
        id: "ordnungsamt".to_string(),
        name: "Ordnungsamt".to_string(),
        article: "das".to_string(),
    }
}

fn today() -> Date {
    "2026-11-01".parse().unwrap()
}

#[test]
fn what_is_imported_is_a_knowledge_file() {
    let import = import_xzufi(SAMPLE, "leistungen.xzufi.xml", &office(), today()).unwrap();
    assert_eq!(import.services, 2);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ordnungsamt.toml"), &import.toml).unwrap();
    let values = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/knowledge_small/kommune.toml"
    );
    let values = std::fs::read_to_string(values).unwrap();
    let values = values.split("[werte_je_amt").next().unwrap();
    std::fs::write(folder.path().join("kommune.toml"), values).unwrap();
    let knowledge = Knowledge::load(folder.path()).unwrap();
    let errors: Vec<_> = check_with(&knowledge, today(), None)
        .into_iter()
        .filter(|finding| finding.severity == Severity::Error)
        .collect();
    // The sample addresses the reader in one place; that is for a person to change, and the checker
    // says where.
    assert_eq!(errors.len(), 2, "{errors:#?}");
    assert!(
        errors
            .iter()
            .all(|error| error.message.contains("addresses the reader"))
    );
    let service = &knowledge.offices[0].services[0];
    assert_eq!(service.leika.as_deref(), Some("99089012001000"));
    assert_eq!(service.title.as_str(), "Ausnahme vom Sonntagsfahrverbot");
    assert_eq!(service.checked_on.as_deref(), Some("2026-03-09"));
    assert!(
        service
            .aliases
            .iter()
            .any(|alias| alias.as_str() == "Lkw am Sonntag")
    );
    let fact = |intent| &service.facts[&intent];
    assert_eq!(
        fact(Intent::Fee).text.as_str(),
        "Die Gebühr beträgt 10 Euro bis 200 Euro."
    );
    assert_eq!(
        fact(Intent::Duration).text.as_str(),
        "Die Bearbeitung dauert 5 Werktage."
    );
    assert_eq!(fact(Intent::Documents).documents.len(), 3);
    assert_eq!(
        fact(Intent::What).sources[0].as_str(),
        "§ 46 Abs. 1 Nr. 7 StVO"
    );
    assert!(fact(Intent::What).text.contains("Straße & Schiene"));
}

#[test]
fn texts_lose_their_marks_and_long_ones_their_end() {
    assert_eq!(
        sentences_of("<p>Eins</p><p>Zwei &amp; drei.</p>"),
        "Eins. Zwei & drei."
    );
    assert_eq!(
        list_items("<ul><li>a;</li><li class='x'>b</li></ul>"),
        ["a", "b"]
    );
    let long = "Dieser Satz hat genau sieben Wörter hier. ".repeat(12);
    let (text, cut) = shortened(long.trim());
    assert!(cut && text.split_whitespace().count() <= MOST_WORDS && text.ends_with("hier."));
    assert_eq!(
        first_sentence("Nach § 17 Abs. 1 BMG gilt das. Ende."),
        "Nach § 17 Abs. 1 BMG gilt das."
    );
    assert_eq!(telling("Die Frist beträgt 2 Wochen."), "2 Wochen");
}

#[test]
fn other_files_are_refused_by_name() {
    let error = |xml: &str| {
        format!(
            "{:#}",
            import_xzufi(xml, "x.xml", &office(), today()).unwrap_err()
        )
    };
    assert!(error("<a><b></a>").contains("x.xml cannot be read as XML"));
    assert!(error("<a/>").contains("no service description"));
    assert!(error("<leistung><modulText/></leistung>").contains("none with a title"));
}
