//! From text to tokens.

use std::iter::Peekable;
use std::str::Chars;

use serde_json::{Number, Value};

use super::TemplateError;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// A name: function, keyword, `true`.
    Word(String),
    /// `.Name`
    Field(String),
    Dot,
    /// `$` or `$name`
    Variable(String),
    Constant(Value),
    Declare,
    Assign,
    Comma,
    Pipe,
    Open,
    Close,
}

/// A token, and whether blanks stand before it: `.a.b` is one operand, `.a .b` are two.
pub(super) type Spaced = (Token, bool);

/// Text, or the tokens of an action.
pub(super) enum Piece {
    Text(String),
    Action(Vec<Spaced>),
}

type Result<T> = std::result::Result<T, TemplateError>;

fn error<T>(problem: impl Into<String>) -> Result<T> {
    Err(TemplateError::new(problem))
}

/// Divides a template; blanks that `{{-` and `-}}` take away are gone.
pub(super) fn pieces(text: &str) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut trim_next = false;
    while let Some(at) = rest.find("{{") {
        let inner = &rest[at + 2..];
        let trims = inner.starts_with('-') && inner[1..].starts_with(char::is_whitespace);
        let mut before = &rest[..at];
        if trim_next {
            before = before.trim_start();
        }
        if trims {
            before = before.trim_end();
        }
        pieces.push(Piece::Text(before.to_owned()));
        let inner = if trims {
            inner[1..].trim_start()
        } else {
            inner
        };
        if let Some(comment) = inner.strip_prefix("/*") {
            let Some((_, after)) = comment.split_once("*/") else {
                return error("unclosed comment: end it with */}}");
            };
            (trim_next, rest) = after_comment(after)?;
            continue;
        }
        let mut tokens = Tokens {
            chars: inner.chars().peekable(),
            left: inner,
        };
        let (action, trims) = tokens.action()?;
        trim_next = trims;
        rest = tokens.left;
        pieces.push(Piece::Action(action));
    }
    pieces.push(Piece::Text(
        if trim_next { rest.trim_start() } else { rest }.to_owned(),
    ));
    Ok(pieces)
}

fn after_comment(after: &str) -> Result<(bool, &str)> {
    if let Some(rest) = after.strip_prefix("}}") {
        return Ok((false, rest));
    }
    let trimmed = after.trim_start();
    match trimmed.strip_prefix("-}}") {
        Some(rest) if trimmed.len() < after.len() => Ok((true, rest)),
        _ => error("comment ends before closing delimiter: write {{/* … */}}"),
    }
}

/// The inside of one action.
struct Tokens<'t> {
    chars: Peekable<Chars<'t>>,
    /// What is not consumed yet; kept in step with `chars`.
    left: &'t str,
}

