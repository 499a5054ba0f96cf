//! The shape of a German question: a situation before it, its finite verb, the clause it becomes
//! after "Ich wüsste gern, ...". Everything goes by closed word lists. A question that does not fit
//! them is left as it is: no transformation is better than a wrong one.

use super::grammar::{lower_first, upper_first};

/// Finite verbs that open a yes/no question or follow a question word. Lower case.
const FINITE: &str = " ist sind bin war waren wäre wären hat habe haben hatte hätte wird werde \
    werden wurde wurden würde kann können könnte könnten \
 muss müssen müsste müssten darf dürfen dürfte dürfen soll sollen sollte sollten will wollen \
 möchte möchten lässt lassen gilt gelten galt \
 brauche braucht brauchen benötige benötigt benötigen bekomme bekommt bekommen erhalte erhält \
 erhalten kostet kosten dauert dauern passiert \
 gibt geht gehen gehe kommt komme kommen fällt fallen steht stehen stehe droht drohen zahlt zahle \
 zahlen bezahlt bezahle beantragt beantrage \
 melde meldet melden stellt stelle stellen finde findet finden gehört gehören entscheidet \
 entsteht entstehen verlangt verlangen schickt schicke \
 bedeutet heißt dient reicht reichen reiche genügt genügen ersetzt nimmt nehme nehmen läuft \
 laufen hilft helfen bleibt bleibe bleiben macht mache \
 machen zeigt zeige zählt zählen prüft prüfe bearbeitet berechnet erteilt erlässt verschickt \
 bestätigt beglaubigt bewahrt übernimmt trägt trage \
 tragen wohnt wohne wohnen lohnt haftet holt hole legt lege liegt liegen endet enden beginnt \
 beginnen verfällt verfallen entfällt verliert verliere \
 verlängert erhöht sinkt steigt steigen ändert ändern verjährt verjähren lautet gehe rufe ruft \
 frage fragt erfahre erfährt folgt folgen führt führen \
 wende wendet bringe bringt hält halte halten setzt setze gewährt vermittelt vergibt kümmert \
 betrifft bekäme unterscheidet unterscheiden umfasst \
 enthält verhängt überprüft wählt wechselt wechsle beträgt schließt schließen vertritt beurkundet \
 löscht speichert trifft treffen spielt springt \
 kontrolliert räumt streut betreut fördert versteht erkennt entsorgt leert bezieht beziehe nutzt \
 nutze zieht ziehe erstattet erstatten meint \
 schreibt schreibe gelangt gelange komme buche bucht vereinbare vereinbart starte startet \
 unterschreibt unterschreibe widerspreche widerspricht \
 anerkennt erwartet erwarten rechnet rechne bietet bieten gestattet erlaubt verbietet richtet \
 richten stammt besteht bestehen wirkt ergibt \
 ";

/// Verbs of [`FINITE`] after which the last word of the clause is an infinitive.
const MODAL: &str = " kann können könnte könnten muss müssen müsste müssten darf dürfen dürfte \
    soll sollen sollte sollten will wollen möchte möchten lässt lassen würde ";

/// Verbs of [`FINITE`] that have no separable prefix.
const INSEPARABLE: &str = " ist sind bin war waren wäre wären hat habe haben hatte hätte wird \
    werde werden wurde wurden gilt gelten kostet kosten ";

/// Words at the end of a clause that belong to its verb: `melde ... an` becomes `anmelde`.
const PREFIXES: &str = " ab an auf aus bei ein mit nach statt teil um vor weiter weg zu zurück \
    zusammen entgegen wahr fort frei dar voraus bereit fest hin her los nieder bekannt heraus \
    hinzu vorbei ";

/// Question words that stand alone before the verb.
const ASKING: &str = " wo wann was wer wen wem wie wohin woher wofür wozu warum weshalb wieso \
    womit wonach worin worum worauf worüber wovon woraus woran wodurch wobei ";

/// Prepositions that may stand before a question word.
const PREPOSITIONS: &str = " bis ab seit bei mit an zu in für auf unter aus nach von vor um gegen \
    über innerhalb neben zwischen durch ";

/// First words of a clause that depends on the question.
const SUBORDINATORS: &str =
    " wenn falls weil dass ob obwohl bevor nachdem sobald solange damit um ohne ";

