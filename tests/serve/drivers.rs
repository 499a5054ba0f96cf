//! Equal tokens give equal replies, whoever drives the exchange: `chat`'s conversation, the server,
//! `eval answers`.

use super::server::Server;
use crate::hf::upload;
use muni_engine::answer::exchange::ExchangeSettings;
use muni_engine::answer::session::Conversation;
use muni_engine::answer::{Assistant, GuardMode, Reply};
use muni_engine::eval::answers::{Answer, AnswerSettings, Examination, Judge};
use muni_engine::eval::questions::{Expected, Question};
use muni_engine::generate::SamplingSettings;
use muni_engine::hf::load_folder;
use muni_engine::knowledge::Knowledge;
use muni_engine::model::Model;
use muni_engine::ops::cpu::CpuDevice;
use muni_engine::tokenizer::Tokenizer;
use serde_json::{Value, json};
use std::ops::ControlFlow;
use std::path::Path;

const QUESTIONS: [&str; 4] = [
    "Wo kann ich mich ummelden?",
    "Kannst du mir sagen, was ein Reisepass kostet?",
    "Wie wird das Wetter morgen?",
    "Hallo!",
];
const MOST: usize = 24;

/// The model draws greedily, so its tokens are the same everywhere.
fn settings(guard: GuardMode) -> ExchangeSettings {
    ExchangeSettings {
        sampling: SamplingSettings::default(),
        max_new_tokens: Some(MOST),
        guard,
        stop_strings: Vec::new(),
    }
}

struct Drivers<'a> {
    device: &'a CpuDevice,
    model: &'a Model<CpuDevice>,
    tokenizer: &'a Tokenizer,
    assistant: &'a Assistant,
}

impl Drivers<'_> {
    fn chat(&self, question: &str, guard: GuardMode) -> (Reply, usize) {
        let Self {
            device,
            model,
            tokenizer,
            assistant,
        } = self;
        let mut conversation =
            Conversation::new(assistant, *device, model, tokenizer, settings(guard)).unwrap();
        let answer = conversation
            .ask(question, &mut |_| Ok(ControlFlow::Continue(())))
            .unwrap();
        // The server does not count the end of the text.
        let mut tokens = answer.output.map_or(Vec::new(), |output| output.token_ids);
        tokens.pop_if(|token| *token == tokenizer.end_of_text());
        (answer.reply, tokens.len())
    }

    fn eval(&self, question: &str) -> Answer {
        let judge = Judge::new(self.assistant.knowledge(), None);
        let examination = Examination {
            tokenizer: self.tokenizer,
            assistant: self.assistant,
            judge: &judge,
            settings: AnswerSettings {
                sampling: SamplingSettings::default(),
                max_new_tokens: MOST,
            },
        };
        let question = Question {
            line: 1,
            question: question.to_string(),
            expected: Expected::Refusal,
            kind: None,
            expect: Vec::new(),
        };
        let answers = examination.run(self.device, self.model, &[question], &mut |_| {});
        answers.unwrap().remove(0)
    }
}

fn ask(server: &Server, question: &str) -> Value {
    let messages = json!([{"role": "user", "content": question}]);
    let body = json!({"messages": messages, "temperature": 0, "max_tokens": MOST});
    server.post("/v1/chat/completions", &body).json()
}

#[test]
fn equal_tokens_give_equal_replies_whoever_drives() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("knowledge");
    let assistant = Assistant::new(Knowledge::load(&folder).unwrap()).unwrap();
    let (device, tokenizer) = (CpuDevice::new(), Tokenizer::gpt2().unwrap());
    for guard in GuardMode::ALL {
        let server = Server::start(&["--guard", &guard.to_string()]);
        let model = upload(&device, load_folder(&server.model()).unwrap());
        let drivers = Drivers {
            device: &device,
            model: &model,
            tokenizer: &tokenizer,
            assistant: &assistant,
        };
        for question in QUESTIONS {
            let (chat, tokens) = drivers.chat(question, guard);
            let served = ask(&server, question);
            let text = served["choices"][0]["message"]["content"].as_str();
            assert_eq!(text, Some(chat.text.as_str()), "{guard}: {question}");
            let about = &served["muni"];
            assert_eq!(about["verdict"], json!(chat.verdict), "{guard}: {question}");
            assert_eq!(about["reasons"], json!(chat.reasons), "{guard}: {question}");
            assert_eq!(about["sources"], json!(chat.sources), "{guard}: {question}");
            assert_eq!(
                served["usage"]["completion_tokens"], tokens,
                "{guard}: {question}"
            );
            let measured = drivers.eval(question);
            match guard {
                GuardMode::Off => assert_eq!(measured.model.text, chat.text, "{question}"),
                GuardMode::Mark => {}
                GuardMode::Replace => {
                    assert_eq!(measured.guarded.text, chat.text, "{question}");
                    assert_eq!(measured.verdict, chat.verdict, "{question}");
                    assert_eq!(measured.reasons, chat.reasons, "{question}");
                }
            }
        }
    }
}
