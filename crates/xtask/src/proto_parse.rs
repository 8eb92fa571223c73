//! Reads a .proto file (proto3) as far as the lint needs it: names, numbers, and whether a comment leads.
//!
//! Owns the grammar; must not know any rule.

use anyhow::{Context as _, Result, bail};

/// A file.
#[derive(Debug, Default)]
pub(crate) struct File {
    pub(crate) syntax: Option<String>,
    pub(crate) package: Option<String>,
    pub(crate) messages: Vec<Message>,
    pub(crate) enums: Vec<Enum>,
    pub(crate) services: Vec<Service>,
}

/// A name, where it is and whether a comment leads it.
#[derive(Debug, Clone)]
pub(crate) struct Name {
    pub(crate) text: String,
    pub(crate) line: usize,
    pub(crate) commented: bool,
}

/// A message with all that is in it.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) name: Name,
    pub(crate) fields: Vec<Numbered>,
    pub(crate) oneofs: Vec<Name>,
    pub(crate) messages: Vec<Self>,
    pub(crate) enums: Vec<Enum>,
    pub(crate) reserved: Reserved,
}

/// An enum.
#[derive(Debug)]
pub(crate) struct Enum {
    pub(crate) name: Name,
    pub(crate) values: Vec<Numbered>,
    pub(crate) reserved: Reserved,
}

/// A field or an enum's value.
#[derive(Debug)]
pub(crate) struct Numbered {
    pub(crate) name: Name,
    pub(crate) number: i64,
}

/// What may not be used again.
#[derive(Debug, Default)]
pub(crate) struct Reserved {
    /// First and last of each range.
    pub(crate) ranges: Vec<(i64, i64)>,
    pub(crate) names: Vec<String>,
}

/// A service.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) name: Name,
    pub(crate) rpcs: Vec<Name>,
}

/// Parses a file's text.
pub(crate) fn parse(text: &str) -> Result<File> {
    let tokens = tokenize(text)?;
    let mut parser = Parser { tokens: &tokens };
    let mut file = File::default();
    while let Some(token) = parser.peek() {
        let line = token.line;
        parser.declaration(&mut file).with_context(|| format!("line {line}"))?;
    }
    Ok(file)
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    /// A name (with dots) or a number.
    Word(String),
    /// What stands between quotes.
    Text(String),
    Symbol(char),
}

#[derive(Debug, Clone)]
struct Token {
    kind: Kind,
    line: usize,
    /// A comment ends on the line before, and it is not the end of another statement's line.
    commented: bool,
}

fn tokenize(text: &str) -> Result<Vec<Token>> {
    let mut tokens: Vec<Token> = Vec::new();
    let mut comment_end = None;
    let mut chars = text.chars().peekable();
    let mut line = 1;
    while let Some(c) = chars.next() {
        let kind = match c {
            '\n' => {
                line += 1;
                continue;
            }
            c if c.is_whitespace() => continue,
            '/' => {
                let trailing = tokens.last().is_some_and(|last| last.line == line);
                line += skip_comment(&mut chars).with_context(|| format!("line {line}"))?;
                comment_end = if trailing { comment_end } else { Some(line) };
                continue;
            }
            '"' | '\'' => {
                let text: String =
                    std::iter::from_fn(|| chars.next_if(|next| *next != c && *next != '\n')).collect();
                if chars.next() != Some(c) {
                    bail!("line {line}: a text without an end");
                }
                Kind::Text(text)
            }
            c if is_word(c) => {
                let rest = std::iter::from_fn(|| chars.next_if(|next| is_word(*next)));
                Kind::Word(std::iter::once(c).chain(rest).collect())
            }
            c if "{}()[]<>=;,-+:".contains(c) => Kind::Symbol(c),
            c => bail!("line {line}: unexpected `{c}`"),
        };
        let first = tokens.last().is_none_or(|last| last.line != line);
        tokens.push(Token { kind, line, commented: first && comment_end.is_some_and(|end| end + 1 == line) });
    }
    Ok(tokens)
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '.'
}

