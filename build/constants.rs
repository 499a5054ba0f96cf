//! Integer constants of the kernels: `constexpr` declarations at namespace scope, and those in
//! class templates that an alias fills in. The ones marked `TO_HOST` become Rust constants, so
//! the host side of a launch has no number of its own.

use std::collections::BTreeMap;

use super::tokens::{Reader, Token};

/// A constant marked `TO_HOST`.
#[derive(Clone, Debug, PartialEq)]
pub struct Exported {
    /// The alias that it belongs to, e.g. `Large` for `Large::SharedBytes`.
    pub alias: Option<String>,
    /// As the source has it: `kRows`, `SharedBytes`.
    pub name: String,
    pub value: i64,
}

/// The constants that a file sees: its own and those of the headers it includes.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// By qualified name: `kRows`, `gemm::kDepth`, `gemm::Large::M`.
    values: BTreeMap<String, i64>,
    templates: BTreeMap<String, ClassTemplate>,
}

/// Integer members of a class template, as expressions of its parameters.
#[derive(Clone, Debug)]
struct ClassTemplate {
    parameters: Vec<String>,
    members: Vec<Member>,
}

#[derive(Clone, Debug)]
struct Member {
    name: String,
    expression: Vec<Token>,
    to_host: bool,
}

impl Scope {
    /// Adds what an included header defines.
    pub fn include(&mut self, other: &Self) {
        self.values.extend(other.values.clone());
        self.templates.extend(other.templates.clone());
    }

    /// The value of a name in a namespace: the innermost that knows it.
    fn find<'s, V>(map: &'s BTreeMap<String, V>, namespace: &str, name: &str) -> Option<&'s V> {
        let mut within = namespace;
        loop {
            let found = match within {
                "" => map.get(name),
                within => map.get(&format!("{within}::{name}")),
            };
            if found.is_some() || within.is_empty() {
                return found;
            }
            within = within.rsplit_once("::").map_or("", |(outer, _)| outer);
        }
    }

    /// The value of a name that is used outside all namespaces.
    pub fn get(&self, name: &str) -> Option<i64> {
        self.values.get(name).copied()
    }

    /// Reads a file's declarations into this scope; returns those marked `TO_HOST`.
    ///
    /// # Errors
    /// Where an expression marked `TO_HOST` cannot be evaluated, with its line.
    pub fn read(&mut self, tokens: &[Token]) -> Result<Vec<Exported>, String> {
        let mut reader = Reader::new(tokens, 0);
        let mut exported = Vec::new();
        // Names of the open namespaces; an anonymous one is empty.
        let mut namespaces: Vec<String> = Vec::new();
        while !reader.peek().is_empty() {
            let to_host = reader.take("TO_HOST");
            let inner = namespaces.iter().filter(|name| !name.is_empty());
            let namespace = inner.map(String::as_str).collect::<Vec<_>>().join("::");
            let found = match reader.next()? {
                "namespace" => {
                    namespaces.push(namespace_name(&mut reader)?);
                    None
                }
                "}" => {
                    namespaces.pop();
                    None
                }
                "{" => {
                    reader.skip_to_closing("{", "}")?;
                    None
                }
                "constexpr" => self.constants(&mut reader, &namespace, to_host)?,
                "using" => {
                    exported.extend(self.alias(&mut reader, &namespace)?);
                    None
                }
                "template" => {
                    self.class_template(&mut reader, &namespace)?;
                    None
                }
                _ => None,
            };
            match (to_host, found) {
                (true, Some(found)) => exported.extend(found),
                (true, None) => {
                    return Err(reader.error("TO_HOST: an integer constexpr must follow"));
                }
                (false, _) => {}
            }
        }
        Ok(exported)
    }

    /// `int name = expression, ...;` behind `constexpr`; none where it is of another type. An
    /// expression that cannot be evaluated is an error where the host wants it, else passed over.
    fn constants(
        &mut self,
        reader: &mut Reader,
        namespace: &str,
        strict: bool,
    ) -> Result<Option<Vec<Exported>>, String> {
        if !is_integer(reader.next()?) {
            return Ok(None);
        }
        let mut found = Vec::new();
        for (name, expression) in declarators(reader)? {
            let lookup = |name: &str| Self::find(&self.values, namespace, name).copied();
            match evaluate(&expression, &lookup) {
                Ok(value) => {
                    self.values.insert(qualified(namespace, &name), value);
                    found.push(Exported {
                        alias: None,
                        name,
                        value,
                    });
                }
                Err(message) if strict => return Err(message),
                Err(_) => {}
            }
        }
        Ok(Some(found))
    }

    /// `Name = Template<arguments>;` behind `using`; nothing where it is no known class template.
    fn alias(&mut self, reader: &mut Reader, namespace: &str) -> Result<Vec<Exported>, String> {
        let name = reader.next()?.to_owned();
        if !reader.take("=") {
            return Ok(Vec::new());
        }
        let template = reader.next()?;
        let Some(template) = Self::find(&self.templates, namespace, template).cloned() else {
            return Ok(Vec::new());
        };
        reader.expect("<")?;
        let mut bound = BTreeMap::new();
        for parameter in &template.parameters {
            let argument = reader.until(&[",", ">"])?;
            let lookup = |name: &str| Self::find(&self.values, namespace, name).copied();
            bound.insert(parameter.clone(), evaluate(&argument, &lookup)?);
            reader.next()?;
        }
        let mut found = Vec::new();
        for member in &template.members {
            let lookup = |name: &str| {
                let own = bound.get(name).copied();
                own.or_else(|| Self::find(&self.values, namespace, name).copied())
            };
            let value = evaluate(&member.expression, &lookup)?;
            bound.insert(member.name.clone(), value);
            let path = qualified(namespace, &format!("{name}::{}", member.name));
            self.values.insert(path, value);
            if member.to_host {
                found.push(Exported {
                    alias: Some(name.clone()),
                    name: member.name.clone(),
                    value,
                });
            }
        }
        Ok(found)
    }

    /// `<parameters> struct Name { ... }` behind `template`: its integer members. Anything else
    /// is left for the caller to pass over.
    fn class_template(&mut self, reader: &mut Reader, namespace: &str) -> Result<(), String> {
        reader.expect("<")?;
        let mut parameters = Vec::new();
        loop {
            let tokens = reader.until(&[",", ">"])?;
            let name = tokens.iter().take_while(|token| token.0 != "=").last();
            parameters.extend(name.map(|token| token.0.clone()));
            if reader.next()? == ">" {
                break;
            }
        }
        if !reader.take("struct") {
            return Ok(());
        }
        let name = reader.until(&["{", ";"])?;
        let Some((name, _)) = name.last() else {
            return Err(reader.error("a struct without a name"));
        };
        if reader.next()? == ";" {
            return Ok(());
        }
        let mut members = Vec::new();
        loop {
            let to_host = reader.take("TO_HOST");
            reader.take("static");
            match reader.next()? {
                "}" => break,
                "{" => reader.skip_to_closing("{", "}")?,
                "constexpr" => {
                    if !is_integer(reader.next()?) {
                        continue;
                    }
                    members.extend(declarators(reader)?.into_iter().map(|(name, expression)| {
                        Member {
                            name,
                            expression,
                            to_host,
                        }
                    }));
                }
                _ => {}
            }
        }
        let template = ClassTemplate {
            parameters,
            members,
        };
        self.templates.insert(qualified(namespace, name), template);
        Ok(())
    }
}

