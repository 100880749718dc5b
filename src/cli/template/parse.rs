//! From text to tree.

use std::collections::HashMap;
use std::iter::Peekable;
use std::str::Chars;

use serde_json::{Number, Value};

use super::TemplateError;
use super::functions::Function;

/// How deep actions and parentheses may be nested.
const MAX_DEPTH: u32 = 100;

/// What a template consists of.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Text(String),
    /// Printed, unless it declares or assigns.
    Print(Pipeline),
    If {
        condition: Pipeline,
        then: Vec<Self>,
        otherwise: Vec<Self>,
    },
    With {
        value: Pipeline,
        then: Vec<Self>,
        otherwise: Vec<Self>,
    },
    Range {
        over: Pipeline,
        body: Vec<Self>,
        otherwise: Vec<Self>,
    },
    Template {
        name: String,
        data: Option<Pipeline>,
    },
    Break,
    Continue,
}

/// `$a, $b := command | command`
#[derive(Clone, Debug)]
pub(super) struct Pipeline {
    pub(super) variables: Vec<String>,
    /// `=` instead of `:=`.
    pub(super) assigns: bool,
    pub(super) commands: Vec<Vec<Operand>>,
}

/// A term and the fields that hang on it.
#[derive(Clone, Debug)]
pub(super) struct Operand {
    pub(super) term: Term,
    pub(super) fields: Vec<String>,
}

#[derive(Clone, Debug)]
pub(super) enum Term {
    Dot,
    Constant(Value),
    Variable(String),
    Function(Function),
    Group(Box<Pipeline>),
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
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
type Spaced = (Token, bool);

/// Templates by name.
pub(super) type Defined = HashMap<String, Vec<Node>>;

/// Text, or the tokens of an action.
enum Piece {
    Text(String),
    Action(Vec<Spaced>),
}

type Result<T> = std::result::Result<T, TemplateError>;

fn error<T>(problem: impl Into<String>) -> Result<T> {
    Err(TemplateError::new(problem))
}

/// The tree of `text` and the templates that it defines.
pub(super) fn template(text: &str) -> Result<(Vec<Node>, Defined)> {
    let pieces = pieces(text)?;
    let mut parser = Parser {
        pieces: pieces.into_iter(),
        defined: HashMap::new(),
        depth: 0,
        loops: 0,
    };
    let (nodes, end) = parser.list()?;
    match end {
        End::OfText => Ok((nodes, parser.defined)),
        End::Else(_) => {
            error("unexpected {{else}}: there is no {{if}}, {{range}} or {{with}} before it")
        }
        End::OfBlock => {
            error("unexpected {{end}}: there is no {{if}}, {{range}} or {{with}} before it")
        }
    }
}

fn pieces(text: &str) -> Result<Vec<Piece>> {
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

/// What ends a list of nodes.
enum End {
    OfText,
    OfBlock,
    /// With what stands after `else`.
    Else(Vec<Spaced>),
}

struct Parser {
    pieces: std::vec::IntoIter<Piece>,
    defined: Defined,
    depth: u32,
    /// Loops that `break` could leave.
    loops: u32,
}

impl Parser {
    fn list(&mut self) -> Result<(Vec<Node>, End)> {
        let mut nodes = Vec::new();
        loop {
            let action = match self.pieces.next() {
                None => return Ok((nodes, End::OfText)),
                Some(Piece::Text(text)) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Some(Piece::Action(action)) => action,
            };
            let keyword = match action.first() {
                Some((Token::Word(word), _)) => word.clone(),
                _ => String::new(),
            };
            let rest = || action[1..].to_vec();
            match keyword.as_str() {
                "end" if action.len() == 1 => return Ok((nodes, End::OfBlock)),
                "else" => return Ok((nodes, End::Else(rest()))),
                "if" | "with" | "range" => nodes.push(self.control(&keyword, rest())?),
                "template" => nodes.push(template_call(rest())?),
                "define" => self.define(rest())?,
                "block" => nodes.push(self.block(rest())?),
                "break" | "continue" if action.len() == 1 => {
                    if self.loops == 0 {
                        return error(format!("{{{{{keyword}}}}} outside {{{{range}}}}"));
                    }
                    nodes.push(if keyword == "break" {
                        Node::Break
                    } else {
                        Node::Continue
                    });
                }
                _ => nodes.push(Node::Print(whole_pipeline(action, "command")?)),
            }
        }
    }

    /// The body of an action that `{{end}}` ends.
    fn body(&mut self, what: &str) -> Result<(Vec<Node>, End)> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return error("nested too deeply");
        }
        let (nodes, end) = self.list()?;
        self.depth -= 1;
        if matches!(end, End::OfText) {
            return error(format!("unexpected EOF: {{{{{what}}}}} has no {{{{end}}}}"));
        }
        Ok((nodes, end))
    }

