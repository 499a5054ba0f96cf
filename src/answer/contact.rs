//! Questions about an office itself: when it is open, where it is, its telephone number, how to
//! talk to a person. They are about no service, so a search over services would guess.
//!
//! Such a question says nothing else: every word of it names an office, a way to it, or stands
//! between such words. So `Wann hat das Standesamt offen?` is one, and `Wann hat das Standesamt für
//! Trauungen offen?` is none.

use super::Assistant;
use crate::german::fold;
use crate::knowledge::{Knowledge, Office, Service};
use crate::wording::contact::{Way, of_office, of_people};

/// What is asked about an office, by its place in the knowledge base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Contact {
    /// To talk to somebody there; `None`: anywhere in the city's administration.
    Person(Option<usize>),
    /// How it can be reached.
    Office {
        /// The office.
        office: usize,
        /// The other name that the citizen used for it.
        called: Option<String>,
        /// The ways that are asked for, at least one.
        ways: Vec<Way>,
    },
}

/// An office's names, folded.
pub(super) struct Names(Vec<Name>);

struct Name {
    folded: String,
    office: usize,
    /// As it stands in the knowledge base, if it is not the office's own.
    other: Option<String>,
}

/// Words that ask for a way. Folded.
const HOURS: [&str; 14] = [
    "oeffnungszeiten",
    "oeffnungszeit",
    "sprechzeiten",
    "sprechzeit",
    "sprechstunde",
    "sprechstunden",
    "geoeffnet",
    "offen",
    "oeffnet",
    "oeffnen",
    "schliesst",
    "schliessen",
    "geschlossen",
    "besuchszeiten",
];
const PHONE: [&str; 15] = [
    "telefon",
    "telefonnummer",
    "telefonnr",
    "telefonnummern",
    "tel",
    "telnr",
    "telnummer",
    "rufnummer",
    "nummer",
    "durchwahl",
    "anrufen",
    "telefonisch",
    "hotline",
    "telefonieren",
    "fon",
];
const EMAIL: [&str; 7] = [
    "mail",
    "email",
    "mailadresse",
    "emailadresse",
    "mailen",
    "emails",
    "mails",
];
const ADDRESS: [&str; 8] = [
    "adresse",
    "anschrift",
    "standort",
    "sitz",
    "sitzt",
    "befindet",
    "liegt",
    "hausanschrift",
];
const APPOINTMENT: [&str; 4] = ["termin", "termine", "terminvereinbarung", "terminbuchung"];
const REACH: [&str; 11] = [
    "erreiche",
    "erreichen",
    "erreichbar",
    "erreicht",
    "kontakt",
    "kontaktdaten",
    "kontaktieren",
    "ansprechpartner",
    "ansprechpartnerin",
    "kontaktadresse",
    "kontaktmoeglichkeiten",
];
/// `Wann macht das Amt auf?`: these words ask for hours beside a verb of [`OPENS`].
const OPEN_OR_SHUT: [&str; 2] = ["auf", "zu"];
const OPENS: [&str; 10] = [
    "hat", "haben", "habt", "hast", "macht", "machen", "machst", "ist", "sind", "seid",
];
/// `Wo ist das Amt?`: `wo` or `wohin` with one of these, or with nothing at all.
const IS_THERE: [&str; 10] = [
    "ist", "finde", "finden", "findet", "seid", "sind", "steht", "komme", "muss", "gehe",
];
/// Whom people would rather talk to, and what they want of them.
const PERSON: [&str; 19] = [
    "mensch",
    "menschen",
    "mitarbeiter",
    "mitarbeiterin",
    "mitarbeitern",
    "sachbearbeiter",
    "sachbearbeiterin",
    "person",
    "jemand",
    "jemanden",
    "jemandem",
    "kollegen",
    "kollegin",
    "berater",
    "beraterin",
    "angestellten",
    "beamten",
    "leute",
    "leuten",
];
const TALK: [&str; 14] = [
    "sprechen",
    "reden",
    "verbinden",
    "verbinde",
    "verbindet",
    "telefonieren",
    "weiterleiten",
    "weiterverbinden",
    "durchstellen",
    "unterhalten",
    "schreiben",
    "chatten",
    "fragen",
    "sprech",
];
/// Who says this wants a person, whatever verb follows.
const NO_MACHINE: [&str; 14] = [
    "bot",
    "chatbot",
    "computer",
    "maschine",
    "roboter",
    "automat",
    "automaten",
    "ki",
    "echten",
    "echte",
    "echter",
    "richtigen",
    "richtiger",
    "lebenden",
];
/// Words that may stand between. Folded.
const BETWEEN: &[&str] = &[
    "wo",
    "wohin",
    "wie",
    "wann",
    "was",
    "welche",
    "welcher",
    "welches",
    "welchen",
    "wer",
    "wen",
    "wem",
    "hat",
    "haben",
    "habt",
    "hast",
    "haette",
    "haetten",
    "macht",
    "machen",
    "machst",
    "ist",
    "sind",
    "seid",
    "ich",
    "wir",
    "man",
    "mir",
    "mich",
    "uns",
    "kann",
    "koennen",
    "koennte",
    "koennt",
    "kannst",
    "muss",
    "muessen",
    "darf",
    "duerfen",
    "gibt",
    "gib",
    "gebt",
    "geben",
    "es",
    "ihr",
    "euer",
    "eure",
    "eurer",
    "ihre",
    "ihren",
    "ihrer",
    "deine",
    "du",
    "sie",
    "die",
    "der",
    "das",
    "den",
    "dem",
    "des",
    "ein",
    "eine",
    "einen",
    "einem",
    "einer",
    "beim",
    "zum",
    "zur",
    "im",
    "in",
    "ins",
    "am",
    "an",
    "auf",
    "bei",
    "von",
    "vom",
    "fuer",
    "mit",
    "zu",
    "und",
    "oder",
    "aus",
    "nach",
    "unter",
    "um",
    "heute",
    "morgen",
    "uebermorgen",
    "jetzt",
    "gerade",
    "montag",
    "dienstag",
    "mittwoch",
    "donnerstag",
    "freitag",
    "samstag",
    "sonnabend",
    "sonntag",
    "montags",
    "dienstags",
    "mittwochs",
    "donnerstags",
    "freitags",
    "samstags",
    "sonntags",
    "mo",
    "di",
    "mi",
    "do",
    "fr",
    "sa",
    "so",
    "wochenende",
    "vormittag",
    "vormittags",
    "mittag",
    "mittags",
    "nachmittag",
    "nachmittags",
    "abend",
    "abends",
    "frueh",
    "morgens",
    "spaet",
    "lange",
    "lang",
    "laenger",
    "ab",
    "bis",
    "uhr",
    "tag",
    "tage",
    "tagen",
    "woche",
    "schon",
    "noch",
    "auch",
    "denn",
    "eigentlich",
    "bitte",
    "mal",
    "nur",
    "eben",
    "doch",
    "hin",
    "her",
    "da",
    "dort",
    "hier",
    "aktuell",
    "aktuelle",
    "aktuellen",
    "direkt",
    "direkte",
    "persoenlich",
    "brauche",
    "braucht",
    "suche",
    "moechte",
    "will",
    "wuerde",
    "gern",
    "gerne",
    "wissen",
    "sagen",
    "nennen",
    "haettet",
    "kein",
    "keine",
    "keinen",
    "keinem",
    "nicht",
    "statt",
    "lieber",
    "stadt",
    "amt",
    "ja",
    "ok",
    "genau",
    "euch",
    "ihnen",
    "dich",
    "wer",
    "wird",
    "finde",
    "finden",
    "findet",
    "steht",
    "komme",
    "kommen",
    "gehe",
    "gehen",
    "vorbeikommen",
    "hingehen",
    "erreicht",
    "sich",
    "per",
    "ueber",
    "geht",
    "gehts",
    "rein",
    "heisst",
    "lautet",
    "einfach",
    "sofort",
    "endlich",
    "hilfe",
    "mein",
    "meine",
    "meinem",
    "meinen",
    "meiner",
    "zustaendigen",
    "zustaendige",
    "hallo",
    "dann",
    "na",
    "buchen",
    "machen",
    "vereinbaren",
    "ausmachen",
    "bekomme",
    "bekommen",
    "kriege",
    "krieg",
];