/// Relative pronouns.
const RELATIVE: &str = " der die das den dem deren dessen ";

// Every list begins and ends with a space.
fn is(list: &str, word: &str) -> bool {
    let bytes = list.as_bytes();
    !word.is_empty()
        && list.match_indices(word).any(|(at, _)| {
            at > 0 && bytes[at - 1] == b' ' && bytes.get(at + word.len()) == Some(&b' ')
        })
}

/// A question and the situation before it: `Ich bin umgezogen, wo melde ich mich an?` has the
/// situation `Ich bin umgezogen` and the question `Wo melde ich mich an?`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    /// A main clause without its full stop.
    pub situation: Option<String>,
    /// The question, beginning with a capital.
    pub question: String,
}

/// Cuts a situation off a question.
pub(crate) fn parts(text: &str) -> Parts {
    let whole = || Parts {
        situation: None,
        question: text.to_string(),
    };
    // Several sentences: the last is the question.
    if let Some(at) = text.find(['.', '!', ':']).filter(|&at| at + 2 < text.len()) {
        let (before, behind) = text.split_at(at + 1);
        let behind = behind.trim_start();
        let plain = !before.ends_with("bzw.") && !before.ends_with("Abs.") && before.ends_with('.');
        return if plain && !behind.contains(['.', '!', ':']) && is_question(behind) {
            Parts {
                situation: Some(before.trim_end_matches('.').to_string()),
                question: upper_first(behind),
            }
        } else {
            whole()
        };
    }
    let first = first_word(text).to_lowercase();
    if is_question(text) || is(SUBORDINATORS, &first) || ["als", "da"].contains(&first.as_str()) {
        return whole();
    }
    for (at, _) in text.match_indices(", ") {
        let (before, behind) = (&text[..at], &text[at + 2..]);
        let behind = behind.strip_prefix("und ").unwrap_or(behind);
        // Commas that belong to the situation itself end in a clause that is no question.
        if is_question(behind) && !behind.contains(", und ") {
            // A relative clause must not be taken for a question: "der Hund, an dem ...".
            return Parts {
                situation: Some(before.trim_end_matches(',').to_string()),
                question: upper_first(behind),
            };
        }
    }
    whole()
}

/// Whether the text begins like a question: with a finite verb or with a question word and, soon,
/// its verb.
fn is_question(text: &str) -> bool {
    verb_at(text).is_some()
}

fn first_word(text: &str) -> &str {
    text.split([' ', ',', '?', '.', ':'])
        .next()
        .unwrap_or_default()
}

/// Words with the byte at which each begins; punctuation stays with the word before it.
fn tokens(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut start = 0;
    for piece in text.split(' ') {
        if !piece.is_empty() {
            found.push((start, piece));
        }
        start += piece.len() + 1;
    }
    found
}

/// Index of the finite verb among the tokens of a question.
fn verb_at(text: &str) -> Option<usize> {
    let words = tokens(text);
    let bare = |index: usize| {
        words
            .get(index)
            .map(|(_, word)| word.trim_end_matches([',', '?']))
    };
    let first = bare(0)?.to_lowercase();
    if is(FINITE, &first) {
        return Some(0);
    }
    let asks = |word: &str| is(ASKING, word) || word.starts_with("welch");
    let start = if asks(&first) {
        0
    } else if is(PREPOSITIONS, &first) && bare(1).is_some_and(|word| asks(word) || word == "wie") {
        1
    } else {
        return None;
    };
    // The verb stands within a few words, and no comma comes before it.
    for index in start + 1..words.len().min(start + 8) {
        if words[index - 1].1.ends_with(',') {
            return None;
        }
        let word = bare(index)?;
        if is(FINITE, word) {
            return Some(index);
        }
        // "wo" and its like are followed by the verb at once.
        if index == start + 1
            && !["wie", "was"].contains(&bare(start)?.to_lowercase().as_str())
            && is(ASKING, &bare(start)?.to_lowercase())
        {
            return None;
        }
    }
    None
}

