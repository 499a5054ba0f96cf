//! A routing analysis for people: a table for the terminal, a page with heat maps.

use super::{LayerReport, RoutingReport, TopToken};
use crate::eval::html::{HeatMap, page, table as html_table};
use crate::html::escape;
use std::fmt::Write;

/// Tokens named per expert in the terminal; the page and the JSON have all.
const SHOWN_TOKENS: usize = 5;

/// `log2(p(expert | row) / p(expert))` of a matrix of counts: how much more of a row an expert
/// serves than of everything. `None` where a row has no tokens; an expert that serves nothing of a
/// row has minus infinity.
fn lift(counts: &[Vec<u64>], totals: &[u64]) -> Vec<Vec<Option<f64>>> {
    let all = totals.iter().sum::<u64>() as f64;
    counts
        .iter()
        .map(|row| {
            let of_row = row.iter().sum::<u64>() as f64;
            row.iter()
                .zip(totals)
                .map(|(&count, &total)| {
                    let expected = of_row * total as f64 / all;
                    (expected > 0.0).then(|| (count as f64 / expected).log2())
                })
                .collect()
        })
        .collect()
}

fn percent(part: u64, all: u64) -> f64 {
    100.0 * part as f64 / all.max(1) as f64
}

/// A token as it stands in the text, with blanks and line breaks made visible.
fn shown(token: &TopToken) -> String {
    token
        .text
        .replace(' ', "␣")
        .replace('\n', "⏎")
        .replace('\t', "⇥")
}

/// The analysis as text for a terminal.
pub(crate) fn table(report: &RoutingReport) -> String {
    let mut text = format!(
        "{} tokens of {} texts, {} of {} experts per token\n",
        report.tokens, report.texts, report.experts_per_token, report.experts
    );
    if report.shortened > 0 {
        let _ = writeln!(
            text,
            "{} texts are longer than the model's context: only their beginning was read",
            report.shortened
        );
    }
    let _ = writeln!(
        text,
        "load-balancing loss over all layers: {:.4} (balanced: {}, one expert for all: {})\n",
        report.aux_loss, report.experts_per_token, report.experts
    );
    let _ = write!(text, "share of the load in percent\nlayer ");
    for expert in 0..report.experts {
        let _ = write!(text, "{:>6}", format!("e{expert}"));
    }
    text += "  max/mean  entropy  router   loss   office MI (shuffled, 95%)     p    class MI\n";
    for layer in &report.layers {
        layer_line(&mut text, layer);
    }
    text += "entropy: of the load; router: mean of each token's; MI: mutual information with the \
        expert; all in bits\n\n";
    text += "expert: its share of the load, the office and the token class it is most peculiar for \
        (times its average share), tokens by PMI\n";
    for layer in &report.layers {
        let offices = lift(&layer.by_office, &layer.counts);
        let classes = lift(&layer.by_class, &layer.counts);
        for expert in 0..report.experts {
            let best = |lift: &[Vec<Option<f64>>], names: &[super::Group]| {
                let of_expert = lift
                    .iter()
                    .zip(names)
                    .filter_map(|(row, name)| Some((row[expert]?, &name.name)));
                of_expert
                    .max_by(|a, b| a.0.total_cmp(&b.0))
                    .map_or(String::from("-"), |(bits, name)| {
                        format!("{name} x{:.2}", bits.exp2())
                    })
            };
            let tokens: Vec<String> = layer.top_tokens[expert]
                .iter()
                .take(SHOWN_TOKENS)
                .map(shown)
                .collect();
            let _ = writeln!(
                text,
                "L{} e{expert} {:>5.1}%  {:<29} {:<19} {}",
                layer.layer,
                percent(layer.counts[expert], layer.counts.iter().sum()),
                best(&offices, &report.offices),
                best(&classes, &report.classes),
                tokens.join(" ")
            );
        }
    }
    text
}

fn layer_line(text: &mut String, layer: &LayerReport) {
    let all = layer.counts.iter().sum();
    let _ = write!(text, "{:>5} ", layer.layer);
    for &count in &layer.counts {
        let _ = write!(text, "{:>6.1}", percent(count, all));
    }
    let information = &layer.office_information;
    let _ = writeln!(
        text,
        "{:>10.2}{:>9.3}{:>8.3}{:>7.3}{:>12.4} ({:.4}, {:.4}){:>11.4}{:>11.4}",
        layer.max_over_mean,
        layer.entropy_bits,
        layer.router_entropy_bits,
        layer.aux_loss,
        information.bits,
        information.shuffled_mean_bits,
        information.shuffled_95_bits,
        information.p_value,
        layer.class_information_bits
    );
}

