//! The schemas of a CustomResourceDefinition.

use serde_json::Value;

use super::{any, spec, structural};
use crate::custom::schema::Schema;
use crate::custom::validate_default;
use crate::field::{Error, ErrorList, Path};
use crate::kinds::json::{at, list, text, truth};

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
const REASONS: [&str; 4] = ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];

/// What may stand beside `properties` where a status subresource is taken out of them, as Go calls it, and as JSON does.
const AT_ROOT: [(&str, &str); 22] = [
    ("Description", "description"),
    ("Type", "type"),
    ("Format", "format"),
    ("Title", "title"),
    ("Maximum", "maximum"),
    ("ExclusiveMaximum", "exclusiveMaximum"),
    ("Minimum", "minimum"),
    ("ExclusiveMinimum", "exclusiveMinimum"),
    ("MaxLength", "maxLength"),
    ("MinLength", "minLength"),
    ("Pattern", "pattern"),
    ("MaxItems", "maxItems"),
    ("MinItems", "minItems"),
    ("UniqueItems", "uniqueItems"),
    ("MultipleOf", "multipleOf"),
    ("Required", "required"),
    ("Items", "items"),
    ("Properties", "properties"),
    ("ExternalDocs", "externalDocs"),
    ("Example", "example"),
    ("XPreserveUnknownFields", "x-kubernetes-preserve-unknown-fields"),
    ("XValidations", "x-kubernetes-validations"),
];

/// How strict validation is: what was wrong before a rule came is not refused for it afterwards.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    structural: bool,
    pruned_defaults: bool,
    types: bool,
    atomic_sets: bool,
    map_keys: bool,
}

impl Rules {
    pub(super) fn of(spec: &Value, old: Option<&Value>) -> Self {
        let fine_before = |found: fn(&Value) -> bool| !old.is_some_and(|old| spec::any_schema(old, found));
        let versions = old.map(|old| list(old, "versions")).unwrap_or_default();
        let schemas = || versions.iter().map(|v| at(v, "schema.openAPIV3Schema")).filter(|s| s.is_object());
        let was_structural = schemas()
            .all(|s| structural::unreadable(s).is_none() && structural::validate(s, &Path::default()).is_empty());
        Self {
            structural: was_structural || !truth(spec, "preserveUnknownFields"),
            pruned_defaults: true,
            types: fine_before(|s| !text(s, "type").is_empty() && !TYPES.contains(&text(s, "type"))),
            atomic_sets: fine_before(has_non_atomic_set),
            map_keys: fine_before(|s| !map_keys(s, &Path::default()).is_empty()),
        }
    }
}

/// `validation` is `{openAPIV3Schema: ...}`.
pub(super) fn validate(errors: &mut ErrorList, validation: &Value, status: bool, rules: &Rules, path: &Path) {
    let schema = &validation["openAPIV3Schema"];
    if !schema.is_object() {
        return;
    }
    let path = path.child("openAPIV3Schema");
    let mut found = ErrorList::new();
    if status {
        root_with_status(&mut found, schema, &path);
    }
    if truth(schema, "nullable") {
        found.push(Error::forbidden(path.child("nullable"), "nullable cannot be true at the root"));
    }
    let unreadable = rules.structural.then(|| structural::unreadable(schema)).flatten();
    let mut sound = false;
    if rules.structural && unreadable.is_none() {
        let problems = structural::validate(schema, &path);
        if problems.is_empty() {
            let problems = defaults(schema, &path, rules);
            sound = problems.is_empty();
            found.extend(problems);
        }
        found.extend(structural::validate(schema, &path));
    }
    let checker = Checker { rules };
    checker.schema(&mut found, schema, true, &Place::default(), &path);
    if found.is_empty()
        && let Some(why) = unreadable
    {
        found.push(Error::invalid(path.clone(), "", why));
    }
    // What rules mean can be said only of a schema that is sound.
    if sound && found.is_empty() {
        found.extend(crate::custom::check_rules(schema, &path));
    }
    errors.extend(found);
}

