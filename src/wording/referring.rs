//! Follow-up questions: they name nothing and refer to the topic so far.

use super::patterns::{Pattern, TIME, p};
use crate::knowledge::Intent;

/// Follow-up questions for one intent, with the words that a fitting answer holds.
pub(crate) fn referring(intent: Intent) -> &'static [Pattern] {
    const COST: &[&str] = &["kost", "gebuehr", "entgelt", "frei"];
    const BRING: &[&str] = &[
        "benoetigt",
        "mitzubringen",
        "vorzulegen",
        "noetig",
        "erforderlich",
        "gebraucht",
        "unterlagen",
        "nachweis",
        "mit",
    ];
    const LONG: &[&str] = &["dauert", "bearbeit", "sofort", "umgehend", "warte"];
    const RISK: &[&str] = &[
        "bussgeld",
        "versaeum",
        "verspaet",
        "ordnungswidrig",
        "saeumnis",
        "mahn",
        "zwangs",
        "unterlass",
    ];
    match intent {
        Intent::What => {
            const {
                &[
                    p("Worum geht es dabei genau?", &[]),
                    p("Was genau ist das?", &[]),
                    p("Was bedeutet das genau?", &[]),
                    p("Was muss ich darüber wissen?", &[]),
                    p("Was hat es damit auf sich?", &[]),
                    p("Was sollte man darüber wissen?", &[]),
                ]
            }
        }
        Intent::Who => {
            const {
                &[
                    p("Wen betrifft das?", &[]),
                    p("Für wen gilt das?", &[]),
                    p("Auf wen trifft das zu?", &[]),
                ]
            }
        }
        Intent::Where => {
            const {
                &[
                    p("Wo kann ich das erledigen?", &[]),
                    p("Wohin muss ich dafür?", &[]),
                    p("Wohin wende ich mich damit?", &[]),
                    p("Wo ist die richtige Anlaufstelle dafür?", &[]),
                    p("An welche Stelle wende ich mich?", &[]),
                    p("Wo bin ich damit richtig?", &[]),
                ]
            }
        }
        Intent::Deadline => {
            const {
                &[
                    p("Welche Frist gilt dabei?", TIME),
                    p("Muss ich dabei eine Frist beachten?", TIME),
                    p("Gibt es dafür eine Frist?", TIME),
                    p(
                        "Bis wann muss das geschehen?",
                        &[
                            "innerhalb",
                            "spaetestens",
                            "bis zum",
                            "binnen",
                            "vor dem",
                            "vor der",
                            "unverzueglich",
                        ],
                    ),
                    p(
                        "Wie viel Zeit habe ich dafür?",
                        &["innerhalb", "spaetestens", "binnen", "wochen", "monat"],
                    ),
                    p("Wie sieht es mit Fristen aus?", TIME),
                    p("Worauf muss ich zeitlich achten?", &[]),
                ]
            }
        }
        Intent::Fee => {
            const {
                &[
                    p("Was kostet das?", COST),
                    p("Fallen dafür Gebühren an?", COST),
                    p("Wie hoch sind die Kosten dafür?", COST),
                    p("Muss ich dafür etwas bezahlen?", COST),
                    p("Mit welchen Kosten muss ich rechnen?", COST),
                    p("Wie teuer ist das?", COST),
                    p("Um welche Beträge geht es dabei?", &["euro"]),
                ]
            }
        }
        Intent::Documents => {
            const {
                &[
                    p("Welche Unterlagen brauche ich dafür?", BRING),
                    p("Welche Nachweise sind nötig?", BRING),
                    p("Welche Papiere werden dafür verlangt?", BRING),
                    p("Was muss ich dafür einreichen oder mitbringen?", BRING),
                    p("Wie sieht es mit den Unterlagen aus?", &[]),
                    p("Was sollte ich bereithalten?", BRING),
                ]
            }
        }
        Intent::Online => {
            const {
                &[
                    p("Geht das auch online?", &[]),
                    p("Kann ich das auch im Internet erledigen?", &[]),
                    p("Geht das auch von zu Hause aus?", &[]),
                    p("Ist das auch digital möglich?", &[]),
                    p("Gibt es dafür einen Online-Dienst?", &[]),
                    p(
                        "Muss ich dafür persönlich vorbeikommen?",
                        &["persoenlich", "vor ort", "online", "internet", "digital"],
                    ),
                ]
            }
        }
        Intent::Duration => {
            const {
                &[
                    p("Wie lange dauert das?", LONG),
                    p(
                        "Wie lange muss ich darauf warten?",
                        &["bearbeit", "sofort", "warte"],
                    ),
                    p(
                        "Wie viel Zeit muss ich dafür einplanen?",
                        &["dauert", "bearbeit", "sofort"],
                    ),
                    p("Wie sieht es mit der Dauer aus?", &[]),
                ]
            }
        }
        Intent::Exceptions => {
            const {
                &[
                    p("Gibt es dabei Ausnahmen?", &[]),
                    p("Welche Besonderheiten gibt es dabei?", &[]),
                    p("Welche Sonderfälle gibt es?", &[]),
                    p("Gilt das immer?", &[]),
                    p("Was gilt in besonderen Fällen?", &[]),
                ]
            }
        }
        Intent::Consequences => {
            const {
                &[
                    p("Welche Folgen kann das haben?", &[]),
                    p("Was passiert, wenn ich das versäume?", RISK),
                    p("Was passiert, wenn ich mich nicht daran halte?", RISK),
                    p("Womit muss ich sonst rechnen?", RISK),
                    p("Welche Folgen sind möglich?", &[]),
                ]
            }
        }
    }
}
