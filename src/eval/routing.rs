//! Which expert serves what: counts of the router's choices by layer, office and kind of token, and
//! what they amount to.
//!
//! Every token is counted once for each expert that serves it, so each layer's counts sum to tokens
//! times experts per token.

mod classes;
mod measures;
mod report;

pub use classes::{TokenClass, classify};
pub(crate) use measures::{Information, entropy_bits, load_balancing_loss, mutual_information};
pub(crate) use report::{html, table};

use crate::model::{Batch, LayerRoutes, Model, ModelConfig, Workspace};
use crate::ops::{IGNORE_TARGET, Operations, Planner};
use crate::tokenizer::Tokenizer;
use anyhow::{Context, Result, ensure};
use serde::Serialize;

/// Tokens computed at once; every layer keeps its activations, so a batch is smaller than
/// elsewhere.
const BATCH_TOKENS: usize = 1024;

/// A text and the office it is about.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelledText {
    /// Index into [`Corpus::offices`].
    pub office: usize,
    /// The tokens that the model reads.
    pub tokens: Vec<u32>,
}

/// The texts to look at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Corpus {
    /// Names of the offices.
    pub offices: Vec<String>,
    /// The texts.
    pub texts: Vec<LabelledText>,
}

/// How to analyse.
#[derive(Clone, Copy, Debug)]
pub struct RoutingSettings {
    /// How often the office labels are shuffled among the texts, for the baseline of the mutual
    /// information.
    pub permutations: usize,
    /// Seed of the shuffling.
    pub seed: u64,
    /// How many tokens are named per expert.
    pub top_tokens: usize,
    /// A token must occur at least so often to be named.
    pub min_count: u64,
}

impl Default for RoutingSettings {
    fn default() -> Self {
        Self {
            permutations: 200,
            seed: 0,
            top_tokens: 10,
            min_count: 10,
        }
    }
}

/// A named group of tokens.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Number of its tokens.
    pub tokens: u64,
}

/// A token that an expert serves more often than others do.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TopToken {
    /// Its id.
    pub id: u32,
    /// Its text; half a character becomes U+FFFD.
    pub text: String,
    /// How often this expert served it.
    pub count: u64,
    /// Pointwise mutual information with the expert, in bits: `log2(n(t,e) n / (n(t) n(e)))` over
    /// the layer's choices.
    pub pmi_bits: f64,
}

/// One layer of [`RoutingReport`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerReport {
    /// Its number, from 0.
    pub layer: usize,
    /// Tokens served by each expert `[E]`.
    pub counts: Vec<u64>,
    /// Of these, tokens for which the expert was the first choice `[E]`.
    pub first_choice: Vec<u64>,
    /// Load of the busiest expert over the mean load; 1 is balanced.
    pub max_over_mean: f64,
    /// Load of the idlest expert over the mean load.
    pub min_over_mean: f64,
    /// Entropy of the load over the experts; `log2 E` is balanced.
    pub entropy_bits: f64,
    /// Mean over the tokens of the entropy of the router's probabilities: 0 where it is always
    /// sure.
    pub router_entropy_bits: f64,
    /// Transformers' load-balancing loss of this layer alone; K is balanced.
    pub aux_loss: f64,
    /// Tokens served, by office and expert `[O, E]`.
    pub by_office: Vec<Vec<u64>>,
    /// Tokens served, by token class and expert `[C, E]`.
    pub by_class: Vec<Vec<u64>>,
    /// What an expert tells about the office.
    pub office_information: Information,
    /// What an expert tells about the token class, in bits.
    pub class_information_bits: f64,
    /// For each expert the tokens it is most peculiar for.
    pub top_tokens: Vec<Vec<TopToken>>,
}