/// The status's schema is taken out of the root's properties: what else stands at the root must not be lost by that.
fn root_with_status(errors: &mut ErrorList, schema: &Value, path: &Path) {
    for (name, value) in schema.as_object().into_iter().flatten() {
        let empty = match value {
            Value::Null | Value::Bool(false) => true,
            Value::String(text) => text.is_empty(),
            _ => false,
        };
        if empty {
            continue;
        }
        if name == "type" && value != "object" {
            let why = "only \"object\" is allowed as the type at the root of the schema if the status subresource is \
                       enabled";
            errors.push(Error::invalid(path.child("type"), value.clone(), why));
            return;
        }
        if !AT_ROOT.iter().any(|(_, known)| known == name) {
            let names: Vec<&str> = AT_ROOT.iter().map(|(go, _)| *go).collect();
            let why = format!(
                "only [{}] fields are allowed at the root of the schema if the status subresource is enabled",
                names.join(" ")
            );
            errors.push(Error::invalid(path.clone(), schema.clone(), why));
            return;
        }
    }
}

fn defaults(schema: &Value, path: &Path, rules: &Rules) -> ErrorList {
    let mut errors = ErrorList::new();
    if any(schema, |schema| !schema["default"].is_null()) {
        default_of(&mut errors, schema, path, false, rules.pruned_defaults);
    }
    errors
}

fn default_of(errors: &mut ErrorList, schema: &Value, path: &Path, inside_meta: bool, pruned: bool) {
    if !schema["default"].is_null() {
        let parsed = Schema::read(schema);
        let path = path.child("default");
        let problems = validate_default(&parsed, &schema["default"], &path, pruned && !inside_meta);
        let sound = problems.is_empty();
        errors.extend(problems);
        if sound {
            errors.extend(crate::custom::violations(schema, &schema["default"], &path));
        }
    }
    if schema["items"].is_object() {
        default_of(errors, &schema["items"], &path.child("items"), inside_meta, pruned);
    }
    let embedded = truth(schema, "x-kubernetes-embedded-resource");
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let meta = embedded && matches!(name.as_str(), "metadata" | "apiVersion" | "kind");
        default_of(errors, property, &path.child("properties").key(name), inside_meta || meta, pruned);
    }
}

fn has_non_atomic_set(schema: &Value) -> bool {
    let items = &schema["items"];
    text(schema, "x-kubernetes-list-type") == "set"
        && match text(items, "type") {
            "array" => !matches!(text(items, "x-kubernetes-list-type"), "" | "atomic"),
            "object" => text(items, "x-kubernetes-map-type") != "atomic",
            _ => false,
        }
}

/// Where a schema is.
#[derive(Clone, Debug, Default)]
struct Place {
    /// Why there may be no defaults; `None` if there may.
    no_defaults: Option<String>,
    /// Inside the metadata of the object, or of an embedded one.
    metadata: bool,
}

struct Checker<'a> {
    rules: &'a Rules,
}

