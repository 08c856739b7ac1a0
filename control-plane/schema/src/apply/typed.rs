//! What merging needs to know of a value's type, over the definitions of [`crate::types`].

use serde_json::Value;

use super::element::Element;
use super::present;
use crate::types::{Definition, List, Node, Scalar, Shape};

/// The type of a value.
#[derive(Clone, Copy, Debug)]
pub enum Type<'a> {
    /// A struct.
    Struct(&'a Definition),
    /// What a field holds.
    Node(&'a Node),
    /// Nothing is known: maps merge by their keys, all else is replaced as a whole.
    Deduced,
}

/// How a value of a type merges.
#[derive(Clone, Copy, Debug)]
pub enum Atom<'a> {
    /// As a whole.
    Scalar(ScalarType),
    /// A list.
    List(ListType<'a>),
    /// A struct or a map.
    Map(MapType<'a>),
}

/// What a scalar may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScalarType {
    /// An integer or a float.
    Numeric,
    /// A string.
    String,
    /// `true` or `false`.
    Boolean,
    /// Any of them.
    Untyped,
}

/// A list.
#[derive(Clone, Copy, Debug)]
pub struct ListType<'a> {
    /// How it merges; `None` as a whole.
    how: Option<&'a List>,
    /// What its items are.
    pub item: Type<'a>,
}

/// A struct or a map.
#[derive(Clone, Copy, Debug)]
pub struct MapType<'a> {
    /// The struct.
    pub definition: Option<&'a Definition>,
    /// What entries are that the struct does not declare; `None` if there may be none.
    element: Option<Type<'a>>,
    /// Whether it is replaced as a whole.
    pub atomic: bool,
}

impl<'a> Type<'a> {
    /// How a value of this type merges. What nothing is known of merges as the value it is.
    pub fn atom(self, value: Option<&Value>) -> Atom<'a> {
        match self {
            Self::Struct(definition) => Atom::Map(MapType::of(definition, false)),
            Self::Node(node) => match &node.shape {
                Shape::Scalar(Scalar::Raw | Scalar::Any) => Self::Deduced.atom(value),
                Shape::Scalar(scalar) => Atom::Scalar(ScalarType::of(*scalar)),
                Shape::List(item) => Atom::List(ListType { how: Some(&node.list), item: Self::Node(item) }),
                Shape::Map(item) => {
                    let element = Some(Self::Node(item));
                    Atom::Map(MapType { definition: None, element, atomic: node.atomic_map })
                }
                Shape::Reference(_) | Shape::Object(_) => match node.definition() {
                    Some(definition) => Atom::Map(MapType::of(definition, node.atomic_map)),
                    None => Self::Deduced.atom(value),
                },
            },
            Self::Deduced => match value {
                Some(Value::Array(_)) => Atom::List(ListType { how: None, item: Self::Deduced }),
                Some(Value::String(_) | Value::Number(_) | Value::Bool(_)) => Atom::Scalar(ScalarType::Untyped),
                Some(Value::Object(_) | Value::Null) | None => {
                    Atom::Map(MapType { definition: None, element: Some(Self::Deduced), atomic: false })
                }
            },
        }
    }

    /// Whether nothing is known of the type.
    pub fn is_deduced(self) -> bool {
        match self {
            Self::Deduced => true,
            Self::Node(node) => matches!(node.shape, Shape::Scalar(Scalar::Raw | Scalar::Any)),
            Self::Struct(_) => false,
        }
    }
}

impl Atom<'_> {
    /// Whether both are scalars, lists or maps.
    pub fn is_like(&self, other: &Self) -> bool {
        matches!(
            (self, other),
            (Self::Scalar(_), Self::Scalar(_)) | (Self::List(_), Self::List(_)) | (Self::Map(_), Self::Map(_))
        )
    }
}

impl ScalarType {
    fn of(scalar: Scalar) -> Self {
        match scalar {
            Scalar::Int32 | Scalar::Int64 | Scalar::Double => Self::Numeric,
            Scalar::Bool => Self::Boolean,
            Scalar::String | Scalar::Bytes | Scalar::Time | Scalar::MicroTime => Self::String,
            Scalar::Quantity | Scalar::IntOrString | Scalar::Raw | Scalar::Any => Self::Untyped,
        }
    }
}

impl<'a> MapType<'a> {
    fn of(definition: &'a Definition, atomic: bool) -> Self {
        let element = definition.preserve_unknown.then_some(Type::Deduced);
        Self { definition: Some(definition), element, atomic: atomic || definition.atomic }
    }

    /// Whether `name` is a field of the struct.
    pub fn declares(&self, name: &str) -> bool {
        self.definition.is_some_and(|definition| definition.field(name).is_some())
    }

    /// The type of the entry `name`; `None` if there may be none.
    pub fn value_type(&self, name: &str) -> Option<Type<'a>> {
        let field = self.definition.and_then(|definition| definition.field(name));
        field.map(|field| Type::Node(&field.node)).or(self.element)
    }

    /// Whether every entry is of a type that nothing is known of.
    pub fn is_deduced(&self) -> bool {
        self.element.is_some_and(Type::is_deduced) && self.definition.is_none_or(|d| d.fields.is_empty())
    }
}

impl<'a> ListType<'a> {
    /// Whether the list is replaced as a whole.
    pub fn is_atomic(&self) -> bool {
        matches!(self.how, None | Some(List::Atomic))
    }

    /// The step to an item.
    ///
    /// # Errors
    /// If the item cannot be told from others.
    pub fn element(&self, item: &Value) -> Result<Element, String> {
        match self.how {
            Some(List::Map(keys)) => self.keyed(keys, item),
            Some(List::Set) => match item {
                Value::Object(_) => Err("associative list without keys has an element that's a map type".into()),
                Value::Array(_) => Err("not supported: associative list with lists as elements".into()),
                Value::Null => Err("associative list without keys has an element that's an explicit null".into()),
                scalar => Ok(Element::Value(scalar.clone())),
            },
            _ => Err("invalid indexing of non-associative list".into()),
        }
    }

    fn keyed(&self, names: &'a [std::borrow::Cow<'static, str>], item: &Value) -> Result<Element, String> {
        let entries = match item {
            Value::Object(entries) => entries,
            Value::Null => return Err("associative list with keys may not have a null element".into()),
            _ => return Err("associative list with keys may not have non-map elements".into()),
        };
        let mut keys = Vec::with_capacity(names.len());
        for name in names {
            let value = entries.get(name.as_ref()).cloned().or_else(|| self.default_of(name));
            // An item without the key is another than one that has it.
            keys.extend(value.map(|value| (Box::from(name.as_ref()), value)));
        }
        if keys.is_empty() && !names.is_empty() {
            let names: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
            return Err(format!(
                "associative list with keys has an element that omits all key fields [{}] (and doesn't have default \
                 values for any key fields)",
                names.join(" ")
            ));
        }
        Ok(Element::keys(keys))
    }

    /// What a key is that an item leaves out.
    fn default_of(&self, name: &str) -> Option<Value> {
        let Atom::Map(map) = self.item.atom(None) else { return None };
        let field = map.definition?.field(name)?;
        field.default.as_ref().map(|default| default.value.clone())
    }
}

/// The fields that Go's encoder writes whether they are set or not, with what it writes for one that is not.
pub(super) fn always(map: &MapType<'_>) -> &'static [(&'static str, &'static Value)] {
    map.definition.map_or(&[], present::of)
}
