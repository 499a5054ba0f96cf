//! Answers questions: from a trained model, or from the knowledge base alone.
//!
//! ```sh
//! cargo run --release --example answer -- "Was kostet ein Reisepass?"
//! cargo run --release --example answer -- --model runs/first/best_model \
//!     "Was kostet ein Reisepass?"
//! ```

use anyhow::{Result, ensure};
use std::path::PathBuf;

fn main() -> Result<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let model = match arguments.first().map(String::as_str) {
        Some("--model") => {
            ensure!(arguments.len() > 1, "--model needs a folder");
            arguments.remove(0);
            Some(PathBuf::from(arguments.remove(0)))
        }
        _ => None,
    };
    if arguments.is_empty() {
        arguments.push("Wo kann ich mich ummelden?".to_string());
    }
    let city = muni_engine::open(model.as_deref())?;
    for question in &arguments {
        let reply = city.ask(question)?;
        println!("Frage: {question}\nAntwort: {}", reply.text);
        if let Some(service) = &reply.service {
            println!("Leistung: {} {:?}", service.title, reply.intents);
        }
        println!(
            "Belegt: {}, Quelle: {}\n",
            reply.is_supported(),
            reply.sources.join("; ")
        );
    }
    Ok(())
}