/// The whole analysis.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RoutingReport {
    /// Number of texts.
    pub texts: usize,
    /// Texts longer than the model's context, of which only the beginning was read.
    pub shortened: usize,
    /// Number of tokens.
    pub tokens: u64,
    /// Experts per layer, E.
    pub experts: usize,
    /// Experts that serve a token, K.
    pub experts_per_token: usize,
    /// Transformers' `load_balancing_loss_func` over all layers and tokens at once; K is balanced,
    /// E is one expert for all.
    pub aux_loss: f64,
    /// The offices.
    pub offices: Vec<Group>,
    /// The token classes.
    pub classes: Vec<Group>,
    /// How often labels were shuffled for the baseline.
    pub permutations: usize,
    /// The layers.
    pub layers: Vec<LayerReport>,
}

/// What is counted in one layer.
struct LayerCounts {
    first_choice: Vec<u64>,
    prob_sums: Vec<f64>,
    router_entropy: f64,
    /// `[texts, E]`
    by_text: Vec<Vec<u64>>,
    /// `[C, E]`
    by_class: Vec<Vec<u64>>,
    /// `[V, E]`, flat.
    by_token: Vec<u32>,
}

/// Runs all texts through the model and analyses where its router sends them. `progress` is called
/// with the number of finished texts.
///
/// # Errors
/// If there is no token, an office index is out of range, a token is outside the vocabulary, or the
/// device fails.
pub fn routing<D: Operations + Planner>(
    device: &D,
    model: &Model<D>,
    tokenizer: &Tokenizer,
    corpus: &Corpus,
    settings: &RoutingSettings,
    progress: &mut dyn FnMut(usize),
) -> Result<RoutingReport> {
    let config = &model.config;
    let longest = config.max_position_embeddings;
    let shortened = corpus
        .texts
        .iter()
        .filter(|text| text.tokens.len() > longest)
        .count();
    let texts: Vec<&[u32]> = corpus
        .texts
        .iter()
        .map(|text| &text.tokens[..text.tokens.len().min(longest)])
        .collect();
    let tokens: usize = texts.iter().map(|text| text.len()).sum();
    ensure!(tokens > 0, "there is no text to analyse");
    for text in &corpus.texts {
        ensure!(
            text.office < corpus.offices.len(),
            "a text belongs to office {}, expected less than {}",
            text.office,
            corpus.offices.len()
        );
    }
    let classes = texts
        .iter()
        .map(|text| classify(tokenizer, text))
        .collect::<Result<Vec<_>>>()?;
    let mut counts: Vec<LayerCounts> = (0..config.num_hidden_layers)
        .map(|_| LayerCounts::new(config, texts.len()))
        .collect();
    let batches = batches(&texts);
    let rows = BATCH_TOKENS.max(texts.iter().map(|text| text.len()).max().unwrap_or(0));
    let segments = batches.iter().map(|batch| batch.len()).max().unwrap_or(1);
    let mut workspace = Workspace::for_inspection(device, config, rows, segments)?;
    let mut done = 0;
    for members in &batches {
        let mut batch = Batch::new();
        for &index in members {
            let targets = vec![IGNORE_TARGET; texts[index].len()];
            batch.push_segment(texts[index], &targets)?;
        }
        let routes = model.routes(device, &batch, &mut workspace)?;
        for (counts, routes) in counts.iter_mut().zip(&routes) {
            counts.add(config, routes, members, &texts, &classes)?;
        }
        done += members.len();
        progress(done);
    }
    // Empty ones, too.
    progress(texts.len());
    let analysis = Analysis {
        config,
        tokenizer,
        corpus,
        settings,
        tokens: tokens as u64,
    };
    let layers = counts
        .iter()
        .enumerate()
        .map(|(layer, counts)| analysis.layer(layer, counts))
        .collect::<Result<Vec<_>>>()?;
    Ok(RoutingReport {
        texts: texts.len(),
        shortened,
        tokens: tokens as u64,
        experts: config.num_local_experts,
        experts_per_token: config.num_experts_per_tok,
        aux_loss: analysis.loss_over_layers(&counts, &layers),
        offices: analysis.offices(&texts),
        classes: analysis.classes(&classes),
        permutations: settings.permutations,
        layers,
    })
}

