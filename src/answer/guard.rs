//! Watches one answer while it is generated.
//!
//! As long as the model says word by word what the knowledge base says, each word is released once
//! it is complete; a figure once its unit is known as well. Where it begins to differ, nothing more
//! is released until the sentence is whole and [`judge`] has found that it says the same. So
//! nothing false ever leaves in [`GuardMode::Replace`]; what is wrong or missing at the end is
//! replaced by the knowledge base's own answer.

use super::assistant::service_ref;
use super::courtesy::Act;
use super::judge::judge;
use super::reply::{GuardMode, Reply, Verdict};
use super::wordings::{Origin, Wordings};
use super::words::{Word, ends_here, placeholder, unknown_placeholder, words};
use super::{Assistant, Register, Understanding};
use crate::german::address;
use crate::german::numbers::{is_denial, is_quantity};
use crate::knowledge::Intent;
use std::collections::BTreeSet;

/// What [`Guard::push`] says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// What can be shown now.
    pub release: String,
    /// Whether the answer will be replaced anyway, so that generating may end.
    pub stop: bool,
}

/// A topic that the answer may be about.
struct Candidate {
    topic: usize,
    wordings: Wordings,
    /// Whether every telling sentence so far may be about it.
    alive: bool,
    /// Where its sentences came from.
    told: Vec<Origin>,
}

/// A known sentence that the words so far are the beginning of.
#[derive(Clone, Copy)]
struct PartialMatch {
    candidate: usize,
    sentence: usize,
    /// Words of it that have come.
    matched: usize,
}

/// Watches one answer; made by [`Assistant::guard`].
pub struct Guard<'a> {
    assistant: &'a Assistant,
    understanding: Understanding,
    mode: GuardMode,
    candidates: Vec<Candidate>,
    raw: String,
    /// Complete words of `raw` that were looked at.
    words: Vec<Word>,
    /// Number of the sentence's first word.
    sentence: usize,
    matches: Vec<PartialMatch>,
    /// Whether the sentence differs from every known one.
    off_script: bool,
    /// Sentences that ended at the last word.
    ended: Vec<(usize, Origin)>,
    /// The last place at which a known sentence ended while a longer one went on: number of the
    /// next word, and what ended.
    last_match: Option<(usize, Vec<(usize, Origin)>)>,
    /// Byte of `raw` up to which it may be shown.
    safe: usize,
    /// Byte of `raw` up to which it was shown.
    shown: usize,
    released: String,
    reasons: Vec<String>,
    seen: BTreeSet<String>,
}

impl Assistant {
    /// Starts watching one answer: feed it what the model says.
    pub fn guard(&self, understanding: Understanding, mode: GuardMode) -> Guard<'_> {
        let register = understanding.register;
        let candidates = if mode == GuardMode::Off {
            Vec::new()
        } else if understanding.act == Act::Thanks {
            let topic = understanding
                .topics
                .first()
                .map_or(usize::MAX, |&(topic, _)| topic);
            vec![Candidate::new(topic, self.thanks(register))]
        } else {
            let topics = understanding.topics.iter();
            topics
                .map(|&(topic, _)| Candidate::new(topic, self.wordings(topic, register)))
                .collect()
        };
        Guard {
            assistant: self,
            understanding,
            mode,
            candidates,
            raw: String::new(),
            words: Vec::new(),
            sentence: 0,
            matches: Vec::new(),
            off_script: false,
            ended: Vec::new(),
            last_match: None,
            safe: 0,
            shown: 0,
            released: String::new(),
            reasons: Vec::new(),
            seen: BTreeSet::new(),
        }
    }
}

impl Candidate {
    fn new(topic: usize, wordings: Wordings) -> Candidate {
        Candidate {
            topic,
            wordings,
            alive: true,
            told: Vec::new(),
        }
    }
}

