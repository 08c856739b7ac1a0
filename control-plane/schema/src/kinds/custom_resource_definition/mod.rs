//! CustomResourceDefinitions (apiextensions `registry/customresourcedefinition`, `apis/apiextensions/validation`).
//!
//! Validation knows the definition in the form in which upstream holds it: what all versions have in common stands
//! beside them (`spec.validation`), and errors name it there.

mod schema;
mod spec;
pub(crate) mod structural;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::custom::conditions::{self, Approval, FINALIZER};
use crate::custom::format;
use crate::field::{Error, ErrorList, Path};
use crate::kinds::json::{at, carry_over, list, object_mut, set, text, truth};
use crate::resource::{PLAIN, Strategy};

/// The strategy.
pub(super) const STRATEGY: Strategy = Strategy {
    default,
    prepare_create,
    prepare_update,
    prepare_delete,
    validate: |object| validate(object, None),
    validate_update: |object, old| validate(object, Some(old)),
    validate_status: |object, _| {
        let mut errors = ErrorList::new();
        spec::names(&mut errors, at(object, "status.acceptedNames"), &Path::new("status.acceptedNames"));
        errors
    },
    warnings,
    generation: true,
    unconditional_update: false,
    ..PLAIN
};

fn default(object: &mut Value) {
    if let Some(spec) = object_mut(object, "spec") {
        let names = spec.entry("names").or_insert_with(|| json!({}));
        let kind = text(names, "kind").to_owned();
        if text(names, "singular").is_empty() && names.is_object() {
            names["singular"] = kind.to_lowercase().into();
        }
        if text(names, "listKind").is_empty() && !kind.is_empty() {
            names["listKind"] = format!("{kind}List").into();
        }
        if spec.get("conversion").is_none_or(Value::is_null) {
            spec.insert("conversion".into(), json!({ "strategy": "None" }));
        }
        if let Some(service) = spec["conversion"].pointer_mut("/webhook/clientConfig/service")
            && service.is_object()
            && service["port"].is_null()
        {
            service["port"] = 443.into();
        }
    }
    if list(object, "status.storedVersions").is_empty() {
        store_version(object);
    }
}

/// Notes the storage version among those in which there may be objects.
fn store_version(object: &mut Value) {
    let storage = list(object, "spec.versions").iter().find(|version| truth(version, "storage"));
    let Some(name) = storage.map(|version| text(version, "name").to_owned()) else { return };
    if !object.is_object() {
        return;
    }
    if !object["status"].is_object() {
        object["status"] = json!({});
    }
    let stored = &mut object["status"]["storedVersions"];
    match stored.as_array_mut() {
        Some(versions) if versions.iter().any(|v| *v == name) => {}
        Some(versions) => versions.push(name.into()),
        None => *stored = json!([name]),
    }
}

fn prepare_create(object: &mut Value) {
    set(object, "status", json!({}));
    store_version(object);
}

fn prepare_update(object: &mut Value, old: &Value) {
    carry_over(object, old, "status");
    store_version(object);
}

/// The definition goes after the objects.
fn prepare_delete(object: &mut Value, now: Timestamp) {
    if let Some(metadata) = object_mut(object, "metadata") {
        let finalizers = metadata.entry("finalizers").or_insert_with(|| json!([]));
        if let Some(finalizers) = finalizers.as_array_mut()
            && !finalizers.iter().any(|f| f == FINALIZER)
        {
            finalizers.push(FINALIZER.into());
        }
    }
    let message = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
    conditions::set(object, "Terminating", "True", "InstanceDeletionPending", message, now);
}

fn validate(object: &Value, old: Option<&Value>) -> ErrorList {
    let mut errors = ErrorList::new();
    if old.is_none() {
        let required = format!("{}.{}", text(object, "spec.names.plural"), text(object, "spec.group"));
        let name = text(object, "metadata.name");
        if name != required {
            let why = r#"must be spec.names.plural+"."+spec.group"#;
            errors.push(Error::invalid(Path::new("metadata.name"), name, why));
        }
    }
    spec::validate(&mut errors, &object["spec"], old.map(|old| &old["spec"]), old);
    spec::names(&mut errors, at(object, "status.acceptedNames"), &Path::new("status.acceptedNames"));
    stored_versions(&mut errors, object);
    approval(&mut errors, object, old);
    preserve_unknown_fields(&mut errors, object, old);
    errors
}

