//! Texts with differences of spelling evened out, and umlauts as keyboards without them type them.

use super::sentences::words;

/// Beginnings or parts of common words whose umlaut was spelled out. Lower case.
const SPELLED_OUT: [&str; 53] = [
    "fuer",
    "ueber",
    "koenn",
    "moecht",
    "moegl",
    "muess",
    "muesst",
    "duerf",
    "gebuehr",
    "aemter",
    "zustaend",
    "waehr",
    "spaet",
    "frueh",
    "persoen",
    "buerg",
    "behoerd",
    "antraeg",
    "hoechst",
    "noetig",
    "pruef",
    "gueltig",
    "kuendig",
    "schluess",
    "aender",
    "erklaer",
    "haeus",
    "gemaess",
    "heisst",
    "strasse",
    "groess",
    "naechst",
    "zusaetz",
    "vollstaend",
    "rueck",
    "zurueck",
    "stueck",
    "ausserhalb",
    "ausserdem",
    "oeffn",
    "oeffent",
    "ergaenz",
    "erhaelt",
    "enthaelt",
    "faell",
    "betraeg",
    "verlaeng",
    "bestaetig",
    "gruend",
    "unterstuetz",
    "laender",
    "waere",
    "taeglich",
];

/// Appends a letter; an umlaut or `ß` as two letters (`ä` as `ae`).
pub(crate) fn push_spelled_out(text: &mut String, letter: char) {
    match letter {
        'ä' => text.push_str("ae"),
        'ö' => text.push_str("oe"),
        'ü' => text.push_str("ue"),
        'Ä' => text.push_str("Ae"),
        'Ö' => text.push_str("Oe"),
        'Ü' => text.push_str("Ue"),
        'ß' => text.push_str("ss"),
        other => text.push(other),
    }
}

/// Soft hyphens, zero-width spaces and joiners, byte order marks: what comes along with text copied
/// from a web page or a PDF, inside of words.
fn is_invisible(letter: char) -> bool {
    matches!(
        letter,
        '\u{ad}' | '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{feff}'
    )
}

/// The text with case, spacing, punctuation and umlaut spelling evened out. Texts that differ only
/// in those compare equal: `Gebühr?` and `gebuehr` give the same.
pub fn fold(text: &str) -> String {
    let mut folded = String::with_capacity(text.len() + 8);
    let mut pending_space = false;
    let mut add = |c: char| {
        if is_invisible(c) {
            return;
        }
        if !c.is_alphanumeric() {
            pending_space = !folded.is_empty();
            return;
        }
        if std::mem::take(&mut pending_space) {
            folded.push(' ');
        }
        push_spelled_out(&mut folded, c);
    };
    for c in text.chars() {
        // Most characters need no look into the tables of Unicode.
        if c.is_ascii() {
            add(c.to_ascii_lowercase());
        } else {
            c.to_lowercase().for_each(&mut add);
        }
    }
    folded
}

/// The text as typed on a keyboard without umlauts: `Gebühr` becomes `Gebuehr`.
pub(crate) fn spell_out_umlauts(text: &str) -> String {
    let mut spelled = String::with_capacity(text.len());
    for letter in text.chars() {
        push_spelled_out(&mut spelled, letter);
    }
    spelled
}

/// Words whose umlaut looks spelled out (`Gebuehr`). Placeholders and web addresses are passed
/// over.
pub(crate) fn spelled_out_umlauts(text: &str) -> Vec<String> {
    let plain = text
        .split_whitespace()
        .filter(|token| !token.contains(['{', '@']) && !token.contains("://"));
    plain
        .flat_map(words)
        .filter(|word| {
            let lower = word.to_lowercase();
            SPELLED_OUT.iter().any(|stem| lower.contains(stem))
        })
        .map(str::to_string)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folding_ignores_case_space_punctuation_and_umlaut_spelling() {
        assert_eq!(fold("  Gebühr, bitte?! "), "gebuehr bitte");
        assert_eq!(fold("Gebuehr\n bitte"), fold("GEBÜHR bitte."));
        assert_ne!(fold("Hund"), fold("Hunde"));
        assert_eq!(fold("Straße"), "strasse");
        // As copied from a page with soft hyphens, or from a PDF.
        assert_eq!(fold("\u{feff}An\u{ad}mel\u{200b}dung"), "anmeldung");
    }

    #[test]
    fn umlauts_are_spelled_out() {
        assert_eq!(
            spell_out_umlauts("Übergröße für Öl"),
            "Uebergroesse fuer Oel"
        );
    }

    #[test]
    fn spelled_out_umlauts_are_found_outside_placeholders() {
        assert_eq!(
            spelled_out_umlauts("Die Gebuehr fuer den Antrag"),
            ["Gebuehr", "fuer"]
        );
        assert!(
            spelled_out_umlauts(
                "Es kostet {gebuehr_meldebescheinigung}, neue Frist, Mauer, Steuer"
            )
            .is_empty()
        );
    }
}