/// The question as a clause that depends on "Ich wüsste gern, ...": `Wo melde ich mich an?` becomes
/// `wo ich mich anmelde`, `Kann ich das online erledigen?` becomes `ob ich das online erledigen
/// kann`. `None` where the lists do not carry so far.
pub(crate) fn subordinate(question: &str) -> Option<String> {
    let body = question.strip_suffix('?')?;
    if body.contains(['.', '!', '?', ':', '–', ';', '(', '„']) || body.contains(", und ") {
        return None;
    }
    let words = tokens(body);
    let at = verb_at(question)?;
    let (verb_start, verb_token) = words[at];
    let verb = verb_token.trim_end_matches(',').to_lowercase();
    let asking = if at == 0 {
        "ob".to_string()
    } else {
        lower_first(body[..verb_start].trim_end()).or_else(|| {
            let text = body[..verb_start].trim_end();
            let mut letters = text.chars();
            letters
                .next()
                .map(|first| first.to_lowercase().chain(letters).collect())
        })?
    };
    let rest_start = verb_start + verb_token.trim_end_matches(',').len();
    let rest = &body[rest_start..];
    let (middle, tail) = match rest.find(',') {
        Some(comma) => (rest[..comma].trim(), &rest[comma..]),
        None => (rest.trim(), ""),
    };
    if !tail_fits(tail) {
        return None;
    }
    // "Stelle ich den Antrag oder der Händler?", "Ist das Sozialamt zuständig und nicht ...?": what
    // belongs to the verb is split.
    if middle.contains(" oder der ") || middle.contains(" und nicht ") {
        return None;
    }
    // Two questions in one, or a second main clause: the verb's place is not clear.
    let inner: Vec<&str> = middle.split_ascii_whitespace().collect();
    if inner.windows(2).any(|pair| {
        ["und", "oder"].contains(&pair[0]) && (is(ASKING, pair[1]) || is(FINITE, pair[1]))
    }) || inner.contains(&"sondern")
    {
        return None;
    }
    let clause = match inner.last() {
        None => format!("{asking} {verb}"),
        Some(&last) if is(PREFIXES, last) && !is(MODAL, &verb) && !is(INSEPARABLE, &verb) => {
            let before = inner[..inner.len() - 1].join(" ");
            if before.is_empty() {
                format!("{asking} {last}{verb}")
            } else {
                format!("{asking} {before} {last}{verb}")
            }
        }
        Some(&last) => {
            // "schon anfangen zu bauen" has an infinitive too many.
            let with_zu = inner.len() > 1 && inner[inner.len() - 2] == "zu";
            if is(MODAL, &verb) && (!is_infinitive(last) || with_zu) {
                return None;
            }
            if ["wird", "werden", "werde", "wurde", "wurden"].contains(&verb.as_str())
                && !(last.ends_with('t') || last.ends_with('n'))
            {
                return None;
            }
            // "hätte kommen sollen": the finite verb would not stand last.
            if inner.len() > 1
                && is_infinitive(last)
                && is(" können müssen dürfen sollen wollen lassen ", last)
                && is_infinitive(inner[inner.len() - 2])
                && !is(MODAL, &verb)
            {
                return None;
            }
            // "ob die Frist länger ist als ..." wants the verb before "als".
            if inner
                .iter()
                .any(|word| ["als", "außer", "statt"].contains(word))
            {
                return None;
            }
            format!("{asking} {middle} {verb}")
        }
    };
    Some(format!("{clause}{tail}"))
}

/// Whether what follows the first comma can stay behind the clause: one dependent clause, or a
/// clause with zu and infinitive.
fn tail_fits(tail: &str) -> bool {
    let Some(text) = tail.strip_prefix(", ") else {
        return tail.is_empty();
    };
    let first = first_word(text);
    if is(SUBORDINATORS, first) {
        return true;
    }
    if text.contains(',') {
        return false;
    }
    let last = text.rsplit(' ').next().unwrap_or_default();
    let with_zu = text.contains(" zu ") && is_infinitive(last);
    let zu_inside = [
        "anzu",
        "abzu",
        "auszu",
        "einzu",
        "mitzu",
        "umzu",
        "vorzu",
        "nachzu",
        "herumzu",
        "zurückzu",
        "teilzu",
        "weiterzu",
        "aufzu",
    ]
    .iter()
    .any(|prefix| last.starts_with(prefix));
    with_zu || zu_inside || is(RELATIVE, first)
}

fn is_infinitive(word: &str) -> bool {
    word.chars().next().is_some_and(char::is_lowercase)
        && (word.ends_with("en")
            || word.ends_with("ern")
            || word.ends_with("eln")
            || ["tun", "sein"].contains(&word))
}

