//! A page to look at a data set with: one HTML file without anything from outside, plots drawn as
//! SVG, samples to browse.

use super::card::Summary;
use super::statistics::Counts;
use super::{Dataset, Example};
use crate::html::escape;
use anyhow::Result;
use std::fmt::Write;

/// Samples on the page.
const SAMPLES: usize = 400;
/// Bars of the plot of lengths.
const LENGTH_BINS: usize = 32;

/// The page.
pub(crate) fn page(dataset: &Dataset, summary: &Summary) -> Result<String> {
    let counts = &summary.counts;
    let mut body = String::new();
    let _ = write!(
        body,
        "<h1>Data set, stage {}</h1><p>{} examples, {} tokens, seed {}, generator version {}.</p>",
        summary.stage, counts.examples, counts.tokens, summary.seed, summary.generator_version
    );
    body.push_str("<h2>Measures</h2><table>");
    for (name, value) in summary.measures() {
        let _ = write!(
            body,
            "<tr><th>{}</th><td>{}</td></tr>",
            escape(name),
            escape(&value)
        );
    }
    body.push_str("</table><div class=\"plots\">");
    for (title, counts) in [
        ("Examples by office", &counts.by_office),
        ("Examples by technique", &counts.by_technique),
        ("Examples by intent", &counts.by_intent),
        ("Examples by form of address", &counts.by_register),
        ("Examples by split", &counts.by_split),
        ("Examples by service", &counts.by_service),
        ("Examples by layout", &without_default(&counts.by_format)),
    ] {
        bars(&mut body, title, counts);
    }
    let longest = counts.token_length.max.max(1);
    lengths(
        &mut body,
        "Tokens of an example",
        dataset
            .examples
            .iter()
            .map(|example| example.tokens.len().saturating_sub(2)),
        longest,
    );
    let characters = |place: usize| {
        move |example: &Example| {
            example
                .turns()
                .nth(place)
                .map_or(0, |turn| turn.chars().count())
        }
    };
    lengths(
        &mut body,
        "Characters of the first question",
        dataset.examples.iter().map(characters(0)),
        400,
    );
    lengths(
        &mut body,
        "Characters of the first answer",
        dataset.examples.iter().map(characters(1)),
        700,
    );
    body.push_str("</div>");
    let samples: Vec<_> = spread(dataset.examples.len(), SAMPLES)
        .filter_map(|index| dataset.record(index))
        .collect();
    // "</script>" inside the data would end it.
    let data = serde_json::to_string(&samples)?.replace('<', "\\u003c");
    Ok(format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
        content=\"width=device-width\">\
         <title>Data set, stage {}</title><style>{STYLE}</style></head><body>{body}<h2>Samples</h2>\
         <p><select id=\"office\"></select> <select id=\"technique\"></select> <select \
         id=\"split\"></select> \
         <input id=\"text\" type=\"search\" placeholder=\"words\"> <span \
         id=\"count\"></span></p><div id=\"samples\"></div>\
         <script type=\"application/json\" \
         id=\"data\">{data}</script><script>{SCRIPT}</script></body></html>\n",
        summary.stage
    ))
}

/// Indices spread evenly over `all`, in order: one from each of `count` stretches of equal length,
/// at places that differ from stretch to stretch. Offices take turns in the examples, so even steps
/// would show one and the same office.
pub(crate) fn spread(all: usize, count: usize) -> impl Iterator<Item = usize> {
    let count = count.min(all);
    (0..count).map(move |number| {
        let (from, to) = (number * all / count, (number + 1) * all / count);
        // The fractions of multiples of the golden ratio come evenly and never repeat.
        let fraction = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        from + ((u128::from(fraction) * (to - from) as u128) >> 64) as usize
    })
}

fn without_default(counts: &Counts) -> Counts {
    let mut others = counts.clone();
    others.remove("frage_antwort");
    others
}

fn bars(body: &mut String, title: &str, counts: &Counts) {
    const ROW: usize = 18;
    let most = counts.values().copied().max().unwrap_or(0).max(1);
    let height = counts.len() * ROW + 4;
    let _ = write!(
        body,
        "<figure><figcaption>{}</figcaption><svg viewBox=\"0 0 520 {height}\" role=\"img\" \
        aria-label=\"{}\">",
        escape(title),
        escape(title)
    );
    for (row, (name, count)) in counts.iter().enumerate() {
        let (y, width) = (row * ROW, 250.0 * *count as f64 / most as f64);
        let _ = write!(
            body,
            "<text x=\"196\" y=\"{}\" text-anchor=\"end\">{}</text><rect x=\"200\" y=\"{}\" \
            width=\"{width:.1}\" height=\"13\"/>\
             <text x=\"{:.1}\" y=\"{}\">{count}</text>",
            y + 13,
            escape(name),
            y + 2,
            205.0 + width,
            y + 13
        );
    }
    body.push_str("</svg></figure>");
}

