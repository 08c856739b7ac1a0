//! Expressions, after parsing.

/// A part of an expression.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// By which the source knows where it is.
    pub id: u64,
    pub kind: Kind,
}

/// What a part of an expression is.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    Literal(Const),
    Ident(String),
    /// `a.b`, `a.?b`, and `has(a.b)` if it is a test.
    Select {
        operand: Box<Node>,
        field: String,
        test: bool,
        optional: bool,
    },
    /// Operators are functions. The receiver of a member call is the first argument.
    Call {
        function: String,
        member: bool,
        args: Vec<Node>,
    },
    And(Vec<Node>),
    Or(Vec<Node>),
    /// Items, and whether each is an optional that may be nothing.
    List(Vec<(Node, bool)>),
    Map(Vec<(Node, Node, bool)>),
    Struct(String, Vec<(String, Node, bool)>),
    Fold {
        op: Fold,
        range: Box<Node>,
        variables: Vec<String>,
        filter: Option<Box<Node>>,
        body: Box<Node>,
    },
    /// `cel.bind(variable, init, body)`.
    Bind {
        variable: String,
        init: Box<Node>,
        body: Box<Node>,
    },
    /// `target.optMap(variable, body)`.
    OptMap {
        target: Box<Node>,
        variable: String,
        body: Box<Node>,
        flat: bool,
    },
}

/// What is made of the items of a list or the entries of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fold {
    All,
    Exists,
    ExistsOne,
    /// `map`, `filter` and `transformList`.
    List,
    Map,
    MapEntry,
    SortBy,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Const {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(String),
    Bytes(Vec<u8>),
}

impl Node {
    /// Calls `visit` with this node and all below it.
    pub fn walk(&self, visit: &mut dyn FnMut(&Self)) {
        visit(self);
        match &self.kind {
            Kind::Literal(_) | Kind::Ident(_) => {}
            Kind::Select { operand, .. } => operand.walk(visit),
            Kind::Call { args, .. } => args.iter().for_each(|n| n.walk(visit)),
            Kind::And(terms) | Kind::Or(terms) => terms.iter().for_each(|n| n.walk(visit)),
            Kind::List(items) => items.iter().for_each(|(n, _)| n.walk(visit)),
            Kind::Map(entries) => entries.iter().for_each(|(key, value, _)| {
                key.walk(visit);
                value.walk(visit);
            }),
            Kind::Struct(_, fields) => fields.iter().for_each(|(_, n, _)| n.walk(visit)),
            Kind::Fold { range, filter, body, .. } => {
                range.walk(visit);
                if let Some(filter) = filter {
                    filter.walk(visit);
                }
                body.walk(visit);
            }
            Kind::Bind { init, body, .. } => {
                init.walk(visit);
                body.walk(visit);
            }
            Kind::OptMap { target, body, .. } => {
                target.walk(visit);
                body.walk(visit);
            }
        }
    }
}