impl Names {
    pub(super) fn new(knowledge: &Knowledge) -> Names {
        let mut names = Vec::new();
        for (number, office) in knowledge.offices.iter().enumerate() {
            let mut add = |name: &str, other: Option<String>| {
                names.push(Name {
                    folded: fold(name),
                    office: number,
                    other,
                });
            };
            add(&office.about.name, None);
            for other in &office.about.also {
                add(other, Some(other.to_string()));
            }
        }
        names.sort_by_key(|name| std::cmp::Reverse(name.folded.len()));
        Names(names)
    }

    /// The office that a text names, and the text without its name.
    fn take(&self, folded: &str) -> (Option<&Name>, String) {
        let spaced = format!(" {folded} ");
        for name in &self.0 {
            for ending in ["", "s", "es", "e", "en", "er"] {
                let named = format!(" {}{ending} ", name.folded);
                if let Some(at) = spaced.find(&named) {
                    let rest = [&spaced[..at], " ", &spaced[at + named.len()..]].concat();
                    return (Some(name), rest.trim().to_string());
                }
            }
        }
        (None, folded.to_string())
    }
}

impl Assistant {
    /// What a folded question asks about an office, if it asks for nothing else. `topic`: what was
    /// talked about before.
    pub(super) fn contact_wish(&self, core: &str, topic: Option<usize>) -> Option<Contact> {
        let (name, rest) = self.names.take(core);
        let words: Vec<&str> = rest.split(' ').filter(|word| !word.is_empty()).collect();
        let has = |list: &[&str]| words.iter().any(|word| list.contains(word));
        let lists: [&[&str]; 9] = [
            &HOURS,
            &PHONE,
            &EMAIL,
            &ADDRESS,
            &APPOINTMENT,
            &REACH,
            &PERSON,
            &TALK,
            &NO_MACHINE,
        ];
        let is_known = |word: &&str| {
            BETWEEN.contains(word)
                || lists.iter().any(|list| list.contains(word))
                || word.bytes().all(|byte| byte.is_ascii_digit())
                || *word == "e"
        };
        if !words.iter().all(is_known) {
            return None;
        }
        let office = name.map(|name| name.office);
        let before = topic.and_then(|topic| self.office_number(topic));
        if has(&PERSON) && has(&TALK) || has(&NO_MACHINE) && (has(&PERSON) || has(&TALK)) {
            return Some(Contact::Person(office.or(before)));
        }
        let mut ways = Vec::new();
        let asks_where = has(&["wo", "wohin"]) && (has(&IS_THERE) || words.len() == 1);
        let opens = has(&OPENS)
            && has(&OPEN_OR_SHUT)
            && words
                .last()
                .is_some_and(|last| OPEN_OR_SHUT.contains(last) || has(&["wann"]));
        if has(&HOURS) || opens {
            ways.push(Way::Hours);
        }
        if has(&PHONE) || has(&REACH) {
            ways.push(Way::Phone);
        }
        if has(&EMAIL) || has(&REACH) {
            ways.push(Way::Email);
        }
        if has(&ADDRESS) && !has(&EMAIL) || asks_where || has(&["wie"]) && has(&["komme"]) {
            ways.push(Way::Address);
        }
        if has(&APPOINTMENT) {
            ways.push(Way::Appointment);
        }
        // Without an office's name it is about the one that was talked about.
        let office = office.or(before)?;
        // The city as a whole has a service for this.
        let is_whole = self
            .contact_service()
            .is_some_and(|(whole, _)| whole == office);
        (!ways.is_empty() && !is_whole).then(|| Contact::Office {
            office,
            called: name.and_then(|name| name.other.clone()),
            ways,
        })
    }