/// First persons and what "man" makes of them.
const IMPERSONAL: [(&str, &str); 30] = [
    ("kann", "kann"),
    ("muss", "muss"),
    ("darf", "darf"),
    ("soll", "soll"),
    ("sollte", "sollte"),
    ("könnte", "könnte"),
    ("müsste", "müsste"),
    ("brauche", "braucht"),
    ("benötige", "benötigt"),
    ("bekomme", "bekommt"),
    ("erhalte", "erhält"),
    ("beantrage", "beantragt"),
    ("melde", "meldet"),
    ("finde", "findet"),
    ("erfahre", "erfährt"),
    ("habe", "hat"),
    ("stelle", "stellt"),
    ("zahle", "zahlt"),
    ("bezahle", "bezahlt"),
    ("gebe", "gibt"),
    ("werde", "wird"),
    ("bin", "ist"),
    ("buche", "bucht"),
    ("lege", "legt"),
    ("reiche", "reicht"),
    ("schicke", "schickt"),
    ("wende", "wendet"),
    ("komme", "kommt"),
    ("hole", "holt"),
    ("gehe", "geht"),
];

/// The question with "man" in the place of "ich": `Wo kann ich mich ummelden?` becomes `Wo kann man
/// sich ummelden?`. `None` where the citizen's own things are meant, or the verb is unknown.
pub(crate) fn impersonal(question: &str) -> Option<String> {
    if parts(question).situation.is_some() || question.contains([':', '.']) {
        return None;
    }
    let words: Vec<&str> = question.split(' ').collect();
    let at = verb_at(question)?;
    let bare = |word: &str| word.trim_end_matches([',', '?']).to_lowercase();
    if words.get(at + 1).map(|word| bare(word)).as_deref() != Some("ich") {
        return None;
    }
    let (_, impersonal) = IMPERSONAL
        .iter()
        .find(|(first_person, _)| *first_person == bare(words[at]))?;
    let mut changed: Vec<String> = Vec::with_capacity(words.len());
    for (index, word) in words.iter().enumerate() {
        let end = &word[word.trim_end_matches([',', '?']).len()..];
        let bare = bare(word);
        if index == at {
            let verb = if at == 0 {
                upper_first(impersonal)
            } else {
                (*impersonal).to_string()
            };
            changed.push(format!("{verb}{end}"));
        } else if index == at + 1 {
            changed.push(format!("man{end}"));
        } else if ["mich", "mir"].contains(&bare.as_str()) {
            changed.push(format!("sich{end}"));
        } else if bare == "ich"
            || bare.starts_with("mein")
            || bare.starts_with("unser")
            || ["wir", "uns", "bin", "habe"].contains(&bare.as_str())
        {
            return None;
        } else {
            changed.push((*word).to_string());
        }
    }
    Some(changed.join(" "))
}

