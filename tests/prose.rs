//! What a program can check of STYLE.md: width, links, and that no file names a path of somebody's
//! machine.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Most columns of a line.
const WIDTH: usize = 100;
/// How many wider lines each source file still has.
const LONG_LINES: &str = "tests/long_lines.txt";
/// Fences without a language, and of these, show what a program prints or reads.
const PRINTED: [&str; 3] = ["", "text", "json"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn relative(path: &Path) -> String {
    let inside = path.strip_prefix(root()).unwrap();
    inside.to_string_lossy().replace('\\', "/")
}

/// All files of the repository but what is built, fetched or trained.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        // In a worktree `.git` is a file that names a folder elsewhere.
        let made = ["target", "node_modules", "runs", ".git", "__pycache__"];
        if made.contains(&name.as_str()) {
            continue;
        }
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

fn all_files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    files(root(), &mut found);
    found
}

fn with_extension(extension: &str) -> Vec<PathBuf> {
    let mut found = all_files();
    found.retain(|path| path.extension().is_some_and(|e| e == extension));
    found
}

/// Pages written by hand. The data set's card is made, licences are others' texts.
fn pages() -> Vec<PathBuf> {
    let mut found = with_extension("md");
    found.retain(|path| {
        let path = relative(path);
        !path.starts_with("shards/") && !path.starts_with("assets/")
    });
    assert!(found.len() > 10, "only {} pages found", found.len());
    found
}

/// Whether a line is wide only because it ends with a link.
fn ends_with_a_link(line: &str) -> bool {
    let mut column = 0;
    for word in line.split(' ') {
        let end = column + word.chars().count();
        if end > WIDTH {
            let is_link = word.contains("](") || word.contains("://");
            return is_link && end == line.chars().count();
        }
        column = end + 1;
    }
    true
}

#[test]
fn pages_keep_to_the_width() {
    let mut wide = Vec::new();
    // The kernels' page has messages of programs and a command line in indented blocks.
    for path in pages()
        .iter()
        .filter(|path| !path.starts_with(root().join("kernels")))
    {
        let text = fs::read_to_string(path).unwrap();
        let mut fence: Option<String> = None;
        for (number, line) in text.lines().enumerate() {
            if let Some(language) = line.trim_start().strip_prefix("```") {
                fence = match fence {
                    None => Some(language.trim().to_string()),
                    Some(_) => None,
                };
                continue;
            }
            let exempt = match &fence {
                Some(language) => PRINTED.contains(&language.as_str()),
                None => line.starts_with('|') || ends_with_a_link(line),
            };
            if !exempt && line.chars().count() > WIDTH {
                wide.push(format!("{}:{}", relative(path), number + 1));
            }
        }
        assert!(fence.is_none(), "{}: an open fence", relative(path));
    }
    assert!(wide.is_empty(), "over {WIDTH} columns: {wide:#?}");
}

/// Lines over the width by source file; files without one are left out.
fn long_lines() -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for path in with_extension("rs") {
        let text = fs::read_to_string(&path).unwrap();
        let wide = text.lines().filter(|line| line.chars().count() > WIDTH);
        let count = wide.count();
        if count > 0 {
            counts.insert(relative(&path), count);
        }
    }
    counts
}

/// The list may only get shorter: `UPDATE_DOCS=1 cargo test --test it prose` writes it anew, and
/// refuses if the sum has grown.
#[test]
fn long_lines_of_the_source_are_those_listed() {
    let path = root().join(LONG_LINES);
    let text = fs::read_to_string(&path).unwrap();
    let listed: BTreeMap<String, usize> = text
        .lines()
        .map(|line| {
            let (count, file) = line.split_once(' ').unwrap();
            (file.to_string(), count.parse().unwrap())
        })
        .collect();
    let found = long_lines();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let (before, now) = (listed.values().sum(), found.values().sum::<usize>());
        assert!(
            now <= before,
            "{now} lines over {WIDTH} columns; {LONG_LINES} allows {before}"
        );
        let lines = found
            .iter()
            .map(|(file, count)| format!("{count} {file}\n"));
        fs::write(&path, lines.collect::<String>()).unwrap();
        return;
    }
    let mut differing = Vec::new();
    for file in listed.keys().chain(found.keys()) {
        let (allowed, count) = (listed.get(file), found.get(file));
        if allowed != count {
            let (allowed, count) = (allowed.unwrap_or(&0), count.unwrap_or(&0));
            differing.push(format!("{file}: {count}, listed {allowed}"));
        }
    }
    differing.dedup();
    assert!(
        differing.is_empty(),
        "lines over {WIDTH} columns differ from {LONG_LINES}: break them, and then run \
         UPDATE_DOCS=1 cargo test --test it prose\n{differing:#?}"
    );
}

