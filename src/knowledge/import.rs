//! Reading the service descriptions that German cities publish as XZuFi into a knowledge file. What
//! XZuFi does not have (how citizens ask, a topic with its cases) is filled in so that the file is
//! whole, and named in the notes, so that a person can make it better.

use super::{Date, Intent};
use crate::german::fold;
use anyhow::{Context, Result, bail};
use roxmltree::{Document, Node};
use std::fmt::Write;

/// Most words of an answer; the rest of a longer text is left out, and noted.
const MOST_WORDS: usize = 60;

/// The office that the services will belong to.
#[derive(Clone, Debug)]
pub(crate) struct ImportedOffice {
    /// Lower-case id, also the name of the file.
    pub id: String,
    /// Name as citizens read it.
    pub name: String,
    /// der, die or das.
    pub article: String,
}

/// What an import gave.
#[derive(Clone, Debug)]
pub(crate) struct Import {
    /// The knowledge file.
    pub toml: String,
    /// Number of services in it.
    pub services: usize,
    /// What a person should look at.
    pub notes: Vec<String>,
}

/// Turns an XZuFi document into a knowledge file. Elements are found by their local names at any
/// depth, because the versions and the systems that write them differ in roots and namespaces.
///
/// # Errors
/// When the document is no XML, or holds no service description.
pub(crate) fn import_xzufi(
    xml: &str,
    file: &str,
    office: &ImportedOffice,
    today: Date,
) -> Result<Import> {
    let document = Document::parse(xml).with_context(|| format!("{file} cannot be read as XML"))?;
    let services: Vec<Node> = document
        .descendants()
        .filter(|node| node.is_element() && children(*node, "modulText").next().is_some())
        .collect();
    if services.is_empty() {
        bail!("{file} holds no service description: expected XZuFi elements with modulText");
    }
    let mut import = Import {
        toml: head(file, office),
        services: 0,
        notes: Vec::new(),
    };
    let mut ids: Vec<String> = Vec::new();
    for service in services {
        write_service(&mut import, service, office, today, &mut ids);
    }
    if import.services == 0 {
        bail!(
            "{file} holds {} service descriptions, none with a title and a text",
            import.notes.len()
        );
    }
    Ok(import)
}

fn head(file: &str, office: &ImportedOffice) -> String {
    let quoted = |text: &str| toml::Value::from(text).to_string();
    format!(
        "# Eingelesen aus {} (XZuFi). Bitte durchsehen: Sätze ohne Anrede, Fragen so, wie \
        Bürgerinnen und Bürger sie stellen.\n\n[amt]\nid = {}\n\
         name = {}\nartikel = {}\n",
        file.replace('\n', " "),
        quoted(&office.id),
        quoted(&office.name),
        quoted(&office.article)
    )
}

fn children<'a, 'i>(node: Node<'a, 'i>, name: &'static str) -> impl Iterator<Item = Node<'a, 'i>> {
    node.children()
        .filter(move |child| child.is_element() && child.tag_name().name() == name)
}

fn inside<'a, 'i>(node: Node<'a, 'i>, name: &'static str) -> impl Iterator<Item = Node<'a, 'i>> {
    node.descendants()
        .filter(move |child| child.is_element() && child.tag_name().name() == name)
}

/// The German text of the first element of that name, or the text without a language.
fn german(node: Node, name: &'static str) -> Option<String> {
    let is_german = |found: &Node| {
        found
            .attributes()
            .find(|attribute| attribute.name() == "languageCode")
            .is_none_or(|language| language.value().starts_with("de"))
    };
    let text = inside(node, name)
        .find(is_german)?
        .text()?
        .trim()
        .to_string();
    (!text.is_empty()).then_some(text)
}

/// The text module with this code of the LeiKa list.
fn text_module(service: Node, code: &str) -> Option<String> {
    children(service, "modulText")
        .find(|part| {
            inside(*part, "leikaTextmodul")
                .flat_map(|kind| inside(kind, "code"))
                .any(|found| found.text().map(str::trim) == Some(code))
        })
        .and_then(|part| german(part, "inhalt"))
}

/// A fact as it will be written.
struct Facts {
    text: String,
    documents: Vec<String>,
}

fn plain_fact(text: String) -> Facts {
    Facts {
        text: sentences_of(&text),
        documents: Vec::new(),
    }
}

