//! Requests that are refused, clients that misbehave, and the end of the server.

use super::server::{PATIENCE, Reply, Server, at_once, pieces};
use super::{QUESTION, chat, content, names_the_office};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::process::Command;

#[test]
fn malformed_requests_are_refused_by_name_and_harm_nobody() {
    let server = Server::start(&["--max-body", "2000"]);
    let long = "Wo kann ich mich ummelden? ".repeat(60);
    let deep = "[".repeat(1000);
    let bodies: Vec<(Vec<u8>, u16, Option<&str>)> = vec![
        (b"".to_vec(), 400, None),
        (b"{".to_vec(), 400, None),
        (b"null".to_vec(), 400, None),
        (b"\xff\xfe{}".to_vec(), 400, None),
        (deep.into_bytes(), 400, None),
        (vec![0; 1999], 400, None),
        (vec![b' '; 2001], 413, None),
        (b"{}".to_vec(), 400, Some("messages")),
        (
            chat("", json!({})).to_string().into_bytes(),
            400,
            Some("messages"),
        ),
        // The model cannot read it, the knowledge base can.
        (chat(&long, json!({})).to_string().into_bytes(), 200, None),
        (
            chat(QUESTION, json!({"temperature": 1e300}))
                .to_string()
                .into_bytes(),
            400,
            Some("temperature"),
        ),
        (
            chat(QUESTION, json!({"max_tokens": -1}))
                .to_string()
                .into_bytes(),
            400,
            Some("max_tokens"),
        ),
        (
            chat(QUESTION, json!({"stream": 1}))
                .to_string()
                .into_bytes(),
            400,
            Some("stream"),
        ),
        (
            chat(QUESTION, json!({"model": "llama"}))
                .to_string()
                .into_bytes(),
            404,
            Some("model"),
        ),
        (
            chat("<|endoftext|>\u{0}\u{202e}🏛", json!({}))
                .to_string()
                .into_bytes(),
            200,
            None,
        ),
    ];
    for (body, status, param) in &bodies {
        let reply = server.request("POST", "/v1/chat/completions", &[], body);
        let shown = String::from_utf8_lossy(body)
            .chars()
            .take(60)
            .collect::<String>();
        assert_eq!(reply.status, *status, "{shown}: {}", reply.text());
        if *status != 200 {
            let error = &reply.json()["error"];
            assert_eq!(error["param"].as_str(), *param, "{shown}: {error}");
            assert!(error["message"].as_str().unwrap().len() > 10 && error["type"].is_string());
        }
    }
    // Bytes that are no HTTP.
    for raw in [
        &b"\r\n\r\n\r\n"[..],
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: \
          chunked\r\n\r\nzz\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n\
          {\"messages\":",
    ] {
        let mut stream = server.connect();
        stream.write_all(raw).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        // Refused or dropped; a connection that was reset is as good.
        let _ = stream.read_to_end(&mut answer);
        if !answer.is_empty() {
            assert!(Reply::parse(&answer).status >= 400, "{}", String::from_utf8_lossy(&answer));
        }
    }
    let many = format!(
        "GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n",
        "a".repeat(40_000)
    );
    let mut stream = server.connect();
    let _ = stream.write_all(many.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.is_empty() || Reply::parse(&answer).status == 431);

    let reply = server.post("/v1/chat/completions", &chat(QUESTION, json!({})));
    assert_eq!(reply.status, 200);
    let (status, _) = server.stop();
    assert!(status.success());
}

#[test]
fn slow_clients_do_not_keep_others_waiting() {
    let server = Server::start(&["--max-concurrent", "2"]);
    let body = chat(QUESTION, json!({"stream": true})).to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n",
        body.len()
    );
    let slow: Vec<_> = (0..24)
        .map(|i| {
            let mut stream = server.connect();
            let sent = match i % 4 {
                // Half of the headers, half of the body, a whole request whose answer is never
                // read, nothing.
                0 => head.clone(),
                1 => format!("{head}\r\n{}", &body[..body.len() / 2]),
                2 => format!("{head}\r\n{body}"),
                _ => String::new(),
            };
            stream.write_all(sent.as_bytes()).unwrap();
            stream
        })
        .collect();
    for _ in 0..5 {
        let reply = server.post("/v1/chat/completions", &chat(QUESTION, json!({})));
        assert_eq!(reply.status, 200);
    }
    // One that goes on, piece by piece, is answered.
    let mut late = server.connect();
    for piece in format!("{head}\r\n{body}").as_bytes().chunks(40) {
        late.write_all(piece).unwrap();
    }
    let answer = pieces(late).recv_timeout(PATIENCE).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"));
    drop(slow);
}

