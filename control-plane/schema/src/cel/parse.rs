//! From text to [`Node`]s: the grammar is the `cel` crate's; its macros are folded back into what they mean, so that
//! they can be checked and evaluated as such.

use std::panic::AssertUnwindSafe;

use cel::common::ast::{EntryExpr, Expr, IdedExpr, LiteralValue, SourceInfo};
use cel::parser::Parser;

use super::ast::{Const, Fold, Kind, Node};
use super::signatures;

/// What is wrong with an expression, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Issue {
    pub line: usize,
    pub column: usize,
    pub message: String,
}

/// The most code points that an expression has.
const MAX_CODE_POINTS: usize = 100_000;
/// How deep an expression nests at most, operators that follow each other included.
const MAX_DEPTH: usize = 250;

/// Where the nodes of an expression are in its text.
#[derive(Debug)]
pub(super) struct Source {
    pub text: String,
    info: SourceInfo,
}

impl Source {
    /// The issue `message` at a node.
    pub fn issue(&self, id: u64, message: impl Into<String>) -> Issue {
        let at = self.info.offset_for(id).map_or(0, |(start, _)| start as usize);
        // The parser counts code points.
        let before: Vec<char> = self.text.chars().take(at).collect();
        let line = before.iter().filter(|c| **c == '\n').count() + 1;
        let column = before.iter().rev().take_while(|c| **c != '\n').count() + 1;
        Issue { line, column, message: message.into() }
    }
}

/// All issues, as cel-go prints them.
pub(super) fn render(text: &str, issues: &[Issue]) -> String {
    let one = |issue: &Issue| {
        let line = text.lines().nth(issue.line.saturating_sub(1)).unwrap_or_default();
        let dots = ".".repeat(issue.column.saturating_sub(1));
        format!("ERROR: <input>:{}:{}: {}\n | {line}\n | {dots}^", issue.line, issue.column, issue.message)
    };
    issues.iter().map(one).collect::<Vec<_>>().join("\n")
}

/// What parsing takes of the stack for each level, unoptimised.
const PARSE_LEVEL_BYTES: usize = 256 << 10;
/// The same for what goes down the nodes.
pub(super) const WALK_LEVEL_BYTES: usize = 24 << 10;

/// Runs what goes down an expression with stack enough for its depth, whatever the thread has.
pub(super) fn with_stack<T>(depth: usize, level_bytes: usize, run: impl FnOnce() -> T) -> T {
    let needed = (depth + 4) * level_bytes;
    stacker::maybe_grow(needed, needed + (256 << 10), run)
}

/// The expression that `text` is, and how deep it nests.
pub(super) fn parse(text: &str) -> Result<(Node, Source, usize), Vec<Issue>> {
    let first = |message: String| vec![Issue { line: 1, column: 1, message }];
    let size = text.chars().count();
    if size > MAX_CODE_POINTS {
        return Err(first(format!("expression code point size exceeds limit: size: {size}, limit {MAX_CODE_POINTS}")));
    }
    let depth = depth(text);
    if depth > MAX_DEPTH {
        return Err(first(format!("expression recursion limit exceeded: {MAX_DEPTH}")));
    }
    // The grammar's code is generated, and has been seen to panic on broken input: what is broken is an error.
    let parser = Parser::new().enable_optional_syntax(true).enable_ident_escape_syntax(true);
    let parser = parser.max_recursion_depth(u16::try_from(MAX_DEPTH).unwrap_or(u16::MAX));
    let parsed = with_stack(depth, PARSE_LEVEL_BYTES, || {
        std::panic::catch_unwind(AssertUnwindSafe(|| parser.parse_with_source_info(text)))
    });
    match parsed {
        Ok(Ok((expr, info))) => {
            let source = Source { text: text.to_owned(), info };
            let node = with_stack(depth, WALK_LEVEL_BYTES, || lower(expr, &source)).map_err(|issue| vec![issue])?;
            Ok((node, source, depth))
        }
        Ok(Err(errors)) => Err(errors.errors.into_iter().map(issue_of).collect()),
        Err(_) => Err(first("Syntax error: the expression cannot be parsed".into())),
    }
}

fn issue_of(error: cel::ParseError) -> Issue {
    let at = |n: isize| usize::try_from(n).unwrap_or(1).max(1);
    Issue { line: at(error.pos.0), column: at(error.pos.1), message: error.msg }
}

/// What nests at one level of brackets.
#[derive(Default)]
struct Level {
    /// Operators that follow each other: `a.b + c`.
    chain: usize,
    /// `a ? b : c ? d : e` nests to the right, whatever the conditions are.
    conditionals: usize,
}

