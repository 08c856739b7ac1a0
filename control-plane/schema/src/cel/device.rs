//! What selectors of devices see: `device`, with its driver, attributes and capacity (dynamic-resource-allocation
//! `cel/compile.go`).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::admission::record;
use super::value::{Key, Val};
use super::{Activation, Budget, Environment, EvalError, PER_CALL_LIMIT, Program, Size, Type, compile, cost};
use crate::quantity::Quantity;

/// The longest domain of an attribute's name, identifier within it, driver's name and value of an attribute.
const MAX_DOMAIN_BYTES: u64 = 63;
const MAX_VALUE_BYTES: u64 = 64;
/// Attributes and capacities of a device.
const MAX_ENTRIES: u64 = 32;
const QUANTITY: &str = "kubernetes.Quantity";
/// What is added to the error of one who looks for what a device need not have.
const HINT: &str = ". consider using CEL optional chaining (.? followed by orValue()) or guarding the check with has() \
                    for optional fields";

/// The value of an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribute<'a> {
    /// True or false.
    Bool(bool),
    /// A number.
    Int(i64),
    /// Text.
    Text(&'a str),
    /// A semantic version.
    Version(&'a str),
}

/// A device.
#[derive(Clone, Debug, Default)]
pub struct Device<'a> {
    /// Its driver, whose domain is that of names without one.
    pub driver: &'a str,
    /// Whether several claims may have it at once.
    pub allow_multiple: bool,
    /// Its attributes, by name.
    pub attributes: Vec<(&'a str, Attribute<'a>)>,
    /// Its capacity, by name.
    pub capacity: Vec<(&'a str, Quantity)>,
}

/// Why an expression is no selector of devices.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// It does not compile.
    #[error(transparent)]
    Compile(#[from] super::CompileError),
    /// It is something else than true or false.
    #[error("must evaluate to bool or the unknown type, not {0}")]
    NotBool(String),
}

/// A selector of devices.
#[derive(Debug)]
pub struct Selector(Program);

fn environment() -> Environment {
    let device = record(
        "kubernetes.DRADevice",
        [
            ("driver", Type::String),
            ("allowMultipleAllocations", Type::Bool),
            ("attributes", Type::map(Type::map(Type::Dyn))),
            ("capacity", Type::map(Type::map(Type::Opaque(QUANTITY)))),
        ],
    );
    Environment::new().variable("device", device)
}

impl Selector {
    /// Checks an expression.
    ///
    /// # Errors
    /// If it is none, or cannot be a condition.
    pub fn compile(expression: &str) -> Result<Self, SelectorError> {
        let program = compile(expression, &environment())?;
        if !program.yields(&Type::Bool) {
            return Err(SelectorError::NotBool(program.result_type().to_string()));
        }
        Ok(Self(program))
    }

    /// Whether it may cost more than a selector may, whatever the device.
    pub fn is_too_expensive(&self) -> bool {
        let entries = |size: Size| Size::map_of(MAX_ENTRIES, Size::map_of(MAX_ENTRIES, size));
        let size = Size::record([
            ("driver", Size::bounded(MAX_DOMAIN_BYTES)),
            ("allowMultipleAllocations", Size::bounded(1)),
            ("attributes", entries(Size::bounded(MAX_VALUE_BYTES))),
            ("capacity", entries(Size::bounded(0))),
        ]);
        cost::estimate(self.0.source(), &environment(), &size).is_ok_and(|most| most > PER_CALL_LIMIT)
    }

    /// Whether it selects a device.
    ///
    /// # Errors
    /// If the expression has no value for the device, or costs too much.
    pub fn selects(&self, device: &Device<'_>) -> Result<bool, EvalError> {
        let activation = Activation::new().bound("device", value(device)?);
        match self.0.evaluate(&activation, &mut Budget::new(PER_CALL_LIMIT)) {
            Ok(Val::Bool(selected)) => Ok(selected),
            Ok(other) => {
                let name = other.type_name();
                Err(EvalError::new(format!("CEL result of type {name} could not be converted to bool")))
            }
            Err(EvalError::Other(message)) if message.contains("no such key:") => Err(EvalError::Other(message + HINT)),
            Err(error) => Err(error),
        }
    }
}

fn key(name: &str) -> Key {
    Key::Str(name.to_owned())
}

fn value<'a>(device: &Device<'a>) -> Result<Val<'a>, EvalError> {
    let mut attributes: BTreeMap<Key, BTreeMap<Key, Val<'a>>> = BTreeMap::new();
    for (name, attribute) in &device.attributes {
        let value = match *attribute {
            Attribute::Bool(value) => Val::Bool(value),
            Attribute::Int(value) => Val::Int(value),
            Attribute::Text(text) => Val::Str(Cow::Borrowed(text)),
            Attribute::Version(text) => {
                let version = semver::Version::parse(text);
                let failed = |e| EvalError::new(format!("attribute {name}: parse semantic version: {e}"));
                Val::Semver(Arc::new(version.map_err(failed)?))
            }
        };
        let (domain, id) = split(name, device.driver);
        attributes.entry(key(domain)).or_default().insert(key(id), value);
    }
    let mut capacity: BTreeMap<Key, BTreeMap<Key, Val<'a>>> = BTreeMap::new();
    for (name, amount) in &device.capacity {
        let (domain, id) = split(name, device.driver);
        capacity.entry(key(domain)).or_default().insert(key(id), Val::Quantity(*amount));
    }
    let domains = |of: BTreeMap<Key, BTreeMap<Key, Val<'a>>>| {
        Val::Domains(Arc::new(of.into_iter().map(|(domain, own)| (domain, Val::Map(Arc::new(own)))).collect()))
    };
    let fields = BTreeMap::from([
        (key("driver"), Val::Str(Cow::Borrowed(device.driver))),
        (key("allowMultipleAllocations"), Val::Bool(device.allow_multiple)),
        (key("attributes"), domains(attributes)),
        (key("capacity"), domains(capacity)),
    ]);
    Ok(Val::Struct("kubernetes.DRADevice".into(), Arc::new(fields)))
}