/// Which texts share a pass; empty texts are left out.
fn batches(texts: &[&[u32]]) -> Vec<Vec<usize>> {
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut filled = usize::MAX;
    for (index, text) in texts
        .iter()
        .enumerate()
        .filter(|(_, text)| !text.is_empty())
    {
        match batches.last_mut() {
            Some(batch) if filled + text.len() <= BATCH_TOKENS => {
                batch.push(index);
                filled += text.len();
            }
            _ => {
                batches.push(vec![index]);
                filled = text.len();
            }
        }
    }
    batches
}

impl LayerCounts {
    fn new(config: &ModelConfig, texts: usize) -> Self {
        let experts = config.num_local_experts;
        Self {
            first_choice: vec![0; experts],
            prob_sums: vec![0.0; experts],
            router_entropy: 0.0,
            by_text: vec![vec![0; experts]; texts],
            by_class: vec![vec![0; experts]; TokenClass::ALL.len()],
            by_token: vec![0; config.vocab_size * experts],
        }
    }

    fn add(
        &mut self,
        config: &ModelConfig,
        routes: &LayerRoutes,
        members: &[usize],
        texts: &[&[u32]],
        classes: &[Vec<TokenClass>],
    ) -> Result<()> {
        let (experts, top_k) = (config.num_local_experts, config.num_experts_per_tok);
        let tokens = members.iter().flat_map(|&index| {
            let pairs = texts[index].iter().zip(&classes[index]);
            pairs.map(move |(&token, &class)| (index, token, class))
        });
        let choices = routes.experts.chunks_exact(top_k);
        let probs = routes.probs.chunks_exact(experts);
        for (((text, token, class), chosen), probs) in tokens.zip(choices).zip(probs) {
            for (rank, &expert) in chosen.iter().enumerate() {
                let expert = expert as usize;
                ensure!(
                    expert < experts,
                    "the router chose expert {expert} of {experts}"
                );
                self.first_choice[expert] += u64::from(rank == 0);
                self.by_text[text][expert] += 1;
                self.by_class[class as usize][expert] += 1;
                self.by_token[token as usize * experts + expert] += 1;
            }
            for (sum, &prob) in self.prob_sums.iter_mut().zip(probs) {
                *sum += f64::from(prob);
            }
            self.router_entropy += probs
                .iter()
                .filter(|&&prob| prob > 0.0)
                .map(|&prob| -f64::from(prob) * f64::from(prob).log2())
                .sum::<f64>();
        }
        Ok(())
    }
}

/// What all layers' analyses share.
struct Analysis<'a> {
    config: &'a ModelConfig,
    tokenizer: &'a Tokenizer,
    corpus: &'a Corpus,
    settings: &'a RoutingSettings,
    tokens: u64,
}