/// A server of long answers: nonsense without end, if asked with [`nonsense`].
fn endless(arguments: &[&str]) -> Server {
    let fixed = ["--guard", "off", "--max-tokens", "4000"];
    Server::with_context(4096, &[&fixed[..], arguments].concat())
}

/// A question that [`endless`] answers up to the last token allowed. The most likely token of a
/// random model is not the end of the text; one drawn at random is, now and then.
fn nonsense(more: Value) -> Value {
    let mut body = chat(QUESTION, more);
    body["temperature"] = json!(0);
    body
}

#[test]
fn an_answer_that_nobody_waits_for_is_given_up() {
    let server = endless(&["--max-concurrent", "1"]);
    for (count, stream) in [(1, true), (2, false)] {
        let body = nonsense(json!({"stream": stream})).to_string();
        let connection = server.open("POST", "/v1/chat/completions", &[], body.as_bytes());
        if stream {
            let pieces = pieces(connection.try_clone().unwrap());
            assert!(pieces.recv_timeout(PATIENCE).is_ok());
        }
        server.wait_until("running", |server| server.figure("muni_running") == 1);
        connection.shutdown(Shutdown::Both).unwrap();
        drop(connection);
        server.wait_until("cancelled", |server| {
            server.figure("muni_cancelled_total") == count && server.figure("muni_running") == 0
        });
    }
    // None of the two was made to its end, and the place is free.
    assert_eq!(server.figure("muni_answer_seconds_count"), 0);
    let reply = server.post("/v1/chat/completions", &nonsense(json!({"max_tokens": 3})));
    assert_eq!(reply.status, 200);
}

#[test]
fn a_full_queue_says_so_and_when_to_come_back() {
    let server = endless(&["--max-concurrent", "1", "--queue", "1"]);
    // One is being answered, one waits: the third finds no place.
    let body = nonsense(json!({"stream": true})).to_string();
    let open = || pieces(server.open("POST", "/v1/chat/completions", &[], body.as_bytes()));
    let first = open();
    assert!(first.recv_timeout(PATIENCE).is_ok());
    server.wait_until("running", |server| server.figure("muni_running") == 1);
    let second = open();
    assert!(
        second
            .recv_timeout(PATIENCE)
            .unwrap()
            .starts_with(b"HTTP/1.1 200")
    );
    let third = server.post("/v1/chat/completions", &nonsense(json!({})));
    assert_eq!(
        (third.status, &third.json()["error"]["code"]),
        (429, &json!("queue_full"))
    );
    let seconds: u64 = third.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=30).contains(&seconds));
    assert!(
        server
            .get("/metrics")
            .text()
            .contains("muni_refused_total{reason=\"queue_full\"} 1")
    );
}

#[test]
fn an_answer_that_takes_too_long_ends_with_an_error() {
    let server = endless(&["--request-timeout", "0.3"]);
    let plain = server.post("/v1/chat/completions", &nonsense(json!({})));
    assert_eq!(
        (plain.status, &plain.json()["error"]["code"]),
        (503, &json!("timeout"))
    );
    assert!(plain.header("retry-after").is_some());
    let stream = server.post("/v1/chat/completions", &nonsense(json!({"stream": true})));
    let chunks = stream.chunks();
    assert_eq!(
        (stream.status, &chunks.last().unwrap()["error"]["code"]),
        (200, &json!("timeout"))
    );
    server.wait_until("given up", |server| server.figure("muni_running") == 0);
}