impl Checker<'_> {
    fn schema(&self, errors: &mut ErrorList, schema: &Value, root: bool, place: &Place, path: &Path) {
        self.supported(errors, schema, place, path);
        if truth(schema, "uniqueItems") {
            let why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
            errors.push(Error::forbidden(path.child("uniqueItems"), why));
        }
        let properties = schema["properties"].as_object();
        let additional = &schema["additionalProperties"];
        if (additional.is_object() || additional == false) && properties.is_some_and(|p| !p.is_empty()) {
            let why = "additionalProperties and properties are mutual exclusive";
            errors.push(Error::forbidden(path.child("additionalProperties"), why));
        }
        if additional.is_object() {
            let mut place = place.clone();
            if place.metadata {
                place.no_defaults = Some(" inside additionalProperties applying to object metadata".into());
            }
            self.schema(errors, additional, false, &place, &path.child("additionalProperties"));
        }
        for (name, property) in properties.into_iter().flatten() {
            let mut place = place.clone();
            let embedded = truth(schema, "x-kubernetes-embedded-resource");
            if (root || embedded) && matches!(name.as_str(), "metadata" | "kind" | "apiVersion") {
                place.metadata = true;
                if root {
                    place.no_defaults = Some(format!(" in top-level {name}"));
                }
            }
            self.schema(errors, property, false, &place, &path.child("properties").key(name));
        }
        if schema["not"].is_object() {
            self.schema(errors, &schema["not"], false, place, &path.child("not"));
        }
        for junctor in ["allOf", "oneOf", "anyOf"] {
            for (index, inner) in list(schema, junctor).iter().enumerate() {
                self.schema(errors, inner, false, place, &path.child(junctor).index(index));
            }
        }
        if schema["items"].is_object() {
            self.schema(errors, &schema["items"], false, place, &path.child("items"));
        }
        extensions(errors, schema, self.rules, path);
        for (index, rule) in list(schema, "x-kubernetes-validations").iter().enumerate() {
            self::rule(errors, schema, rule, &path.child("x-kubernetes-validations").index(index));
        }
    }

    fn supported(&self, errors: &mut ErrorList, schema: &Value, place: &Place, path: &Path) {
        let kind = text(schema, "type");
        if self.rules.types && !kind.is_empty() && !TYPES.contains(&kind) {
            errors.push(Error::not_supported(path.child("type"), kind, &TYPES));
        }
        if !schema["default"].is_null()
            && let Some(reason) = &place.no_defaults
        {
            errors.push(Error::forbidden(path.child("default"), format!("must not be set{reason}")));
        }
        for name in ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"] {
            let set = match &schema[name] {
                Value::Null => false,
                Value::String(text) => !text.is_empty() || name == "$ref",
                Value::Object(entries) => !entries.is_empty() || name == "dependencies",
                _ => true,
            };
            if set {
                errors.push(Error::forbidden(path.child(name), format!("{name} is not supported")));
            }
        }
        if kind == "null" {
            let why = "type cannot be set to null, use nullable as an alternative";
            errors.push(Error::forbidden(path.child("type"), why));
        }
        if schema["items"].as_array().is_some_and(|items| !items.is_empty()) {
            errors.push(Error::forbidden(path.child("items"), "items must be a schema object and not an array"));
        }
        if place.metadata && truth(schema, "x-kubernetes-embedded-resource") {
            let why = "must not be used inside of resource meta";
            errors.push(Error::forbidden(path.child("x-kubernetes-embedded-resource"), why));
        }
    }
}

fn extensions(errors: &mut ErrorList, schema: &Value, rules: &Rules, path: &Path) {
    let kind = text(schema, "type");
    let preserve = "x-kubernetes-preserve-unknown-fields";
    if schema[preserve] == false {
        errors.push(Error::invalid(path.child(preserve), false, "must be true or undefined"));
    }
    let mut needs = |name: &str, wanted: &str, supported: &[&str]| {
        let Some(value) = schema.get(name).and_then(Value::as_str) else { return };
        let why = format!("must be {wanted} if {name} is specified");
        match kind {
            "" => errors.push(Error::required(path.child("type"), why)),
            kind if kind != wanted => errors.push(Error::invalid(path.child("type"), kind, why)),
            _ => {}
        }
        if !supported.contains(&value) {
            errors.push(Error::not_supported(path.child(name), value, supported));
        }
    };
    needs("x-kubernetes-map-type", "object", &["atomic", "granular"]);
    needs("x-kubernetes-list-type", "array", &["atomic", "set", "map"]);
    if rules.atomic_sets && kind == "array" && has_non_atomic_set(schema) {
        let why = "must be atomic as item of a list with x-kubernetes-list-type=set";
        let name = match text(&schema["items"], "type") {
            "array" => "x-kubernetes-list-type",
            _ => "x-kubernetes-map-type",
        };
        let value = schema["items"]["x-kubernetes-list-type"].clone();
        errors.push(Error::invalid(path.child("items").child(name), value, why));
    }
    list_map(errors, schema, path);
    if rules.map_keys {
        errors.extend(map_keys(schema, path));
    }
}

