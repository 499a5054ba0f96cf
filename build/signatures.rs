//! Reads the kernels' declarations off the sources: what the launchers are made from, so that a
//! changed parameter list does not compile on the Rust side. Of a kernel with variants it writes
//! the entry points, `variants.rs`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::constants::{Exported, Scope, evaluate};
use super::tokens::{Reader, Token, tokens};
use super::variants::{self, Variant};

/// What `kernels/` declares.
pub struct Kernels {
    /// By name.
    pub sources: Vec<Source>,
    /// Constants for the host, by the stem of the file that declares them.
    pub constants: BTreeMap<String, Vec<Exported>>,
}

/// One `.cu` file.
pub struct Source {
    /// `rmsnorm` of `rmsnorm.cu`.
    pub name: String,
    pub kernels: Vec<Kernel>,
}

impl Source {
    /// The translation unit: the file, and behind it the entry points that it leaves to the build.
    pub fn unit(&self) -> String {
        let entries = self
            .kernels
            .iter()
            .filter_map(|kernel| kernel.entry.as_deref());
        format!(
            "#include \"{}.cu\"\n{}",
            self.name,
            entries.collect::<String>()
        )
    }
}

/// One entry point.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    pub name: String,
    /// Threads of a block: the first number of its launch bounds.
    pub threads: u32,
    /// Least blocks of a multiprocessor: the second one.
    pub blocks: Option<u32>,
    /// Most bytes of dynamic shared memory.
    pub dynamic: u32,
    pub parameters: Vec<Parameter>,
    /// Its text, where the build writes it.
    pub entry: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    pub name: String,
    pub kind: Kind,
    pub pointer: Pointer,
    pub restrict: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pointer {
    No,
    Const,
    Mutable,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Half,
    Bfloat,
    Float,
    Int,
    Unsigned,
}

impl Kind {
    /// As C++ has it.
    pub fn cpp(self) -> &'static str {
        match self {
            Self::Half => "__half",
            Self::Bfloat => "__nv_bfloat16",
            Self::Float => "float",
            Self::Int => "int",
            Self::Unsigned => "unsigned",
        }
    }
}

/// All `.cu` files of a folder, with the headers in its `include/`.
///
/// # Errors
/// Names the file, the line, and what is wrong.
pub fn read_folder(folder: &Path) -> Result<Kernels, String> {
    let mut headers = Headers {
        folder: folder.join("include"),
        read: BTreeMap::new(),
    };
    let mut kernels = Kernels {
        sources: Vec::new(),
        constants: BTreeMap::new(),
    };
    for path in files(folder, "cu")? {
        let name = stem(&path);
        let (source, constants) = read(&path, &mut headers)?;
        kernels.sources.push(Source {
            name: name.clone(),
            kernels: source,
        });
        kernels.constants.insert(name, constants);
    }
    for path in files(&headers.folder.clone(), "cuh")? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        headers.scope(&name)?;
    }
    for (name, (_, constants)) in headers.read {
        let name = stem(Path::new(&name));
        if kernels.constants.contains_key(&name) {
            return Err(format!(
                "{name}.cu and {name}.cuh: give them different names"
            ));
        }
        kernels.constants.insert(name, constants);
    }
    kernels
        .constants
        .retain(|_, constants| !constants.is_empty());
    Ok(kernels)
}

