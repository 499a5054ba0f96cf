//! The bodies of `/v1/chat/completions` and `/v1/completions`.

use super::super::error::ApiError;
use super::fields::{Fields, wrong_type};
use crate::answer::Turn;
use serde_json::Value;

/// Messages of one request at most.
const MOST_MESSAGES: usize = 100;
/// As OpenAI has it.
const MOST_STOPS: usize = 4;
const LONGEST_STOP: usize = 200;

/// How to answer, the same for both.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::serve) struct Options {
    pub temperature: f32,
    pub top_p: f32,
    /// Drawn by the server where the client names none.
    pub seed: Option<u64>,
    pub stop: Vec<String>,
    /// Most tokens of the answer.
    pub max_tokens: Option<usize>,
    pub stream: bool,
    /// Whether the stream ends with the token counts.
    pub include_usage: bool,
}

/// A conversation that waits for its next answer.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::serve) struct ChatRequest {
    pub history: Vec<Turn>,
    pub question: String,
    pub options: Options,
}

/// A text to continue.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::serve) struct CompletionRequest {
    pub prompt: String,
    pub options: Options,
}

impl ChatRequest {
    /// # Errors
    /// What is wrong with the body, by field.
    pub(crate) fn parse(body: &[u8], model: &str) -> Result<Self, ApiError> {
        let mut fields = Fields::parse(body)?;
        check_model(&mut fields, model)?;
        let messages = match fields.take("messages") {
            Some(Value::Array(messages)) => messages,
            Some(other) => return Err(wrong_type("messages", "a list", &other)),
            None => {
                return Err(ApiError::field(
                    "messages",
                    "missing",
                    "messages is missing, expected a list that ends with the user's message",
                ));
            }
        };
        let (history, question) = conversation(messages)?;
        let limit = fields.whole("max_completion_tokens", 1)?;
        fields.only("logprobs", |value| *value == Value::Bool(false))?;
        fields.only("top_logprobs", |value| *value == 0)?;
        for list in ["tools", "functions", "audio", "modalities"] {
            fields.only(list, |value| {
                value
                    .as_array()
                    .is_some_and(|list| list.is_empty() || (list.len() == 1 && list[0] == "text"))
            })?;
        }
        fields.only("tool_choice", |value| *value == "none" || *value == "auto")?;
        fields.only("response_format", |value| value["type"] == "text")?;
        let mut options = options(&mut fields)?;
        options.max_tokens = limit.map(|limit| limit as usize).or(options.max_tokens);
        Ok(Self {
            history,
            question,
            options,
        })
    }
}

impl CompletionRequest {
    /// # Errors
    /// What is wrong with the body, by field.
    pub(crate) fn parse(body: &[u8], model: &str) -> Result<Self, ApiError> {
        let mut fields = Fields::parse(body)?;
        check_model(&mut fields, model)?;
        let prompt = match fields.take("prompt") {
            Some(Value::String(prompt)) => prompt,
            // OpenAI's own form of one prompt in a list.
            Some(Value::Array(list)) => match &list[..] {
                [Value::String(prompt)] => prompt.clone(),
                _ => {
                    return Err(ApiError::field(
                        "prompt",
                        "unsupported_parameter",
                        "prompt is a list, expected one string: several prompts and token ids are \
                         not supported",
                    ));
                }
            },
            Some(other) => return Err(wrong_type("prompt", "a string", &other)),
            None => return Err(ApiError::field("prompt", "missing", "prompt is missing")),
        };
        if prompt.trim().is_empty() {
            return Err(ApiError::field("prompt", "empty", "prompt is empty"));
        }
        fields.only("echo", |value| *value == Value::Bool(false))?;
        fields.only("suffix", |value| *value == "")?;
        fields.only("logprobs", |value| *value == 0)?;
        fields.only("best_of", |value| *value == 1)?;
        Ok(Self {
            prompt,
            options: options(&mut fields)?,
        })
    }
}

fn check_model(fields: &mut Fields, served: &str) -> Result<(), ApiError> {
    match fields.string("model")? {
        Some(name) if name != served => Err(ApiError::no_such_model(served)),
        _ => Ok(()),
    }
}

fn options(fields: &mut Fields) -> Result<Options, ApiError> {
    fields.only("n", |value| *value == 1)?;
    for penalty in ["frequency_penalty", "presence_penalty"] {
        fields.only(penalty, |value| value.as_f64() == Some(0.0))?;
    }
    fields.only("logit_bias", |value| {
        value.as_object().is_some_and(|map| map.is_empty())
    })?;
    let top_p = fields.number("top_p", 0.0, 1.0)?;
    if top_p == Some(0.0) {
        return Err(ApiError::field(
            "top_p",
            "out_of_range",
            "top_p is 0, expected a number above 0 and up to 1",
        ));
    }
    let stream = fields.flag("stream")?.unwrap_or(false);
    let include_usage = match fields.take("stream_options") {
        None => false,
        Some(Value::Object(mut map)) => match map.remove("include_usage") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(flag)) => flag,
            Some(other) => {
                return Err(wrong_type(
                    "stream_options.include_usage",
                    "true or false",
                    &other,
                ));
            }
        },
        Some(other) => return Err(wrong_type("stream_options", "an object", &other)),
    };
    Ok(Options {
        temperature: fields.number("temperature", 0.0, 2.0)?.unwrap_or(0.7) as f32,
        top_p: top_p.map_or(0.9, |p| (p as f32).max(f32::MIN_POSITIVE)),
        // Negative seeds are seeds too.
        seed: fields.whole("seed", i64::MIN)?.map(|seed| seed as u64),
        stop: stops(fields.take("stop"))?,
        max_tokens: fields.whole("max_tokens", 1)?.map(|limit| limit as usize),
        stream,
        include_usage,
    })
}