/// The analysis as a self-contained page. `model` and `source` say what was analysed.
pub(crate) fn html(report: &RoutingReport, model: &str, source: &str) -> String {
    let experts: Vec<String> = (0..report.experts).map(|e| format!("e{e}")).collect();
    let mut body = format!(
        "<p>Model <code>{}</code> on <code>{}</code>: {} tokens of {} texts, {} of {} experts per \
         token. \
         Load-balancing loss over all layers: {:.4} (balanced: {}, one expert for all: {}).</p>\n",
        escape(model),
        escape(source),
        report.tokens,
        report.texts,
        report.experts_per_token,
        report.experts,
        report.aux_loss,
        report.experts_per_token,
        report.experts
    );
    body += "<h2>Load</h2>\n";
    body += &load_map(report, &experts);
    body += &layers_table(report);
    body += "<p class=\"soft\">Entropy is that of the load over the experts; router entropy is the \
        mean over the tokens of the entropy of \
             the router's probabilities. Mutual information (MI) says how many bits the chosen \
             expert tells about the office. Shuffling the office \
             labels among the texts shows what chance alone would give; p is the share of \
             shufflings that reach the observed value.</p>\n";
    for layer in &report.layers {
        body += &layer_section(report, layer, &experts);
    }
    page("Which expert serves what", &body)
}

fn load_map(report: &RoutingReport, experts: &[String]) -> String {
    let rows: Vec<String> = report
        .layers
        .iter()
        .map(|layer| format!("layer {}", layer.layer))
        .collect();
    let values: Vec<Vec<Option<f64>>> = report
        .layers
        .iter()
        .map(|layer| {
            let mean = layer.counts.iter().sum::<u64>() as f64 / layer.counts.len() as f64;
            let ratio = |&count: &u64| Some(count as f64 / mean);
            layer.counts.iter().map(ratio).collect()
        })
        .collect();
    HeatMap {
        title: "Load of each expert over the layer's mean load",
        rows: &rows,
        columns: experts,
        values: &values,
        middle: 1.0,
        span: 1.0,
        digits: 2,
    }
    .svg()
}

fn layers_table(report: &RoutingReport) -> String {
    let head = [
        "layer",
        "max / mean",
        "min / mean",
        "entropy, bits",
        "router entropy, bits",
        "loss",
        "office MI, bits",
        "shuffled mean",
        "shuffled 95%",
        "p",
        "class MI, bits",
    ];
    let rows: Vec<Vec<String>> = report
        .layers
        .iter()
        .map(|layer| {
            let information = &layer.office_information;
            let mut row = vec![layer.layer.to_string()];
            row.extend(
                [
                    layer.max_over_mean,
                    layer.min_over_mean,
                    layer.entropy_bits,
                    layer.router_entropy_bits,
                    layer.aux_loss,
                    information.bits,
                    information.shuffled_mean_bits,
                    information.shuffled_95_bits,
                    information.p_value,
                    layer.class_information_bits,
                ]
                .map(|value| format!("{value:.4}")),
            );
            row
        })
        .collect();
    html_table(&head.map(String::from), &rows)
}

fn layer_section(report: &RoutingReport, layer: &LayerReport, experts: &[String]) -> String {
    let mut section = format!("<h2>Layer {}</h2>\n<div class=\"maps\">\n", layer.layer);
    for (title, groups, counts) in [
        ("Offices", &report.offices, &layer.by_office),
        ("Token classes", &report.classes, &layer.by_class),
    ] {
        let rows: Vec<String> = groups.iter().map(|group| group.name.clone()).collect();
        section += &HeatMap {
            title: &format!("{title}: log2 of an expert's share over its average share"),
            rows: &rows,
            columns: experts,
            values: &lift(counts, &layer.counts),
            middle: 0.0,
            span: 1.5,
            digits: 2,
        }
        .svg();
    }
    section += "</div>\n<details><summary>Tokens that each expert serves more than others (by \
        pointwise mutual information)</summary>\n<dl>\n";
    for (expert, tokens) in layer.top_tokens.iter().enumerate() {
        let _ = write!(
            section,
            "<dt>e{expert}, {:.1}%</dt><dd>",
            percent(layer.counts[expert], layer.counts.iter().sum())
        );
        for token in tokens {
            let _ = write!(
                section,
                "<code title=\"{} times, {:.2} bits\">{}</code> ",
                token.count,
                token.pmi_bits,
                escape(&shown(token))
            );
        }
        section += "</dd>\n";
    }
    section + "</dl></details>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lift_compares_with_the_average_share() {
        // The first expert serves half of everything and all of the first row.
        let lifts = lift(&[vec![4, 0], vec![0, 4], vec![0, 0]], &[4, 4]);
        assert_eq!(lifts[0], [Some(1.0), Some(f64::NEG_INFINITY)]);
        assert_eq!(lifts[2], [None, None]);
    }
}