    /// The place of a topic's office.
    fn office_number(&self, topic: usize) -> Option<usize> {
        let (office, _) = self.service_of(topic)?;
        let offices = &self.knowledge.offices;
        offices.iter().position(|other| other.id() == office.id())
    }

    /// The service that tells how the city can be reached, and the place of its office: the first
    /// whose facts name hours and address.
    pub(super) fn contact_service(&self) -> Option<(usize, &Service)> {
        let tells = |service: &Service, value: &str| {
            let mut facts = service.facts.values();
            facts.any(|fact| fact.text.contains(value))
        };
        let offices = self.knowledge.offices.iter().enumerate();
        let mut services = offices.flat_map(|(number, office)| {
            let services = office.services.iter();
            services.map(move |service| (number, service))
        });
        services
            .find(|(_, service)| tells(service, "{oeffnungszeiten}") && tells(service, "{adresse}"))
    }

    /// The office that is asked about; `None`: the city as a whole.
    pub(super) fn contact_office(&self, contact: &Contact) -> Option<&Office> {
        match contact {
            Contact::Person(office) => self.knowledge.offices.get((*office)?),
            Contact::Office { office, .. } => self.knowledge.offices.get(*office),
        }
    }

    /// What is said of it, with the city's values.
    pub(super) fn contact_answer(&self, contact: &Contact) -> String {
        let office = self.contact_office(contact);
        let text = match (contact, office) {
            (Contact::Office { called, ways, .. }, Some(office)) => {
                of_office(office, called.as_deref(), ways)
            }
            (_, office) => of_people(office),
        };
        self.fill(&text, office)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assistant() -> Assistant {
        Assistant::new(Knowledge::bundled().unwrap()).unwrap()
    }

    #[test]
    fn an_offices_own_hours_numbers_and_address_are_told() {
        let assistant = assistant();
        for (question, office, told) in [
            (
                "Hat das Bürgerbüro am Donnerstag offen?",
                "einwohnermeldeamt",
                "(Bürgerbüro) hat",
            ),
            ("Telefonnummer Bauamt", "bauamt", "01234 567-200"),
            (
                "wann macht das standesamt auf",
                "standesamt",
                "Öffnungszeiten: ",
            ),
            ("adresse vom sozialamt", "sozialamt", "Gartenstraße 5"),
            ("wie erreiche ich die stadtkasse?", "stadtkasse", "E-Mail: "),
            (
                "E-Mail-Adresse Jugendamt bitte",
                "jugendamt",
                "per E-Mail unter ",
            ),
            (
                "wo ist das ordnungsamt",
                "ordnungsamt",
                "hat die Anschrift ",
            ),
            ("Termin beim Standesamt", "standesamt", "vergibt Termine"),
        ] {
            let understanding = assistant.understand(&[], question);
            let text = assistant.reference(&understanding);
            assert_eq!(understanding.office.unwrap().id, office, "{question}");
            assert!(text.contains(told), "{question}: {text}");
            assert!(!text.contains('{'), "{question}: {text}");
        }
    }

    #[test]
    fn who_wants_to_talk_to_a_person_is_told_where() {
        let assistant = assistant();
        for question in [
            "Ich möchte mit einem Menschen sprechen",
            "kann ich mit einem echten mitarbeiter reden",
            "verbinden sie mich bitte mit einem sachbearbeiter",
            "Ich will mit jemandem vom Jugendamt sprechen",
        ] {
            let understanding = assistant.understand(&[], question);
            let text = assistant.reference(&understanding);
            assert!(text.contains("Persönlich hilft"), "{question}: {text}");
            assert!(!understanding.is_danger(), "{question}");
        }
    }

    #[test]
    fn what_asks_for_more_than_a_contact_goes_to_the_services() {
        let assistant = assistant();
        for question in [
            "Wann hat das Standesamt für Trauungen offen?",
            "Wann hat das Rathaus geöffnet?",
            "Welche Nummer steht auf dem Bescheid vom Bauamt?",
            "Kann ich den Reisepass beim Bürgerbüro abholen?",
            "Was kostet das?",
            "Wo kann ich mich ummelden?",
            "Bauamt",
        ] {
            let core = fold(question);
            assert_eq!(assistant.contact_wish(&core, None), None, "{question}");
        }
    }

    #[test]
    fn the_office_talked_about_is_meant_and_the_matter_stays() {
        use crate::answer::Turn;
        let assistant = assistant();
        let history = [
            Turn::citizen("Was kostet ein Reisepass?"),
            Turn::assistant("Der Reisepass kostet 70 Euro."),
        ];
        let hours = assistant.understand(&history, "Und wann habt ihr auf?");
        assert_eq!(hours.office.as_ref().unwrap().id, "einwohnermeldeamt");
        assert!(
            assistant
                .reference(&hours)
                .contains("Öffnungszeiten: Montag")
        );
        let after = [
            &history[..],
            &[
                Turn::citizen("Und wann habt ihr auf?"),
                Turn::assistant("So."),
            ],
        ];
        let documents = assistant.understand(&after.concat(), "Und was muss ich mitbringen?");
        assert_eq!(documents.service.unwrap().id, "ewo_reisepass");
    }
}
