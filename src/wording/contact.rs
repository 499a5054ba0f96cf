//! How an office can be reached: the sentences that are said of its address, numbers and hours.

use crate::german::grammar::upper_first;
use crate::knowledge::Office;

/// A way to an office.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// When it is open.
    Hours,
    /// Its telephone number.
    Phone,
    /// Its e-mail address.
    Email,
    /// Where it is.
    Address,
    /// How to get an appointment.
    Appointment,
}

/// What is said of an office, placeholders and all. `called`: the other name that the citizen used
/// for it.
pub(crate) fn of_office(office: &Office, called: Option<&str>, ways: &[Way]) -> String {
    let (article, name) = (&office.about.article, &office.about.name);
    let name = match called {
        Some(called) => format!("{article} {name} ({called})"),
        None => format!("{article} {name}"),
    };
    said(&name, ways)
}

/// What is said to who would rather talk to somebody, of an office or of the city as a whole.
pub(crate) fn of_people(office: Option<&Office>) -> String {
    let name = office.map_or("die Stadtverwaltung".to_string(), |office| {
        format!("{} {}", office.about.article, office.about.name)
    });
    format!(
        "Persönlich hilft {name} unter der Telefonnummer {{telefon}} weiter. {} {}",
        further(Way::Hours),
        further(Way::Address)
    )
}

fn said(name: &str, ways: &[Way]) -> String {
    let mut sentences: Vec<String> = Vec::new();
    for way in ways {
        sentences.push(match (sentences.is_empty(), way) {
            (false, way) => further(*way).to_string(),
            (true, Way::Hours) => format!("{name} hat diese Öffnungszeiten: {{oeffnungszeiten}}."),
            (true, Way::Phone) => {
                format!("{name} ist telefonisch unter {{telefon}} zu erreichen.")
            }
            (true, Way::Email) => format!("{name} ist per E-Mail unter {{email}} zu erreichen."),
            (true, Way::Address) => format!("{name} hat die Anschrift {{adresse}}."),
            (true, Way::Appointment) => format!(
                "{name} vergibt Termine telefonisch unter {{telefon}}. Online geht es unter \
                 {{termin_url}}."
            ),
        });
    }
    upper_first(&sentences.join(" "))
}

/// The same where the office was named before.
fn further(way: Way) -> &'static str {
    match way {
        Way::Hours => "Öffnungszeiten: {oeffnungszeiten}.",
        Way::Phone => "Telefon: {telefon}.",
        Way::Email => "E-Mail: {email}.",
        Way::Address => "Anschrift: {adresse}.",
        Way::Appointment => "Termine gibt es online unter {termin_url}.",
    }
}