/// After the first `/`; returns how many lines end in it. A line's comment leaves its line break alone.
fn skip_comment(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<usize> {
    match chars.next() {
        Some('/') => {
            while chars.next_if(|next| *next != '\n').is_some() {}
            Ok(0)
        }
        Some('*') => {
            let mut lines = 0;
            let mut star = false;
            for c in chars.by_ref() {
                if star && c == '/' {
                    return Ok(lines);
                }
                star = c == '*';
                lines += usize::from(c == '\n');
            }
            bail!("a comment without an end")
        }
        _ => bail!("unexpected `/`"),
    }
}

struct Parser<'a> {
    tokens: &'a [Token],
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a Token> {
        self.tokens.first()
    }

    fn next(&mut self) -> Result<&'a Token> {
        let (first, rest) = self.tokens.split_first().context("the file ends too early")?;
        self.tokens = rest;
        Ok(first)
    }

    fn at(&self, symbol: char) -> bool {
        self.peek().is_some_and(|token| token.kind == Kind::Symbol(symbol))
    }

    fn skip_if(&mut self, symbol: char) -> bool {
        let there = self.at(symbol);
        if there {
            self.tokens = self.tokens.get(1..).unwrap_or_default();
        }
        there
    }

    fn expect(&mut self, symbol: char) -> Result<()> {
        let token = self.next()?;
        if token.kind != Kind::Symbol(symbol) {
            bail!("line {}: wanted `{symbol}`, found {:?}", token.line, token.kind);
        }
        Ok(())
    }

    fn word(&mut self) -> Result<&'a str> {
        let token = self.next()?;
        match &token.kind {
            Kind::Word(word) => Ok(word),
            other => bail!("line {}: wanted a name, found {other:?}", token.line),
        }
    }

    fn text(&mut self) -> Result<String> {
        let token = self.next()?;
        match &token.kind {
            Kind::Text(text) => Ok(text.clone()),
            other => bail!("line {}: wanted a text, found {other:?}", token.line),
        }
    }

    fn number(&mut self) -> Result<i64> {
        let negative = self.skip_if('-');
        let word = self.word()?;
        let number: i64 = match word.strip_prefix("0x") {
            Some(digits) => i64::from_str_radix(digits, 16),
            None => word.parse(),
        }
        .with_context(|| format!("`{word}` is not a number"))?;
        Ok(if negative { -number } else { number })
    }

    /// A name whose statement began at `start`.
    fn name(&mut self, start: &Token) -> Result<Name> {
        let line = self.peek().map_or(start.line, |token| token.line);
        Ok(Name { text: self.word()?.to_owned(), line, commented: start.commented })
    }

    /// To the end of a statement: a `;`, or a block in braces.
    fn skip_statement(&mut self) -> Result<()> {
        let mut depth = 0_usize;
        loop {
            let token = self.next()?;
            match token.kind {
                Kind::Symbol('{') => depth += 1,
                Kind::Symbol('}') => {
                    depth = depth
                        .checked_sub(1)
                        .with_context(|| format!("line {}: a `}}` too many", token.line))?;
                    if depth == 0 {
                        self.skip_if(';');
                        return Ok(());
                    }
                }
                Kind::Symbol(';') if depth == 0 => return Ok(()),
                _ => {}
            }
        }
    }

    fn declaration(&mut self, file: &mut File) -> Result<()> {
        if self.skip_if(';') {
            return Ok(());
        }
        let start = self.next()?;
        match &start.kind {
            Kind::Word(word) if word == "syntax" => {
                self.expect('=')?;
                file.syntax = Some(self.text()?);
                self.expect(';')
            }
            Kind::Word(word) if word == "package" => {
                file.package = Some(self.word()?.to_owned());
                self.expect(';')
            }
            Kind::Word(word) if word == "import" || word == "option" => self.skip_statement(),
            Kind::Word(word) if word == "message" => {
                let message = self.message(start)?;
                file.messages.push(message);
                Ok(())
            }
            Kind::Word(word) if word == "enum" => {
                let found = self.enumeration(start)?;
                file.enums.push(found);
                Ok(())
            }
            Kind::Word(word) if word == "service" => {
                let service = self.service(start)?;
                file.services.push(service);
                Ok(())
            }
            other => bail!("unexpected {other:?}"),
        }
    }

    fn message(&mut self, start: &Token) -> Result<Message> {
        let mut message = Message {
            name: self.name(start)?,
            fields: Vec::new(),
            oneofs: Vec::new(),
            messages: Vec::new(),
            enums: Vec::new(),
            reserved: Reserved::default(),
        };
        self.expect('{')?;
        while !self.skip_if('}') {
            self.member(&mut message)?;
        }
        Ok(message)
    }

    fn member(&mut self, message: &mut Message) -> Result<()> {
        if self.skip_if(';') {
            return Ok(());
        }
        let start = self.peek().context("a message without an end")?;
        match self.word()? {
            "message" => {
                let inner = self.message(start)?;
                message.messages.push(inner);
            }
            "enum" => {
                let inner = self.enumeration(start)?;
                message.enums.push(inner);
            }
            "option" => self.skip_statement()?,
            "reserved" => self.reserved(&mut message.reserved)?,
            "oneof" => {
                let name = self.name(start)?;
                message.oneofs.push(name);
                self.expect('{')?;
                while !self.skip_if('}') {
                    let start = self.peek().context("a oneof without an end")?;
                    match self.word()? {
                        "option" => self.skip_statement()?,
                        _ => message.fields.push(self.field(start)?),
                    }
                }
            }
            "optional" | "repeated" => {
                self.word()?;
                message.fields.push(self.field(start)?);
            }
            "map" => {
                self.expect('<')?;
                self.word()?;
                self.expect(',')?;
                self.word()?;
                self.expect('>')?;
                message.fields.push(self.field(start)?);
            }
            _ => message.fields.push(self.field(start)?),
        }
        Ok(())
    }

    /// After the type: `name = number [options];`
    fn field(&mut self, start: &Token) -> Result<Numbered> {
        let name = self.name(start)?;
        self.expect('=')?;
        let number = self.number()?;
        self.skip_statement()?;
        Ok(Numbered { name, number })
    }

    fn enumeration(&mut self, start: &Token) -> Result<Enum> {
        let mut found = Enum { name: self.name(start)?, values: Vec::new(), reserved: Reserved::default() };
        self.expect('{')?;
        while !self.skip_if('}') {
            if self.skip_if(';') {
                continue;
            }
            let start = self.peek().context("an enum without an end")?;
            match &start.kind {
                Kind::Word(word) if word == "option" => self.skip_statement()?,
                Kind::Word(word) if word == "reserved" => {
                    self.word()?;
                    self.reserved(&mut found.reserved)?;
                }
                _ => found.values.push(self.field(start)?),
            }
        }
        Ok(found)
    }

    fn reserved(&mut self, reserved: &mut Reserved) -> Result<()> {
        loop {
            if self.peek().is_some_and(|token| matches!(token.kind, Kind::Text(_))) {
                reserved.names.push(self.text()?);
            } else {
                reserved.ranges.push(self.range()?);
            }
            if !self.skip_if(',') {
                return self.expect(';');
            }
        }
    }

    /// `7`, `7 to 9` or `7 to max`.
    fn range(&mut self) -> Result<(i64, i64)> {
        let first = self.number()?;
        if !self.peek().is_some_and(|token| token.kind == Kind::Word("to".to_owned())) {
            return Ok((first, first));
        }
        self.word()?;
        let max = self.peek().is_some_and(|token| token.kind == Kind::Word("max".to_owned()));
        let last = if max { self.word().map(|_| i64::MAX)? } else { self.number()? };
        Ok((first, last))
    }

    fn service(&mut self, start: &Token) -> Result<Service> {
        let mut service = Service { name: self.name(start)?, rpcs: Vec::new() };
        self.expect('{')?;
        while !self.skip_if('}') {
            if self.skip_if(';') {
                continue;
            }
            let start = self.peek().context("a service without an end")?;
            match self.word()? {
                "rpc" => {
                    let name = self.name(start)?;
                    service.rpcs.push(name);
                    self.skip_statement()?;
                }
                "option" => self.skip_statement()?,
                other => bail!("line {}: unexpected `{other}`", start.line),
            }
        }
        Ok(service)
    }
}
