//! Each rule is broken once in a copy of the small knowledge base and must be reported on the line
//! where it was broken.

use super::*;
use std::path::Path;

const FOLDER: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/fixtures/knowledge_small"
);

fn findings_as_of(folder: &Path, today: &str) -> Vec<Finding> {
    let knowledge = Knowledge::load(folder).unwrap();
    check_with(&knowledge, today.parse().unwrap(), None)
}

// Replaces the first `from` of the file and expects a finding that holds `expected` where `to` now
// stands.
fn expect(file: &str, from: &str, to: &str, severity: Severity, expected: &str) {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(FOLDER).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let path = folder.path().join(file);
    let content = std::fs::read_to_string(&path).unwrap();
    let at = content
        .find(from)
        .unwrap_or_else(|| panic!("{from} is not in {file}"));
    std::fs::write(&path, content.replacen(from, to, 1)).unwrap();
    let line = content[..at].matches('\n').count() + 1;
    let findings = findings_as_of(folder.path(), "2026-11-01");
    let found = findings.iter().any(|finding| {
        finding.line.abs_diff(line) <= usize::from(to.is_empty())
            && finding.severity == severity
            && finding.message.contains(expected)
            && finding.file.ends_with(file)
    });
    assert!(
        found,
        "no {expected:?} on line {line} of {file} in {findings:#?}"
    );
}

#[test]
fn the_small_knowledge_base_is_clean() {
    assert_eq!(findings_as_of(Path::new(FOLDER), "2026-11-01"), []);
}

#[test]
fn sources_and_dates_are_required() {
    let file = "einwohnermeldeamt.toml";
    let fact = "text = \"Nach dem Einzug in eine neue Wohnung ist die Anmeldung bei der \
        Meldebehörde vorgeschrieben.\"";
    let rest = "\nkurz = \"Die Anmeldung der neuen Wohnung ist Pflicht.\"\nquelle = [";
    let from = format!("{fact}{rest}\"§ 17 Abs. 1 BMG\"]");
    expect(
        file,
        &from,
        &format!("{fact}{rest}]"),
        Severity::Error,
        "no quelle",
    );
    expect(
        file,
        "stand = \"2026-07-01\"",
        "stand = \"2026-07-32\"",
        Severity::Error,
        "stand",
    );
    expect(
        file,
        "stand = \"2026-07-01\"",
        "stand = \"2027-07-01\"",
        Severity::Warning,
        "future",
    );
    expect(
        file,
        "stand = \"2026-07-01\"",
        "stand = \"2025-05-01\"",
        Severity::Warning,
        "18 months old",
    );
    expect(
        file,
        "id = \"ewo_anmeldung\"",
        "id = \"Anmeldung!\"",
        Severity::Error,
        "a-z",
    );
}

#[test]
fn a_fact_grows_stale_with_time() {
    assert_eq!(findings_as_of(Path::new(FOLDER), "2027-12-31"), []);
    let stale = findings_as_of(Path::new(FOLDER), "2028-01-01");
    assert_eq!(stale.len(), 3);
    assert!(
        stale
            .iter()
            .all(|finding| finding.severity == Severity::Warning)
    );
}

#[test]
fn language_is_checked() {
    let file = "standesamt.toml";
    let fact = "Eine Geburtsurkunde kostet {gebuehr_urkunde}.";
    expect(
        file,
        fact,
        "Bitte zahlen Sie {gebuehr_urkunde}.",
        Severity::Error,
        "addresses the reader",
    );
    expect(
        file,
        fact,
        "Dafür zahlst du {gebuehr_urkunde}.",
        Severity::Error,
        "addresses the reader",
    );
    expect(
        file,
        fact,
        "Sie müssen bar zahlen: {gebuehr_urkunde}.",
        Severity::Warning,
        "may address",
    );
    expect(
        file,
        fact,
        "Sie kostet kostet {gebuehr_urkunde}.",
        Severity::Error,
        "twice",
    );
    expect(
        file,
        fact,
        "Die Gebuehr ist {gebuehr_urkunde}.",
        Severity::Warning,
        "umlaut",
    );
    expect(
        file,
        fact,
        "Sie kostet (zurzeit {gebuehr_urkunde}.",
        Severity::Error,
        "without its",
    );
    expect(
        file,
        fact,
        "Sie kostet {gebuehr_pass}.",
        Severity::Error,
        "unknown placeholder {gebuehr_pass}",
    );
    expect(
        file,
        fact,
        "Sie kostet {gebuehr_urkunde.",
        Severity::Error,
        "placeholder",
    );
}