fn stored_versions(errors: &mut ErrorList, object: &Value) {
    let path = Path::new("status.storedVersions");
    let stored = list(object, "status.storedVersions");
    if stored.is_empty() {
        errors.push(Error::invalid(path, stored.to_vec(), "must have at least one stored version"));
        return;
    }
    let versions = list(object, "spec.versions");
    for version in versions.iter().filter(|version| truth(version, "storage")) {
        let name = text(version, "name");
        if !stored.iter().any(|s| s == name) {
            errors.push(Error::invalid(path.clone(), stored.to_vec(), format!("must have the storage version {name}")));
        }
    }
    for (index, name) in stored.iter().enumerate() {
        let name = name.as_str().unwrap_or_default();
        if !versions.iter().any(|version| text(version, "name") == name) {
            let why = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions \
                 until a storage migration ensures no data remains persisted in {name} and removes {name} from \
                 status.storedVersions"
            );
            errors.push(Error::invalid(path.index(index), name, why));
        }
    }
}

fn approval(errors: &mut ErrorList, object: &Value, old: Option<&Value>) {
    if !conditions::is_protected(text(object, "spec.group")) {
        return;
    }
    let (state, why) = Approval::of(&object["metadata"]["annotations"]);
    if old.is_some_and(|old| Approval::of(&old["metadata"]["annotations"]).0 == state) {
        return;
    }
    let path = Path::new("metadata.annotations").key(conditions::APPROVAL);
    match state {
        Approval::Missing => errors.push(Error::required(path, why)),
        Approval::Invalid => {
            let said = object["metadata"]["annotations"][conditions::APPROVAL].as_str().unwrap_or_default();
            errors.push(Error::invalid(path, said, why));
        }
        Approval::Approved | Approval::Bypassed => {}
    }
}

fn preserve_unknown_fields(errors: &mut ErrorList, object: &Value, old: Option<&Value>) {
    let is_set = |object: &Value| truth(object, "spec.preserveUnknownFields");
    if is_set(object) && !old.is_some_and(is_set) {
        let why =
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.push(Error::invalid(Path::new("spec.preserveUnknownFields"), true, why));
    }
}

/// Whether a bundle of CA certificates, in base64, is none. An empty one is none, and valid.
pub(crate) fn is_invalid_bundle(bundle: &str) -> bool {
    if bundle.is_empty() {
        return false;
    }
    let pem = STANDARD.decode(bundle).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    pem.is_none_or(|pem| !(pem.contains("-----BEGIN CERTIFICATE-----") && pem.contains("-----END CERTIFICATE-----")))
}

fn warnings(object: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut sets = std::collections::BTreeSet::new();
    for version in list(object, "spec.versions") {
        every(at(version, "schema.openAPIV3Schema"), &mut |schema| {
            let (kind, given) = (text(schema, "type"), text(schema, "format"));
            if !given.is_empty() && !format::is_known(kind, given) {
                warnings.push(format!("unrecognized format {given:?}"));
            }
            let items = text(&schema["items"], "type");
            if text(schema, "x-kubernetes-list-type") == "set" && matches!(items, "object" | "array") {
                sets.insert(format!(
                    "x-kubernetes-list-type: set for items of type {items:?} is not supported by server-side apply or \
                     CEL validation rules"
                ));
            }
        });
    }
    warnings.extend(sets);
    warnings
}

/// Calls `look` with a schema and all that are inside it.
fn every(schema: &Value, look: &mut impl FnMut(&Value)) {
    if !schema.is_object() {
        return;
    }
    look(schema);
    for name in ["items", "not", "additionalProperties", "additionalItems"] {
        match &schema[name] {
            Value::Array(schemas) => schemas.iter().for_each(|s| every(s, look)),
            inner => every(inner, look),
        }
    }
    for name in ["allOf", "anyOf", "oneOf"] {
        list(schema, name).iter().for_each(|s| every(s, look));
    }
    for name in ["properties", "patternProperties", "definitions", "dependencies"] {
        schema[name].as_object().into_iter().flatten().for_each(|(_, s)| every(s, look));
    }
}

/// Whether a schema, or one inside it, is as `found` says.
fn any(schema: &Value, found: impl Fn(&Value) -> bool) -> bool {
    let mut any = false;
    every(schema, &mut |schema| any |= found(schema));
    any
}