fn list_map(errors: &mut ErrorList, schema: &Value, path: &Path) {
    let keys = list(schema, "x-kubernetes-list-map-keys");
    let list_type = schema.get("x-kubernetes-list-type").and_then(Value::as_str);
    let (type_path, keys_path) = (path.child("x-kubernetes-list-type"), path.child("x-kubernetes-list-map-keys"));
    if !keys.is_empty() && list_type != Some("map") {
        let why = "must be map if x-kubernetes-list-map-keys is non-empty";
        errors.push(match list_type {
            None => Error::required(type_path, why),
            Some(other) => Error::invalid(type_path, other, why),
        });
    }
    if list_type != Some("map") {
        return;
    }
    if keys.is_empty() {
        errors.push(Error::required(keys_path.clone(), "must not be empty if x-kubernetes-list-type is map"));
    }
    let items = &schema["items"];
    if items.is_null() {
        errors.push(Error::required(path.child("items"), "must have a schema if x-kubernetes-list-type is map"));
        return;
    }
    if text(items, "type") != "object" {
        let why = "must be object if parent array's x-kubernetes-list-type is map";
        errors.push(Error::invalid(path.child("items").child("type"), text(items, "type"), why));
        return;
    }
    let names: Vec<&str> = keys.iter().filter_map(Value::as_str).collect();
    for (index, key) in names.iter().enumerate() {
        match items["properties"].get(*key) {
            Some(property) if matches!(text(property, "type"), "array" | "object") => {
                let path = path.child("items").child("properties").key(key).child("type");
                let why = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                errors.push(Error::invalid(path, text(items, "type"), why));
            }
            Some(_) => {}
            None => {
                let why = "entries must all be names of item properties";
                errors.push(Error::invalid(keys_path.clone(), keys.to_vec(), why));
            }
        }
        if names[..index].contains(key) {
            errors.push(Error::invalid(keys_path.clone(), keys.to_vec(), "must not contain duplicate entries"));
        }
    }
}

/// The keys of a list's items must be there, and items must not be null.
fn map_keys(schema: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let list_type = text(schema, "x-kubernetes-list-type");
    let items = &schema["items"];
    if !items.is_object() || !matches!(list_type, "set" | "map") {
        return errors;
    }
    if truth(items, "nullable") {
        let why = format!("cannot be nullable when x-kubernetes-list-type is {list_type}");
        errors.push(Error::forbidden(path.child("items").child("nullable"), why));
    }
    if list_type != "map" {
        return errors;
    }
    for key in list(schema, "x-kubernetes-list-map-keys").iter().filter_map(Value::as_str) {
        let Some(property) = items["properties"].get(key) else { continue };
        let path = path.child("items").child("properties").key(key);
        let required = list(items, "required").iter().any(|name| name == key);
        if !required && property["default"].is_null() {
            let why = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required \
                       property";
            errors.push(Error::required(path.child("default"), why));
        }
        if truth(property, "nullable") {
            let why = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.push(Error::forbidden(path.child("nullable"), why));
        }
    }
    errors
}

/// A rule, as far as its form goes.
fn rule(errors: &mut ErrorList, schema: &Value, rule: &Value, path: &Path) {
    let (expression, message) = (text(rule, "rule"), text(rule, "message"));
    let broken = |text: &str| text.contains(['\n', '\r']);
    if expression.trim().is_empty() {
        errors.push(Error::required(path.child("rule"), "rule is not specified"));
    } else if !message.is_empty() && message.trim().is_empty() {
        errors.push(Error::invalid(path.child("message"), message, "must be non-empty if specified"));
    } else if broken(message.trim()) {
        errors.push(Error::invalid(path.child("message"), message, "must not contain line breaks"));
    } else if broken(expression.trim()) && message.trim().is_empty() {
        let why = "message must be specified if rule contains line breaks";
        errors.push(Error::required(path.child("message"), why));
    }
    let of_message = text(rule, "messageExpression");
    if !of_message.is_empty() && of_message.trim().is_empty() {
        let why = "messageExpression must be non-empty if specified";
        errors.push(Error::required(path.child("messageExpression"), why));
    }
    if let Some(reason) = rule["reason"].as_str().filter(|reason| !REASONS.contains(reason)) {
        errors.push(Error::not_supported(path.child("reason"), reason, &REASONS));
    }
    let field = text(rule, "fieldPath");
    if field.is_empty() {
        return;
    }
    let path = path.child("fieldPath");
    if field.trim().is_empty() {
        errors.push(Error::invalid(path.clone(), field, "must be non-empty if specified"));
    }
    if broken(field) {
        errors.push(Error::invalid(path.clone(), field, "must not contain line breaks"));
    }
    if structural::field_at(schema, field, true).is_err() {
        errors.push(Error::invalid(path, field, "must be a valid path"));
    }
}