#[test]
fn answers_agree_with_themselves() {
    let file = "standesamt.toml";
    expect(
        file,
        "Die Anmeldung gilt sechs Monate.\"",
        "Sie gilt drei Monate.\"",
        Severity::Error,
        "3 monat",
    );
    expect(
        file,
        "nennt = [\"sechs Monate\"]",
        "nennt = [\"ein Jahr\"]",
        Severity::Error,
        "ein Jahr",
    );
    expect(
        file,
        "artikel = \"das\"",
        "artikel = \"dem\"",
        Severity::Error,
        "artikel",
    );
    expect(
        file,
        "leika = \"99012004012000\"",
        "leika = \"12345\"",
        Severity::Error,
        "14 digits",
    );
}

#[test]
fn figures_of_one_service_agree() {
    expect(
        "standesamt.toml",
        "Jede weitere Urkunde im selben Vorgang kostet die Hälfte.",
        "Jede weitere Urkunde im selben Vorgang kostet 5 Euro. Jede weitere Urkunde im selben \
        Vorgang kostet 6 Euro.",
        Severity::Error,
        "line",
    );
}

#[test]
fn phrases_keep_to_their_form_of_address_and_hold_their_slots() {
    let built_in = include_str!("../../../knowledge/sprache/redewendungen.toml");
    for (from, to, expected) in [
        (
            "\"Haben Sie kurz Zeit für mich?\"",
            "\"Hast du kurz Zeit für mich?\"",
            "does not fit",
        ),
        (
            "\"Wissen Sie, {satz}?\"",
            "\"Wissen Sie das?\"",
            "exactly one of",
        ),
        (
            "\"Persönlich erreichen Sie uns hier: {adresse}.\"",
            "\"Persönlich erreichen Sie uns hier: {ort}.\"",
            "unknown placeholder",
        ),
        ("\"Moin moin!\"", "\"Hallo!\"", "already"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(FOLDER).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
        }
        std::fs::create_dir(folder.path().join("sprache")).unwrap();
        assert!(built_in.contains(from), "{from}");
        let file = folder.path().join("sprache/redewendungen.toml");
        std::fs::write(&file, built_in.replacen(from, to, 1)).unwrap();
        let line = built_in[..built_in.find(from).unwrap()]
            .matches('\n')
            .count()
            + 1;
        let findings = findings_as_of(folder.path(), "2026-11-01");
        let found = findings.iter().any(|finding| {
            finding.line == line && finding.file == file && finding.message.contains(expected)
        });
        assert!(found, "{expected} on line {line}: {findings:#?}");
    }
}

#[test]
fn questions_and_aliases_are_unique_and_whole() {
    let file = "standesamt.toml";
    expect(
        file,
        "\"heiraten\"",
        "\"Ummeldung\"",
        Severity::Error,
        "also stands in",
    );
    expect(
        file,
        "Wo melde ich die Hochzeit an?",
        "Wo kann ich mich ummelden?",
        Severity::Error,
        "also stands in",
    );
    expect(
        file,
        "Wo melde ich die Hochzeit an?",
        "Wo melde ich die Hochzeit an",
        Severity::Error,
        "does not end",
    );
    expect(
        file,
        "Wo melde ich die Hochzeit an?",
        "Wo meldest du die Hochzeit an?",
        Severity::Error,
        "addresses",
    );
    expect(
        file,
        "Wo melde ich die Hochzeit an?",
        "Wo ist {adresse}?",
        Severity::Error,
        "no placeholder",
    );
}

#[test]
fn required_intents_and_question_counts_are_held() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(
        Path::new(FOLDER).join("kommune.toml"),
        folder.path().join("kommune.toml"),
    )
    .unwrap();
    let office = "[amt]\nid = \"bauamt\"\nname = \"Bauamt\"\nartikel = \"das\"\n[[leistung]]\nid \
        = \"bau_x\"\ntitel = \"X\"\n\
                  stichworte = [\"X\"]\nthema = \"das X\"\nthema_dativ = \"dem X\"\nstand = \
                  \"2026-07-01\"\n\
                  [leistung.fakten.online]\ntext = \"Es geht.\"\nkurz = \"Es geht.\"\nquelle = \
                  [\"BauO\"]\nnennt = [\"geht\"]\n\
                  fragen = [\"Geht es?\"]\n";
    std::fs::write(folder.path().join("bauamt.toml"), office).unwrap();
    let messages: Vec<String> = findings_as_of(folder.path(), "2026-11-01")
        .into_iter()
        .map(|f| f.message)
        .collect();
    for expected in [
        "[leistung.fakten.was]",
        "[leistung.fakten.wo]",
        "frist, gebuehr, unterlagen",
        "1 question(s)",
        "standesamt",
    ] {
        assert!(
            messages.iter().any(|message| message.contains(expected)),
            "{expected}: {messages:#?}"
        );
    }
}