fn facts(service: Node) -> Vec<(Intent, Facts)> {
    let mut found = Vec::new();
    let mut add = |intent, text: Option<String>| {
        if let Some(text) = text {
            let fact = plain_fact(text);
            if !fact.text.is_empty() {
                found.push((intent, fact));
            }
        }
    };
    let described = |module: &'static str| {
        inside(service, module).next().and_then(|part| {
            german(part, "beschreibung").or_else(|| german(part, "beschreibungKostenfreiheit"))
        })
    };
    add(
        Intent::What,
        text_module(service, "06").or_else(|| text_module(service, "05")),
    );
    add(Intent::Who, text_module(service, "09"));
    add(
        Intent::Where,
        text_module(service, "22").or_else(|| text_module(service, "23")),
    );
    add(
        Intent::Deadline,
        described("modulFrist").or_else(|| duration(service, "modulFrist", "Die Frist beträgt")),
    );
    add(
        Intent::Fee,
        described("modulKosten").or_else(|| amount(service)),
    );
    add(Intent::Online, text_module(service, "14"));
    add(
        Intent::Duration,
        described("modulBearbeitungsdauer")
            .or_else(|| duration(service, "modulBearbeitungsdauer", "Die Bearbeitung dauert")),
    );
    add(Intent::Exceptions, text_module(service, "16"));
    add(Intent::Consequences, text_module(service, "25"));
    if let Some(text) = text_module(service, "08") {
        let documents = list_items(&text);
        let text = if documents.is_empty() {
            sentences_of(&text)
        } else {
            format!("Benötigt werden: {}.", documents.join(", "))
        };
        found.push((Intent::Documents, Facts { text, documents }));
    }
    found.sort_by_key(|(intent, _)| *intent);
    found
}

fn duration(service: Node, module: &'static str, begin: &str) -> Option<String> {
    let module = inside(service, module).next()?;
    let number =
        inside(module, "dauer").find_map(|found| found.text()?.trim().parse::<u32>().ok())?;
    let unit = inside(module, "einheit").find_map(|found| found.text())?;
    let (one, many) = match unit.trim().to_uppercase().as_str() {
        "JAHR" => ("ein Jahr", "Jahre"),
        "MONAT" => ("einen Monat", "Monate"),
        "WOCHE" => ("eine Woche", "Wochen"),
        "TAG" => ("einen Tag", "Tage"),
        "WERKTAG" => ("einen Werktag", "Werktage"),
        "ARBEITSTAG" => ("einen Arbeitstag", "Arbeitstage"),
        "STUNDE" => ("eine Stunde", "Stunden"),
        "MINUTE" => ("eine Minute", "Minuten"),
        _ => return None,
    };
    Some(if number == 1 {
        format!("{begin} {one}.")
    } else {
        format!("{begin} {number} {many}.")
    })
}

fn amount(service: Node) -> Option<String> {
    let module = inside(service, "modulKosten").next()?;
    let euro = |name: &'static str| {
        let text = inside(module, name)
            .find_map(|found| found.text().map(str::trim).filter(|text| !text.is_empty()))?;
        let (whole, cents) = text.split_once('.').unwrap_or((text, "00"));
        let cents = format!("{cents:0<2}");
        (whole.chars().all(|c| c.is_ascii_digit()) && cents.len() == 2).then(|| {
            if cents == "00" {
                format!("{whole} Euro")
            } else {
                format!("{whole},{cents} Euro")
            }
        })
    };
    match (euro("betragUntergrenze"), euro("betragObergrenze")) {
        (Some(least), Some(most)) => {
            return Some(format!("Die Gebühr beträgt {least} bis {most}."));
        }
        (Some(least), None) => return Some(format!("Die Gebühr beträgt mindestens {least}.")),
        _ => {}
    }
    // The amount is an element inside one of the same name.
    let fixed = euro("betrag").or_else(|| {
        inside(module, "betrag")
            .filter(|found| found.children().all(|child| child.is_text()))
            .find_map(|found| {
                let text = found.text()?.trim();
                text.parse::<f64>().ok()?;
                Some(format!(
                    "{} Euro",
                    text.trim_end_matches(".00").replace('.', ",")
                ))
            })
    });
    fixed.map(|amount| format!("Die Gebühr beträgt {amount}."))
}