#[test]
fn a_stopping_server_finishes_what_it_began_and_takes_no_more() {
    let mut server = endless(&["--shutdown-timeout", "100"]);
    let body = nonsense(json!({"stream": true, "max_tokens": 1500})).to_string();
    let stream = pieces(server.open("POST", "/v1/chat/completions", &[], body.as_bytes()));
    let mut answer = stream.recv_timeout(PATIENCE).unwrap();
    server.wait_until("running", |server| server.figure("muni_running") == 1);
    server.terminate();
    // Open doors, but no new work, as long as the old is not done.
    let mut refused = 0;
    while refused == 0 && !server.has_ended() {
        let Ok(mut connection) = std::net::TcpStream::connect(server.address) else {
            break;
        };
        let request =
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}";
        let mut reply = Vec::new();
        if connection
            .write_all(request)
            .and_then(|()| connection.read_to_end(&mut reply))
            .is_ok()
            && !reply.is_empty()
        {
            let reply = Reply::parse(&reply);
            if reply.status == 503 {
                assert_eq!(reply.json()["error"]["code"], "shutting_down");
                assert!(reply.header("retry-after").is_some());
                refused += 1;
            }
        }
    }
    while let Ok(piece) = stream.recv_timeout(PATIENCE) {
        answer.extend(piece);
    }
    let chunks = Reply::parse(&answer).chunks();
    assert_eq!(
        chunks.last().unwrap()["choices"][0]["finish_reason"],
        "length"
    );
    let (status, log) = server.stop();
    assert!(status.success(), "{log}");
    assert!(
        log.contains("\"signal\":\"SIGTERM\"") && log.contains("\"event\":\"stopped\""),
        "{log}"
    );
    assert_eq!(refused, 1, "{log}");
}

#[test]
fn a_stopping_server_does_not_wait_for_ever() {
    let server = endless(&["--shutdown-timeout", "0.2"]);
    let body = nonsense(json!({"stream": true})).to_string();
    let stream = pieces(server.open("POST", "/v1/chat/completions", &[], body.as_bytes()));
    assert!(stream.recv_timeout(PATIENCE).is_ok());
    server.wait_until("running", |server| server.figure("muni_running") == 1);
    let (status, log) = server.stop();
    assert!(
        status.success() && log.contains("stopped_with_open_connections"),
        "{log}"
    );
}

#[test]
fn keys_open_the_api_and_nothing_else_needs_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    std::fs::write(
        &file,
        "# staff\nfirst-key-0123456789\nsecond-key-0123456789\n",
    )
    .unwrap();
    let server = Server::start(&["--api-key-file", file.to_str().unwrap()]);
    let body = chat(QUESTION, json!({"max_tokens": 2}));
    for (header, status) in [
        ("Bearer first-key-0123456789", 200),
        ("Bearer second-key-0123456789", 200),
        ("Bearer third-key-0123456789", 401),
        ("Bearer # staff", 401),
        ("Basic first-key-0123456789", 401),
    ] {
        let reply = server.post_with("/v1/chat/completions", &[("Authorization", header)], &body);
        assert_eq!(reply.status, status, "{header}");
    }
    for (path, status) in [
        ("/v1/models", 401),
        ("/v1/models/muni", 401),
        ("/metrics", 401),
        ("/", 200),
        ("/api/offices", 200),
        ("/health", 200),
        ("/ready", 200),
    ] {
        let reply = server.get(path);
        assert_eq!(reply.status, status, "{path}");
        if status == 401 {
            assert_eq!(reply.json()["error"]["code"], "invalid_api_key");
            assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
        }
    }
    let (_, log) = server.stop();
    assert!(!log.contains("key-0123456789"), "{log}");
}

#[test]
fn pages_of_other_origins_need_to_be_on_the_list() {
    let listed = "https://www.musterstadt.de";
    let server = Server::start(&[
        "--allow-origin",
        listed,
        "--allow-origin",
        "http://localhost:9",
    ]);
    let body = chat(QUESTION, json!({"max_tokens": 2}));
    let own = format!("http://{}", server.address);
    for (origin, status, allowed) in [
        (listed, 200, Some(listed)),
        ("http://localhost:9", 200, Some("http://localhost:9")),
        (own.as_str(), 200, None),
        ("https://evil.example", 403, None),
        ("http://www.musterstadt.de", 403, None),
        ("null", 403, None),
    ] {
        let reply = server.post_with("/v1/chat/completions", &[("Origin", origin)], &body);
        assert_eq!(reply.status, status, "{origin}");
        assert_eq!(
            reply.header("access-control-allow-origin"),
            allowed,
            "{origin}"
        );
        assert_eq!(reply.header("vary"), Some("Origin"));
        let asks = [
            ("Origin", origin),
            ("Access-Control-Request-Method", "POST"),
            (
                "Access-Control-Request-Headers",
                "content-type,x-muni-widget",
            ),
        ];
        let preflight = server.request("OPTIONS", "/v1/chat/completions", &asks, b"");
        assert_eq!(
            preflight.header("access-control-allow-origin"),
            allowed,
            "{origin}"
        );
        match allowed {
            Some(_) => {
                assert_eq!(preflight.status, 204);
                let headers = preflight.header("access-control-allow-headers").unwrap();
                assert!(headers.contains("x-muni-widget") && headers.contains("content-type"));
            }
            None => assert!(preflight.header("access-control-allow-headers").is_none()),
        }
    }
}

