//! Validation: what every object's metadata must be (apimachinery `api/validation/objectmeta.go`), and then what the
//! kind's strategy says.

use serde_json::{Map, Value};

use crate::field::{Error, ErrorList, Path};
use crate::kinds::checks::{
    check_labels, dns_label_problems, dns_subdomain_problems, dns1035_label_problems, qualified_name_problems,
};
use crate::resource::{NameRule, Resource};

/// All annotations of an object together, keys and values, in bytes.
pub const MAX_ANNOTATIONS_BYTES: usize = 256 * 1024;

/// Everything that is wrong with a new object.
pub fn create(resource: &Resource, object: &Value) -> ErrorList {
    let mut errors = metadata(resource, object);
    match &resource.custom {
        Some(custom) => errors.extend(custom.validate(object)),
        None => errors.extend((resource.strategy.validate)(object)),
    }
    errors
}

/// Everything that is wrong with an update of the main resource.
pub fn update(resource: &Resource, new: &Value, old: &Value) -> ErrorList {
    let mut errors = metadata_update(new, old);
    match &resource.custom {
        Some(custom) => errors.extend(custom.validate_update(new, old)),
        None => errors.extend((resource.strategy.validate_update)(new, old)),
    }
    errors
}

/// Everything that is wrong with an update of the status subresource.
pub fn status(resource: &Resource, new: &Value, old: &Value) -> ErrorList {
    let mut errors = metadata_update(new, old);
    match &resource.custom {
        Some(custom) => errors.extend(custom.validate_status(new, old)),
        None => errors.extend((resource.strategy.validate_status)(new, old)),
    }
    errors
}

/// Everything that is wrong with an update of a part, by its subresource.
pub fn part(resource: &Resource, subresource: &str, new: &Value, old: &Value) -> ErrorList {
    let mut errors = metadata_update(new, old);
    if let Some(part) = resource.part(subresource) {
        errors.extend((part.validate)(new, old));
    }
    errors
}

/// Warnings for the client about a new or changed object.
pub fn warnings(resource: &Resource, object: &Value) -> Vec<String> {
    let finalizers = strings(&object["metadata"]["finalizers"]);
    let own = finalizers.filter(|f| !f.contains('/') && !matches!(*f, "orphan" | "foregroundDeletion" | "kubernetes"));
    let mut warnings: Vec<String> = own
        .map(|finalizer| {
            format!(
                "metadata.finalizers: {finalizer:?}: prefer a domain-qualified finalizer name including a path (/) to \
                 avoid accidental conflicts with other finalizer writers"
            )
        })
        .collect();
    warnings.extend((resource.strategy.warnings)(object));
    warnings
}

