//! Kubernetes' named formats, and cel-go's `string.format(list)`.

use super::{Called, EvalError, MAX_SIZE, Val, math, time};
use crate::kinds::checks::names;

/// The formats, by the names that `format.named` knows.
const FORMATS: [&str; 13] = [
    "dns1123Label",
    "dns1123Subdomain",
    "dns1035Label",
    "qualifiedName",
    "dns1123LabelPrefix",
    "dns1123SubdomainPrefix",
    "dns1035LabelPrefix",
    "labelValue",
    "uri",
    "uuid",
    "byte",
    "date",
    "datetime",
];

pub(super) fn call<'a>(function: &str, args: &[Val<'a>]) -> Option<Called<'a>> {
    let known = |name: &str| FORMATS.into_iter().find(|format| *format == name);
    Some(match (function, args) {
        ("format.named", [Val::Str(name)]) => {
            Ok(known(name).map_or(Val::Optional(None), |format| Val::Format(format).some()))
        }
        ("validate", [Val::Format(format), Val::Str(text)]) => {
            let problems = problems(format, text);
            Ok(if problems.is_empty() {
                Val::Optional(None)
            } else {
                Val::list(problems.into_iter().map(Val::string).collect()).some()
            })
        }
        (name, []) => Ok(Val::Format(known(name.strip_prefix("format.")?)?)),
        _ => return None,
    })
}

fn problems(format: &str, text: &str) -> Vec<String> {
    // A prefix is a name that something follows.
    let masked = text.strip_suffix('-').map_or_else(|| text.to_owned(), |head| format!("{head}a"));
    let unless = |sound: bool, message: &str| if sound { Vec::new() } else { vec![message.to_owned()] };
    match format {
        "dns1123Label" => names::dns_label_problems(text),
        "dns1123LabelPrefix" => names::dns_label_problems(&masked),
        "dns1123Subdomain" => names::dns_subdomain_problems(text),
        "dns1123SubdomainPrefix" => names::dns_subdomain_problems(&masked),
        "dns1035Label" => names::dns1035_label_problems(text),
        "dns1035LabelPrefix" => names::dns1035_label_problems(&masked),
        "qualifiedName" => names::qualified_name_problems(text),
        "labelValue" => names::label_value_problems(text),
        "uri" => {
            unless(matches!(super::url::call("isURL", &[Val::string(text)]), Some(Ok(Val::Bool(true)))), "invalid URI")
        }
        "uuid" => unless(is_uuid(text), "does not match the UUID format"),
        "byte" => unless(
            super::strings::call("base64.decode", &[Val::string(text)]).is_some_and(|r| r.is_ok()),
            "invalid base64",
        ),
        "date" => unless(text.parse::<jiff::civil::Date>().is_ok() && text.len() == 10, "invalid date"),
        _ => unless(time::parse_timestamp(text).is_ok(), "invalid datetime"),
    }
}

fn is_uuid(text: &str) -> bool {
    let bare = text.replace('-', "");
    bare.len() == 32 && bare.bytes().all(|b| b.is_ascii_hexdigit()) && (text.len() == 32 || text.len() == 36)
}

/// `"%s is %d".format([a, b])`.
pub(super) fn format<'a>(pattern: &str, args: &Val<'a>) -> Called<'a> {
    let mut out = String::new();
    let mut chars = pattern.chars().peekable();
    let mut next = 0;
    while let Some(c) = chars.next() {
        if out.len() > MAX_SIZE {
            return Err(EvalError::CostLimit);
        }
        if c != '%' {
            out.push(c);
            continue;
        }
        if chars.next_if_eq(&'%').is_some() {
            out.push('%');
            continue;
        }
        let mut precision = None;
        if chars.next_if_eq(&'.').is_some() {
            let mut digits = String::new();
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            precision = digits.parse::<usize>().ok().map(|p| p.min(100));
        }
        let verb = chars.next().ok_or_else(|| EvalError::new("unexpected end of string"))?;
        let out_of_range = || EvalError::new(format!("index {next} out of range"));
        let value = args.at(next).ok_or_else(out_of_range)??;
        next += 1;
        out.push_str(&clause(verb, precision, &value)?);
    }
    Ok(Val::string(out))
}