fn qualified(namespace: &str, name: &str) -> String {
    match namespace {
        "" => name.to_owned(),
        namespace => format!("{namespace}::{name}"),
    }
}

fn is_integer(word: &str) -> bool {
    ["int", "unsigned", "uint32_t", "bool"].contains(&word)
}

/// The name behind `namespace`, empty for an anonymous one; reads its bracket.
fn namespace_name(reader: &mut Reader) -> Result<String, String> {
    let tokens = reader.until(&["{"])?;
    reader.next()?;
    Ok(tokens.into_iter().map(|token| token.0).collect())
}

/// `name = expression, ...;`
fn declarators(reader: &mut Reader) -> Result<Vec<(String, Vec<Token>)>, String> {
    let mut found = Vec::new();
    loop {
        let name = reader.next()?.to_owned();
        if !reader.take("=") {
            return Err(reader.error(&format!("`{name}`: a constant without a value")));
        }
        found.push((name, reader.until(&[",", ";"])?));
        if reader.next()? == ";" {
            return Ok(found);
        }
    }
}

/// The value of an integer expression: `+ - * / % << >> ?:`, parentheses, names by `lookup`.
///
/// # Errors
/// Where it is none, or a name is unknown, with its line.
pub fn evaluate(expression: &[Token], lookup: &dyn Fn(&str) -> Option<i64>) -> Result<i64, String> {
    let mut reader = Reader::new(expression, 0);
    let value = conditional(&mut reader, lookup)?;
    match reader.peek() {
        "" => Ok(value),
        rest => Err(reader.error(&format!("`{rest}` in an expression of integers"))),
    }
}

type Lookup<'l> = &'l dyn Fn(&str) -> Option<i64>;