#[test]
fn one_client_may_not_ask_too_often() {
    let server = Server::start(&[
        "--rate-limit",
        "3",
        "--trusted-proxy",
        "127.0.0.1",
        "--guard",
        "off",
    ]);
    let ask = |client: &str| {
        let body = chat(QUESTION, json!({"max_tokens": 1}));
        server.post_with(
            "/v1/chat/completions",
            &[("X-Forwarded-For", client)],
            &body,
        )
    };
    for client in ["203.0.113.1", "198.51.100.2", "1.2.3.4, 203.0.113.9"] {
        for _ in 0..3 {
            assert_eq!(ask(client).status, 200);
        }
    }
    // What the client writes in front of its address does not make it another.
    for client in ["203.0.113.1", "5.6.7.8, 203.0.113.9"] {
        let reply = ask(client);
        assert_eq!(
            (reply.status, &reply.json()["error"]["code"]),
            (429, &json!("rate_limit_exceeded"))
        );
        let seconds: u64 = reply.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=20).contains(&seconds), "{seconds}");
    }
    // Reading is free.
    for _ in 0..10 {
        assert_eq!(server.get("/health").status, 200);
    }
}

#[test]
fn wrong_usage_is_told_apart_from_what_cannot_be_done() {
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_muni-engine"))
            .arg("serve")
            .args(arguments)
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code().unwrap(), stderr)
    };
    for (arguments, code, part) in [
        (&["--allow-origin", "*"][..], 2, "no origin"),
        (&["--guard", "on"], 2, "replace"),
        (&["--request-timeout", "0"], 2, "seconds"),
        (&["--trusted-proxy", "proxy.local"], 2, "--trusted-proxy"),
        (&["--port", "0", "--max-concurrent", "65"], 1, "1 to 64"),
        (&["--port", "0", "--api-key-file", "nowhere"], 1, "nowhere"),
        (
            &["--port", "0", "--model-path", "nowhere"],
            1,
            "nowhere does not exist",
        ),
    ] {
        let (found, stderr) = run(arguments);
        assert_eq!(found, code, "{arguments:?}: {stderr}");
        assert!(stderr.contains(part), "{arguments:?}: {stderr}");
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (code, stderr) = run(&["--port", &port]);
    assert!(code == 1 && stderr.contains("--port"), "{stderr}");
}

#[test]
fn mixed_traffic_leaves_the_server_as_it_was() {
    let server = Server::start(&["--max-concurrent", "8", "--queue", "200"]);
    let healthy = |i: usize| chat(QUESTION, json!({"seed": i, "stream": i.is_multiple_of(2)}));
    let replies = at_once(60, |i| match i % 5 {
        0 => server.request(
            "POST",
            "/v1/chat/completions",
            &[],
            b"{\"messages\": [{\"role\"",
        ),
        1 => {
            // Goes away in the middle of its answer; then asks how the server is.
            let body = chat(QUESTION, json!({"stream": true})).to_string();
            drop(server.open("POST", "/v1/chat/completions", &[], body.as_bytes()));
            server.get("/health")
        }
        _ => server.post("/v1/chat/completions", &healthy(i)),
    });
    let mut texts: Vec<Value> = Vec::new();
    for (i, reply) in replies.iter().enumerate() {
        assert_eq!(
            reply.status,
            if i % 5 == 0 { 400 } else { 200 },
            "{i}: {}",
            reply.text()
        );
        match (i % 5, i % 2) {
            (0 | 1, _) => {}
            (_, 0) => assert_eq!(
                reply.chunks().last().unwrap()["choices"][0]["finish_reason"],
                "stop"
            ),
            _ => texts.push(json!(content(&reply.json()))),
        }
    }
    // All are wordings of the same true answer.
    let whole = |text: &&Value| {
        let text = text.as_str().unwrap_or_default();
        names_the_office(text) && text.ends_with(['.', '!', '?']) && !text.contains('{')
    };
    assert!(
        texts.len() > 10 && texts.iter().filter(whole).count() == texts.len(),
        "{texts:?}"
    );
    server.wait_until("quiet", |server| {
        server.figure("muni_running") == 0 && server.figure("muni_connections") == 1
    });
    let (status, _) = server.stop();
    assert!(status.success());
}