/// The situation as a sentence of its own: `Ich bin umgezogen. Wo melde ich mich an?` `None` if
/// there is none.
pub(crate) fn split_situation(question: &str) -> Option<String> {
    let parts = parts(question);
    let situation = parts.situation?;
    let changed = format!("{situation}. {}", parts.question);
    (changed != question).then_some(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_become_clauses() {
        for (question, clause) in [
            ("Wo kann ich mich ummelden?", "wo ich mich ummelden kann"),
            (
                "Wo melde ich meinen neuen Wohnsitz an?",
                "wo ich meinen neuen Wohnsitz anmelde",
            ),
            (
                "Kann ich mich online ummelden?",
                "ob ich mich online ummelden kann",
            ),
            (
                "Welche Stelle ist für die Ummeldung zuständig?",
                "welche Stelle für die Ummeldung zuständig ist",
            ),
            (
                "Was kostet ein neuer Personalausweis?",
                "was ein neuer Personalausweis kostet",
            ),
            (
                "Was passiert, wenn ich mich zu spät ummelde?",
                "was passiert, wenn ich mich zu spät ummelde",
            ),
            (
                "Bis wann muss ich mich nach dem Umzug ummelden?",
                "bis wann ich mich nach dem Umzug ummelden muss",
            ),
            (
                "Welche Gebühr fällt für die Ummeldung an?",
                "welche Gebühr für die Ummeldung anfällt",
            ),
            (
                "Wohin muss ich gehen, wenn mein Personalausweis abläuft?",
                "wohin ich gehen muss, wenn mein Personalausweis abläuft",
            ),
            (
                "Gibt es Ausnahmen von der Pflicht, sich umzumelden?",
                "ob es Ausnahmen von der Pflicht gibt, sich umzumelden",
            ),
            (
                "Wie viel muss ich für den Perso bezahlen?",
                "wie viel ich für den Perso bezahlen muss",
            ),
            (
                "Wie lange dauert eine Ummeldung?",
                "wie lange eine Ummeldung dauert",
            ),
            (
                "Mit welchen Kosten muss man rechnen?",
                "mit welchen Kosten man rechnen muss",
            ),
            (
                "Lässt sich der neue Perso nach Hause schicken?",
                "ob sich der neue Perso nach Hause schicken lässt",
            ),
            ("Wer hilft bei Fragen weiter?", "wer bei Fragen weiterhilft"),
            (
                "Reicht der Mietvertrag für die Anmeldung?",
                "ob der Mietvertrag für die Anmeldung reicht",
            ),
            (
                "Gilt das auch für Kinder, die im Ausland leben?",
                "ob das auch für Kinder gilt, die im Ausland leben",
            ),
        ] {
            assert_eq!(subordinate(question).as_deref(), Some(clause), "{question}");
        }
    }

    #[test]
    fn what_does_not_fit_is_left_alone() {
        for question in [
            "Was nun?",
            "Muss ich Pass, Foto und Geld mitbringen?",
            "Wie viele Wochen braucht die Herstellung, und wie lange gilt der Ausweis?",
            "Was kostet das und wo bezahle ich?",
            "Ist die Frist länger als ein Jahr?",
            "Ich bin umgezogen, wo melde ich mich an?",
            "Was muss ich mitbringen zur Anmeldung?",
            "Wenn ich umziehe, muss ich mich dann ummelden?",
            "Stelle ich den Antrag oder der Händler?",
            "Darf ich schon anfangen zu bauen?",
            "Ist das Sozialamt zuständig und nicht das Jobcenter?",
        ] {
            assert_eq!(subordinate(question), None, "{question}");
        }
    }

    #[test]
    fn situations_are_cut_off() {
        for (text, situation, question) in [
            (
                "Ich bin neu zugezogen, an welchem Schalter melde ich mich an?",
                Some("Ich bin neu zugezogen"),
                "An welchem Schalter melde ich mich an?",
            ),
            (
                "Ich ziehe nur eine Straße weiter, brauche ich da eine Ummeldung?",
                Some("Ich ziehe nur eine Straße weiter"),
                "Brauche ich da eine Ummeldung?",
            ),
            (
                "Wenn ich umziehe, muss ich mich dann ummelden?",
                None,
                "Wenn ich umziehe, muss ich mich dann ummelden?",
            ),
            (
                "Wohin muss ich, wenn ich umziehe?",
                None,
                "Wohin muss ich, wenn ich umziehe?",
            ),
            (
                "Mein Name hat sich geändert. Was ist zu tun?",
                Some("Mein Name hat sich geändert"),
                "Was ist zu tun?",
            ),
        ] {
            let expected = Parts {
                situation: situation.map(str::to_string),
                question: question.to_string(),
            };
            assert_eq!(parts(text), expected);
        }
        assert_eq!(
            split_situation("Ich bin neu zugezogen, wo melde ich mich an?").as_deref(),
            Some("Ich bin neu zugezogen. Wo melde ich mich an?")
        );
    }

    #[test]
    fn man_takes_the_place_of_ich() {
        for (question, expected) in [
            (
                "Wo kann ich mich ummelden?",
                Some("Wo kann man sich ummelden?"),
            ),
            (
                "Brauche ich dafür einen Termin?",
                Some("Braucht man dafür einen Termin?"),
            ),
            ("Wann kann ich meinen Perso abholen?", None),
            ("Was passiert, wenn ich mich zu spät ummelde?", None),
            ("Wer hilft mir?", None),
            ("Was muss ich tun, wenn ich umziehe?", None),
        ] {
            assert_eq!(impersonal(question).as_deref(), expected, "{question}");
        }
    }
}