fn conditional(reader: &mut Reader, lookup: Lookup) -> Result<i64, String> {
    let value = shift(reader, lookup)?;
    if !reader.take("?") {
        return Ok(value);
    }
    let yes = conditional(reader, lookup)?;
    reader.expect(":")?;
    let no = conditional(reader, lookup)?;
    Ok(if value != 0 { yes } else { no })
}

fn shift(reader: &mut Reader, lookup: Lookup) -> Result<i64, String> {
    let mut value = sum(reader, lookup)?;
    while ["<", ">"].contains(&reader.peek()) {
        let mark = reader.next()?;
        reader.expect(mark)?;
        let by = u32::try_from(sum(reader, lookup)?).unwrap_or(u32::MAX);
        let shifted = match mark {
            "<" => value.checked_shl(by),
            _ => value.checked_shr(by),
        };
        value = shifted.ok_or_else(|| reader.error("a shift by more than 63"))?;
    }
    Ok(value)
}

fn sum(reader: &mut Reader, lookup: Lookup) -> Result<i64, String> {
    let mut value = product(reader, lookup)?;
    while ["+", "-"].contains(&reader.peek()) {
        let mark = reader.next()?;
        let other = product(reader, lookup)?;
        let result = match mark {
            "+" => value.checked_add(other),
            _ => value.checked_sub(other),
        };
        value = result.ok_or_else(|| reader.error("the sum is too large"))?;
    }
    Ok(value)
}

fn product(reader: &mut Reader, lookup: Lookup) -> Result<i64, String> {
    let mut value = primary(reader, lookup)?;
    while ["*", "/", "%"].contains(&reader.peek()) {
        let mark = reader.next()?;
        let other = primary(reader, lookup)?;
        let result = match mark {
            "*" => value.checked_mul(other),
            "/" => value.checked_div(other),
            _ => value.checked_rem(other),
        };
        value = result.ok_or_else(|| reader.error("a product too large, or a division by 0"))?;
    }
    Ok(value)
}

fn primary(reader: &mut Reader, lookup: Lookup) -> Result<i64, String> {
    match reader.next()? {
        "-" => Ok(-primary(reader, lookup)?),
        "(" => {
            let value = conditional(reader, lookup)?;
            reader.expect(")")?;
            Ok(value)
        }
        "true" => Ok(1),
        "false" => Ok(0),
        word if word.starts_with(|c: char| c.is_ascii_digit()) => {
            let digits = word.trim_end_matches(['u', 'U', 'l', 'L']);
            let value = match digits.strip_prefix("0x") {
                Some(digits) => i64::from_str_radix(digits, 16),
                None => digits.parse(),
            };
            value.map_err(|_| reader.error(&format!("`{word}` is no integer")))
        }
        word => {
            let mut path = word.to_owned();
            while reader.take("::") {
                path = path + "::" + reader.next()?;
            }
            let value = lookup(&path);
            value.ok_or_else(|| {
                reader.error(&format!(
                    "`{path}` is no integer constant of this file or its headers"
                ))
            })
        }
    }
}

/// A Rust module of the constants that a file marks `TO_HOST`; those of an alias in one of its own.
pub fn rust_module(file: &str, constants: &[Exported]) -> String {
    let line = |constant: &Exported, indent: &str| {
        let name = snake(&constant.name).to_uppercase();
        let (source, value) = (&constant.name, constant.value);
        format!("{indent}/// `{source}`.\n{indent}pub const {name}: usize = {value};\n")
    };
    let mut text = format!("/// Constants of `kernels/`, `{file}`.\npub mod {file} {{\n");
    for constant in constants.iter().filter(|constant| constant.alias.is_none()) {
        text += &line(constant, "    ");
    }
    let members = constants.iter().filter(|constant| constant.alias.is_some());
    let mut members: Vec<&Exported> = members.collect();
    members.sort_by_key(|constant| &constant.alias);
    for of_alias in members.chunk_by(|a, b| a.alias == b.alias) {
        let alias = of_alias[0].alias.as_deref().unwrap_or_default();
        let module = snake(alias);
        text += &format!("    /// Constants of `{alias}`.\n    pub mod {module} {{\n");
        text.extend(of_alias.iter().map(|constant| line(constant, "        ")));
        text += "    }\n";
    }
    text + "}\n\n"
}

/// `kMaxRows` and `MaxRows` as `max_rows`.
fn snake(name: &str) -> String {
    let bare = match name.strip_prefix('k') {
        Some(rest) if rest.starts_with(|c: char| c.is_uppercase()) => rest,
        _ => name,
    };
    let mut text = String::new();
    for (at, c) in bare.char_indices() {
        if c.is_uppercase() && at > 0 {
            text.push('_');
        }
        text.extend(c.to_lowercase());
    }
    text
}