fn write_service(
    import: &mut Import,
    service: Node,
    office: &ImportedOffice,
    today: Date,
    ids: &mut Vec<String>,
) {
    let Some(title) = text_module(service, "03")
        .or_else(|| text_module(service, "02"))
        .map(|title| plain(&title))
    else {
        import.notes.push(
            "a service description without a title (text module 02 or 03) is left out".to_string(),
        );
        return;
    };
    let facts = facts(service);
    if facts.is_empty() {
        import.notes.push(format!(
            "„{title}“ has no text that answers a question; it is left out"
        ));
        return;
    }
    let id = unique_id(&office.id, &title, ids);
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let list = |texts: &[String]| {
        let texts: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
        format!("[{}]", texts.join(", "))
    };
    let mut aliases: Vec<String> = vec![title.clone()];
    for alias in inside(service, "begriff").filter_map(|found| found.text()) {
        let alias = plain(alias);
        if !alias.is_empty() && aliases.iter().all(|known| fold(known) != fold(&alias)) {
            aliases.push(alias);
        }
    }
    let toml = &mut import.toml;
    let _ = write!(
        toml,
        "\n[[leistung]]\nid = {}\ntitel = {}\n",
        quoted(&id),
        quoted(&title)
    );
    let key = inside(service, "referenzLeiKa")
        .chain(inside(service, "referenzLeistungsschluessel"))
        .flat_map(|found| inside(found, "code"))
        .find_map(|code| {
            code.text()
                .map(str::trim)
                .filter(|key| key.len() == 14 && key.starts_with("99"))
        });
    if let Some(key) = key {
        let _ = writeln!(toml, "leika = {}", quoted(key));
    }
    let _ = write!(
        toml,
        "stichworte = {}\nthema = {}\nthema_dativ = {}\nstand = {}\n",
        list(&aliases),
        quoted(&format!("die Leistung „{title}“")),
        quoted(&format!("der Leistung „{title}“")),
        quoted(&changed_on(service, today))
    );
    let mut sources = text_module(service, "07")
        .map(|text| list_items_or_text(&text))
        .unwrap_or_default();
    if sources.is_empty() {
        import.notes.push(format!(
            "„{title}“ names no law (text module 07): add quelle"
        ));
        sources.push("Leistungsbeschreibung (XZuFi)".to_string());
    }
    for required in [Intent::What, Intent::Where] {
        if facts.iter().all(|(intent, _)| *intent != required) {
            import.notes.push(format!(
                "„{title}“ has no text for {}: add [leistung.fakten.{}]",
                required.key(),
                required.key()
            ));
        }
    }
    for (intent, fact) in facts {
        let (text, cut) = shortened(&fact.text);
        if cut {
            import.notes.push(format!(
                "„{title}“, {}: the text was cut after {MOST_WORDS} words",
                intent.key()
            ));
        }
        let short = first_sentence(&text).to_string();
        let _ = write!(
            toml,
            "\n[leistung.fakten.{}]\ntext = {}\nkurz = {}\nquelle = {}\nsicher = false\nnennt = \
            {}\n",
            intent.key(),
            quoted(&text),
            quoted(&short),
            list(&sources),
            list(&[telling(&short)])
        );
        if !fact.documents.is_empty() {
            let _ = writeln!(toml, "liste = {}", list(&fact.documents));
        }
        let _ = writeln!(toml, "fragen = {}", list(&questions(intent, &title)));
    }
    import.notes.push(format!(
        "„{title}“: thema and fragen are made from the title; write how citizens ask"
    ));
    import.services += 1;
}

fn questions(intent: Intent, title: &str) -> Vec<String> {
    let patterns: [&str; 2] = match intent {
        Intent::What => [
            "Was ist die Leistung „{t}“?",
            "Worum geht es bei der Leistung „{t}“?",
        ],
        Intent::Who => [
            "Für wen ist die Leistung „{t}“ gedacht?",
            "Welche Voraussetzungen gelten für die Leistung „{t}“?",
        ],
        Intent::Where => [
            "Wo bekomme ich die Leistung „{t}“?",
            "Welche Stelle ist für die Leistung „{t}“ zuständig?",
        ],
        Intent::Deadline => [
            "Welche Frist gilt für die Leistung „{t}“?",
            "Gibt es bei der Leistung „{t}“ eine Frist?",
        ],
        Intent::Fee => [
            "Was kostet die Leistung „{t}“?",
            "Welche Gebühr fällt für die Leistung „{t}“ an?",
        ],
        Intent::Documents => [
            "Welche Unterlagen brauche ich für die Leistung „{t}“?",
            "Was muss ich für die Leistung „{t}“ vorlegen?",
        ],
        Intent::Online => [
            "Gibt es die Leistung „{t}“ online?",
            "Wo finde ich das Formular für die Leistung „{t}“?",
        ],
        Intent::Duration => [
            "Wie lange dauert die Leistung „{t}“?",
            "Wie lange muss ich auf die Leistung „{t}“ warten?",
        ],
        Intent::Exceptions => [
            "Was ist bei der Leistung „{t}“ zu beachten?",
            "Welche Besonderheiten gibt es bei der Leistung „{t}“?",
        ],
        Intent::Consequences => [
            "Was kann ich gegen eine Entscheidung über die Leistung „{t}“ tun?",
            "Welcher Rechtsbehelf gilt bei der Leistung „{t}“?",
        ],
    };
    patterns
        .iter()
        .map(|pattern| pattern.replace("{t}", title))
        .collect()
}

fn changed_on(service: Node, today: Date) -> String {
    ["geaendertDatumZeit", "erstelltDatumZeit"]
        .iter()
        .find_map(|name| {
            let text = inside(service, name).find_map(|found| found.text())?;
            text.trim().get(..10)?.parse::<Date>().ok()
        })
        .unwrap_or(today)
        .to_string()
}