fn strings(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// Everything that is wrong with a new object's metadata. The name has been generated before, where it is to be.
pub fn metadata(resource: &Resource, object: &Value) -> ErrorList {
    metadata_at(&Path::new("metadata"), resource.strategy.name, resource.namespaced, object)
}

/// The same for the metadata of an object that may be inside another one.
pub(crate) fn metadata_at(path: &Path, rule: NameRule, namespaced: bool, object: &Value) -> ErrorList {
    let metadata = &object["metadata"];
    let text = |name: &str| metadata[name].as_str().unwrap_or_default();
    let mut errors = ErrorList::new();
    let mut invalid = |name: &str, problems: Vec<String>| {
        errors.extend(problems.into_iter().map(|problem| Error::invalid(path.child(name), text(name), problem)));
    };
    if !text("generateName").is_empty() {
        invalid("generateName", problems_of_name(rule, text("generateName"), true));
    }
    if text("name").is_empty() {
        errors.push(Error::required(path.child("name"), "name or generateName is required"));
    } else {
        invalid("name", problems_of_name(rule, text("name"), false));
    }
    match (namespaced, text("namespace")) {
        (true, "") => errors.push(Error::required(path.child("namespace"), "")),
        (true, namespace) => {
            let problems = dns_label_problems(namespace);
            errors.extend(problems.into_iter().map(|p| Error::invalid(path.child("namespace"), namespace, p)));
        }
        (false, "") => {}
        (false, _) => errors.push(Error::forbidden(path.child("namespace"), "not allowed on this type")),
    }
    let generation = metadata["generation"].as_i64().unwrap_or_default();
    if generation < 0 {
        errors.push(Error::invalid(path.child("generation"), generation, "must be greater than or equal to 0"));
    }
    check_labels(&mut errors, metadata, "labels", &path.child("labels"));
    annotations(&mut errors, &metadata["annotations"], &path.child("annotations"));
    owner_references(&mut errors, &metadata["ownerReferences"], &path.child("ownerReferences"));
    finalizers(&mut errors, &metadata["finalizers"], &path.child("finalizers"));
    managed_fields(&mut errors, &metadata["managedFields"], &path.child("managedFields"));
    errors
}

/// What is wrong with a name of this kind. A `prefix` is what a suffix will be generated to.
pub fn name_problems(resource: &Resource, name: &str, prefix: bool) -> Vec<String> {
    problems_of_name(resource.strategy.name, name, prefix)
}

fn problems_of_name(rule: NameRule, name: &str, prefix: bool) -> Vec<String> {
    // A prefix may end with a dash, since something will follow it.
    let masked = match name.strip_suffix('-') {
        Some(front) if prefix && !front.is_empty() => format!("{front}a"),
        _ => name.to_owned(),
    };
    match rule {
        NameRule::Subdomain => dns_subdomain_problems(&masked),
        NameRule::Label => dns_label_problems(&masked),
        NameRule::Label1035 => dns1035_label_problems(&masked),
        NameRule::PathSegment | NameRule::Other => path_segment_problems(name, prefix),
    }
}

/// What keeps a name from being a segment of a URL's path (apimachinery `api/validation/path`).
fn path_segment_problems(name: &str, prefix: bool) -> Vec<String> {
    let mut problems = Vec::new();
    if !prefix && (name == "." || name == "..") {
        return vec![format!("may not be '{name}'")];
    }
    for character in ['/', '%'] {
        if name.contains(character) {
            problems.push(format!("may not contain '{character}'"));
        }
    }
    problems
}

fn annotations(errors: &mut ErrorList, annotations: &Value, path: &Path) {
    let Value::Object(entries) = annotations else { return };
    let mut size = 0;
    for (key, value) in entries {
        size += key.len() + value.as_str().map_or(0, str::len);
        // Like a label's key, but for the case of its prefix.
        for problem in qualified_name_problems(&key.to_lowercase()) {
            errors.push(Error::invalid(path.clone(), key.as_str(), problem));
        }
    }
    if size > MAX_ANNOTATIONS_BYTES {
        errors.push(Error::too_long(path.clone(), MAX_ANNOTATIONS_BYTES));
    }
}

fn owner_references(errors: &mut ErrorList, references: &Value, path: &Path) {
    let mut controller: Option<String> = None;
    for reference in references.as_array().into_iter().flatten() {
        let text = |name: &str| reference[name].as_str().unwrap_or_default();
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        if api_version.rsplit('/').next().unwrap_or_default().is_empty() {
            errors.push(Error::invalid(path.child("apiVersion"), api_version, "version must not be empty"));
        }
        for name in ["kind", "name", "uid"] {
            if text(name).is_empty() {
                errors.push(Error::invalid(path.child(name), "", "must not be empty"));
            }
        }
        if (api_version, kind) == ("v1", "Event") {
            let problem = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(Error::invalid(path.clone(), reference.clone(), problem));
        }
        if reference["controller"] == Value::Bool(true) {
            let this = format!("{kind}/{}", text("name"));
            match &controller {
                None => controller = Some(this),
                Some(first) => {
                    let problem = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} \
                         and {this}"
                    );
                    errors.push(Error::invalid(path.clone(), references.clone(), problem));
                }
            }
        }
    }
}

