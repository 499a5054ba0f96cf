//! Reads the kernels' entry points off the sources: what the launchers are made from, so that a changed parameter list does
//! not compile on the Rust side.

use std::fs;
use std::path::{Path, PathBuf};

/// One `.cu` file.
pub struct Source {
    /// `rmsnorm` of `rmsnorm.cu`.
    pub name: String,
    pub path: PathBuf,
    pub kernels: Vec<Kernel>,
}

/// One entry point.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    pub name: String,
    /// Threads of a block: the first number of its launch bounds.
    pub threads: u32,
    /// Most bytes of dynamic shared memory.
    pub dynamic: u32,
    pub parameters: Vec<Parameter>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    pub name: String,
    pub kind: Kind,
    pub pointer: Pointer,
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

/// All `.cu` files of a folder, by name.
pub fn read_folder(folder: &Path) -> Result<Vec<Source>, String> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))? {
        let path = entry.map_err(|e| e.to_string())?.path();
        if path.extension().is_some_and(|ending| ending == "cu") {
            paths.push(path);
        }
    }
    paths.sort();
    paths.iter().map(|path| read(path)).collect()
}

/// One `.cu` file.
pub fn read(path: &Path) -> Result<Source, String> {
    let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let kernels = parse(&text).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(Source {
        name: stem.into_owned(),
        path: path.to_path_buf(),
        kernels,
    })
}

/// A word, number or mark, and the line it stands on.
type Token = (String, usize);

fn tokens(text: &str) -> Vec<Token> {
    let mut found: Vec<Token> = Vec::new();
    let mut characters = text.chars().peekable();
    let mut line = 1;
    while let Some(c) = characters.next() {
        match c {
            '\n' => line += 1,
            '/' if characters.peek() == Some(&'/') => {
                while characters.next_if(|&c| c != '\n').is_some() {}
            }
            '/' if characters.peek() == Some(&'*') => {
                let mut last = ' ';
                for c in characters.by_ref() {
                    line += usize::from(c == '\n');
                    if last == '*' && c == '/' {
                        break;
                    }
                    last = c;
                }
            }
            '"' => {
                let mut word = String::from('"');
                while let Some(c) = characters.next_if(|&c| c != '"' && c != '\n') {
                    word.push(c);
                }
                characters.next_if_eq(&'"');
                found.push((word + "\"", line));
            }
            c if c.is_alphanumeric() || c == '_' => {
                let mut word = String::from(c);
                while let Some(c) = characters.next_if(|c| c.is_alphanumeric() || *c == '_') {
                    word.push(c);
                }
                found.push((word, line));
            }
            c if c.is_whitespace() => {}
            c => found.push((c.to_string(), line)),
        }
    }
    found
}

/// The entry points of a source text, in its order.
pub fn parse(text: &str) -> Result<Vec<Kernel>, String> {
    let tokens = tokens(text);
    let mut kernels = Vec::new();
    let mut at = 0;
    while at + 1 < tokens.len() {
        if tokens[at].0 == "extern" && tokens[at + 1].0 == "\"C\"" {
            let mut reader = Reader {
                tokens: &tokens,
                at: at + 2,
            };
            kernels.push(reader.kernel()?);
            at = reader.at;
        } else if tokens[at].0 == "__global__" {
            return Err(format!(
                "line {}: a kernel that is not extern \"C\"",
                tokens[at].1
            ));
        } else {
            at += 1;
        }
    }
    Ok(kernels)
}

struct Reader<'t> {
    tokens: &'t [Token],
    at: usize,
}

impl Reader<'_> {
    fn next(&mut self) -> Result<&str, String> {
        let token = self.tokens.get(self.at).ok_or("ends within a kernel")?;
        self.at += 1;
        Ok(&token.0)
    }

    fn error(&self, message: &str) -> String {
        let line = self
            .tokens
            .get(self.at.saturating_sub(1))
            .map_or(0, |t| t.1);
        format!("line {line}: {message}")
    }

    fn expect(&mut self, wanted: &str) -> Result<(), String> {
        let found = self.next()?.to_owned();
        match found == wanted {
            true => Ok(()),
            false => Err(self.error(&format!("`{found}` stands where `{wanted}` is expected"))),
        }
    }

    fn number(&mut self) -> Result<u32, String> {
        let found = self.next()?.to_owned();
        found
            .parse()
            .map_err(|_| self.error(&format!("`{found}` must be a plain number")))
    }

    fn kernel(&mut self) -> Result<Kernel, String> {
        let (mut threads, mut dynamic, mut global) = (None, 0, false);
        let name = loop {
            match self.next()? {
                "__global__" => global = true,
                "void" => {}
                "__launch_bounds__" => {
                    self.expect("(")?;
                    threads = Some(self.number()?);
                    while self.next()? != ")" {}
                }
                "MAX_DYN_SMEM" => {
                    self.expect("(")?;
                    dynamic = self.number()?;
                    self.expect(")")?;
                }
                name => break name.to_owned(),
            }
        };
        let threads = threads
            .filter(|threads| global && (1..=1024).contains(threads))
            .ok_or_else(|| {
                self.error(&format!(
                    "{name} must be `extern \"C\" __global__ void __launch_bounds__(1 to 1024)`"
                ))
            })?;
        self.expect("(")?;
        let mut parameters = Vec::new();
        loop {
            let (parameter, last) = self.parameter()?;
            parameters.push(parameter);
            if last {
                break;
            }
        }
        Ok(Kernel {
            name,
            threads,
            dynamic,
            parameters,
        })
    }

    /// A parameter, and whether it is the last one.
    fn parameter(&mut self) -> Result<(Parameter, bool), String> {
        let (mut constant, mut pointer, mut kind, mut name) = (false, false, None, None);
        let last = loop {
            match self.next()? {
                "const" => constant = true,
                "*" => pointer = true,
                "__restrict__" => {}
                "__half" => kind = Some(Kind::Half),
                "__nv_bfloat16" => kind = Some(Kind::Bfloat),
                "float" => kind = Some(Kind::Float),
                "int" if kind == Some(Kind::Unsigned) => {}
                "int" => kind = Some(Kind::Int),
                "unsigned" | "uint32_t" => kind = Some(Kind::Unsigned),
                "," => break false,
                ")" => break true,
                word if kind.is_some() && name.is_none() => name = Some(word.to_owned()),
                word => {
                    let message = format!(
                        "`{word}`: a parameter is a pointer to, or a value of, __half, __nv_bfloat16, float, int, unsigned"
                    );
                    return Err(self.error(&message));
                }
            }
        };
        let (Some(kind), Some(name)) = (kind, name) else {
            return Err(self.error("a parameter without a type or a name"));
        };
        let half = matches!(kind, Kind::Half | Kind::Bfloat);
        if half && !pointer {
            return Err(self.error(&format!("{name} is a half by value; pass a float")));
        }
        let pointer = match (pointer, constant) {
            (false, _) => Pointer::No,
            (true, true) => Pointer::Const,
            (true, false) => Pointer::Mutable,
        };
        Ok((
            Parameter {
                name,
                kind,
                pointer,
            },
            last,
        ))
    }
}