fn unique_id(office: &str, title: &str, ids: &mut Vec<String>) -> String {
    let mut slug: String = fold(title)
        .replace(' ', "_")
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '_')
        .take(48)
        .collect();
    slug = slug.trim_matches('_').to_string();
    let base = format!("{office}_{slug}");
    let mut id = base.clone();
    let mut number = 2;
    while ids.contains(&id) {
        id = format!("{base}_{number}");
        number += 1;
    }
    ids.push(id.clone());
    id
}

/// HTML as XZuFi texts hold it, to one line without marks.
fn plain(html: &str) -> String {
    let mut text = String::with_capacity(html.len());
    let mut rest = html;
    while let Some(open) = rest.find('<') {
        text.push_str(&rest[..open]);
        let Some(length) = rest[open..].find('>') else {
            break;
        };
        text.push(' ');
        rest = &rest[open + length + 1..];
    }
    text.push_str(if rest.contains('<') { "" } else { rest });
    for (entity, character) in [
        ("&nbsp;", " "),
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&auml;", "ä"),
        ("&ouml;", "ö"),
        ("&uuml;", "ü"),
        ("&Auml;", "Ä"),
        ("&Ouml;", "Ö"),
        ("&Uuml;", "Ü"),
        ("&szlig;", "ß"),
        ("&euro;", "€"),
        ("&sect;", "§"),
        ("&amp;", "&"),
    ] {
        text = text.replace(entity, character);
    }
    // A brace would be taken for a placeholder.
    let text = text.replace(['{', '}'], " ").replace('\u{a0}', " ");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The entries of a list.
fn list_items(html: &str) -> Vec<String> {
    html.split("<li")
        .skip(1)
        .filter_map(|part| {
            let content = part.split_once('>')?.1.split("</li").next()?;
            let item = plain(content).trim_end_matches(['.', ',', ';']).to_string();
            (!item.is_empty()).then_some(item)
        })
        .collect()
}

fn list_items_or_text(html: &str) -> Vec<String> {
    let items = list_items(html);
    if !items.is_empty() {
        return items;
    }
    let text = plain(html);
    if text.is_empty() {
        Vec::new()
    } else {
        vec![text]
    }
}

/// A text with a full stop at the end of every paragraph.
fn sentences_of(html: &str) -> String {
    let paragraphs = html
        .replace("</p>", "\n")
        .replace("</li>", "\n")
        .replace("<br>", "\n")
        .replace("<br/>", "\n")
        .replace("<br />", "\n");
    let mut text = String::new();
    for paragraph in paragraphs
        .lines()
        .map(plain)
        .filter(|line| !line.is_empty())
    {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&paragraph);
        if !paragraph.ends_with(['.', '!', '?', ':']) {
            text.push('.');
        }
    }
    if text.ends_with(':') {
        text.pop();
        text.push('.');
    }
    text
}

fn first_sentence(text: &str) -> &str {
    for (at, _) in text.match_indices(". ") {
        let word = text[..at].rsplit(' ').next().unwrap_or_default();
        let next = text[at + 2..].chars().next();
        let is_short = [
            "abs", "nr", "bzw", "z", "b", "d", "h", "ca", "art", "st", "dr", "ggf", "vgl",
        ]
        .contains(&word.to_lowercase().as_str());
        let ends = !is_short && !word.chars().all(|c| c.is_ascii_digit());
        if ends && next.is_some_and(char::is_uppercase) {
            return &text[..=at];
        }
    }
    text
}

/// As many whole sentences as fit, at least one.
fn shortened(text: &str) -> (String, bool) {
    let mut kept = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        let sentence = first_sentence(rest);
        let words = kept.split_whitespace().count() + sentence.split_whitespace().count();
        if !kept.is_empty() && words > MOST_WORDS {
            return (kept, true);
        }
        if !kept.is_empty() {
            kept.push(' ');
        }
        kept.push_str(sentence);
        rest = rest[sentence.len()..].trim_start();
    }
    (kept, false)
}

/// What a right answer has to name: the first figure with its unit, or else the longest word.
fn telling(sentence: &str) -> String {
    let words: Vec<&str> = sentence.split_whitespace().collect();
    let bare = |word: &str| {
        word.trim_matches(['.', ',', ';', ':', '(', ')', '„', '“'])
            .to_string()
    };
    for pair in words.windows(2) {
        if pair[0].starts_with(|c: char| c.is_ascii_digit())
            && pair[1].starts_with(char::is_uppercase)
        {
            return format!("{} {}", pair[0], bare(pair[1]));
        }
    }
    words
        .iter()
        .map(|word| bare(word))
        .max_by_key(|word| word.chars().count())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
