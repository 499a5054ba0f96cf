//! The HTTP server as people run it: every endpoint, every refusal, clients that misbehave, and
//! clients nobody here wrote.

mod danger;
mod drivers;
mod limits;
mod server;

use serde_json::{Value, json};
use server::{Server, at_once};
use std::path::Path;
use std::process::Command;

const QUESTION: &str = "Wo kann ich mich ummelden?";

fn chat(question: &str, more: Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": question}]});
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

fn content(reply: &Value) -> &str {
    reply["choices"][0]["message"]["content"].as_str().unwrap()
}

#[test]
fn everything_but_answers() {
    let server = Server::start(&[]);
    for (path, kind, part) in [
        ("/", "text/html; charset=utf-8", "<!doctype html>"),
        (
            "/datenschutz",
            "text/html; charset=utf-8",
            "<html lang=\"de\"",
        ),
        ("/widget.js", "text/javascript; charset=utf-8", "muni-chat"),
        ("/health", "application/json", "\"ok\""),
        ("/ready", "application/json", "\"ready\""),
        (
            "/metrics",
            "text/plain; version=0.0.4; charset=utf-8",
            "muni_running 0",
        ),
        ("/v1/models", "application/json", "\"muni\""),
        ("/v1/models/muni", "application/json", "\"muni-engine\""),
        ("/api/offices", "application/json", "\"einwohnermeldeamt\""),
    ] {
        let reply = server.get(path);
        assert_eq!(
            (reply.status, reply.header("content-type")),
            (200, Some(kind)),
            "{path}"
        );
        let text = reply.text();
        assert!(text.to_lowercase().contains(part), "{path}: {text}");
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            ("vary", "Origin"),
        ] {
            assert_eq!(reply.header(name), Some(value), "{path}");
        }
        let policy = reply.header("content-security-policy").unwrap();
        assert!(
            policy.contains("default-src 'none'") && !policy.contains("unsafe"),
            "{policy}"
        );
        assert!(reply.header("access-control-allow-origin").is_none());
        let head = server.request("HEAD", path, &[], b"");
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
    }

    let widget = server.get("/widget.js");
    assert_eq!(
        widget.header("cross-origin-resource-policy"),
        Some("cross-origin")
    );
    assert_eq!(
        server.get("/").header("cross-origin-resource-policy"),
        Some("same-origin")
    );
    let tag = widget.header("etag").unwrap();
    let again = server.request("GET", "/widget.js", &[("If-None-Match", tag)], b"");
    assert_eq!((again.status, again.body.len()), (304, 0));

    let offices = server.get("/api/offices").json();
    assert_eq!(offices["offices"].as_array().unwrap().len(), 8);
    assert_eq!(
        (&offices["model"], &offices["logs_conversations"]),
        (&json!("muni"), &json!(false))
    );
    let notice = offices["notice"].as_str().unwrap();
    assert!(
        notice.contains("Maschine") && notice.contains("nicht gespeichert"),
        "{notice}"
    );
    let office = &offices["offices"][0];
    for field in ["id", "name", "address", "phone", "email", "hours"] {
        let value = office[field].as_str().unwrap();
        assert!(
            !value.is_empty() && !value.contains('{'),
            "{field}: {value}"
        );
    }
    assert!(office["services"][0]["title"].is_string());

    for (path, code) in [
        ("/nowhere", "not_found"),
        ("/v1/models/gpt-4o", "model_not_found"),
        ("/../Cargo.toml", "not_found"),
    ] {
        let reply = server.get(path);
        assert_eq!(
            (reply.status, &reply.json()["error"]["code"]),
            (404, &json!(code)),
            "{path}"
        );
    }
    for (method, path) in [
        ("GET", "/v1/chat/completions"),
        ("POST", "/health"),
        ("DELETE", "/v1/models"),
        ("BREW", "/"),
    ] {
        let reply = server.request(method, path, &[], b"");
        assert_eq!(
            (reply.status, &reply.json()["error"]["code"]),
            (405, &json!("method_not_allowed")),
            "{method} {path}"
        );
    }

    for (body, status) in [
        (
            json!({"rating": "up", "office": "einwohnermeldeamt", "verdict": "passed"}),
            204,
        ),
        (json!({"rating": "down", "office": null}), 204),
        (json!({"rating": "maybe"}), 400),
        (json!({"office": "einwohnermeldeamt"}), 400),
        (
            json!({"rating": "up", "office": "x\"} 1\nmuni_evil{a=\""}),
            400,
        ),
        (json!([]), 400),
    ] {
        assert_eq!(server.post("/api/feedback", &body).status, status, "{body}");
    }
    let figures = server.get("/metrics").text();
    let rated =
        "muni_feedback_total{rating=\"up\",office=\"einwohnermeldeamt\",verdict=\"passed\"} 1";
    assert!(
        figures.contains(rated) && !figures.contains("evil"),
        "{figures}"
    );

    assert_eq!(server.listening["knowledge_only"], false);
    assert_eq!(server.get("/health").json()["knowledge_only"], false);
    let (status, log) = server.stop();
    assert!(status.success(), "{log}");
    assert!(!log.contains("nowhere") && !log.contains("Cargo"), "{log}");
}