fn finalizers(errors: &mut ErrorList, list: &Value, path: &Path) {
    for finalizer in strings(list) {
        for problem in qualified_name_problems(finalizer) {
            errors.push(Error::invalid(path.clone(), finalizer, problem));
        }
    }
    let has = |name: &str| strings(list).any(|f| f == name);
    if has("orphan") && has("foregroundDeletion") {
        let problem = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(Error::invalid(path.clone(), list.clone(), problem));
    }
}

fn managed_fields(errors: &mut ErrorList, list: &Value, path: &Path) {
    for (index, entry) in list.as_array().into_iter().flatten().enumerate() {
        let text = |name: &str| entry[name].as_str().unwrap_or_default();
        let path = path.index(index);
        if !matches!(text("operation"), "Apply" | "Update") {
            errors.push(Error::invalid(path.child("operation"), text("operation"), "must be `Apply` or `Update`"));
        }
        if !matches!(text("fieldsType"), "" | "FieldsV1") {
            errors.push(Error::invalid(path.child("fieldsType"), text("fieldsType"), "must be `FieldsV1`"));
        }
    }
}

/// Everything that is wrong with the metadata of an update, which [`carry_metadata`] has completed.
pub fn metadata_update(new: &Value, old: &Value) -> ErrorList {
    let (new, old) = (&new["metadata"], &old["metadata"]);
    let path = Path::new("metadata");
    let mut errors = ErrorList::new();
    if !old["deletionTimestamp"].is_null() {
        no_new_finalizers(&mut errors, &new["finalizers"], &old["finalizers"], &path.child("finalizers"));
    }
    let generation = new["generation"].as_i64().unwrap_or_default();
    if generation < old["generation"].as_i64().unwrap_or_default() {
        errors.push(Error::invalid(path.child("generation"), generation, "must not be decremented"));
    }
    for name in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let (was, is) = (zero_as_null(&old[name]), zero_as_null(&new[name]));
        if was != is {
            errors.push(Error::invalid(path.child(name), new[name].clone(), "field is immutable"));
        }
    }
    check_labels(&mut errors, new, "labels", &path.child("labels"));
    annotations(&mut errors, &new["annotations"], &path.child("annotations"));
    owner_references(&mut errors, &new["ownerReferences"], &path.child("ownerReferences"));
    managed_fields(&mut errors, &new["managedFields"], &path.child("managedFields"));
    errors
}

fn zero_as_null(value: &Value) -> &Value {
    if value.as_str() == Some("") { &Value::Null } else { value }
}

fn no_new_finalizers(errors: &mut ErrorList, new: &Value, old: &Value, path: &Path) {
    let mut extra: Vec<_> = strings(new).filter(|f| !strings(old).any(|o| o == *f)).map(|f| format!("{f:?}")).collect();
    if extra.is_empty() {
        return;
    }
    extra.sort();
    let detail = format!(
        "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
        extra.join(", ")
    );
    errors.push(Error::forbidden(path.clone(), detail));
}

/// Gives an update the metadata that a client may leave out, or may not change (apiserver `rest.BeforeUpdate`): the
/// UID if it is absent, the creation timestamp and the generation always, and the marks of deletion once they are set.
pub fn carry_metadata(new: &mut Value, old: &Value) {
    let old = &old["metadata"];
    let Some(object) = new.as_object_mut() else { return };
    let metadata = object.entry("metadata").or_insert_with(|| Map::new().into());
    let Some(metadata) = metadata.as_object_mut() else { return };
    let mut carry = |name: &str| match &old[name] {
        Value::Null => metadata.remove(name),
        value => metadata.insert(name.to_owned(), value.clone()),
    };
    carry("generation");
    if !old["creationTimestamp"].is_null() {
        carry("creationTimestamp");
    }
    if !old["deletionTimestamp"].is_null() {
        carry("deletionTimestamp");
    }
    let empty = |value: Option<&Value>| value.is_none_or(|v| zero_as_null(v).is_null());
    for name in ["uid", "deletionGracePeriodSeconds"] {
        if empty(metadata.get(name)) && !old[name].is_null() {
            metadata.insert(name.to_owned(), old[name].clone());
        }
    }
    metadata.remove("selfLink");
}

#[cfg(test)]
mod tests;
