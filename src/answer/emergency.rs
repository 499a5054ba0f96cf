//! Signs of danger. Who is in danger does not ask like the questions that the search knows, so a
//! few rules stand before it. They would rather send somebody to 112 for nothing than ask back
//! while a house burns; only a question that the knowledge base has in these very words
//! (`Darf ich die Behördennummer anrufen, wenn es brennt?`) comes before them.

/// Request of `ausserhalb.toml`, and the words that must all be there, in any order: folded,
/// alternatives with `|`, `*` for any ending; one after `!` must not be there.
const SIGNS: [(&str, &[&str]); 22] = [
    (
        MEDICAL,
        &["atmet|atme", "nicht|kaum|komisch|schwer|schlecht"],
    ),
    (MEDICAL, &["keine", "luft", "bekommt|bekomme|kriegt|kriege"]),
    (MEDICAL, &["bewusstlos*"]),
    (MEDICAL, &["ohnmaechtig*"]),
    (MEDICAL, &["blutet", "stark|heftig|ueberall|viel"]),
    (MEDICAL, &["verblutet|erstickt"]),
    (MEDICAL, &[PERSON, "liegt", "boden|bewegungslos|regungslos"]),
    (MEDICAL, &[PERSON, "zusammengebrochen|zusammengeklappt"]),
    (
        MEDICAL,
        &[
            PERSON,
            "reagiert",
            "nicht",
            "!amt|behoerde|sachbearbeiter*|stadt|antrag|brief|mail",
        ],
    ),
    (MEDICAL, &["schmerzen", "brust"]),
    // Whoever does not want to live needs somebody to talk to at once: the emergency call has them.
    (
        MEDICAL,
        &[
            "ich",
            "will|moechte|mag|kann",
            "nicht mehr leben|nicht laenger leben",
        ],
    ),
    (MEDICAL, &["ich", "mich", "umbringen"]),
    (MEDICAL, &["mir", "leben", "nehmen"]),
    (MEDICAL, &["suizidgedanken|selbstmordgedanken"]),
    (
        FIRE,
        &[
            "brennt|brennts",
            "!nicht|lampe|laterne|licht|strassenlaterne|strassenlampe",
        ],
    ),
    (FIRE, &["qualmt|qualm|flammen"]),
    (
        FIRE,
        &[
            "rauch",
            "treppenhaus|keller|wohnung|dach|fenster|kueche|haus",
        ],
    ),
    (FIRE, &["feuer", "ausgebrochen|hilfe|schnell"]),
    (FIRE, &["gasgeruch"]),
    (FIRE, &["riecht", "gas"]),
    (POLICE, &["eingebrochen", "gerade|wird"]),
    (
        POLICE,
        &["werde|wird|werden", "bedroht|verfolgt|zusammengeschlagen"],
    ),
];

const MEDICAL: &str = "notfall_medizin";
const FIRE: &str = "notfall_brand";
const POLICE: &str = "notfall_polizei";
const PERSON: &str = "mann|frau|kind|sohn|tochter|baby|mutter|vater|mama|papa|oma|opa|bruder|\
                      schwester|freund|freundin|nachbar|nachbarin|jemand|person|er|sie|\
                      partner|partnerin";

/// The request that a folded question is a sign of.
pub(super) fn sign(core: &str) -> Option<&'static str> {
    let (words, spaced): (Vec<&str>, _) = (core.split(' ').collect(), format!(" {core} "));
    let has = |wanted: &str| {
        wanted
            .split('|')
            .any(|wanted| match wanted.strip_suffix('*') {
                Some(beginning) => words.iter().any(|word| word.starts_with(beginning)),
                None => spaced.contains(&format!(" {wanted} ")),
            })
    };
    SIGNS
        .iter()
        .find(|(_, wanted)| {
            wanted.iter().all(|wanted| match wanted.strip_prefix('!') {
                Some(unwanted) => !has(unwanted),
                None => has(wanted),
            })
        })
        .map(|(id, _)| *id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::german::fold;

    #[test]
    fn danger_is_seen_and_daily_life_is_not() {
        for (question, expected) in [
            ("Hilfe, meine Mutter atmet kaum noch!", Some(MEDICAL)),
            (
                "Ein Mann ist vor dem Rathaus zusammengebrochen",
                Some(MEDICAL),
            ),
            ("mein baby bekommt keine luft", Some(MEDICAL)),
            ("Ich möchte nicht mehr leben", Some(MEDICAL)),
            ("Bei uns brennt die Küche!", Some(FIRE)),
            ("Im Flur riecht es nach Gas", Some(FIRE)),
            ("Da ist Rauch im Keller", Some(FIRE)),
            ("Bei den Nachbarn wird gerade eingebrochen", Some(POLICE)),
            ("Die Straßenlaterne vor meinem Haus brennt nicht", None),
            (
                "Mein Vater hatte einen Schlaganfall, wer hilft bei der Pflege?",
                None,
            ),
            (
                "Das Amt reagiert nicht auf meinen Brief, wie lange dauert er noch?",
                None,
            ),
            ("Bei mir wurde eingebrochen und mein Ausweis ist weg", None),
            ("Wie melde ich ein Lagerfeuer an?", None),
            ("Darf meine Frau in Deutschland leben?", None),
            (
                "Ich möchte nicht mehr in der Stadt leben, wo melde ich mich ab?",
                None,
            ),
            (
                "Mein Bruder hat sich das Leben genommen, wo bekomme ich die Sterbeurkunde?",
                None,
            ),
        ] {
            assert_eq!(sign(&fold(question)), expected, "{question}");
        }
    }
}
