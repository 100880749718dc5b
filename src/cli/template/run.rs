//! Walking the tree.

use serde_json::Value;

use super::functions::{Function, Item, shown, truth, type_of};
use super::parse::{Node, Operand, Pipeline, Term};
use super::{Missing, Template, TemplateError};

/// How deep templates may call each other.
const MAX_CALLS: u32 = 100;

/// How much a template may print, in octets.
const MAX_OUTPUT: usize = 64 * 1024 * 1024;

type Result<T> = std::result::Result<T, TemplateError>;

fn error<T>(problem: impl Into<String>) -> Result<T> {
    Err(TemplateError::new(problem))
}

pub(super) fn render(
    template: &Template,
    data: &Value,
    missing: Missing,
    header: bool,
) -> Result<String> {
    let data = Some(data.clone());
    let mut run = Run {
        template,
        missing,
        header,
        variables: vec![("$".to_owned(), data.clone())],
        output: String::new(),
        calls: 0,
    };
    run.list(&template.root, &data)?;
    Ok(run.output)
}

/// Whether to go on behind a node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    GoOn,
    Break,
    Continue,
}

struct Run<'t> {
    template: &'t Template,
    missing: Missing,
    header: bool,
    /// Inner ones last.
    variables: Vec<(String, Item)>,
    output: String,
    calls: u32,
}

impl<'t> Run<'t> {
    fn list(&mut self, nodes: &'t [Node], dot: &Item) -> Result<Then> {
        for node in nodes {
            let then = self.node(node, dot)?;
            if then != Then::GoOn {
                return Ok(then);
            }
        }
        Ok(Then::GoOn)
    }

    /// A list with variables of its own.
    fn block(&mut self, nodes: &'t [Node], dot: &Item) -> Result<Then> {
        let outer = self.variables.len();
        let then = self.list(nodes, dot);
        self.variables.truncate(outer);
        then
    }

    fn print(&mut self, text: &str) -> Result<()> {
        if self.output.len() + text.len() > MAX_OUTPUT {
            return error("the output is too long");
        }
        self.output += text;
        Ok(())
    }

    fn node(&mut self, node: &'t Node, dot: &Item) -> Result<Then> {
        match node {
            Node::Text(text) => self.print(text)?,
            Node::Print(pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                if pipeline.variables.is_empty() {
                    self.print(&shown(&value))?;
                }
            }
            Node::If {
                condition,
                then,
                otherwise,
            } => {
                let outer = self.variables.len();
                let value = self.pipeline(condition, dot)?;
                let end = self.block(if truth(&value) { then } else { otherwise }, dot);
                self.variables.truncate(outer);
                return end;
            }
            Node::With {
                value,
                then,
                otherwise,
            } => {
                let outer = self.variables.len();
                let found = self.pipeline(value, dot)?;
                let end = if truth(&found) {
                    self.block(then, &found)
                } else {
                    self.block(otherwise, dot)
                };
                self.variables.truncate(outer);
                return end;
            }
            Node::Range {
                over,
                body,
                otherwise,
            } => {
                let outer = self.variables.len();
                let end = self.range(over, body, otherwise, dot);
                self.variables.truncate(outer);
                return end;
            }
            Node::Template { name, data } => {
                let data = match data {
                    Some(pipeline) => self.pipeline(pipeline, dot)?,
                    None => None,
                };
                self.call_template(name, data)?;
            }
            Node::Break => return Ok(Then::Break),
            Node::Continue => return Ok(Then::Continue),
        }
        Ok(Then::GoOn)
    }

    fn call_template(&mut self, name: &str, data: Item) -> Result<()> {
        let Some(nodes) = self.template.defined.get(name) else {
            return error(format!(
                "template {name:?} not defined: define it with {{{{define {name:?}}}}}"
            ));
        };
        self.calls += 1;
        if self.calls > MAX_CALLS {
            return error(format!("exceeded maximum template depth ({MAX_CALLS})"));
        }
        let outer = std::mem::replace(&mut self.variables, vec![("$".to_owned(), data.clone())]);
        let end = self.list(nodes, &data);
        self.variables = outer;
        self.calls -= 1;
        end.map(|_| ())
    }

