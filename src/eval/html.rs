//! Pieces of a self-contained HTML page: a skeleton with its style, tables, and heat maps as inline
//! SVG. Nothing is loaded from anywhere and nothing needs a script.

use crate::html::escape;
use std::fmt::Write;

/// Style of every page, light and dark.
const STYLE: &str = "\
:root{color-scheme:light dark;--line:#8886;--soft:#8882}\
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem}\
h1{font-size:1.5rem}h2{font-size:1.2rem;margin-top:2.2rem}h3{font-size:1rem;margin-bottom:.3rem}\
table{border-collapse:collapse;margin:.5rem 0;font-variant-numeric:tabular-nums}\
th,td{padding:.2rem .6rem;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}\
td.n,th.n{text-align:right}\
.maps{display:flex;flex-wrap:wrap;gap:1.5rem}\
svg text{font:11px system-ui,sans-serif;fill:currentColor}svg .dark{fill:#fff}svg .light{fill:#111}\
details{border-bottom:1px solid var(--line);padding:.3rem 0}summary{cursor:pointer}\
dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem;margin:.4rem \
1rem}dd{margin:0;white-space:pre-wrap}\
.good{color:#0a7d33}.bad{color:#c01f1f}.soft{opacity:.75}\
@media(prefers-color-scheme:dark){.good{color:#5fd38a}.bad{color:#ff8a80}}\
code{background:var(--soft);padding:0 .25rem;border-radius:.2rem;white-space:pre}";

/// A whole page. `title` is text, `body` is HTML.
pub(crate) fn page(title: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src \
         'unsafe-inline'\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n\
         {body}</body>\n</html>\n"
    )
}

/// A table of texts (not HTML); every column but the first is flush right.
pub(crate) fn table(head: &[String], rows: &[Vec<String>]) -> String {
    let cells = |tag: &str, cells: &[String]| {
        let mut line = String::from("<tr>");
        for (column, cell) in cells.iter().enumerate() {
            let class = if column > 0 { " class=\"n\"" } else { "" };
            let _ = write!(line, "<{tag}{class}>{}</{tag}>", escape(cell));
        }
        line + "</tr>\n"
    };
    let body: String = rows.iter().map(|row| cells("td", row)).collect();
    format!("<table>\n{}{body}</table>\n", cells("th", head))
}

/// A matrix in colours.
pub(crate) struct HeatMap<'a> {
    /// What it shows, for the caption and for screen readers.
    pub title: &'a str,
    /// Names of the rows.
    pub rows: &'a [String],
    /// Names of the columns.
    pub columns: &'a [String],
    /// One value per cell, row by row; `None` for a cell without data.
    pub values: &'a [Vec<Option<f64>>],
    /// The value shown without colour; smaller ones are blue, larger ones are red.
    pub middle: f64,
    /// The distance from the middle with the strongest colour.
    pub span: f64,
    /// Digits behind the point.
    pub digits: usize,
}

impl HeatMap<'_> {
    /// As an SVG figure.
    pub(crate) fn svg(&self) -> String {
        const CELL: (usize, usize) = (46, 20);
        const LETTER: usize = 7;
        let label = self.rows.iter().map(|name| name.chars().count());
        let left = 10 + LETTER * label.max().unwrap_or(0);
        let (width, height) = (
            left + CELL.0 * self.columns.len(),
            20 + CELL.1 * self.rows.len(),
        );
        let mut svg = format!(
            "<figure style=\"margin:0\"><figcaption>{title}</figcaption>\n\
             <svg role=\"img\" aria-label=\"{title}\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\">\n",
            title = escape(self.title)
        );
        for (column, name) in self.columns.iter().enumerate() {
            let x = left + CELL.0 * column + CELL.0 / 2;
            let _ = writeln!(
                svg,
                "<text x=\"{x}\" y=\"13\" text-anchor=\"middle\">{}</text>",
                escape(name)
            );
        }
        for (row, (name, values)) in self.rows.iter().zip(self.values).enumerate() {
            let y = 20 + CELL.1 * row;
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
                left - 6,
                y + 14,
                escape(name)
            );
            for (column, value) in values.iter().enumerate() {
                self.cell(&mut svg, left + CELL.0 * column, y, CELL, *value);
            }
        }
        svg + "</svg></figure>\n"
    }

    fn cell(&self, svg: &mut String, x: usize, y: usize, size: (usize, usize), value: Option<f64>) {
        let Some(value) = value else {
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">–</text>",
                x + size.0 / 2,
                y + 14
            );
            return;
        };
        let strength = ((value - self.middle) / self.span).clamp(-1.0, 1.0);
        let [r, g, b] = colour(strength);
        let ink = if strength.abs() > 0.6 {
            "dark"
        } else {
            "light"
        };
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\" fill=\"rgb({r},{g},{b})\"/>\
             <text class=\"{ink}\" x=\"{}\" y=\"{}\" \
             text-anchor=\"middle\">{value:.digits$}</text>",
            size.0 - 1,
            size.1 - 1,
            x + size.0 / 2,
            y + 14,
            digits = self.digits
        );
    }
}

/// From blue (-1) over near white (0) to red (1): a pair that colour-blind readers can tell apart.
fn colour(strength: f64) -> [u8; 3] {
    const WHITE: [f64; 3] = [245.0, 245.0, 245.0];
    let end = if strength < 0.0 {
        [33.0, 102.0, 172.0]
    } else {
        [178.0, 24.0, 43.0]
    };
    let mix = |index: usize| WHITE[index] + (end[index] - WHITE[index]) * strength.abs();
    [mix(0) as u8, mix(1) as u8, mix(2) as u8]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_text_becomes_markup() {
        assert_eq!(
            escape("<a href=\"x\">&'"),
            "&lt;a href=&quot;x&quot;&gt;&amp;&#39;"
        );
        let page = page("<script>", &table(&["<b>".into()], &[vec!["a<b".into()]]));
        assert!(
            !page.contains("<script>") && !page.contains("<b>"),
            "{page}"
        );
        assert!(page.contains("a&lt;b"));
    }

    #[test]
    fn a_heat_map_has_every_cell_and_its_colour() {
        let map = HeatMap {
            title: "load",
            rows: &["layer 0".into(), "layer 1".into()],
            columns: &["0".into(), "1".into(), "2".into()],
            values: &[
                vec![Some(1.0), Some(2.0), Some(0.0)],
                vec![Some(1.5), None, Some(9.0)],
            ],
            middle: 1.0,
            span: 1.0,
            digits: 2,
        };
        let svg = map.svg();
        assert_eq!(svg.matches("<rect").count(), 5);
        assert!(svg.contains("rgb(245,245,245)") && svg.contains(">1.00<"));
        // At and beyond the ends of the scale.
        assert_eq!(svg.matches("rgb(178,24,43)").count(), 2);
        assert_eq!(svg.matches("rgb(33,102,172)").count(), 1);
    }
}