    fn control(&mut self, keyword: &str, tokens: Vec<Spaced>) -> Result<Node> {
        let value = whole_pipeline(tokens, keyword)?;
        if value.variables.len() > 1 && keyword != "range" {
            return error(format!("too many declarations in {keyword}"));
        }
        self.loops += u32::from(keyword == "range");
        let (then, end) = self.body(keyword)?;
        self.loops -= u32::from(keyword == "range");
        let otherwise = match end {
            End::Else(rest) => self.otherwise(keyword, rest)?,
            End::OfBlock | End::OfText => Vec::new(),
        };
        Ok(match keyword {
            "if" => Node::If {
                condition: value,
                then,
                otherwise,
            },
            "with" => Node::With {
                value,
                then,
                otherwise,
            },
            _ => Node::Range {
                over: value,
                body: then,
                otherwise,
            },
        })
    }

    /// `{{else}}…{{end}}`, or `{{else if …}}`, which has no end of its own.
    fn otherwise(&mut self, keyword: &str, mut rest: Vec<Spaced>) -> Result<Vec<Node>> {
        if rest.is_empty() {
            let (nodes, end) = self.body(keyword)?;
            return match end {
                End::OfBlock => Ok(nodes),
                End::Else(_) | End::OfText => error("expected {{end}}, found a second {{else}}"),
            };
        }
        if keyword != "range" && rest[0].0 == Token::Word(keyword.to_owned()) {
            rest.remove(0);
            self.depth += 1;
            if self.depth > MAX_DEPTH {
                return error("nested too deeply");
            }
            let nested = self.control(keyword, rest)?;
            self.depth -= 1;
            return Ok(vec![nested]);
        }
        error(format!("unexpected {} after else", shown(&rest[0].0)))
    }

    fn definition(&mut self, what: &str) -> Result<Vec<Node>> {
        let loops = std::mem::take(&mut self.loops);
        let (nodes, end) = self.body(what)?;
        self.loops = loops;
        match end {
            End::OfBlock => Ok(nodes),
            End::Else(_) | End::OfText => error(format!("unexpected {{{{else}}}} in {what}")),
        }
    }

    fn define(&mut self, tokens: Vec<Spaced>) -> Result<()> {
        let [(Token::Constant(Value::String(name)), _)] = tokens.as_slice() else {
            return error("define: give one quoted name");
        };
        let body = self.definition("define")?;
        self.defined.insert(name.clone(), body);
        Ok(())
    }

    fn block(&mut self, tokens: Vec<Spaced>) -> Result<Node> {
        let call = template_call(tokens)?;
        let body = self.definition("block")?;
        if let Node::Template { name, .. } = &call {
            self.defined.insert(name.clone(), body);
        }
        Ok(call)
    }
}

fn template_call(mut tokens: Vec<Spaced>) -> Result<Node> {
    let Some((Token::Constant(Value::String(name)), _)) = tokens.first().cloned() else {
        return error("template: give a quoted name");
    };
    tokens.remove(0);
    let data = if tokens.is_empty() {
        None
    } else {
        Some(whole_pipeline(tokens, "template")?)
    };
    Ok(Node::Template { name, data })
}