impl Analysis<'_> {
    fn layer(&self, layer: usize, counts: &LayerCounts) -> Result<LayerReport> {
        let labels: Vec<usize> = self.corpus.texts.iter().map(|text| text.office).collect();
        let by_office = measures::joint(&counts.by_text, &labels, self.corpus.offices.len());
        let totals = measures::column_sums(&counts.by_class);
        let mean = totals.iter().sum::<u64>() as f64 / totals.len() as f64;
        let extreme = |value: Option<&u64>| value.map_or(0.0, |&value| value as f64 / mean);
        Ok(LayerReport {
            layer,
            max_over_mean: extreme(totals.iter().max()),
            min_over_mean: extreme(totals.iter().min()),
            entropy_bits: entropy_bits(&totals),
            router_entropy_bits: counts.router_entropy / self.tokens as f64,
            aux_loss: load_balancing_loss(&totals, &counts.prob_sums, self.tokens),
            office_information: Information::new(
                &counts.by_text,
                &labels,
                self.corpus.offices.len(),
                self.settings.permutations,
                // Each layer is shuffled anew.
                self.settings.seed.wrapping_add(layer as u64),
            ),
            class_information_bits: mutual_information(&counts.by_class),
            top_tokens: (0..totals.len())
                .map(|expert| self.top_tokens(expert, counts, &totals))
                .collect::<Result<_>>()?,
            first_choice: counts.first_choice.clone(),
            by_class: counts.by_class.clone(),
            by_office,
            counts: totals,
        })
    }

    /// The tokens that an expert serves more than its share of all choices would be, the most
    /// peculiar first; of equals the more frequent.
    fn top_tokens(
        &self,
        expert: usize,
        counts: &LayerCounts,
        totals: &[u64],
    ) -> Result<Vec<TopToken>> {
        let all = totals.iter().sum::<u64>() as f64;
        let top_k = self.config.num_experts_per_tok as u64;
        let mut found: Vec<(f64, u64, u32)> = counts
            .by_token
            .chunks_exact(totals.len())
            .enumerate()
            .filter_map(|(token, of_token)| {
                let occurrences: u64 = of_token.iter().map(|&count| u64::from(count)).sum();
                let own = u64::from(of_token[expert]);
                if occurrences < self.settings.min_count * top_k || own == 0 {
                    return None;
                }
                let expected = occurrences as f64 * totals[expert] as f64 / all;
                Some(((own as f64 / expected).log2(), own, token as u32))
            })
            .filter(|(pmi, ..)| *pmi > 0.0)
            .collect();
        found.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)).then(a.2.cmp(&b.2)));
        found.truncate(self.settings.top_tokens);
        found
            .into_iter()
            .map(|(pmi_bits, count, id)| {
                Ok(TopToken {
                    id,
                    text: String::from_utf8_lossy(self.tokenizer.token_bytes(id)?).into_owned(),
                    count,
                    pmi_bits,
                })
            })
            .collect()
    }

    fn loss_over_layers(&self, counts: &[LayerCounts], layers: &[LayerReport]) -> f64 {
        let experts = self.config.num_local_experts;
        let mut totals = vec![0; experts];
        let mut prob_sums = vec![0.0; experts];
        for (counts, layer) in counts.iter().zip(layers) {
            for expert in 0..experts {
                totals[expert] += layer.counts[expert];
                prob_sums[expert] += counts.prob_sums[expert];
            }
        }
        load_balancing_loss(&totals, &prob_sums, self.tokens * layers.len() as u64)
    }

    fn offices(&self, texts: &[&[u32]]) -> Vec<Group> {
        let of_office = |office: usize| {
            let own = self.corpus.texts.iter().zip(texts);
            own.filter(|(text, _)| text.office == office)
                .map(|(_, tokens)| tokens.len() as u64)
                .sum()
        };
        let names = self.corpus.offices.iter().enumerate();
        names
            .map(|(office, name)| Group {
                name: name.clone(),
                tokens: of_office(office),
            })
            .collect()
    }

    fn classes(&self, classes: &[Vec<TokenClass>]) -> Vec<Group> {
        TokenClass::ALL
            .iter()
            .map(|&class| Group {
                name: class.name().to_string(),
                tokens: classes
                    .iter()
                    .flatten()
                    .filter(|&&other| other == class)
                    .count() as u64,
            })
            .collect()
    }
}

/// A shard's or prompt's tokens as the model reads them: the last one is only ever predicted.
///
/// # Errors
/// If there are fewer than two.
pub fn inputs(tokens: &[u16]) -> Result<Vec<u32>> {
    let (_, read) = tokens
        .split_last()
        .filter(|(_, read)| !read.is_empty())
        .context("an example has fewer than two tokens")?;
    Ok(read.iter().copied().map(u32::from).collect())
}