fn stem(path: &Path) -> String {
    path.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn files(folder: &Path, ending: &str) -> Result<Vec<PathBuf>, String> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))? {
        let path = entry.map_err(|e| e.to_string())?.path();
        if path.extension().is_some_and(|found| found == ending) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn read(path: &Path, headers: &mut Headers) -> Result<(Vec<Kernel>, Vec<Exported>), String> {
    let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let (_, included) = tokens(&text);
    let scope = headers.all(&included)?;
    parse(&text, &scope).map_err(|e| format!("{}: {e}", path.display()))
}

/// The headers of `kernels/include`, each read once.
struct Headers {
    folder: PathBuf,
    read: BTreeMap<String, (Scope, Vec<Exported>)>,
}

impl Headers {
    /// What these headers define together. The simulator's have no constants of a launch.
    fn all(&mut self, names: &[String]) -> Result<Scope, String> {
        let mut scope = Scope::default();
        for name in names.iter().filter(|name| !name.contains("sim/")) {
            scope.include(&self.scope(name)?);
        }
        Ok(scope)
    }

    fn scope(&mut self, name: &str) -> Result<Scope, String> {
        if let Some((scope, _)) = self.read.get(name) {
            return Ok(scope.clone());
        }
        let path = self.folder.join(name);
        let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let (tokens, included) = tokens(&text);
        let mut scope = self.all(&included)?;
        let exported = scope.read(&tokens);
        let exported = exported.map_err(|e| format!("{}: {e}", path.display()))?;
        self.read.insert(name.to_owned(), (scope.clone(), exported));
        Ok(scope)
    }
}

/// The entry points of a source text, in its order, and its constants for the host. `included` is
/// what its headers define.
///
/// # Errors
/// Names the line and what is wrong.
pub fn parse(text: &str, included: &Scope) -> Result<(Vec<Kernel>, Vec<Exported>), String> {
    let (tokens, _) = tokens(text);
    let mut scope = included.clone();
    let exported = scope.read(&tokens)?;
    let mut kernels = Vec::new();
    let mut reader = Reader::new(&tokens, 0);
    while !reader.peek().is_empty() {
        match reader.next()? {
            "extern" if reader.take("\"C\"") => kernels.push(plain(&mut reader, &scope)?),
            "VARIANTS" => kernels.extend(with_variants(&mut reader, &scope)?),
            "__global__" => {
                return Err(reader.error("a kernel that is not extern \"C\""));
            }
            "KERNEL" => return Err(reader.error("a KERNEL without VARIANTS before its template")),
            _ => {}
        }
    }
    Ok((kernels, exported))
}

/// `__global__ void __launch_bounds__(N) name(parameters)` behind `extern "C"`.
fn plain(reader: &mut Reader, scope: &Scope) -> Result<Kernel, String> {
    let start = reader.at;
    let lookup = |name: &str| scope.get(name);
    let found = declaration(reader, None, &lookup)?;
    match reader.has_between(start, "__global__") {
        true => Ok(found),
        false => Err(reader.error(&format!(
            "{} must be `extern \"C\" __global__ void __launch_bounds__(1 to 1024)`",
            found.name
        ))),
    }
}

/// `(variants) LAUNCH_BOUNDS(N) template <...> KERNEL name(parameters)` behind `VARIANTS`: an entry
/// for each.
fn with_variants(reader: &mut Reader, scope: &Scope) -> Result<Vec<Kernel>, String> {
    let (all, start) = variants::read(reader)?;
    let mut kernels = Vec::new();
    for variant in &all {
        reader.at = start;
        let lookup = |name: &str| variant.value(name, scope);
        let mut kernel = declaration(reader, Some(variant), &lookup)?;
        if !reader.has_between(start, "KERNEL") {
            let message = format!("{}: KERNEL must stand before its name", kernel.name);
            return Err(reader.error(&message));
        }
        let entry = variant.entry(&kernel);
        kernel.name = variant.name(&kernel.name);
        kernel.entry = Some(entry);
        kernels.push(kernel);
    }
    Ok(kernels)
}

/// From behind `extern "C"`, or behind `VARIANTS(...)`, to the end of the parameters.
fn declaration(
    reader: &mut Reader,
    variant: Option<&Variant>,
    lookup: &dyn Fn(&str) -> Option<i64>,
) -> Result<Kernel, String> {
    let (mut bounds, mut dynamic) = (Vec::new(), 0);
    let name = loop {
        match reader.next()? {
            "__global__" | "void" | "KERNEL" => {}
            "template" => {
                reader.expect("<")?;
                reader.skip_to_closing("<", ">")?;
            }
            "__launch_bounds__" | "LAUNCH_BOUNDS" => bounds = numbers(reader, lookup)?,
            "MAX_DYN_SMEM" => dynamic = numbers(reader, lookup)?.first().copied().unwrap_or(0),
            name => break name.to_owned(),
        }
    };
    let threads = bounds
        .first()
        .copied()
        .filter(|threads| (1..=1024).contains(threads));
    let threads = threads.ok_or_else(|| {
        let message = format!("{name}: launch bounds of 1 to 1024 threads must stand before it");
        reader.error(&message)
    })?;
    reader.expect("(")?;
    let mut parameters = Vec::new();
    loop {
        let (parameter, last) = parameter(reader, variant)?;
        parameters.push(parameter);
        if last {
            break;
        }
    }
    Ok(Kernel {
        name,
        threads,
        blocks: bounds.get(1).copied(),
        dynamic,
        parameters,
        entry: None,
    })
}

/// `(expression, ...)`
fn numbers(reader: &mut Reader, lookup: &dyn Fn(&str) -> Option<i64>) -> Result<Vec<u32>, String> {
    reader.expect("(")?;
    let mut found = Vec::new();
    loop {
        let expression: Vec<Token> = reader.until(&[",", ")"])?;
        let value = evaluate(&expression, lookup)?;
        let value = u32::try_from(value);
        found.push(value.map_err(|_| reader.error("a number from 0 to 2^32 - 1 is expected"))?);
        if reader.next()? == ")" {
            return Ok(found);
        }
    }
}

/// A parameter, and whether it is the last one.
fn parameter(reader: &mut Reader, variant: Option<&Variant>) -> Result<(Parameter, bool), String> {
    let (mut constant, mut pointer, mut restrict) = (false, false, false);
    let (mut kind, mut name) = (None, None);
    let last = loop {
        match reader.next()? {
            "const" => constant = true,
            "*" => pointer = true,
            "__restrict__" => restrict = true,
            "__half" => kind = Some(Kind::Half),
            "__nv_bfloat16" => kind = Some(Kind::Bfloat),
            "float" => kind = Some(Kind::Float),
            "int" if kind == Some(Kind::Unsigned) => {}
            "int" => kind = Some(Kind::Int),
            "unsigned" | "uint32_t" => kind = Some(Kind::Unsigned),
            "," => break false,
            ")" => break true,
            word if kind.is_some() && name.is_none() => name = Some(word.to_owned()),
            word => match variant.and_then(|variant| variant.element(word)) {
                Some(element) => kind = Some(element),
                None => {
                    let message = format!(
                        "`{word}`: a parameter is a pointer to, or a value of, __half, \
                         __nv_bfloat16, float, int, unsigned"
                    );
                    return Err(reader.error(&message));
                }
            },
        }
    };
    let (Some(kind), Some(name)) = (kind, name) else {
        return Err(reader.error("a parameter without a type or a name"));
    };
    let half = matches!(kind, Kind::Half | Kind::Bfloat);
    if half && !pointer {
        return Err(reader.error(&format!("{name} is a half by value; pass a float")));
    }
    let pointer = match (pointer, constant) {
        (false, _) => Pointer::No,
        (true, true) => Pointer::Const,
        (true, false) => Pointer::Mutable,
    };
    let parameter = Parameter {
        name,
        kind,
        pointer,
        restrict,
    };
    Ok((parameter, last))
}