impl Tokens<'_> {
    fn next(&mut self) -> Option<char> {
        let next = self.chars.next()?;
        self.left = &self.left[next.len_utf8()..];
        Some(next)
    }

    /// Everything up to and including `}}`; true if what follows is to be trimmed.
    fn action(&mut self) -> Result<(Vec<Spaced>, bool)> {
        let mut tokens = Vec::new();
        loop {
            let before = self.left.len();
            while self.chars.peek().is_some_and(|c| c.is_whitespace()) {
                self.next();
            }
            let spaced = self.left.len() < before;
            for (end, trims) in [("}}", false), ("-}}", true)] {
                if self.left.starts_with(end) && (!trims || spaced) {
                    for _ in end.chars() {
                        self.next();
                    }
                    return Ok((tokens, trims));
                }
            }
            let Some(first) = self.next() else {
                return error("unclosed action: end it with }}");
            };
            tokens.push((self.token(first)?, spaced));
        }
    }

    fn token(&mut self, first: char) -> Result<Token> {
        Ok(match first {
            '|' => Token::Pipe,
            '(' => Token::Open,
            ')' => Token::Close,
            ',' => Token::Comma,
            '=' => Token::Assign,
            ':' if self.left.starts_with('=') => {
                self.next();
                Token::Declare
            }
            '"' => Token::Constant(self.quoted()?.into()),
            '`' => Token::Constant(self.raw()?.into()),
            '\'' => Token::Constant(self.character()?),
            '$' => Token::Variable(format!("${}", self.word())),
            '.' if self.left.starts_with(|c: char| c.is_ascii_digit()) => self.number(first)?,
            '.' => match self.word() {
                name if name.is_empty() => Token::Dot,
                name => Token::Field(name),
            },
            '+' | '-' | '0'..='9' => self.number(first)?,
            letter if letter == '_' || letter.is_alphabetic() => {
                Token::Word(format!("{letter}{}", self.word()))
            }
            other => return error(format!("unexpected {other:?} in an action")),
        })
    }

    fn word(&mut self) -> String {
        let mut word = String::new();
        while let Some(c) = self.chars.next_if(|c| *c == '_' || c.is_alphanumeric()) {
            self.left = &self.left[c.len_utf8()..];
            word.push(c);
        }
        word
    }

    fn number(&mut self, first: char) -> Result<Token> {
        let mut text = first.to_string();
        loop {
            text += &self.word();
            match self.chars.peek() {
                Some('.') => text.extend(self.next()),
                Some('+' | '-') if text.ends_with(['e', 'E']) => text.extend(self.next()),
                _ => break,
            }
        }
        let plain = text.replace('_', "");
        let integer = match plain
            .strip_prefix("0x")
            .or_else(|| plain.strip_prefix("0X"))
        {
            Some(digits) => i64::from_str_radix(digits, 16).ok(),
            None => plain.parse().ok(),
        };
        let number = integer
            .map(Number::from)
            .or_else(|| plain.parse().ok().and_then(Number::from_f64));
        match number {
            Some(number) => Ok(Token::Constant(number.into())),
            None => error(format!("bad number syntax: {text:?}")),
        }
    }

    fn quoted(&mut self) -> Result<String> {
        let mut text = String::new();
        loop {
            match self.next() {
                Some('"') => return Ok(text),
                Some('\\') => text.push(self.escape()?),
                Some(c) if c != '\n' => text.push(c),
                _ => return error("unterminated quoted string: end it with \""),
            }
        }
    }

    fn raw(&mut self) -> Result<String> {
        let Some((text, _)) = self.left.split_once('`') else {
            return error("unterminated raw quoted string: end it with `");
        };
        for _ in 0..=text.chars().count() {
            self.next();
        }
        Ok(text.to_owned())
    }

    /// A character is a number in Go.
    fn character(&mut self) -> Result<Value> {
        let c = match self.next() {
            Some('\\') => self.escape()?,
            Some(c) => c,
            None => return error("unterminated character constant: end it with '"),
        };
        if self.next() != Some('\'') {
            return error("unterminated character constant: end it with '");
        }
        Ok(u32::from(c).into())
    }

    fn escape(&mut self) -> Result<char> {
        let digits = |this: &mut Self, count: usize| -> Option<char> {
            let digits = this.left.get(..count)?.to_owned();
            let number = u32::from_str_radix(&digits, 16).ok()?;
            for _ in 0..count {
                this.next();
            }
            char::from_u32(number)
        };
        let found = match self.next() {
            Some('n') => Some('\n'),
            Some('t') => Some('\t'),
            Some('r') => Some('\r'),
            Some(c @ ('\\' | '"' | '\'')) => Some(c),
            Some('x') => digits(self, 2),
            Some('u') => digits(self, 4),
            _ => None,
        };
        match found {
            Some(c) => Ok(c),
            None => error(
                "invalid escape in a quoted string: \\n \\t \\r \\\\ \\\" \\xHH \\uHHHH are known",
            ),
        }
    }
}

/// For messages.
pub(super) fn shown(token: &Token) -> String {
    match token {
        Token::Word(word) => format!("<{word}>"),
        Token::Field(name) => format!("<.{name}>"),
        Token::Dot => "<.>".to_owned(),
        Token::Variable(name) => format!("<{name}>"),
        Token::Constant(value) => value.to_string(),
        Token::Declare => "\":=\"".to_owned(),
        Token::Assign => "\"=\"".to_owned(),
        Token::Comma => "\",\"".to_owned(),
        Token::Pipe => "\"|\"".to_owned(),
        Token::Open => "\"(\"".to_owned(),
        Token::Close => "\")\"".to_owned(),
    }
}