impl Guard<'_> {
    /// Takes what the model said next.
    pub fn push(&mut self, delta: &str) -> Progress {
        self.raw.push_str(delta);
        if self.mode == GuardMode::Off {
            self.safe = self.raw.len();
        } else {
            // The last word may go on.
            let complete = self.raw.rfind(char::is_whitespace).unwrap_or(0);
            self.look_at(complete);
        }
        Progress {
            release: self.release(),
            stop: self.is_lost(),
        }
    }

    /// The answer is over: what is left to show, and the whole reply.
    pub fn finish(mut self) -> (String, Reply) {
        if self.mode == GuardMode::Off {
            self.safe = self.raw.len();
            let rest = self.release();
            return (rest, self.reply(Verdict::Passed, false));
        }
        self.look_at(self.raw.len());
        if !self.is_lost() {
            self.close();
            self.look_at_the_whole();
        }
        let verdict = self.verdict();
        if !self.is_lost() {
            self.safe = self.raw.trim_end().len();
        }
        let replaced = self.is_lost();
        let mut rest = String::new();
        if !replaced {
            rest = self.release();
            if let Some(computed) = self.computed(verdict) {
                rest.push_str(&computed);
                self.released.push_str(&computed);
            }
        }
        (rest, self.reply(verdict, replaced))
    }

    /// No model is run: the knowledge base's own answer is the reply, and all of it is left to
    /// show.
    pub(super) fn finish_without_model(self) -> (String, Reply) {
        let verdict = match (self.understanding.is_guess, self.refuses()) {
            (true, _) => Verdict::Asked,
            (false, true) => Verdict::Refused,
            (false, false) => Verdict::Knowledge,
        };
        let mut reply = self.reply(verdict, true);
        reply.released.clone_from(&reply.text);
        (reply.text.clone(), reply)
    }

    /// What was worked out, as it follows an answer.
    fn computed(&self, verdict: Verdict) -> Option<String> {
        let is_answer = !matches!(verdict, Verdict::Asked | Verdict::Refused);
        let computed = self.understanding.computed.as_ref();
        computed
            .filter(|_| is_answer && self.mode != GuardMode::Off)
            .map(|computed| format!(" {computed}"))
    }

    /// Whether the answer will be replaced.
    fn is_lost(&self) -> bool {
        match self.mode {
            GuardMode::Off => false,
            GuardMode::Mark => self
                .reasons
                .iter()
                .any(|reason| reason.starts_with("placeholder:")),
            GuardMode::Replace => !self.reasons.is_empty(),
        }
    }

    fn release(&mut self) -> String {
        if self.safe <= self.shown || self.is_lost() {
            return String::new();
        }
        let piece = &self.raw[self.shown..self.safe];
        let piece = if self.released.is_empty() {
            piece.trim_start()
        } else {
            piece
        };
        let piece = match self.mode {
            GuardMode::Off => piece.to_string(),
            _ => self.filled(piece),
        };
        self.shown = self.safe;
        self.released.push_str(&piece);
        piece
    }

    fn filled(&self, text: &str) -> String {
        let office = self
            .topic()
            .and_then(|topic| self.assistant.service_of(topic));
        self.assistant.fill(text, office.map(|(office, _)| office))
    }

    /// The topic of the answer, or what was understood.
    fn topic(&self) -> Option<usize> {
        let alive = self.candidates.iter().find(|candidate| candidate.alive);
        let alive = alive
            .map(|candidate| candidate.topic)
            .filter(|&topic| topic != usize::MAX);
        alive.or(self.understanding.topics.first().map(|&(topic, _)| topic))
    }

    /// Looks at the words that are complete before this byte.
    fn look_at(&mut self, complete: usize) {
        let from = self.words.last().map_or(0, |word| word.end);
        if complete <= from {
            return;
        }
        for mut word in words(&self.raw[from..complete]) {
            word.start += from;
            word.end += from;
            self.look_at_word(word);
            if self.is_lost() {
                return;
            }
        }
    }

    fn look_at_word(&mut self, word: Word) {
        if let Some(name) = unknown_placeholder(&word.key, |name| {
            self.assistant
                .knowledge
                .municipality
                .value(name, None)
                .is_some()
        }) {
            self.reasons.push(format!("placeholder:{name}"));
            return;
        }
        if !self.off_script {
            self.advance(&word);
        } else if self
            .words
            .last()
            .is_some_and(|last| ends_here(last, &self.raw[word.start..word.end]))
        {
            // The off-script sentence is whole; this word begins the next.
            self.judge_sentence();
            if self.is_lost() {
                return;
            }
            self.begin(&word);
        }
        self.words.push(word);
        if self.mode == GuardMode::Mark {
            self.safe = self.words.last().map_or(0, |word| word.end);
        } else if !self.off_script {
            self.let_go();
        }
    }

    /// Follows the known sentences by one word.
    fn advance(&mut self, word: &Word) {
        if self.words.len() == self.sentence {
            self.begin(word);
            return;
        }
        let going_on: Vec<PartialMatch> = self
            .matches
            .iter()
            .filter(|partial| {
                self.known(partial)
                    .get(partial.matched)
                    .is_some_and(|next| *next == word.key)
            })
            .map(|partial| PartialMatch {
                matched: partial.matched + 1,
                ..*partial
            })
            .collect();
        if !going_on.is_empty() {
            if !self.ended.is_empty() {
                self.last_match = Some((self.words.len(), std::mem::take(&mut self.ended)));
            }
            self.matches = going_on;
            self.note_ends(word);
        } else if !self.ended.is_empty() {
            self.accept();
            self.begin(word);
        } else if let Some((end, ended)) = self.last_match.take() {
            // Two known sentences, and the first is the beginning of a third: go back to where it
            // ended.
            let again = self.words.split_off(end);
            self.take(&ended);
            self.sentence = end;
            for word in again {
                self.advance(&word);
                self.words.push(word);
            }
            if !self.off_script {
                self.advance(word);
            }
        } else {
            self.matches.clear();
            self.off_script = true;
        }
    }

    /// Begins a sentence with this word.
    fn begin(&mut self, word: &Word) {
        self.sentence = self.words.len();
        self.ended.clear();
        self.last_match = None;
        self.matches.clear();
        for (number, candidate) in self.candidates.iter().enumerate() {
            let sentences = candidate.wordings.starting_with(&word.key).iter();
            self.matches.extend(sentences.map(|&sentence| PartialMatch {
                candidate: number,
                sentence,
                matched: 1,
            }));
        }
        self.off_script = self.matches.is_empty();
        self.note_ends(word);
    }

    fn note_ends(&mut self, word: &Word) {
        self.ended.clear();
        if !word.ends_sentence && !word.key.ends_with('}') {
            return;
        }
        for partial in &self.matches {
            let candidate = &self.candidates[partial.candidate];
            let sentence = &candidate.wordings.sentences[partial.sentence];
            if sentence.words.len() == partial.matched {
                self.ended.push((partial.candidate, sentence.origin));
            }
        }
    }

    fn known(&self, partial: &PartialMatch) -> &[String] {
        &self.candidates[partial.candidate].wordings.sentences[partial.sentence].words
    }

    /// Takes the known sentence that just ended.
    fn accept(&mut self) {
        let ended = std::mem::take(&mut self.ended);
        self.take(&ended);
    }

    /// Takes a sentence that stands in these candidates.
    fn take(&mut self, found: &[(usize, Origin)]) {
        let text: Vec<&str> = self.words[self.sentence..]
            .iter()
            .map(|word| word.key.as_str())
            .collect();
        let text = text.join(" ");
        let tells = found.iter().any(|(_, origin)| origin.is_content());
        if tells && text.len() > 20 && !self.seen.insert(text) {
            self.reasons.push("repetition".to_string());
        }
        for (number, candidate) in self.candidates.iter_mut().enumerate() {
            match found.iter().find(|(at, _)| *at == number) {
                Some(&(_, origin)) => candidate.told.push(origin),
                None => candidate.alive = false,
            }
        }
        if !self.candidates.iter().any(|candidate| candidate.alive) {
            self.reasons.push("several_services".to_string());
        }
    }

    /// Judges the sentence that began at `self.sentence` and is not known word by word.
    fn judge_sentence(&mut self) {
        let Some((first, last)) = self.words.get(self.sentence).zip(self.words.last()) else {
            return;
        };
        let end = last.end;
        let text = &self.raw[first.start..end];
        let keys: Vec<String> = self.words[self.sentence..]
            .iter()
            .map(|word| word.key.clone())
            .collect();
        if let Some(reason) = wrong_address(text, self.understanding.register) {
            self.reasons.push(reason);
        }
        let mut found = Vec::new();
        let mut against = Vec::new();
        for (number, candidate) in self.candidates.iter().enumerate() {
            match judge(&keys, &candidate.wordings) {
                Ok(origin) => found.push((number, origin)),
                Err(reasons) if against.is_empty() => against = reasons,
                Err(_) => {}
            }
        }
        if found.is_empty() {
            let other = self.assistant.who_says(&keys);
            self.reasons
                .extend(other.map(|id| format!("wrong_service:{id}")));
            self.reasons.extend(against);
            if self.candidates.is_empty() {
                self.reasons.push("not_understood".to_string());
            }
        } else {
            self.take(&found);
            self.safe = end;
        }
        self.off_script = false;
    }

    /// The end of the text: is the last sentence whole, and right?
    fn close(&mut self) {
        let Some(last) = self.words.last() else {
            return;
        };
        if self.words.len() <= self.sentence {
            return;
        }
        let whole = last.ends_sentence || last.key.ends_with('}');
        if !self.ended.is_empty() && !self.off_script {
            self.accept();
            self.safe = self.raw.len();
        } else if whole {
            self.judge_sentence();
        } else {
            self.reasons.push("no_sentence_end".to_string());
        }
        self.sentence = self.words.len();
    }

    /// What can only be said of the whole answer.
    fn look_at_the_whole(&mut self) {
        if self.words.is_empty() {
            self.reasons.push("empty".to_string());
            return;
        }
        let alive = self.candidates.iter().find(|candidate| candidate.alive);
        let told: Vec<Origin> = alive
            .map(|candidate| candidate.told.clone())
            .unwrap_or_default();
        if !told.iter().any(|origin| origin.is_content()) {
            // "Wo steht das?" is answered by the source alone.
            let is_source = self.understanding.follow_up && told.contains(&Origin::Reference);
            if !is_source && self.reasons.is_empty() {
                self.reasons.push("no_answer".to_string());
            }
            return;
        }
        let intents = &self.understanding.intents;
        let tells = told.iter().any(|origin| match origin {
            Origin::Fact(intent) => intents.contains(intent),
            Origin::Office => intents.contains(&Intent::Where),
            _ => true,
        });
        let is_first = alive.map(|candidate| candidate.topic)
            == self.understanding.topics.first().map(|&(topic, _)| topic);
        if !tells && is_first && self.understanding.intent_is_clear {
            self.reasons.push("other_question".to_string());
        }
    }

    /// Lets go of what cannot become wrong any more.
    fn let_go(&mut self) {
        // Behind a figure the next word decides; before a denial the figure or verb it denies waits
        // for it.
        let mut last = self.words.len();
        while last > self.sentence {
            let key = &self.words[last - 1].key;
            let undecided = is_quantity(key) && placeholder(key).is_none()
                || matches!(
                    key.as_str(),
                    "bis" | "ein" | "eine" | "einen" | "einem" | "einer" | "eines"
                );
            if !undecided {
                break;
            }
            last -= 1;
        }
        let ended = !self.ended.is_empty();
        if ended {
            last = self.words.len();
        } else if self.denial_ahead() {
            last = last.min(self.words.len() - 1);
        }
        if let Some(word) = last.checked_sub(1).and_then(|at| self.words.get(at)) {
            self.safe = self.safe.max(word.end);
        }
    }

    /// Whether a known sentence goes on with a denial within two words.
    fn denial_ahead(&self) -> bool {
        self.matches.iter().any(|partial| {
            let rest = &self.known(partial)[partial.matched..];
            rest.iter().take(2).any(|word| is_denial(word))
        })
    }

    fn verdict(&self) -> Verdict {
        match (self.reasons.is_empty(), self.mode) {
            (false, GuardMode::Replace) if self.understanding.is_guess => Verdict::Asked,
            (false, GuardMode::Mark) if !self.is_lost() => Verdict::Marked,
            _ if self.refuses() => Verdict::Refused,
            (true, _) => Verdict::Passed,
            (false, _) => Verdict::Replaced,
        }
    }

    /// Whether the answer turns the request down.
    fn refuses(&self) -> bool {
        let topic = self.topic();
        let is_foreign = topic.is_some_and(|topic| self.assistant.foreign_of(topic).is_some());
        let has_topic = !self.understanding.topics.is_empty();
        let is_contact = self.understanding.contact.is_some();
        self.understanding.act == Act::Question && !is_contact && (is_foreign || !has_topic)
    }

    /// The reply, with the model's text or, where that is `replaced`, the knowledge base's own
    /// answer.
    fn reply(mut self, verdict: Verdict, replaced: bool) -> Reply {
        let asked = verdict == Verdict::Asked;
        if asked {
            // The model was not asked, so nothing is wrong with what it said.
            self.reasons.clear();
        }
        let topic = match replaced {
            _ if asked => None,
            true => self.understanding.topics.first().map(|&(topic, _)| topic),
            false => self.topic(),
        };
        let mut intents: Vec<Intent> = Vec::new();
        if replaced || self.mode == GuardMode::Off {
            // Where the citizen is asked, no fact is told.
            if !asked {
                intents.clone_from(&self.understanding.intents);
            }
        } else if let Some(candidate) = self
            .candidates
            .iter()
            .find(|candidate| Some(candidate.topic) == topic)
        {
            for origin in &candidate.told {
                let intent = match origin {
                    Origin::Fact(intent) => *intent,
                    Origin::Office => Intent::Where,
                    _ => continue,
                };
                if !intents.contains(&intent) {
                    intents.push(intent);
                }
            }
        }
        let computed = self.computed(verdict).unwrap_or_default();
        let text = match (replaced, self.mode) {
            (true, _) => self.assistant.reference(&self.understanding),
            (false, GuardMode::Off) => self.raw.trim().to_string(),
            (false, _) => self.filled(self.raw.trim()),
        };
        let text = text + &computed;
        let service = topic.and_then(|topic| self.assistant.service_of(topic));
        let contact = self.understanding.contact.as_ref();
        let asked_about = contact.and_then(|contact| self.assistant.contact_office(contact));
        let office = asked_about.or(service.map(|(office, _)| office));
        let service = service.map(|(_, service)| service);
        let (sources, checked_on) = match contact.and(self.assistant.contact_service()) {
            Some((_, service)) => self.assistant.sources(Some(service), &[Intent::What]),
            None => self.assistant.sources(service, &intents),
        };
        let about = contact.and(self.understanding.service.clone());
        Reply {
            text,
            released: self.released,
            model_text: self.raw,
            verdict,
            reasons: self.reasons,
            office: office.map(|office| self.assistant.contact(office)),
            service: about.or(service.map(service_ref)),
            intents,
            sources,
            checked_on,
            register: self.understanding.register,
            options: match asked {
                true => self.assistant.options(&self.understanding),
                false => Vec::new(),
            },
        }
    }
}

/// What is said against the form of address of a sentence.
fn wrong_address(sentence: &str, register: Register) -> Option<String> {
    let found = address(sentence)?;
    let wrong = match (found.register, register) {
        (Register::Du, Register::Sie | Register::Neutral) => true,
        (Register::Sie, Register::Du) => found.certain,
        _ => false,
    };
    wrong.then(|| format!("address:{}", found.word))
}

#[cfg(test)]
mod tests;