/// An upper bound of how deep the expression nests.
fn depth(text: &str) -> usize {
    let mut levels = vec![Level::default()];
    let mut total = 0usize;
    let mut deepest = 0;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' | '\'' => skip_string(c, &mut chars),
            '/' if chars.peek() == Some(&'/') => while chars.next_if(|c| *c != '\n').is_some() {},
            '(' | '[' | '{' => {
                levels.push(Level { chain: 1, conditionals: 0 });
                total += 1;
            }
            ')' | ']' | '}' if levels.len() > 1 => {
                total -= levels.pop().map_or(0, |level| level.chain + level.conditionals);
                // What follows hangs on what was just closed.
                if let Some(level) = levels.last_mut() {
                    level.chain += 1;
                    total += 1;
                }
            }
            ',' => total -= levels.last_mut().map(std::mem::take).map_or(0, |level| level.chain + level.conditionals),
            // `&&` and `||` are balanced; what is between two of them stands alone.
            '&' | '|' => total -= levels.last_mut().map_or(0, |level| std::mem::take(&mut level.chain)),
            '?' => {
                if let Some(level) = levels.last_mut() {
                    level.conditionals += 1;
                    total += 1;
                }
            }
            '.' | '+' | '-' | '*' | '/' | '%' | '<' | '>' | '=' | '!' => {
                if let Some(level) = levels.last_mut() {
                    level.chain += 1;
                    total += 1;
                }
            }
            _ => {}
        }
        deepest = deepest.max(total);
    }
    deepest
}

fn skip_string(quote: char, chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    // A triple quote is an empty string and one more, for this purpose.
    let mut escaped = false;
    for c in chars.by_ref() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return,
            _ => {}
        }
    }
}

type Lowered = Result<Node, Issue>;

fn lower_box(expr: IdedExpr, source: &Source) -> Result<Box<Node>, Issue> {
    lower(expr, source).map(Box::new)
}

fn lower_all(exprs: Vec<IdedExpr>, source: &Source) -> Result<Vec<Node>, Issue> {
    exprs.into_iter().map(|e| lower(e, source)).collect()
}

fn lower(expr: IdedExpr, source: &Source) -> Lowered {
    let id = expr.id;
    let kind = match expr.expr {
        Expr::Unspecified => return Err(source.issue(id, "Syntax error: empty expression")),
        Expr::Literal(literal) => Kind::Literal(constant(literal)),
        Expr::Ident(name) => Kind::Ident(name.trim_start_matches('.').to_owned()),
        Expr::Select(select) => Kind::Select {
            operand: lower_box(*select.operand, source)?,
            field: select.field,
            test: select.test,
            optional: false,
        },
        Expr::List(list) => {
            let optional = list.optional_indices;
            let items = list.elements.into_iter().enumerate();
            let items = items.map(|(at, e)| Ok((lower(e, source)?, optional.contains(&at))));
            Kind::List(items.collect::<Result<_, Issue>>()?)
        }
        Expr::Map(map) => {
            let mut entries = Vec::with_capacity(map.entries.len());
            for entry in map.entries {
                if let EntryExpr::MapEntry(e) = entry.expr {
                    entries.push((lower(e.key, source)?, lower(e.value, source)?, e.optional));
                }
            }
            Kind::Map(entries)
        }
        Expr::Struct(structure) => {
            let mut fields = Vec::with_capacity(structure.entries.len());
            for entry in structure.entries {
                if let EntryExpr::StructField(e) = entry.expr {
                    fields.push((e.field, lower(e.value, source)?, e.optional));
                }
            }
            Kind::Struct(structure.type_name.trim_start_matches('.').to_owned(), fields)
        }
        Expr::Comprehension(comprehension) => return fold_back(id, *comprehension, source),
        Expr::Call(call) => return lower_call(id, call, source),
    };
    Ok(Node { id, kind })
}

fn constant(literal: LiteralValue) -> Const {
    match literal {
        LiteralValue::Boolean(b) => Const::Bool(b.into_inner()),
        LiteralValue::Bytes(b) => Const::Bytes(b.into_inner()),
        LiteralValue::Double(f) => Const::Double(f.into_inner()),
        LiteralValue::Int(i) => Const::Int(i.into_inner()),
        LiteralValue::Null => Const::Null,
        LiteralValue::String(s) => Const::String(s.into_inner()),
        LiteralValue::UInt(u) => Const::Uint(u.into_inner()),
    }
}

fn lower_call(id: u64, call: cel::common::ast::CallExpr, source: &Source) -> Lowered {
    let (name, mut args) = (call.func_name, call.args);
    let kind = match (name.as_str(), call.target, args.len()) {
        ("_&&_", None, 2) => Kind::And(flatten(args, "_&&_", source)?),
        ("_||_", None, 2) => Kind::Or(flatten(args, "_||_", source)?),
        ("_?._", None, 2) => {
            let Some(Expr::Literal(LiteralValue::String(field))) = args.pop().map(|a| a.expr) else {
                return Err(source.issue(id, "unsupported optional field selection"));
            };
            let operand = lower_box(args.remove(0), source)?;
            Kind::Select { operand, field: field.into_inner(), test: false, optional: true }
        }
        (_, Some(target), _) => return lower_member(id, name, *target, args, source),
        (_, None, _) => Kind::Call {
            function: name.trim_start_matches('.').to_owned(),
            member: false,
            args: lower_all(args, source)?,
        },
    };
    Ok(Node { id, kind })
}