fn stops(value: Option<Value>) -> Result<Vec<String>, ApiError> {
    let list = match value {
        None => return Ok(Vec::new()),
        Some(Value::String(stop)) => vec![Value::String(stop)],
        Some(Value::Array(list)) => list,
        Some(other) => return Err(wrong_type("stop", "a string or a list of strings", &other)),
    };
    if list.len() > MOST_STOPS {
        return Err(ApiError::field(
            "stop",
            "out_of_range",
            format!(
                "stop has {} strings, expected at most {MOST_STOPS}",
                list.len()
            ),
        ));
    }
    list.into_iter()
        .map(|stop| match stop {
            Value::String(stop) if !stop.is_empty() && stop.len() <= LONGEST_STOP => Ok(stop),
            Value::String(stop) => Err(ApiError::field(
                "stop",
                "out_of_range",
                format!(
                    "a stop string has {} bytes, expected 1 to {LONGEST_STOP}",
                    stop.len()
                ),
            )),
            other => Err(wrong_type("stop", "a list of strings", &other)),
        })
        .collect()
}

/// What was said before, and the question.
fn conversation(messages: Vec<Value>) -> Result<(Vec<Turn>, String), ApiError> {
    if messages.len() > MOST_MESSAGES {
        return Err(ApiError::field(
            "messages",
            "out_of_range",
            format!(
                "messages has {} entries, expected at most {MOST_MESSAGES}",
                messages.len()
            ),
        ));
    }
    let mut turns = Vec::new();
    let mut last_is_user = false;
    for (index, message) in messages.into_iter().enumerate() {
        let name = format!("messages[{index}]");
        let Value::Object(mut message) = message else {
            return Err(wrong_type(
                &name,
                "an object with role and content",
                &message,
            ));
        };
        let role = message.remove("role").unwrap_or_default();
        let role_name = format!("{name}.role");
        let Some(role) = role.as_str() else {
            return Err(wrong_type(&role_name, "a string", &role));
        };
        let text = content(message.remove("content"), &format!("{name}.content"))?;
        last_is_user = role == "user";
        match role {
            "user" => turns.push(Turn::citizen(text)),
            "assistant" => turns.push(Turn::assistant(text)),
            // The model knows one task and takes no instructions: they would only take room from
            // the question.
            "system" | "developer" => {}
            _ => {
                return Err(ApiError::field(
                    &role_name,
                    "invalid_value",
                    format!(
                        "{role_name} is not supported, expected user, assistant, system or \
                         developer"
                    ),
                ));
            }
        }
    }
    let question = if last_is_user { turns.pop() } else { None };
    match question {
        Some(question) if !question.text.trim().is_empty() => Ok((turns, question.text)),
        Some(_) => Err(ApiError::field(
            "messages",
            "empty",
            "the user's last message is empty: ask something",
        )),
        None => Err(ApiError::field(
            "messages",
            "invalid_value",
            "the last message is not the user's: there is no question to answer",
        )),
    }
}