fn clause(verb: char, precision: Option<usize>, value: &Val<'_>) -> Result<String, EvalError> {
    let wrong = |wanted: &str| {
        EvalError::new(format!(
            "error during formatting: {wanted} clause can only be used on numbers, was given {}",
            value.type_name()
        ))
    };
    match (verb, value) {
        ('s', value) => plain(value, 16),
        ('d', Val::Int(i)) => Ok(i.to_string()),
        ('d', Val::Uint(u)) => Ok(u.to_string()),
        ('d', _) => Err(EvalError::new(format!(
            "error during formatting: decimal clause can only be used on integers, was given {}",
            value.type_name()
        ))),
        ('f', value) => {
            Ok(format!("{:.*}", precision.unwrap_or(6), number(value).ok_or_else(|| wrong("fixed-point"))?))
        }
        ('e', value) => {
            let text = format!("{:.*e}", precision.unwrap_or(6), number(value).ok_or_else(|| wrong("scientific"))?);
            let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
            Ok(format!("{mantissa}e{sign}{digits:0>2}"))
        }
        ('b', Val::Int(i)) if *i < 0 => Ok(format!("-{:b}", i.unsigned_abs())),
        ('b', Val::Int(i)) => Ok(format!("{i:b}")),
        ('b', Val::Uint(u)) => Ok(format!("{u:b}")),
        ('b', Val::Bool(b)) => Ok(u8::from(*b).to_string()),
        ('o', Val::Int(i)) if *i < 0 => Ok(format!("-{:o}", i.unsigned_abs())),
        ('o', Val::Int(i)) => Ok(format!("{i:o}")),
        ('o', Val::Uint(u)) => Ok(format!("{u:o}")),
        ('x', Val::Int(i)) if *i < 0 => Ok(format!("-{:x}", i.unsigned_abs())),
        ('x', Val::Int(i)) => Ok(format!("{i:x}")),
        ('x', Val::Uint(u)) => Ok(format!("{u:x}")),
        ('x' | 'X', Val::Str(s)) => {
            let hex: String = s.bytes().map(|b| format!("{b:02x}")).collect();
            Ok(if verb == 'X' { hex.to_uppercase() } else { hex })
        }
        ('x' | 'X', Val::Bytes(b)) => {
            let hex: String = b.iter().map(|b| format!("{b:02x}")).collect();
            Ok(if verb == 'X' { hex.to_uppercase() } else { hex })
        }
        ('X', Val::Int(i)) if *i < 0 => Ok(format!("-{:X}", i.unsigned_abs())),
        ('X', Val::Int(i)) => Ok(format!("{i:X}")),
        ('X', Val::Uint(u)) => Ok(format!("{u:X}")),
        ('b' | 'o' | 'x' | 'X', _) => Err(EvalError::new(format!(
            "error during formatting: only integers can be formatted in this base, was given {}",
            value.type_name()
        ))),
        (verb, _) => {
            Err(EvalError::new(format!("could not parse formatting clause: unrecognized formatting clause \"{verb}\"")))
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "printed as a double")]
fn number(value: &Val<'_>) -> Option<f64> {
    match value {
        Val::Double(f) => Some(*f),
        Val::Int(i) => Some(*i as f64),
        Val::Uint(u) => Some(*u as f64),
        _ => None,
    }
}

/// What `%s` prints.
fn plain(value: &Val<'_>, depth: usize) -> Result<String, EvalError> {
    if depth == 0 {
        return Err(EvalError::new("error during formatting: the value is nested too deeply"));
    }
    if value.is_list() {
        let items = value.items()?;
        let items: Result<Vec<String>, _> = items.iter().map(|item| plain(item, depth - 1)).collect();
        return Ok(format!("[{}]", items?.join(", ")));
    }
    if let Some(keys) = value.keys() {
        let mut entries = Vec::with_capacity(keys.len());
        for key in keys {
            let entry = value.get(&key)?.unwrap_or(Val::Null);
            entries.push(format!("{key}: {}", plain(&entry, depth - 1)?));
        }
        return Ok(format!("{{{}}}", entries.join(", ")));
    }
    match value {
        Val::Null => Ok("null".into()),
        Val::Type(name) => Ok(name.to_string()),
        value => math::text(value).ok_or_else(|| {
            EvalError::new(format!("error during formatting: string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps, was given {}", value.type_name()))
        }),
    }
}