fn lengths(body: &mut String, title: &str, values: impl Iterator<Item = usize>, longest: usize) {
    let width = longest.div_ceil(LENGTH_BINS).max(1);
    let mut bins = [0usize; LENGTH_BINS];
    for value in values {
        bins[(value / width).min(LENGTH_BINS - 1)] += 1;
    }
    let most = bins.iter().copied().max().unwrap_or(0).max(1);
    let _ = write!(
        body,
        "<figure><figcaption>{}</figcaption><svg viewBox=\"0 0 520 170\" role=\"img\" \
        aria-label=\"{}\">",
        escape(title),
        escape(title)
    );
    for (bin, count) in bins.iter().enumerate() {
        let height = 140.0 * *count as f64 / most as f64;
        let _ = write!(
            body,
            "<rect x=\"{}\" y=\"{:.1}\" width=\"14\" height=\"{height:.1}\"><title>{} to {}: \
            {count}</title></rect>",
            4 + bin * 16,
            145.0 - height,
            bin * width,
            (bin + 1) * width - 1
        );
        if bin % 8 == 0 {
            let _ = write!(
                body,
                "<text x=\"{}\" y=\"162\">{}</text>",
                4 + bin * 16,
                bin * width
            );
        }
    }
    body.push_str("</svg></figure>");
}

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem \
    auto;padding:0 1rem;color:#1c2430;background:#fff}\
    table{border-collapse:collapse}th,td{text-align:left;padding:.2rem .8rem .2rem \
    0;border-bottom:1px solid #dde3ea;font-weight:400}\
    td{font-weight:600}.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(26rem,1fr)\
    );gap:1rem}figure{margin:0}\
    figcaption{font-weight:600;margin:.8rem 0 .2rem}svg{width:100%;height:auto}svg \
    text{font-size:11px;fill:#1c2430}svg rect{fill:#2f6f9f}\
    article{border:1px solid #dde3ea;border-radius:6px;padding:.6rem .9rem;margin:.6rem 0}article \
    small{color:#5a6675}pre{white-space:pre-wrap;\
    font:inherit;margin:.3rem 0 0}select,input{font:inherit;padding:.2rem .4rem}\
    @media(prefers-color-scheme:dark){body{background:#12161c;color:#dfe5ec}svg \
    text{fill:#dfe5ec}svg rect{fill:#6fb1e0}th,td,article{border-color:#323b47}\
    article small{color:#97a3b2}}";

const SCRIPT: &str = "const all=JSON.parse(document.getElementById('data').textContent);\
    const at=id=>document.getElementById(id);\
    const fill=(id,name,values)=>{for(const v of ['',...new Set(values)].sort()){const \
    o=document.createElement('option');o.value=v;\
    o.textContent=v||'every '+name;at(id).append(o)}};\
    fill('office','office',all.map(e=>e.office));fill('technique','technique',\
    all.flatMap(e=>e.techniques));fill('split','split',all.map(e=>e.split));\
    const show=()=>{const \
    o=at('office').value,t=at('technique').value,s=at('split').value,w=at('text')\
    .value.toLowerCase();\
    const found=all.filter(e=>(!o||e.office===o)&&(!t||e.techniques.includes(t))\
    &&(!s||e.split===s)&&e.text.toLowerCase().includes(w));\
    at('count').textContent=found.length+' of '+all.length+' \
    samples';at('samples').replaceChildren(...found.slice(0,100).map(e=>{\
    const a=document.createElement('article'),m=document.createElement('small'),\
    p=document.createElement('pre');\
    m.textContent=[e.id,e.split,e.office,e.service,e.intent,e.techniques.join(', \
    '),e.format,e.register].join(' · ');p.textContent=e.text;\
    a.append(m,p);return a}))};\
    for(const id of ['office','technique','split','text'])at(id).addEventListener('input',show);\
    show();";

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn samples_come_from_everywhere_and_from_all_offices() {
        assert_eq!(spread(3, 20).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(spread(0, 20).count(), 0);
        for (all, count, least) in [
            (500_000, 20, 6),
            (500_000, 400, 8),
            (2_000, 20, 6),
            (75, 10, 4),
        ] {
            let indices: Vec<usize> = spread(all, count).collect();
            assert!(indices.is_sorted_by(|a, b| a < b) && indices[count - 1] < all);
            // 25 examples in a row are three of each office and one from outside of the remit.
            let turns: BTreeSet<usize> = indices.iter().map(|index| index % 25 % 8).collect();
            assert!(turns.len() >= least, "{all} {count}: {turns:?}");
        }
    }
}
