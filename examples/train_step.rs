//! Trains a small model for a few steps on one sentence, and prints the falling loss.
//!
//! ```sh
//! cargo run --release --example train_step
//! ```

use anyhow::{Result, ensure};
use muni_engine::model::{Batch, Model, ModelConfig, Parameters, random_weights};
use muni_engine::ops::cpu::CpuDevice;
use muni_engine::tokenizer::Tokenizer;
use muni_engine::train::step::Engine;
use muni_engine::train::{Stage, TrainSettings};

fn main() -> Result<()> {
    let device = CpuDevice::new();
    let config = ModelConfig {
        num_hidden_layers: 2,
        hidden_size: 96,
        intermediate_size: 128,
        ..ModelConfig::default_47m()
    };
    let weights = random_weights(&config, 1);
    let parameters = Parameters::upload(&device, &config, &weights)?;
    let model = Model::new(config, parameters)?;
    let settings = TrainSettings {
        batch_size: 1,
        gradient_accumulation_steps: 1,
        ..TrainSettings::preset(Stage::Super)
    };
    let mut engine = Engine::new(&device, model, &weights, &settings, 1)?;

    let tokenizer = Tokenizer::gpt2()?;
    let tokens =
        tokenizer.encode("Frage: Wo melde ich mich um?\nAntwort: Beim Einwohnermeldeamt.")?;
    // Each token is to be predicted from those before it.
    let mut batch = Batch::new();
    batch.push_segment(&tokens[..tokens.len() - 1], &tokens[1..])?;

    let mut losses = Vec::new();
    for step in 1..=10 {
        let result = engine.step(&device, std::slice::from_ref(&batch), step, 1e-3)?;
        println!("step {step}: loss {:.3}", result.loss);
        losses.push(result.loss);
    }
    ensure!(losses[9] < losses[0], "the loss did not fall: {losses:?}");
    Ok(())
}