/// The operands of a chain of `&&` or `||`, which the parser has balanced.
fn flatten(args: Vec<IdedExpr>, function: &str, source: &Source) -> Result<Vec<Node>, Issue> {
    let mut out = Vec::with_capacity(args.len());
    for arg in args {
        match arg.expr {
            Expr::Call(call) if call.func_name == function && call.target.is_none() => {
                out.extend(flatten(call.args, function, source)?);
            }
            expr => out.push(lower(IdedExpr { id: arg.id, expr }, source)?),
        }
    }
    Ok(out)
}

/// A call on a target: a macro of an extension library, a function whose name has a dot in it, or a method.
fn lower_member(id: u64, name: String, target: IdedExpr, mut args: Vec<IdedExpr>, source: &Source) -> Lowered {
    if let Expr::Ident(namespace) = &target.expr {
        let qualified = format!("{namespace}.{name}");
        if qualified == "cel.bind" && args.len() == 3 {
            let (body, init) = (args.pop(), args.pop());
            let variable = variable(args.remove(0), source)?;
            let part = |expr: Option<IdedExpr>| lower_box(expr.unwrap_or_default(), source);
            return Ok(Node { id, kind: Kind::Bind { variable, init: part(init)?, body: part(body)? } });
        }
        if signatures::is_qualified(&qualified) {
            let args = lower_all(args, source)?;
            return Ok(Node { id, kind: Kind::Call { function: qualified, member: false, args } });
        }
    }
    let fold = match (name.as_str(), args.len()) {
        ("all", 3) => Some(Fold::All),
        ("exists", 3) => Some(Fold::Exists),
        ("existsOne" | "exists_one", 3) => Some(Fold::ExistsOne),
        ("transformList", 3 | 4) => Some(Fold::List),
        ("transformMap", 3 | 4) => Some(Fold::Map),
        ("transformMapEntry", 3 | 4) => Some(Fold::MapEntry),
        ("sortBy", 2) => Some(Fold::SortBy),
        _ => None,
    };
    if let Some(op) = fold {
        return two_variables(id, op, target, args, source);
    }
    if matches!(name.as_str(), "optMap" | "optFlatMap") && args.len() == 2 {
        let body = lower_box(args.pop().unwrap_or_default(), source)?;
        let variable = variable(args.remove(0), source)?;
        let target = lower_box(target, source)?;
        return Ok(Node { id, kind: Kind::OptMap { target, variable, body, flat: name == "optFlatMap" } });
    }
    let mut all = vec![lower(target, source)?];
    all.extend(lower_all(args, source)?);
    Ok(Node { id, kind: Kind::Call { function: name, member: true, args: all } })
}

fn two_variables(id: u64, op: Fold, target: IdedExpr, mut args: Vec<IdedExpr>, source: &Source) -> Lowered {
    let body = lower_box(args.pop().unwrap_or_default(), source)?;
    let mut args = args.into_iter();
    let count = if op == Fold::SortBy { 1 } else { 2 };
    let variables = args.by_ref().take(count).map(|a| variable(a, source)).collect::<Result<Vec<_>, _>>()?;
    let filter = args.next().map(|a| lower_box(a, source)).transpose()?;
    let range = lower_box(target, source)?;
    Ok(Node { id, kind: Kind::Fold { op, range, variables, filter, body } })
}

fn variable(expr: IdedExpr, source: &Source) -> Result<String, Issue> {
    match expr.expr {
        Expr::Ident(name) => Ok(name),
        _ => Err(source.issue(expr.id, "argument must be a simple name")),
    }
}

/// What a comprehension was before the parser expanded it. Expressions cannot contain any other.
fn fold_back(id: u64, c: cel::common::ast::ComprehensionExpr, source: &Source) -> Lowered {
    let range = lower_box(c.iter_range, source)?;
    let variables = vec![c.iter_var];
    let unknown = || source.issue(id, "unsupported comprehension");
    let Expr::Call(mut step) = c.loop_step.expr else { return Err(unknown()) };
    let last = |step: &mut cel::common::ast::CallExpr| step.args.pop().unwrap_or_default();
    let (op, filter, body) = match (step.func_name.as_str(), step.args.len()) {
        ("_&&_", 2) => (Fold::All, None, last(&mut step)),
        ("_||_", 2) => (Fold::Exists, None, last(&mut step)),
        ("_+_", 2) => (Fold::List, None, only_item(last(&mut step)).ok_or_else(unknown)?),
        ("_?_:_", 3) => {
            let predicate = step.args.swap_remove(0);
            // `swap_remove` has put the accumulator first.
            let Expr::Call(mut add) = last(&mut step).expr else { return Err(unknown()) };
            match only_item(last(&mut add)) {
                Some(item) => (Fold::List, Some(predicate), item),
                None => (Fold::ExistsOne, None, predicate),
            }
        }
        _ => return Err(unknown()),
    };
    let filter = filter.map(|f| lower_box(f, source)).transpose()?;
    let body = lower_box(body, source)?;
    Ok(Node { id, kind: Kind::Fold { op, range, variables, filter, body } })
}

fn only_item(expr: IdedExpr) -> Option<IdedExpr> {
    match expr.expr {
        Expr::List(mut list) if list.elements.len() == 1 => list.elements.pop(),
        _ => None,
    }
}
