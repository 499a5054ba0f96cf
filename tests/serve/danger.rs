//! Somebody in danger is told whom to call, whatever the server's guard and the text's length are.

use super::server::Server;
use super::{chat, content};
use serde_json::json;

#[test]
fn help_comes_in_every_mode_and_at_any_length() {
    let story = "Ich wollte nach meinem Antrag fragen. ".repeat(200);
    let long = format!("{story} Meine Mutter atmet nicht mehr!");
    for guard in ["off", "mark", "replace"] {
        let server = Server::start(&["--guard", guard]);
        for text in ["Meine Mutter atmet nicht mehr!", &long] {
            let path = "/v1/chat/completions";
            let whole = server.post(path, &chat(text, json!({})));
            assert_eq!(whole.status, 200, "{guard}");
            assert!(content(&whole.json()).contains("112"), "{guard}");
            let streamed = server.post(path, &chat(text, json!({"stream": true})));
            let pieces = streamed.chunks();
            let pieces = pieces
                .iter()
                .filter_map(|piece| piece["choices"][0]["delta"]["content"].as_str());
            let said: String = pieces.collect();
            assert!(said.contains("112"), "{guard}: {said}");
        }
    }
}
