//! The variants of a kernel: `VARIANTS(T = f16 | bf16, D = 64 | 128)` in front of a kernel's
//! template says which arguments it is instantiated with. Each combination is an entry point.

use super::constants::Scope;
use super::signatures::{Kernel, Kind, Pointer};
use super::tokens::Reader;

/// A template parameter of a kernel, and its argument in one variant.
#[derive(Clone, Debug, PartialEq)]
struct Argument {
    parameter: String,
    /// `class`, `int` or `bool`, as the template has it.
    kind: String,
    /// As `VARIANTS` has it: `f16`, `gemm::Small`, `64`, `true`.
    value: String,
    /// What it adds to the entry point's name.
    word: Word,
}

#[derive(Clone, Debug, PartialEq)]
enum Word {
    None,
    /// Before the direction: the tile, `small` in `linear_small_fwd`.
    Before(String),
    /// Behind it: a number or a switch, `d64` in `attention_fwd_d64`.
    Behind(String),
    /// At the end: the element type.
    Last(String),
}

/// One combination of template arguments.
#[derive(Clone, Debug, PartialEq)]
pub struct Variant(Vec<Argument>);

/// One `names = values | values` of `VARIANTS`.
struct Axis {
    names: Vec<String>,
    choices: Vec<Vec<String>>,
}

impl Variant {
    /// The value of an integer constant as this variant sees it.
    pub fn value(&self, name: &str, scope: &Scope) -> Option<i64> {
        let (first, member) = name.split_once("::").unwrap_or((name, ""));
        let argument = self.0.iter().find(|argument| argument.parameter == first);
        match (argument, member) {
            (None, _) => scope.get(name),
            (Some(argument), "") => match argument.value.as_str() {
                "true" => Some(1),
                "false" => Some(0),
                number => number.parse().ok(),
            },
            (Some(argument), member) => scope.get(&format!("{}::{member}", argument.value)),
        }
    }

    /// The element type that a template parameter stands for.
    pub fn element(&self, name: &str) -> Option<Kind> {
        let argument = self.0.iter().find(|argument| argument.parameter == name)?;
        element(&argument.value)
    }

    /// The entry point's name: `linear_small_fwd_f16` for `linear_fwd`.
    pub fn name(&self, kernel: &str) -> String {
        let (stem, direction) = kernel.rsplit_once('_').unwrap_or(("", kernel));
        let mut before: Vec<&str> = Vec::from_iter((!stem.is_empty()).then_some(stem));
        let (mut behind, mut last): (Vec<&str>, Vec<&str>) = (vec![direction], Vec::new());
        for argument in &self.0 {
            match &argument.word {
                Word::None => {}
                Word::Before(word) => before.push(word),
                Word::Behind(word) => behind.push(word),
                Word::Last(word) => last.push(word),
            }
        }
        [before, behind, last].concat().join("_")
    }

    /// The entry point's text: it calls the template with its own parameters.
    pub fn entry(&self, kernel: &Kernel) -> String {
        let parameters = kernel.parameters.iter().map(|parameter| {
            let (before, behind) = match parameter.pointer {
                Pointer::No => ("", ""),
                Pointer::Const => ("const ", "*"),
                Pointer::Mutable => ("", "*"),
            };
            let restrict = if parameter.restrict {
                " __restrict__"
            } else {
                ""
            };
            let (kind, name) = (parameter.kind.cpp(), &parameter.name);
            format!("{before}{kind}{behind}{restrict} {name}")
        });
        let bounds = match kernel.blocks {
            Some(blocks) => format!("{}, {blocks}", kernel.threads),
            None => kernel.threads.to_string(),
        };
        let arguments = self
            .0
            .iter()
            .map(|argument| match element(&argument.value) {
                Some(element) => element.cpp(),
                None => argument.value.as_str(),
            });
        let names = kernel.parameters.iter().map(|p| p.name.as_str());
        format!(
            "extern \"C\" __global__ void __launch_bounds__({bounds}) {entry}({parameters}) {{\n  \
             {name}<{arguments}>({names});\n}}\n",
            entry = self.name(&kernel.name),
            name = kernel.name,
            parameters = parameters.collect::<Vec<_>>().join(", "),
            arguments = arguments.collect::<Vec<_>>().join(", "),
            names = names.collect::<Vec<_>>().join(", "),
        )
    }
}

/// The element type that a word of `VARIANTS` names.
fn element(word: &str) -> Option<Kind> {
    match word {
        "f16" => Some(Kind::Half),
        "bf16" => Some(Kind::Bfloat),
        _ => None,
    }
}

