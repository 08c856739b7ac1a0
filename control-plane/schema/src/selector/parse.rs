//! The grammar of label selectors (apimachinery `labels/selector.go`): requirements separated by commas, each
//! `KEY`, `!KEY`, `KEY = VALUE` (`==`, `!=`, `>`, `<`), or `KEY in (VALUE, ...)` (`notin`).

use super::{LabelRequirement, Operator};
use crate::field::{Error, Path};
use crate::kinds::checks::qualified_name_problems;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    End,
    Identifier,
    Close,
    Comma,
    DoesNotExist,
    DoubleEquals,
    Equals,
    GreaterThan,
    In,
    LessThan,
    NotEquals,
    NotIn,
    Open,
}

struct Parser<'a> {
    tokens: Vec<(Token, &'a str)>,
    at: usize,
}

/// All requirements, in the order they are written.
pub(super) fn parse(text: &str) -> Result<Vec<LabelRequirement>, String> {
    let mut parser = Parser { tokens: tokens(text), at: 0 };
    let mut requirements = Vec::new();
    loop {
        match parser.look() {
            (Token::Identifier | Token::DoesNotExist, _) => {
                requirements.push(parser.requirement().map_err(|e| format!("unable to parse requirement: {e}"))?);
                match parser.take() {
                    (Token::End, _) => return Ok(requirements),
                    (Token::Comma, _) => {
                        let (token, literal) = parser.look();
                        if !matches!(token, Token::Identifier | Token::DoesNotExist) {
                            return Err(format!("found '{literal}', expected: identifier after ','"));
                        }
                    }
                    (_, literal) => return Err(format!("found '{literal}', expected: ',' or 'end of string'")),
                }
            }
            (Token::End, _) => return Ok(requirements),
            (_, literal) => return Err(format!("found '{literal}', expected: !, identifier, or 'end of string'")),
        }
    }
}

fn tokens(text: &str) -> Vec<(Token, &str)> {
    let special = |c: char| "=!(),><".contains(c);
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        let Some(first) = rest.chars().next() else { return tokens };
        let length = if special(first) {
            if rest.starts_with("==") || rest.starts_with("!=") { 2 } else { 1 }
        } else {
            rest.find(|c: char| special(c) || matches!(c, ' ' | '\t' | '\r' | '\n')).unwrap_or(rest.len())
        };
        let (literal, after) = rest.split_at(length);
        let token = match literal {
            ")" => Token::Close,
            "," => Token::Comma,
            "!" => Token::DoesNotExist,
            "==" => Token::DoubleEquals,
            "=" => Token::Equals,
            ">" => Token::GreaterThan,
            "in" => Token::In,
            "<" => Token::LessThan,
            "!=" => Token::NotEquals,
            "notin" => Token::NotIn,
            "(" => Token::Open,
            _ => Token::Identifier,
        };
        tokens.push((token, literal));
        rest = after;
    }
}

impl<'a> Parser<'a> {
    /// The next token where a key or value stands: there, `in` and `notin` are names like others.
    fn look(&self) -> (Token, &'a str) {
        match self.tokens.get(self.at) {
            Some((Token::In | Token::NotIn, literal)) => (Token::Identifier, literal),
            Some(token) => *token,
            None => (Token::End, ""),
        }
    }

    fn take(&mut self) -> (Token, &'a str) {
        let token = self.look();
        self.at += 1;
        token
    }

    fn requirement(&mut self) -> Result<LabelRequirement, String> {
        let mut exists = Operator::Exists;
        let (mut token, mut key) = self.take();
        if token == Token::DoesNotExist {
            exists = Operator::DoesNotExist;
            (token, key) = self.take();
        }
        if token != Token::Identifier {
            return Err(format!("found '{key}', expected: identifier"));
        }
        let problems = qualified_name_problems(key);
        if !problems.is_empty() {
            return Err(Error::invalid(Path::default(), key, problems.join("; ")).to_string());
        }
        if exists == Operator::DoesNotExist || matches!(self.look().0, Token::End | Token::Comma) {
            return LabelRequirement::new(key, exists, Vec::new());
        }
        let operator = self.operator()?;
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => vec![self.exact_value()?],
        };
        LabelRequirement::new(key, operator, values)
    }

    fn operator(&mut self) -> Result<Operator, String> {
        let (token, literal) = self.tokens.get(self.at).copied().unwrap_or((Token::End, ""));
        self.at += 1;
        Ok(match token {
            Token::In => Operator::In,
            Token::NotIn => Operator::NotIn,
            Token::Equals => Operator::Equals,
            Token::DoubleEquals => Operator::DoubleEquals,
            Token::NotEquals => Operator::NotEquals,
            Token::GreaterThan => Operator::GreaterThan,
            Token::LessThan => Operator::LessThan,
            _ => return Err(format!("found '{literal}', expected: in, notin, =, ==, !=, gt, lt")),
        })
    }

    fn exact_value(&mut self) -> Result<String, String> {
        if matches!(self.look().0, Token::End | Token::Comma) {
            return Ok(String::new());
        }
        match self.take() {
            (Token::Identifier, value) => Ok(value.to_owned()),
            (_, literal) => Err(format!("found '{literal}', expected: identifier")),
        }
    }

    /// `(a, b)`, where nothing between commas is an empty value.
    fn values(&mut self) -> Result<Vec<String>, String> {
        match self.take() {
            (Token::Open, _) => {}
            (_, literal) => return Err(format!("found '{literal}' expected: '('")),
        }
        match self.look() {
            (Token::Identifier | Token::Comma, _) => {
                let values = self.value_list()?;
                match self.take() {
                    (Token::Close, _) => Ok(values),
                    (_, literal) => Err(format!("found '{literal}', expected: ')'")),
                }
            }
            (Token::Close, _) => {
                self.take();
                Ok(vec![String::new()])
            }
            (_, literal) => Err(format!("found '{literal}', expected: ',', ')' or identifier")),
        }
    }

    fn value_list(&mut self) -> Result<Vec<String>, String> {
        let mut values = Vec::new();
        loop {
            match self.take() {
                (Token::Identifier, value) => {
                    values.push(value.to_owned());
                    match self.look() {
                        (Token::Comma, _) => {}
                        (Token::Close, _) => return Ok(values),
                        (_, literal) => return Err(format!("found '{literal}', expected: ',' or ')'")),
                    }
                }
                (Token::Comma, _) => {
                    if values.is_empty() {
                        values.push(String::new());
                    }
                    match self.look() {
                        (Token::Close, _) => {
                            values.push(String::new());
                            return Ok(values);
                        }
                        (Token::Comma, _) => {
                            self.take();
                            values.push(String::new());
                        }
                        _ => {}
                    }
                }
                (_, literal) => return Err(format!("found '{literal}', expected: ',', or identifier")),
            }
        }
    }
}