/// A string, or OpenAI's list of parts of type `text`.
fn content(value: Option<Value>, name: &str) -> Result<String, ApiError> {
    match value {
        Some(Value::String(text)) => Ok(text),
        Some(Value::Array(parts)) => parts
            .iter()
            .map(|part| match (&part["type"], &part["text"]) {
                (Value::String(kind), Value::String(text)) if kind == "text" => Ok(text.as_str()),
                _ => Err(ApiError::field(
                    name,
                    "unsupported_parameter",
                    format!("{name} has a part that is no text: only text is supported"),
                )),
            })
            .collect(),
        // An answer that consisted of something else.
        None | Some(Value::Null) => Ok(String::new()),
        Some(other) => Err(wrong_type(name, "a string", &other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn chat(mut more: Value) -> Result<ChatRequest, ApiError> {
        if more.get("messages").is_none() {
            more["messages"] = json!([{"role": "user", "content": "Wo?"}]);
        }
        ChatRequest::parse(more.to_string().as_bytes(), "muni")
    }

    #[test]
    fn defaults_and_every_field() {
        let plain = chat(json!({})).unwrap();
        assert_eq!((plain.history.len(), plain.question.as_str()), (0, "Wo?"));
        let expected = Options {
            temperature: 0.7,
            top_p: 0.9,
            seed: None,
            stop: vec![],
            max_tokens: None,
            stream: false,
            include_usage: false,
        };
        assert_eq!(plain.options, expected);
        let full = chat(json!({
            "model": "muni", "temperature": 0, "top_p": 1, "seed": -3,
            "stop": ["a", "b"], "max_tokens": 9,
            "max_completion_tokens": 7, "stream": true, "stream_options": {"include_usage": true},
            "n": 1,
            "user": "x", "tools": [], "logprobs": false, "frequency_penalty": 0.0,
            "response_format": {"type": "text"},
        }))
        .unwrap();
        let expected = Options {
            temperature: 0.0,
            top_p: 1.0,
            seed: Some(-3i64 as u64),
            stop: vec!["a".into(), "b".into()],
            max_tokens: Some(7),
            stream: true,
            include_usage: true,
        };
        assert_eq!(full.options, expected);
    }

    #[test]
    fn conversations_end_with_a_question_and_instructions_are_left_out() {
        let request = chat(json!({"messages": [
            {"role": "system", "content": "Sei ein Pirat."},
            {"role": "user", "content": [
                {"type": "text", "text": "Wo "}, {"type": "text", "text": "ist es?"},
            ]},
            {"role": "assistant", "content": "Im Rathaus."},
            {"role": "user", "content": "Und wann?"},
        ]}))
        .unwrap();
        let expected = [Turn::citizen("Wo ist es?"), Turn::assistant("Im Rathaus.")];
        assert_eq!(
            (&request.history[..], request.question.as_str()),
            (&expected[..], "Und wann?")
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let user = json!([{"role": "user", "content": "Wo?"}]);
        for (body, param) in [
            (json!({"messages": "Wo?"}), "messages"),
            (json!({"messages": []}), "messages"),
            (json!({"messages": ["Wo?"]}), "messages[0]"),
            (
                json!({"messages": [{"content": "Wo?"}]}),
                "messages[0].role",
            ),
            (
                json!({"messages": [{"role": "tool", "content": "x"}]}),
                "messages[0].role",
            ),
            (
                json!({"messages": [{"role": "user", "content": 7}]}),
                "messages[0].content",
            ),
            (
                json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
                "messages[0].content",
            ),
            (
                json!({"messages": [{"role": "user", "content": " "}]}),
                "messages",
            ),
            (
                json!({"messages": [{"role": "assistant", "content": "x"}]}),
                "messages",
            ),
            (json!({"messages": user, "model": 3}), "model"),
            (json!({"messages": user, "model": "gpt-4"}), "model"),
            (
                json!({"messages": user, "temperature": -0.1}),
                "temperature",
            ),
            (
                json!({"messages": user, "temperature": "warm"}),
                "temperature",
            ),
            (json!({"messages": user, "top_p": 0}), "top_p"),
            (json!({"messages": user, "top_p": 1.1}), "top_p"),
            (json!({"messages": user, "max_tokens": 0}), "max_tokens"),
            (json!({"messages": user, "max_tokens": 1.5}), "max_tokens"),
            (json!({"messages": user, "seed": "x"}), "seed"),
            (
                json!({"messages": user, "stop": ["a", "b", "c", "d", "e"]}),
                "stop",
            ),
            (json!({"messages": user, "stop": ""}), "stop"),
            (json!({"messages": user, "stop": 3}), "stop"),
            (json!({"messages": user, "stream": "yes"}), "stream"),
            (
                json!({"messages": user, "stream_options": {"include_usage": 1}}),
                "stream_options.include_usage",
            ),
            (json!({"messages": user, "n": 2}), "n"),
            (json!({"messages": user, "logprobs": true}), "logprobs"),
            (json!({"messages": user, "tools": [{}]}), "tools"),
            (
                json!({"messages": user, "presence_penalty": 1}),
                "presence_penalty",
            ),
            (
                json!({"messages": user, "response_format": {"type": "json_object"}}),
                "response_format",
            ),
        ] {
            let error = ChatRequest::parse(body.to_string().as_bytes(), "muni").unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param), "{body}: {error:?}");
        }
        for body in ["", "{", "[]", "\"x\"", "{\"messages\": [}", "\u{0}"] {
            assert!(
                ChatRequest::parse(body.as_bytes(), "muni").is_err(),
                "{body}"
            );
        }
        assert!(ChatRequest::parse(b"{\"a\": \"\xff\"}", "muni").is_err());
    }

    #[test]
    fn completions_take_one_prompt() {
        let parse = |body: Value| CompletionRequest::parse(body.to_string().as_bytes(), "muni");
        for prompt in [json!("Frage: Wo?"), json!(["Frage: Wo?"])] {
            assert_eq!(
                parse(json!({"prompt": prompt})).unwrap().prompt,
                "Frage: Wo?"
            );
        }
        for body in [
            json!({}),
            json!({"prompt": ""}),
            json!({"prompt": ["a", "b"]}),
            json!({"prompt": [1, 2]}),
            json!({"prompt": "x", "echo": true}),
            json!({"prompt": "x", "best_of": 2}),
        ] {
            assert!(parse(body.clone()).is_err(), "{body}");
        }
    }
}
