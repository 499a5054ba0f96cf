//! Words, numbers and marks of a CUDA source: as much C++ as the build has to read.

/// A word, number or mark, and the line it stands on.
pub type Token = (String, usize);

/// The tokens of a source text, without comments and preprocessor lines, and the headers that
/// it includes in quotes.
pub fn tokens(text: &str) -> (Vec<Token>, Vec<String>) {
    let (code, headers) = without_directives(text);
    let mut found: Vec<Token> = Vec::new();
    let mut characters = code.chars().peekable();
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
            ':' if characters.next_if_eq(&':').is_some() => found.push(("::".to_owned(), line)),
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
    (found, headers)
}

/// The text with its preprocessor lines emptied, and the headers that they include in quotes.
fn without_directives(text: &str) -> (String, Vec<String>) {
    let mut code = String::new();
    let mut headers = Vec::new();
    let mut continued = false;
    for line in text.lines() {
        let directive = continued || line.trim_start().starts_with('#');
        continued = directive && line.ends_with('\\');
        if !directive {
            code += line;
        } else if let Some(rest) = line.trim_start().strip_prefix("#include \"") {
            headers.extend(rest.split('"').next().map(str::to_owned));
        }
        code.push('\n');
    }
    (code, headers)
}

/// Reads tokens one after the other.
pub struct Reader<'t> {
    tokens: &'t [Token],
    /// Number of the token that is read next.
    pub at: usize,
}

impl<'t> Reader<'t> {
    pub fn new(tokens: &'t [Token], at: usize) -> Self {
        Self { tokens, at }
    }

    /// The next token, without reading it; empty at the end.
    pub fn peek(&self) -> &'t str {
        self.tokens.get(self.at).map_or("", |token| &token.0)
    }

    pub fn next(&mut self) -> Result<&'t str, String> {
        let token = self.tokens.get(self.at);
        let token = token.ok_or("the text ends within a declaration")?;
        self.at += 1;
        Ok(&token.0)
    }

    /// Reads the next token where it is this one.
    pub fn take(&mut self, wanted: &str) -> bool {
        let found = self.peek() == wanted;
        self.at += usize::from(found);
        found
    }

    pub fn expect(&mut self, wanted: &str) -> Result<(), String> {
        let found = self.next()?;
        match found == wanted {
            true => Ok(()),
            false => Err(self.error(&format!("`{found}` stands where `{wanted}` is expected"))),
        }
    }

    /// Line of the token that was read last.
    pub fn line(&self) -> usize {
        let token = self.tokens.get(self.at.saturating_sub(1));
        token.map_or(0, |token| token.1)
    }

    /// `message` with the line of the token that was read last.
    pub fn error(&self, message: &str) -> String {
        format!("line {}: {message}", self.line())
    }

    /// Reads past the bracket that closes the one read last.
    pub fn skip_to_closing(&mut self, open: &str, close: &str) -> Result<(), String> {
        let mut depth = 1;
        while depth > 0 {
            let token = self.next()?;
            depth += usize::from(token == open);
            depth -= usize::from(token == close);
        }
        Ok(())
    }

    /// Reads the tokens before the first of these marks that stands outside all parentheses.
    pub fn until(&mut self, marks: &[&str]) -> Result<Vec<Token>, String> {
        let mut found = Vec::new();
        let mut depth = 0_usize;
        while depth > 0 || !marks.contains(&self.peek()) {
            let token = self.next()?.to_owned();
            depth += usize::from(token == "(");
            depth = depth.saturating_sub(usize::from(token == ")"));
            found.push((token, self.line()));
        }
        Ok(found)
    }

    /// Whether the word was read since `start`.
    pub fn has_between(&self, start: usize, word: &str) -> bool {
        self.tokens[start..self.at]
            .iter()
            .any(|token| token.0 == word)
    }
}