/// A qualified name's domain and identifier.
pub fn split<'n>(name: &'n str, driver: &'n str) -> (&'n str, &'n str) {
    name.split_once('/').unwrap_or((driver, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selects(expression: &str) -> Result<bool, String> {
        let device = Device {
            driver: "gpu.example.com",
            allow_multiple: false,
            attributes: vec![
                ("model", Attribute::Text("a100")),
                ("cores", Attribute::Int(108)),
                ("other.example.com/ecc", Attribute::Bool(true)),
                ("version", Attribute::Version("1.10.0")),
            ],
            capacity: vec![("memory", Quantity::parse("40Gi").unwrap())],
        };
        Selector::compile(expression).map_err(|e| e.to_string())?.selects(&device).map_err(|e| e.to_string())
    }

    #[test]
    fn selectors_see_driver_attributes_and_capacity() {
        for expression in [
            "device.driver == 'gpu.example.com'",
            "device.attributes['gpu.example.com'].model == 'a100'",
            "device.attributes['gpu.example.com'].cores >= 100 && !device.allowMultipleAllocations",
            "device.attributes['other.example.com'].ecc",
            "device.attributes['gpu.example.com'].version.isGreaterThan(semver('1.9.0'))",
            "device.capacity['gpu.example.com'].memory.compareTo(quantity('10Gi')) >= 0",
            "device.capacity['gpu.example.com'].memory.isGreaterThan(quantity('39Gi'))",
            "'gpu.example.com' in device.attributes && !('nowhere' in device.attributes)",
            "!('model' in device.attributes['nowhere'])",
            "device.attributes['nowhere'].?model.orValue('none') == 'none'",
            "has(device.attributes['gpu.example.com'].model) && !has(device.attributes['gpu.example.com'].speed)",
        ] {
            assert_eq!(selects(expression), Ok(true), "{expression}");
        }
        assert_eq!(selects("device.driver == 'other'"), Ok(false));
    }

    #[test]
    fn what_is_wrong_is_told_in_upstreams_words() {
        assert_eq!(
            selects("device.attributes['gpu.example.com'].speed == 1").unwrap_err(),
            "no such key: speed. consider using CEL optional chaining (.? followed by orValue()) or guarding the check \
             with has() for optional fields"
        );
        assert_eq!(selects("device.driver").unwrap_err(), "must evaluate to bool or the unknown type, not string");
        assert!(selects("device.colour == 'red'").unwrap_err().starts_with("compilation failed: "));
        assert_eq!(
            selects("device.attributes['gpu.example.com'].model").unwrap_err(),
            "CEL result of type string could not be converted to bool"
        );
    }

    #[test]
    fn what_may_cost_too_much_is_known_before() {
        let expensive = |expression: &str| Selector::compile(expression).unwrap().is_too_expensive();
        assert!(!expensive("device.attributes['gpu.example.com'].model == 'a100'"));
        let many = "device.attributes.all(a, device.attributes.all(b, device.attributes.all(c, \
                    device.attributes.all(d, a + b == c + d))))";
        assert!(expensive(many));
    }
}