/// The anchor that GitHub makes of a heading.
fn anchor(heading: &str) -> String {
    let title = heading.trim_start_matches('#').trim().to_lowercase();
    title
        .chars()
        .filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

/// Text outside of fences, and its headings' anchors.
fn prose_and_anchors(text: &str) -> (String, Vec<String>) {
    let (mut prose, mut anchors, mut fenced) = (String::new(), Vec::new(), false);
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            if line.starts_with('#') {
                anchors.push(anchor(line));
            }
            prose.push_str(line);
            prose.push('\n');
        }
    }
    (prose, anchors)
}

/// Without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    plain
}

#[test]
fn links_between_pages_lead_somewhere() {
    let mut checked = 0;
    for path in pages() {
        let (prose, _) = prose_and_anchors(&fs::read_to_string(&path).unwrap());
        let targets = ["](", "src=\""].into_iter().flat_map(|opening| {
            let close = if opening == "](" { ')' } else { '"' };
            prose
                .split(opening)
                .skip(1)
                .map(move |rest| rest.split(close).next().unwrap_or_default())
        });
        for target in targets.filter(|target| !target.contains("://")) {
            let (file, wanted) = target.split_once('#').unwrap_or((target, ""));
            let to = match file {
                "" => path.clone(),
                file => plain(&path.parent().unwrap().join(file)),
            };
            assert!(to.exists(), "{}: {target} leads nowhere", relative(&path));
            if !wanted.is_empty() {
                let (_, anchors) = prose_and_anchors(&fs::read_to_string(&to).unwrap());
                assert!(
                    anchors.iter().any(|anchor| anchor == wanted),
                    "{}: {target}: no such heading, there are {anchors:#?}",
                    relative(&path)
                );
            }
            checked += 1;
        }
    }
    assert!(checked > 30, "only {checked} links were read");
}

#[test]
fn files_named_in_pages_exist() {
    let folders = [
        ".ci", "assets", "benches", "build", "docs", "examples", "kernels", "src", "tests",
    ];
    let mut checked = 0;
    for path in pages() {
        // Of earlier versions.
        if path.ends_with("CHANGELOG.md") {
            continue;
        }
        let (prose, _) = prose_and_anchors(&fs::read_to_string(&path).unwrap());
        for line in prose.lines() {
            for span in line.split('`').skip(1).step_by(2) {
                let is_file = span.split_once('/').is_some_and(|(folder, rest)| {
                    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
                    let allowed = |c: char| plain(c) || "_-./".contains(c);
                    folders.contains(&folder) && rest.contains('.') && rest.chars().all(allowed)
                });
                if is_file {
                    let exists = root().join(span).exists();
                    assert!(exists, "{}: there is no {span}", relative(&path));
                    checked += 1;
                }
            }
        }
    }
    assert!(checked > 30, "only {checked} files were named");
}

#[test]
fn no_file_names_a_path_of_a_machine() {
    // Put together here, so that this file does not name them.
    let homes = ["home", "root", "work", "farm", "Users"].map(|name| format!("/{name}/"));
    let mut read = 0;
    for path in all_files() {
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        read += 1;
        for (number, line) in text.lines().enumerate() {
            for home in &homes {
                // The segment of a URL is no path of a machine.
                assert!(
                    !line.contains(home.as_str()) || line.contains("://"),
                    "{}:{}: {home}",
                    relative(&path),
                    number + 1
                );
            }
        }
    }
    assert!(read > 300, "only {read} files were read");
}

#[test]
fn readme_has_the_two_commands() {
    let text = fs::read_to_string(root().join("README.md")).unwrap();
    for command in [
        "cargo run --release -- train --shards shards/",
        "cargo test",
    ] {
        let fenced = format!("```sh\n{command}\n```");
        assert!(text.contains(&fenced), "README.md lacks {command}");
    }
}

#[test]
fn the_architecture_page_has_a_row_for_each_module() {
    let text = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let (_, table) = text.split_once("## The modules").unwrap();
    let (table, _) = table.split_once("\n## ").unwrap();
    let mut rows: Vec<&str> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    rows.sort_unstable();
    let library = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let mut modules: Vec<&str> = library
        .lines()
        .filter_map(|line| {
            let line = line
                .trim_start_matches("pub ")
                .trim_start_matches("pub(crate) ");
            line.strip_prefix("mod ")?.strip_suffix(';')
        })
        .collect();
    modules.sort_unstable();
    assert_eq!(rows, modules, "docs/architecture.md beside src/lib.rs");
}
