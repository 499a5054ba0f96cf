//! The real binary as a server on a tiny random model, and a small HTTP client that hides nothing.

use muni_engine::hf::save_folder;
use muni_engine::model::{ModelConfig, random_weights};
use muni_engine::tokenizer::Tokenizer;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Long enough for any machine; nothing waits for it unless something is wrong.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A model folder with random weights: its answers are nonsense, which the guard must replace.
pub fn tiny_model(folder: &Path, context: usize) -> PathBuf {
    let config = ModelConfig {
        max_position_embeddings: context,
        ..crate::hf::tiny_config()
    };
    let path = folder.join("model");
    let weights = random_weights(&config, 5);
    save_folder(&path, &config, &weights, Some(&Tokenizer::gpt2().unwrap())).unwrap();
    path
}

/// What tests need unless they ask for something else: no limit that a slow machine could hit, and
/// short answers.
fn defaults(given: &[&str]) -> Vec<&'static str> {
    [
        ["--rate-limit", "0"],
        ["--request-timeout", "3600"],
        ["--max-tokens", "24"],
    ]
    .into_iter()
    .filter(|[name, _]| !given.contains(name))
    .flatten()
    .collect()
}

/// A running server; it is killed when dropped.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
    /// The first line that it wrote to standard error.
    pub listening: Value,
    /// Everything that it wrote there after that.
    log: Option<JoinHandle<String>>,
    folder: tempfile::TempDir,
}

impl Server {
    /// Starts with a context of 256 tokens, the bundled knowledge and no rate limit.
    pub fn start(arguments: &[&str]) -> Self {
        Self::with_context(256, arguments)
    }

    pub fn with_context(context: usize, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = tiny_model(folder.path(), context);
        Self::launch(folder, Some(&model), arguments)
    }

    /// Starts in a folder that holds no model.
    pub fn without_model(arguments: &[&str]) -> Self {
        Self::launch(tempfile::tempdir().unwrap(), None, arguments)
    }

    /// The folder of its model.
    pub fn model(&self) -> PathBuf {
        self.folder.path().join("model")
    }

    fn launch(folder: tempfile::TempDir, model: Option<&Path>, arguments: &[&str]) -> Self {
        let knowledge = Path::new(env!("CARGO_MANIFEST_DIR")).join("knowledge");
        let mut child = Command::new(env!("CARGO_BIN_EXE_muni-engine"))
            .current_dir(folder.path())
            .args(["serve", "--port", "0", "--device", "cpu", "--threads", "1"])
            .args(model.map(|_| "--model-path"))
            .args(model)
            .args(defaults(arguments))
            .arg("--knowledge")
            .arg(knowledge)
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut first = String::new();
        stderr.read_line(&mut first).unwrap();
        let line: Value = serde_json::from_str(&first).unwrap_or_else(|_| {
            let mut rest = String::new();
            let _ = stderr.read_to_string(&mut rest);
            panic!("the server did not start: {first}{rest}")
        });
        assert_eq!(line["event"], "listening", "{first}");
        let log = std::thread::spawn(move || {
            let mut all = String::new();
            let _ = stderr.read_to_string(&mut all);
            all
        });
        Self {
            child,
            address: line["address"].as_str().unwrap().parse().unwrap(),
            listening: line,
            log: Some(log),
            folder,
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn get(&self, path: &str) -> Reply {
        self.request("GET", path, &[], b"")
    }

    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.post_with(path, &[], body)
    }

    pub fn post_with(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Reply {
        self.request("POST", path, headers, body.to_string().as_bytes())
    }

    /// Sends a request on a connection of its own and reads to the end.
    pub fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Reply {
        let mut stream = self.open(method, path, headers, body);
        let mut raw = Vec::new();
        stream.read_to_end(&mut raw).unwrap();
        Reply::parse(&raw)
    }

    /// Sends a request and leaves the reading to the caller.
    pub fn open(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> TcpStream {
        let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        if !headers.iter().any(|(name, _)| *name == "Host") {
            head += &format!("Host: {}\r\n", self.address);
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        if method == "POST" {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        let mut stream = self.connect();
        let bytes = [head.as_bytes(), b"\r\n", body].concat();
        stream.write_all(&bytes).unwrap();
        stream
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// The value of a figure without labels.
    pub fn figure(&self, name: &str) -> u64 {
        let text = self.get("/metrics").text();
        let line = text.lines().find_map(|line| {
            let (found, value) = line.split_once(' ')?;
            (found == name).then(|| value.parse().unwrap())
        });
        line.unwrap_or_else(|| panic!("no {name} in\n{text}"))
    }

    /// Waits until something holds.
    pub fn wait_until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !holds(self) {
            assert!(start.elapsed() < PATIENCE, "{what}: never");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn terminate(&self) {
        let status = Command::new("kill")
            .args(["-TERM", &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// Whether the process has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Stops it by SIGTERM; its exit status and log.
    pub fn stop(mut self) -> (ExitStatus, String) {
        if !self.has_ended() {
            self.terminate();
        }
        let status = self.child.wait().unwrap();
        (status, self.log.take().unwrap().join().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A response.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn parse(raw: &[u8]) -> Self {
        let end = raw.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no response: {:?}", String::from_utf8_lossy(raw)));
        let head = std::str::from_utf8(&raw[..end]).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap();
        let headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(':').unwrap())
            .map(|(name, value)| (name.to_lowercase(), value.trim().to_string()))
            .collect();
        let mut reply = Self {
            status: status.parse().unwrap(),
            headers,
            body: raw[end + 4..].to_vec(),
        };
        if reply.header("transfer-encoding") == Some("chunked") {
            reply.body = whole(&reply.body);
        }
        reply
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(n, _)| n == name);
        let value = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} stands twice");
        value
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }

    /// The `data:` of each server-sent event.
    pub fn events(&self) -> Vec<String> {
        let text = self.text();
        assert!(text.ends_with("\n\n"), "{text:?}");
        let events = text.trim_end().split("\n\n");
        events
            .map(|event| event.strip_prefix("data: ").unwrap().to_string())
            .collect()
    }

    /// The JSON of each event before `[DONE]`, which must be the last.
    pub fn chunks(&self) -> Vec<Value> {
        let mut events = self.events();
        assert_eq!(events.pop().unwrap(), "[DONE]");
        events
            .iter()
            .map(|event| serde_json::from_str(event).unwrap())
            .collect()
    }
}

/// A chunked body without its framing; it must be complete.
fn whole(mut framed: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let end = framed.windows(2).position(|two| two == b"\r\n").unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&framed[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&framed[end + 2..end + 2 + size]);
        framed = &framed[end + 4 + size..];
    }
}

/// Sends requests at the same time, each on a thread of its own; replies in their order.
pub fn at_once(count: usize, send: impl Fn(usize) -> Reply + Sync) -> Vec<Reply> {
    std::thread::scope(|scope| {
        let send = &send;
        let threads: Vec<_> = (0..count).map(|i| scope.spawn(move || send(i))).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

/// What a stream's reader sees, piece by piece.
pub fn pieces(mut stream: TcpStream) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut buffer = [0u8; 4096];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            if sender.send(buffer[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}
