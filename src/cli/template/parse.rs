//! From tokens to a tree.

use std::collections::HashMap;
use std::iter::Peekable;

use serde_json::Value;

use super::TemplateError;
use super::functions::Function;
use super::tokens::{Piece, Spaced, Token, pieces, shown};

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

/// Templates by name.
pub(super) type Defined = HashMap<String, Vec<Node>>;

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