#[test]
fn without_a_model_the_knowledge_base_answers() {
    let server = Server::without_model(&[]);
    let name = "muni-engine-knowledge";
    assert_eq!(server.listening["knowledge_only"], true);
    assert_eq!(server.listening["model"], name);
    assert_eq!(
        server.get("/health").json(),
        json!({"status": "ok", "knowledge_only": true})
    );
    assert_eq!(server.get("/v1/models").json()["data"][0]["id"], name);
    let offices = server.get("/api/offices").json();
    assert_eq!(
        (&offices["model"], &offices["knowledge_only"]),
        (&json!(name), &json!(true))
    );
    let notice = offices["notice"].as_str().unwrap();
    assert!(
        notice.contains("Wissensbasis") && !notice.contains("Intelligenz"),
        "{notice}"
    );

    let fee = "Was kostet ein neuer Personalausweis?";
    let reply = server.post("/v1/chat/completions", &chat(fee, json!({"model": name})));
    assert_eq!((reply.status, reply.header("x-ai-generated")), (200, None));
    let body = reply.json();
    assert!(content(&body).contains("46 Euro"), "{body}");
    let about = &body["muni"];
    assert_eq!(about["verdict"], "knowledge");
    assert_eq!(
        (&about["knowledge_only"], &about["ai_generated"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(about["office"]["id"], "einwohnermeldeamt");
    let none = json!({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0});
    assert_eq!(
        (&body["usage"], &body["choices"][0]["finish_reason"]),
        (&none, &json!("stop"))
    );

    let streamed = server.post("/v1/chat/completions", &chat(fee, json!({"stream": true})));
    let chunks = streamed.chunks();
    let text: String = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(text, content(&body));
    let last = chunks.last().unwrap();
    assert_eq!(
        (&last["muni"]["replace"], &last["muni"]["verdict"]),
        (&Value::Null, &json!("knowledge"))
    );

    for prompt in [fee.to_string(), format!("Frage: {fee}\nAntwort:")] {
        let reply = server
            .post("/v1/completions", &json!({"prompt": prompt}))
            .json();
        assert_eq!(reply["choices"][0]["text"], content(&body));
    }
    let foreign = server.post(
        "/v1/chat/completions",
        &chat("Wie wird das Wetter?", json!({})),
    );
    assert_eq!(foreign.json()["muni"]["verdict"], "refused");
    let rating = json!({"rating": "up", "office": "einwohnermeldeamt", "verdict": "knowledge"});
    assert_eq!(server.post("/api/feedback", &rating).status, 204);
    let wrong = server.post("/v1/chat/completions", &chat(fee, json!({"model": "muni"})));
    assert_eq!(wrong.status, 404);
    let (status, log) = server.stop();
    assert!(
        status.success() && log.contains("\"event\":\"stopped\""),
        "{log}"
    );

    // With the guard off a text is answered, not continued.
    let server = Server::without_model(&["--guard", "off", "--model-name", "stadt"]);
    let reply = server
        .post("/v1/completions", &json!({"prompt": fee, "model": "stadt"}))
        .json();
    assert_eq!(reply["muni"]["verdict"], "knowledge");
}

/// Whether a text answers [`QUESTION`].
fn names_the_office(text: &str) -> bool {
    ["Einwohnermeldeamt", "Bürgerbüro"]
        .iter()
        .any(|office| text.contains(office))
}

#[test]
fn an_answer_as_one_body() {
    let server = Server::start(&[]);
    let reply = server.post(
        "/v1/chat/completions",
        &chat(QUESTION, json!({"model": "muni", "seed": 1})),
    );
    assert_eq!(
        (reply.status, reply.header("x-ai-generated")),
        (200, Some("true"))
    );
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    let body = reply.json();
    assert_eq!(
        (&body["object"], &body["model"]),
        (&json!("chat.completion"), &json!("muni"))
    );
    assert!(body["id"].as_str().unwrap().starts_with("chatcmpl-"));
    // However little the model has learnt, it says only what the knowledge base says.
    let text = content(&body);
    assert!(names_the_office(text), "{text}");
    assert!(
        text.ends_with(['.', '!', '?']) && !text.contains('{'),
        "{text}"
    );
    let about = &body["muni"];
    assert_eq!(
        (&about["office"]["id"], &about["verdict"]),
        (&json!("einwohnermeldeamt"), &json!("passed"))
    );
    assert_eq!(
        (&about["logged"], &about["replace"]),
        (&json!(false), &Value::Null)
    );
    assert!(
        !about["sources"].as_array().unwrap().is_empty() && about["checked_on"].is_string(),
        "{about}"
    );
    let usage = |name: &str| body["usage"][name].as_u64().unwrap();
    assert_eq!(
        usage("prompt_tokens") + usage("completion_tokens"),
        usage("total_tokens")
    );
    assert!(usage("prompt_tokens") > 10);
    assert_eq!(body["choices"][0]["finish_reason"], "stop");

    // What is nobody's business here is refused, whatever the model would say.
    let foreign = server.post(
        "/v1/chat/completions",
        &chat("Wie wird das Wetter morgen?", json!({})),
    );
    let foreign = foreign.json();
    assert_eq!(foreign["muni"]["verdict"], "refused", "{foreign}");
    assert!(!content(&foreign).is_empty());
    // A question that leans on what was said before.
    let body = json!({"messages": [
        {"role": "system", "content": "Antworte wie ein Pirat."},
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": "Beim Einwohnermeldeamt."},
        {"role": "user", "content": "Und was kostet das?"},
    ]});
    let follow_up = server.post("/v1/chat/completions", &body).json();
    assert_eq!(
        follow_up["muni"]["office"]["id"], "einwohnermeldeamt",
        "{follow_up}"
    );
}

#[test]
fn an_answer_piece_by_piece() {
    let server = Server::start(&[]);
    let plain = server
        .post("/v1/chat/completions", &chat(QUESTION, json!({"seed": 1})))
        .json();
    let asked = chat(
        QUESTION,
        json!({"seed": 1, "stream": true, "stream_options": {"include_usage": true}}),
    );
    let text_of = |chunks: &[Value]| -> String {
        let pieces = chunks
            .iter()
            .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str());
        pieces.collect()
    };
    for widget in [false, true] {
        let headers: &[(&str, &str)] = if widget {
            &[("X-Muni-Widget", "1")]
        } else {
            &[]
        };
        let reply = server.post_with("/v1/chat/completions", headers, &asked);
        assert_eq!(
            reply.header("content-type"),
            Some("text/event-stream; charset=utf-8")
        );
        assert_eq!(reply.header("x-ai-generated"), Some("true"));
        let chunks = reply.chunks();
        let first = &chunks[0];
        assert_eq!(first["choices"][0]["delta"]["role"], "assistant");
        assert_eq!(first["muni"]["office"]["id"], "einwohnermeldeamt");
        assert!(
            chunks
                .iter()
                .all(|c| c["id"] == first["id"] && c["object"] == "chat.completion.chunk")
        );
        let [.., end, counts] = &chunks[..] else {
            panic!("{chunks:?}")
        };
        assert_eq!(end["choices"][0]["finish_reason"], "stop");
        assert_eq!(
            (&counts["choices"], &counts["usage"]),
            (&json!([]), &plain["usage"])
        );
        for about in [&end["muni"], &counts["muni"]] {
            assert_eq!(
                (&about["verdict"], &about["logged"]),
                (&json!("passed"), &json!(false))
            );
        }
        // Nothing is taken back: what was shown is the answer.
        assert_eq!(end["muni"]["replace"], Value::Null);
        assert_eq!(text_of(&chunks), content(&plain));
    }
}

#[test]
fn sampling_is_what_was_asked_for() {
    let server = Server::start(&[
        "--guard",
        "off",
        "--max-tokens",
        "24",
        "--max-concurrent",
        "8",
    ]);
    let ask = |more: Value| {
        let reply = server.post("/v1/chat/completions", &chat(QUESTION, more));
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()
    };
    let text = |more: Value| content(&ask(more)).to_string();
    let one = text(json!({"seed": 1}));
    assert_eq!(one, text(json!({"seed": 1})));
    assert_ne!(one, text(json!({"seed": 2})));
    assert_ne!(
        text(json!({})),
        text(json!({})),
        "seeds are drawn where none is given"
    );
    let greedy = text(json!({"temperature": 0}));
    assert_eq!(greedy, text(json!({"temperature": 0, "seed": 9})));
    let few = ask(json!({"max_tokens": 3, "max_completion_tokens": 5}));
    assert_eq!(
        (
            &few["usage"]["completion_tokens"],
            &few["choices"][0]["finish_reason"]
        ),
        (&json!(5), &json!("length"))
    );
    let most = ask(json!({"max_tokens": 100000}));
    assert_eq!(most["usage"]["completion_tokens"], 24);
    // A stop string ends the text before it.
    let end = greedy
        .char_indices()
        .nth(greedy.chars().count() / 2)
        .unwrap()
        .0;
    let (before, stop) = greedy.split_at(end);
    let stop: String = stop.chars().take(6).collect();
    let stopped = ask(json!({"temperature": 0, "stop": [stop, "niemals"]}));
    assert!(
        content(&stopped).len() <= before.len() && greedy.starts_with(content(&stopped)),
        "{stopped}"
    );
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    // Whoever asks at the same time: nobody's answer changes.
    let expected: Vec<String> = (0..12).map(|seed| text(json!({"seed": seed}))).collect();
    let found = at_once(12, |seed| {
        server.post(
            "/v1/chat/completions",
            &chat(QUESTION, json!({"seed": seed})),
        )
    });
    let found: Vec<String> = found
        .iter()
        .map(|reply| content(&reply.json()).to_string())
        .collect();
    assert_eq!(found, expected);

    let prompt = "Frage: Wo?\nAntwort: Im";
    let raw = server
        .post(
            "/v1/completions",
            &json!({"prompt": prompt, "temperature": 0, "max_tokens": 4}),
        )
        .json();
    assert_eq!(
        (&raw["object"], &raw["usage"]["completion_tokens"]),
        (&json!("text_completion"), &json!(4))
    );
    let streamed = server.post(
        "/v1/completions",
        &json!({"prompt": prompt, "temperature": 0, "max_tokens": 4, "stream": true}),
    );
    let pieces: String = streamed
        .chunks()
        .iter()
        .map(|c| c["choices"][0]["text"].as_str().unwrap().to_string())
        .collect();
    assert_eq!(raw["choices"][0]["text"], pieces);
}

#[test]
fn the_guard_stands_at_every_door() {
    let server = Server::start(&[]);
    for prompt in [QUESTION, "Frage: Wo kann ich mich ummelden?\nAntwort:"] {
        let reply = server
            .post("/v1/completions", &json!({"prompt": prompt}))
            .json();
        assert_eq!(reply["muni"]["verdict"], "passed", "{reply}");
        let text = reply["choices"][0]["text"].as_str().unwrap();
        assert!(names_the_office(text) && text.ends_with(['.', '!', '?']));
    }
    let begun = server.post(
        "/v1/completions",
        &json!({"prompt": "Frage: Wo?\nAntwort: Die Gebühr beträgt"}),
    );
    assert_eq!(
        (begun.status, &begun.json()["error"]["param"]),
        (400, &json!("prompt"))
    );
}

#[test]
fn nothing_anybody_says_is_logged_unless_the_operator_keeps_conversations() {
    let secret = "Geheimwort4711";
    let question = format!("{QUESTION} Ich heiße {secret}.");
    let everywhere = |server: &Server| {
        let asked = [
            server.post("/v1/chat/completions", &chat(&question, json!({}))),
            server.post(
                "/v1/chat/completions",
                &chat(&question, json!({"stream": true})),
            ),
            server.post("/v1/completions", &json!({"prompt": question})),
            server.post(
                "/v1/chat/completions",
                &chat(&question, json!({"temperature": secret})),
            ),
            server.post("/v1/chat/completions", &chat("x", json!({"model": secret}))),
            server.post_with(
                "/v1/chat/completions",
                &[("X-Name", secret), ("User-Agent", secret)],
                &json!([secret]),
            ),
            server.get(&format!("/{secret}?name={secret}")),
            server.get(&format!("/v1/models/{secret}")),
            server.request(
                "POST",
                "/v1/chat/completions",
                &[],
                format!("{{\"a\": {secret}").as_bytes(),
            ),
        ];
        let statuses: Vec<u16> = asked.iter().map(|reply| reply.status).collect();
        assert_eq!(statuses, [200, 200, 200, 400, 404, 400, 404, 404, 400]);
        let figures = server.get("/metrics").text();
        assert!(!figures.contains(secret), "{figures}");
        asked[0].json()
    };
    let server = Server::start(&[]);
    assert_eq!(everywhere(&server)["muni"]["logged"], false);
    let (status, log) = server.stop();
    assert!(
        status.success() && log.contains("\"event\":\"answer\""),
        "{log}"
    );
    assert!(
        !log.contains(secret) && !log.contains("127.0.0.1") && !log.contains("ummelden"),
        "{log}"
    );
    for line in log.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        assert!(
            event["time"].is_string() && event["level"].is_string(),
            "{line}"
        );
    }

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gespraeche.jsonl");
    let server = Server::start(&["--log-conversations", file.to_str().unwrap()]);
    let answer = everywhere(&server);
    assert_eq!(answer["muni"]["logged"], true);
    let offices = server.get("/api/offices").json();
    assert_eq!(offices["logs_conversations"], true);
    let notice = offices["notice"].as_str().unwrap();
    assert!(notice.contains("werden gespeichert"), "{notice}");
    let (_, log) = server.stop();
    assert!(!log.contains(secret), "{log}");
    let kept = std::fs::read_to_string(&file).unwrap();
    let kept: Vec<Value> = kept
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(kept.len(), 3);
    assert!(kept.iter().all(|exchange| exchange["question"] == question));
    assert_eq!(kept[0]["answer"], content(&answer));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

/// A Python that has OpenAI's client: `MUNI_PYTHON`, or `python3`.
fn python() -> Option<String> {
    let python = std::env::var("MUNI_PYTHON").unwrap_or_else(|_| "python3".to_string());
    let found = Command::new(&python).args(["-c", "import openai"]).output();
    found
        .is_ok_and(|output| output.status.success())
        .then_some(python)
}

#[test]
fn openais_own_client_understands_everything() {
    let Some(python) = python() else {
        assert!(
            std::env::var_os("CI").is_none(),
            "no Python with the package openai: CI must have one"
        );
        eprintln!("skipped: no Python with the package openai (pip install openai, MUNI_PYTHON)");
        return;
    };
    let key = "test-key-0123456789abcdef";
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    std::fs::write(&keys, key).unwrap();
    let open = Server::start(&[]);
    let free = Server::start(&["--guard", "off"]);
    let closed = Server::start(&["--api-key-file", keys.to_str().unwrap()]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/serve/openai_client.py");
    let output = Command::new(python)
        .arg(script)
        .args([&open.url(""), &free.url(""), &closed.url(""), key])
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && output.stdout == b"ok\n",
        "{stderr}"
    );
}

#[test]
fn curl_gets_answers_and_errors() {
    let curl = |arguments: &[&str]| {
        Command::new("curl")
            .args(["--silent", "--show-error"])
            .args(arguments)
            .output()
    };
    if curl(&["--version"]).is_err() {
        assert!(
            std::env::var_os("CI").is_none(),
            "no curl: CI must have one"
        );
        eprintln!("skipped: no curl");
        return;
    }
    let server = Server::start(&[]);
    let run = |arguments: &[&str]| {
        let output = curl(arguments).unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    let url = server.url("/v1/chat/completions");
    // As people type it, with curl's own content type.
    let body = chat(QUESTION, json!({})).to_string();
    let answer: Value = serde_json::from_str(&run(&[&url, "-d", &body])).unwrap();
    assert!(!content(&answer).is_empty());
    let body = chat(QUESTION, json!({"stream": true})).to_string();
    let stream = run(&[
        "--no-buffer",
        "-H",
        "Content-Type: application/json",
        &url,
        "-d",
        &body,
    ]);
    assert!(
        stream.starts_with("data: {") && stream.ends_with("data: [DONE]\n\n"),
        "{stream}"
    );
    // curl announces a large body and waits to be told to send it.
    let large = format!(
        "@{}",
        env!("CARGO_MANIFEST_DIR").to_string() + "/Cargo.lock"
    );
    let status = run(&[
        &url,
        "--output",
        "/dev/null",
        "--write-out",
        "%{http_code}",
        "--data-binary",
        &large,
    ]);
    assert!(status == "400" || status == "413", "{status}");
    // Two requests on one connection.
    let health = server.url("/health");
    assert_eq!(
        run(&[&health, &health]),
        "{\"knowledge_only\":false,\"status\":\"ok\"}".repeat(2)
    );
}