/// `(axis, ...) ... template <...>` behind `VARIANTS`: all combinations, the last axis turning
/// first; and the number of the token behind `VARIANTS(...)`.
///
/// # Errors
/// Where the axes do not name the template's parameters, with the line.
pub fn read(reader: &mut Reader) -> Result<(Vec<Variant>, usize), String> {
    let axes = axes(reader)?;
    let start = reader.at;
    while reader.peek() != "template" {
        reader.next()?;
    }
    let parameters = template_parameters(reader)?;
    let named: Vec<&String> = axes.iter().flat_map(|axis| &axis.names).collect();
    let declared: Vec<&String> = parameters.iter().map(|(_, name)| name).collect();
    if named != declared {
        let message = format!("VARIANTS is for {named:?}, the template has {declared:?}");
        return Err(reader.error(&message));
    }
    let mut variants = vec![Variant(Vec::new())];
    let mut kinds = parameters.iter().map(|(kind, _)| kind);
    for axis in &axes {
        let kinds: Vec<&String> = kinds.by_ref().take(axis.names.len()).collect();
        let mut longer = Vec::new();
        for variant in &variants {
            for (number, choice) in axis.choices.iter().enumerate() {
                let mut variant = variant.clone();
                for (at, value) in choice.iter().enumerate() {
                    variant.0.push(Argument {
                        parameter: axis.names[at].clone(),
                        kind: kinds[at].clone(),
                        value: value.clone(),
                        // The first of a group names it; the others only go with it.
                        word: match at {
                            0 => word(kinds[0], &axis.names[0], value, number == 0),
                            _ => Word::None,
                        },
                    });
                }
                longer.push(variant);
            }
        }
        variants = longer;
    }
    for argument in variants.iter().flat_map(|variant| &variant.0) {
        if !fits(argument) {
            let Argument {
                kind,
                parameter,
                value,
                ..
            } = argument;
            return Err(reader.error(&format!("{value} is no argument for {kind} {parameter}")));
        }
    }
    Ok((variants, start))
}

fn fits(argument: &Argument) -> bool {
    match argument.kind.as_str() {
        "int" => argument.value.parse::<i32>().is_ok(),
        "bool" => ["true", "false"].contains(&argument.value.as_str()),
        _ => argument.value.starts_with(|c: char| c.is_alphabetic()),
    }
}

fn word(kind: &str, parameter: &str, value: &str, first: bool) -> Word {
    let lower = parameter.to_lowercase();
    match kind {
        "int" => Word::Behind(format!("{lower}{value}")),
        "bool" if value == "true" => Word::Behind(lower),
        "bool" => Word::None,
        _ if element(value).is_some() => Word::Last(value.to_owned()),
        // The first tile is the ordinary one.
        _ if first => Word::None,
        _ => {
            let name = value.rsplit("::").next().unwrap_or(value);
            Word::Before(name.to_lowercase())
        }
    }
}

/// `(name = value | value, (name, name) = (value, value) | (value, value))`
fn axes(reader: &mut Reader) -> Result<Vec<Axis>, String> {
    reader.expect("(")?;
    let mut axes = Vec::new();
    loop {
        let names = group(reader)?;
        reader.expect("=")?;
        let mut choices = vec![group(reader)?];
        while reader.take("|") {
            choices.push(group(reader)?);
        }
        if choices.iter().any(|choice| choice.len() != names.len()) {
            return Err(reader.error(&format!("a choice for {names:?} of another length")));
        }
        axes.push(Axis { names, choices });
        match reader.next()? {
            ")" => return Ok(axes),
            "," => {}
            other => return Err(reader.error(&format!("`{other}` in VARIANTS"))),
        }
    }
}

/// `word`, or `(word, word)`; a word may be a path.
fn group(reader: &mut Reader) -> Result<Vec<String>, String> {
    let many = reader.take("(");
    let mut found = Vec::new();
    loop {
        let mut path = reader.next()?.to_owned();
        while reader.take("::") {
            path = path + "::" + reader.next()?;
        }
        found.push(path);
        if !many || reader.take(")") {
            return Ok(found);
        }
        reader.expect(",")?;
    }
}

/// Kind and name of each parameter of `template <class T, int D>`.
fn template_parameters(reader: &mut Reader) -> Result<Vec<(String, String)>, String> {
    reader.expect("template")?;
    reader.expect("<")?;
    let mut found = Vec::new();
    loop {
        found.push((reader.next()?.to_owned(), reader.next()?.to_owned()));
        match reader.next()? {
            ">" => return Ok(found),
            "," => {}
            other => return Err(reader.error(&format!("`{other}` in a kernel's template"))),
        }
    }
}
