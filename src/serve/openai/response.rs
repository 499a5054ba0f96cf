//! The bodies of answers: whole, or as the chunks of a stream.

use crate::answer::{OfficeContact, Reply, ServiceRef};
use serde_json::{Map, Value, json};

/// Which of the two endpoints answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::serve) enum Kind {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completion,
}

/// What all bodies of one answer have in common.
#[derive(Clone, Debug)]
pub(in crate::serve) struct Envelope {
    pub kind: Kind,
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    pub model: String,
}

/// Tokens of one exchange.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::serve) struct Usage {
    pub prompt: usize,
    pub answer: usize,
}

impl Usage {
    fn to_json(self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.answer,
            "total_tokens": self.prompt + self.answer,
        })
    }
}

impl Envelope {
    fn object(&self, streamed: bool) -> &'static str {
        match (self.kind, streamed) {
            (Kind::Chat, true) => "chat.completion.chunk",
            (Kind::Chat, false) => "chat.completion",
            (Kind::Completion, _) => "text_completion",
        }
    }

    fn with(&self, streamed: bool, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": self.object(streamed),
            "created": self.created,
            "model": self.model,
            "choices": choices,
        })
    }

    /// The whole answer at once.
    pub(crate) fn whole(&self, text: &str, finish: &str, usage: Usage, muni: Value) -> Value {
        let choice = match self.kind {
            Kind::Chat => json!({
                "index": 0,
                "message": {"role": "assistant", "content": text, "refusal": null},
                "logprobs": null,
                "finish_reason": finish,
            }),
            Kind::Completion => json!({
                "index": 0,
                "text": text,
                "logprobs": null,
                "finish_reason": finish,
            }),
        };
        let mut body = self.with(false, json!([choice]));
        body["usage"] = usage.to_json();
        body["muni"] = muni;
        body
    }

    /// A piece of a stream: the beginning of the message, text, or the end, which has a reason.
    pub(crate) fn chunk(&self, text: Option<&str>, finish: Option<&str>) -> Value {
        let choice = match self.kind {
            Kind::Chat => {
                let mut delta = Map::new();
                match text {
                    Some("") => {
                        delta.insert("role".into(), json!("assistant"));
                        delta.insert("content".into(), json!(""));
                    }
                    Some(text) => drop(delta.insert("content".into(), json!(text))),
                    None => {}
                }
                json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish})
            }
            Kind::Completion => json!({
                "index": 0,
                "text": text.unwrap_or_default(),
                "logprobs": null,
                "finish_reason": finish,
            }),
        };
        self.with(true, json!([choice]))
    }

    /// The stream's last piece where the client wants the counts.
    pub(crate) fn usage_chunk(&self, usage: Usage) -> Value {
        let mut body = self.with(true, json!([]));
        body["usage"] = usage.to_json();
        body
    }
}

/// Contact details as clients show them; what the office does is in `/api/offices`.
fn office_json(office: &OfficeContact) -> Value {
    json!({
        "id": office.id, "name": office.name, "address": office.address, "phone": office.phone,
        "email": office.email, "hours": office.hours,
    })
}

fn service_json(service: &ServiceRef) -> Value {
    json!({"id": service.id, "title": service.title})
}

/// What is known before the answer: who is responsible.
pub(in crate::serve) fn muni_ahead(
    office: &OfficeContact,
    service: Option<&ServiceRef>,
    logged: bool,
) -> Value {
    json!({
        "office": office_json(office),
        "service": service.map(service_json),
        "logged": logged,
    })
}

/// What a client is told about every answer of a server.
#[derive(Clone, Copy, Debug)]
pub(in crate::serve) struct Disclosure {
    /// Whether questions and answers are kept.
    pub logged: bool,
    /// Whether there is no model, so that no machine worded the answer.
    pub knowledge_only: bool,
}

/// What this program adds to OpenAI's answer. `replace` is the text to show instead of what was
/// streamed.
pub(in crate::serve) fn muni(
    reply: &Reply,
    replace: Option<&str>,
    disclosure: Disclosure,
) -> Value {
    let Disclosure {
        logged,
        knowledge_only,
    } = disclosure;
    json!({
        "office": reply.office.as_ref().map(office_json),
        "service": reply.service.as_ref().map(service_json),
        "sources": reply.sources,
        "checked_on": reply.checked_on,
        "verdict": reply.verdict,
        "reasons": reply.reasons,
        "options": reply.options,
        "replace": replace,
        "logged": logged,
        "ai_generated": !knowledge_only,
        "knowledge_only": knowledge_only,
    })
}

/// One event of a stream.
pub(in crate::serve) fn event(data: &Value) -> String {
    format!("data: {data}\n\n")
}

/// The stream's end.
pub(in crate::serve) const DONE: &str = "data: [DONE]\n\n";