#[test]
fn answers_and_texts_are_whole_and_of_a_readable_length() {
    use Severity::{Error, Warning};
    let file = "standesamt.toml";
    let (full, short) = (
        "Vor der Trauung muss die Eheschließung beim Standesamt angemeldet werden.",
        "kurz = \"Die Eheschließung muss vorher angemeldet werden.\"",
    );
    let long = format!("{}angemeldet.", "lange davor ".repeat(40));
    for (from, to, severity, expected) in [
        (full, "angemeldet", Error, "full stop"),
        (full, "", Error, "the answer is empty"),
        (full, &long[..], Warning, "81 words"),
        (
            full,
            "Sie wird vorher  angemeldet.",
            Warning,
            "double space",
        ),
        (
            short,
            &format!("kurz = \"{full} {full}\"")[..],
            Warning,
            "kurz is longer",
        ),
        (
            "thema = \"die Eheschließung\"",
            "thema = \"Eheschließung\"",
            Error,
            "with its article",
        ),
        (
            // An empty list has no place of its own: the service's first line is named.
            "id = \"sta_eheschliessung\"\ntitel = \"Anmeldung der Eheschließung\"\nstichworte = \
            [\"heiraten\", \"Eheschließung\", \"Trauung\"]",
            "id = \"sta_eheschliessung\"\ntitel = \"Anmeldung der Eheschließung\"\nstichworte = []",
            Error,
            "no stichworte",
        ),
        (
            "id = \"sta_eheschliessung\"",
            "id = \"sta_geburtsurkunde\"",
            Error,
            "also stands in",
        ),
        (
            "id = \"standesamt\"",
            "id = \"standesamt_nord\"",
            Error,
            "the file must be called",
        ),
    ] {
        expect(file, from, to, severity, expected);
    }
}

#[test]
fn who_names_one_danger_should_name_them_all() {
    expect(
        "ausserhalb.toml",
        "id = \"notfall\"",
        "id = \"notfall_medizin\"",
        Severity::Warning,
        "there is no request gift",
    );
}

#[test]
fn a_value_that_the_law_set_anew_is_an_error() {
    for (day, expected) in [
        ("2026-10-31", "was right until 2026-10-31"),
        ("2026-13-31", "gueltig_bis: "),
    ] {
        expect(
            "kommune.toml",
            "telefon = { ",
            &format!("telefon = {{ gueltig_bis = \"{day}\", "),
            Severity::Error,
            expected,
        );
    }
}

// What is found in these files of `fragen/` beside the small knowledge base.
fn findings_of_phrasings(files: &[(&str, &str)]) -> Vec<Finding> {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(FOLDER).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let phrasings = folder.path().join("fragen");
    std::fs::create_dir(&phrasings).unwrap();
    for (name, content) in files {
        std::fs::write(phrasings.join(name), content).unwrap();
    }
    findings_as_of(folder.path(), "2026-11-01")
}

#[test]
fn phrasings_stand_once_and_belong_to_something() {
    let harmless = "harmlos = [\"Der Drucker brennt keine CDs\"]\n";
    for (files, expected) in [
        (
            vec![(
                "gefahr.toml",
                "feuer = [\"Es brennt\"]\n".to_string() + harmless,
            )],
            Some((1, "there is no danger \"feuer\"")),
        ),
        (
            vec![(
                "gefahr.toml",
                "notfall_brand = [\"Es brennt\"]\n".to_string(),
            )],
            Some((1, "no lines that only sound like danger")),
        ),
        (
            vec![(
                "gefahr.toml",
                "notfall_brand = [\n  \"Es brennt\",\n  \"es brennt!\",\n]\n".to_string()
                    + harmless,
            )],
            Some((3, "the same phrasing stands in")),
        ),
        (
            vec![
                ("ausserhalb.toml", "nichts = [\"Es brennt\"]\n".to_string()),
                (
                    "gefahr.toml",
                    "gift = [\"Es brennt\"]\n".to_string() + harmless,
                ),
            ],
            Some((1, "the same phrasing stands in")),
        ),
        (
            vec![(
                "gefahr.toml",
                "notfall_brand = [\"Es brennt\"]\n".to_string() + harmless,
            )],
            None,
        ),
    ] {
        let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, &**text)).collect();
        let findings = findings_of_phrasings(&files);
        let errors: Vec<&Finding> = findings
            .iter()
            .filter(|finding| finding.severity == Severity::Error)
            .collect();
        match expected {
            None => assert!(errors.is_empty(), "{errors:#?}"),
            Some((line, message)) => assert!(
                errors
                    .iter()
                    .any(|error| error.line == line && error.message.contains(message)),
                "{message}: {errors:#?}"
            ),
        }
    }
}