    fn range(
        &mut self,
        over: &'t Pipeline,
        body: &'t [Node],
        otherwise: &'t [Node],
        dot: &Item,
    ) -> Result<Then> {
        let commands = &over.commands;
        let value = self.commands(commands, dot)?;
        let elements: Vec<(Value, Value)> = match value {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(values)) => (0_u64..).map(Value::from).zip(values).collect(),
            Some(Value::Object(members)) => {
                let mut members: Vec<_> = members
                    .into_iter()
                    .filter(|(key, _)| !key.ends_with("()"))
                    .collect();
                members.sort_by(|a, b| a.0.cmp(&b.0));
                members
                    .into_iter()
                    .map(|(key, value)| (key.into(), value))
                    .collect()
            }
            Some(Value::Number(count)) => (0..count.as_u64().unwrap_or(0).min(1_000_000))
                .map(|number| (number.into(), number.into()))
                .collect(),
            other => return error(format!("range can't iterate over {}", shown(&other))),
        };
        if elements.is_empty() {
            return self.block(otherwise, dot);
        }
        let outer = self.variables.len();
        for (key, value) in elements {
            let value = Some(value);
            match over.variables.as_slice() {
                [] => {}
                [one] => self.set(one, value.clone(), over.assigns)?,
                [first, second, ..] => {
                    self.set(first, Some(key), over.assigns)?;
                    self.set(second, value.clone(), over.assigns)?;
                }
            }
            let then = self.block(body, &value)?;
            self.variables.truncate(outer);
            if then == Then::Break {
                break;
            }
        }
        Ok(Then::GoOn)
    }

    fn set(&mut self, name: &str, value: Item, assigns: bool) -> Result<()> {
        if !assigns {
            self.variables.push((name.to_owned(), value));
            return Ok(());
        }
        match self
            .variables
            .iter_mut()
            .rev()
            .find(|(known, _)| known == name)
        {
            Some((_, place)) => {
                *place = value;
                Ok(())
            }
            None => error(format!(
                "undefined variable {name:?}: declare it with {name} := …"
            )),
        }
    }

    fn pipeline(&mut self, pipeline: &'t Pipeline, dot: &Item) -> Result<Item> {
        let value = self.commands(&pipeline.commands, dot)?;
        for name in &pipeline.variables {
            self.set(name, value.clone(), pipeline.assigns)?;
        }
        Ok(value)
    }

    fn commands(&mut self, commands: &'t [Vec<Operand>], dot: &Item) -> Result<Item> {
        let mut value = None;
        for (number, command) in commands.iter().enumerate() {
            let piped = (number > 0).then_some(value);
            value = self.command(command, piped, dot)?;
        }
        Ok(value)
    }

    /// `piped`: the value of the command before, which is the last argument.
    fn command(&mut self, command: &'t [Operand], piped: Option<Item>, dot: &Item) -> Result<Item> {
        let Some((first, arguments)) = command.split_first() else {
            return Ok(None);
        };
        if let Term::Function(function) = first.term {
            return self.call(function, arguments, piped, dot);
        }
        if arguments.is_empty() && piped.is_none() {
            return self.operand(first, dot);
        }
        // `.Label "a"` and `"a" | .Label`
        let (Some((method, path)), false) = (
            first.fields.split_last(),
            matches!(first.term, Term::Constant(_)),
        ) else {
            return error("can't give argument to a value that is no function");
        };
        let mut given = self.arguments(arguments, dot)?;
        given.extend(piped);
        let base = self.term(&first.term, dot)?;
        let base = self.fields(&base, path)?;
        let members = base
            .as_ref()
            .and_then(|base| base.get(format!("{method}()")));
        match (members, given.as_slice()) {
            (Some(members), [Some(Value::String(key))]) if self.header => {
                // Docker's title for the column of a label.
                let _ = members;
                let last = key.rsplit('.').next().unwrap_or_default();
                Ok(Some(last.replace(['-', '_'], " ").into()))
            }
            (Some(members), [Some(Value::String(key))]) => {
                Ok(Some(members.get(key).cloned().unwrap_or_else(|| "".into())))
            }
            (Some(_), _) => error(format!(".{method} wants one string")),
            (None, _) => error(format!(
                "{method} has arguments but cannot be invoked as function"
            )),
        }
    }

    fn arguments(&mut self, operands: &'t [Operand], dot: &Item) -> Result<Vec<Item>> {
        operands
            .iter()
            .map(|operand| self.operand(operand, dot))
            .collect()
    }

    fn call(
        &mut self,
        function: Function,
        operands: &'t [Operand],
        piped: Option<Item>,
        dot: &Item,
    ) -> Result<Item> {
        // These two stop at the first argument that decides.
        let stop_at = match function.name() {
            "and" => Some(false),
            "or" => Some(true),
            _ => None,
        };
        let mut arguments = Vec::with_capacity(operands.len() + 1);
        for operand in operands {
            let value = self.operand(operand, dot)?;
            if stop_at == Some(truth(&value)) {
                return Ok(value);
            }
            arguments.push(value);
        }
        arguments.extend(piped);
        if self.header {
            function.call_in_header(&arguments)
        } else {
            function.call(&arguments)
        }
    }

    /// Only what is asked for is copied: `$` may be all containers of a network.
    fn operand(&mut self, operand: &'t Operand, dot: &Item) -> Result<Item> {
        match &operand.term {
            Term::Dot => self.fields(dot, &operand.fields),
            Term::Variable(name) => self.fields(self.variable(name)?, &operand.fields),
            term @ (Term::Constant(_) | Term::Function(_) | Term::Group(_)) => {
                let base = self.term(term, dot)?;
                self.fields(&base, &operand.fields)
            }
        }
    }

    fn variable(&self, name: &str) -> Result<&Item> {
        let found = self.variables.iter().rev().find(|(known, _)| known == name);
        match found {
            Some((_, value)) => Ok(value),
            None => error(format!(
                "undefined variable {name:?}: declare it with {name} := …"
            )),
        }
    }

    fn term(&mut self, term: &'t Term, dot: &Item) -> Result<Item> {
        match term {
            Term::Dot => Ok(dot.clone()),
            Term::Constant(value) => Ok(Some(value.clone())),
            Term::Variable(name) => self.variable(name).cloned(),
            Term::Function(function) => self.call(*function, &[], None, dot),
            Term::Group(pipeline) => {
                let outer = self.variables.len();
                let value = self.pipeline(pipeline, dot);
                self.variables.truncate(outer);
                value
            }
        }
    }

    fn fields(&self, base: &Item, names: &[String]) -> Result<Item> {
        let mut value = base.as_ref();
        for name in names {
            value = match value {
                Some(Value::Object(members)) => {
                    let found = members.get(name);
                    if found.is_none() && self.missing == Missing::Refuse {
                        return error(format!(
                            "can't evaluate field {name}: the fields are {}",
                            known_fields(members)
                        ));
                    }
                    found
                }
                None | Some(Value::Null) => None,
                Some(other) => {
                    let kind = type_of(&Some(other.clone()));
                    return error(format!("can't evaluate field {name} in type {kind}"));
                }
            };
        }
        Ok(value.cloned())
    }
}

fn known_fields(members: &serde_json::Map<String, Value>) -> String {
    let mut known: Vec<String> = members
        .keys()
        .map(|key| format!(".{}", key.trim_end_matches("()")))
        .collect();
    known.sort();
    known.dedup();
    known.join(" ")
}