fn whole_pipeline(tokens: Vec<Spaced>, context: &str) -> Result<Pipeline> {
    let mut tokens = tokens.into_iter().peekable();
    let found = pipeline(&mut tokens, context, 0)?;
    match tokens.next() {
        None => Ok(found),
        Some((token, _)) => error(format!("unexpected {} in {context}", shown(&token))),
    }
}

type Input = Peekable<std::vec::IntoIter<Spaced>>;

/// Up to the end or a closing parenthesis, which is left.
fn pipeline(tokens: &mut Input, context: &str, depth: u32) -> Result<Pipeline> {
    if depth > MAX_DEPTH {
        return error("nested too deeply");
    }
    let (variables, assigns) = declaration(tokens)?;
    let mut commands = Vec::new();
    loop {
        let mut command: Vec<Operand> = Vec::new();
        while let Some((token, spaced)) =
            tokens.next_if(|(token, _)| !matches!(token, Token::Pipe | Token::Close))
        {
            let previous = command.last_mut();
            if let (Token::Field(name), false, Some(operand)) = (&token, spaced, previous) {
                if matches!(operand.term, Term::Constant(_) | Term::Function(_)) {
                    return error(format!("unexpected .{name} after a constant or function"));
                }
                operand.fields.push(name.clone());
                continue;
            }
            command.push(operand(token, tokens, context, depth)?);
        }
        if command.is_empty() {
            return error(format!("missing value for {context}"));
        }
        if let (false, Some(Term::Constant(_))) = (
            commands.is_empty(),
            command.first().map(|operand| &operand.term),
        ) {
            return error("non executable command in pipeline: only a function can stand after |");
        }
        commands.push(command);
        if tokens.next_if(|(token, _)| *token == Token::Pipe).is_none() {
            return Ok(Pipeline {
                variables,
                assigns,
                commands,
            });
        }
    }
}

/// `$a :=`, `$a, $b :=`, `$a =`, or nothing.
fn declaration(tokens: &mut Input) -> Result<(Vec<String>, bool)> {
    let mut ahead = tokens.clone();
    let mut variables = Vec::new();
    while let Some((Token::Variable(name), _)) = ahead.next() {
        variables.push(name);
        match ahead.next() {
            Some((Token::Comma, _)) => {}
            Some((token @ (Token::Declare | Token::Assign), _)) => {
                if variables.len() > 2 {
                    return error("too many declarations");
                }
                *tokens = ahead;
                return Ok((variables, token == Token::Assign));
            }
            _ => break,
        }
    }
    Ok((Vec::new(), false))
}

fn operand(first: Token, tokens: &mut Input, context: &str, depth: u32) -> Result<Operand> {
    let mut fields = Vec::new();
    let term = match first {
        Token::Dot => Term::Dot,
        Token::Field(name) => {
            fields.push(name);
            Term::Dot
        }
        Token::Variable(name) => Term::Variable(name),
        Token::Constant(value) => Term::Constant(value),
        Token::Word(word) => match word.as_str() {
            "true" => Term::Constant(true.into()),
            "false" => Term::Constant(false.into()),
            "nil" => Term::Constant(Value::Null),
            _ => match Function::named(&word) {
                Some(function) => Term::Function(function),
                None => {
                    return error(format!(
                        "function {word:?} not defined: fields begin with a dot, and the functions are {}",
                        Function::names()
                    ));
                }
            },
        },
        Token::Open => {
            let group = pipeline(tokens, "parenthesized pipeline", depth + 1)?;
            if tokens.next().is_none() {
                return error("unclosed left paren: end it with )");
            }
            Term::Group(Box::new(group))
        }
        token @ (Token::Declare | Token::Assign | Token::Comma | Token::Pipe | Token::Close) => {
            return error(format!("unexpected {} in {context}", shown(&token)));
        }
    };
    Ok(Operand { term, fields })
}

fn shown(token: &Token) -> String {
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
