//! The specification: names, versions, columns, subresources, conversion.

use serde_json::Value;

use super::schema::{self, Rules};
use super::{any, is_invalid_bundle, structural};
use crate::custom::conditions::is_true;
use crate::field::{Error, ErrorList, Path};
use crate::kinds::checks::{dns_subdomain_problems, dns1035_label_problems, immutable, required_one_of};
use crate::kinds::json::{at, has, list, same, text, truth};

/// At most so many fields of a version can be selected by.
const MAX_SELECTABLE_FIELDS: usize = 8;

/// The parts of a version that stand beside the versions when all have the same: where they are, and how they are called
/// there.
struct Common {
    schema: bool,
    subresources: bool,
    columns: bool,
    selectable: bool,
}

impl Common {
    fn of(spec: &Value) -> Self {
        let versions = list(spec, "versions");
        let identical = |part: &str| versions.windows(2).all(|w| same(at(&w[0], part), at(&w[1], part)));
        Self {
            schema: identical("schema"),
            subresources: identical("subresources"),
            columns: identical("additionalPrinterColumns"),
            selectable: identical("selectableFields"),
        }
    }
}

pub(super) fn validate(errors: &mut ErrorList, spec: &Value, old: Option<&Value>, old_object: Option<&Value>) {
    let path = Path::new("spec");
    let common = Common::of(spec);
    let rules = Rules::of(spec, old);
    group(errors, spec, &path);
    required_one_of(errors, spec, &path, "scope", &["Cluster", "Namespaced"]);
    schemas_are_there(errors, spec, old, &path);
    for (index, version) in list(spec, "versions").iter().enumerate() {
        self::version(errors, spec, version, &common, &rules, &path.child("versions").index(index));
    }
    versions(errors, spec, &path);
    for name in ["plural", "singular", "kind", "listKind"] {
        if text(&spec["names"], name).is_empty() {
            errors.push(Error::required(path.child("names").child(name), ""));
        }
    }
    names(errors, &spec["names"], &path.child("names"));
    if let Some(first) = list(spec, "versions").first() {
        let any_status = list(spec, "versions").iter().any(|v| at(v, "subresources.status").is_object());
        if common.schema {
            schema::validate(errors, &first["schema"], any_status, &rules, &path.child("validation"));
        }
        if common.subresources {
            subresources(errors, &first["subresources"], &path.child("subresources"));
        }
        if common.columns {
            columns(errors, first, &path);
        }
        if common.selectable {
            let found = Vec::from_iter(common.schema.then(|| at(first, "schema.openAPIV3Schema")));
            selectable(errors, first, found.first().copied(), &path);
        }
    }
    let established = old_object.is_some_and(|old| is_true(old, "Established"));
    let lenient = !established || old.is_some_and(|old| is_invalid_bundle(bundle(old)));
    conversion(errors, spec, lenient, &path.child("conversion"));
    let Some(old) = old else { return };
    if established {
        immutable(errors, &path.child("scope"), &spec["scope"], &old["scope"]);
        immutable(errors, &path.child("names.kind"), at(spec, "names.kind"), at(old, "names.kind"));
    }
    immutable(errors, &path.child("group"), &spec["group"], &old["group"]);
    immutable(errors, &path.child("names.plural"), at(spec, "names.plural"), at(old, "names.plural"));
}

fn group(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let group = text(spec, "group");
    let path = path.child("group");
    let problems = dns_subdomain_problems(group);
    if group.is_empty() {
        errors.push(Error::required(path, ""));
    } else if !problems.is_empty() {
        errors.push(Error::invalid(path, group, problems.join(",")));
    } else if !group.contains('.') {
        errors.push(Error::invalid(path, group, "should be a domain with at least one dot"));
    }
}

/// Without a schema, everything would be pruned.
fn schemas_are_there(errors: &mut ErrorList, spec: &Value, old: Option<&Value>, path: &Path) {
    let missing = |spec: &Value| list(spec, "versions").iter().any(|v| !at(v, "schema.openAPIV3Schema").is_object());
    let required = !old.is_some_and(missing);
    for (index, version) in list(spec, "versions").iter().enumerate() {
        if at(version, "schema.openAPIV3Schema").is_object() {
            continue;
        }
        let path = path.child("versions").index(index).child("schema.openAPIV3Schema");
        if required {
            errors.push(Error::required(path, ""));
        } else if truth(version, "served") && !truth(spec, "preserveUnknownFields") {
            errors.push(Error::required(path, "because otherwise all fields are pruned"));
        }
    }
}

fn version(errors: &mut ErrorList, spec: &Value, version: &Value, common: &Common, rules: &Rules, path: &Path) {
    let name = text(version, "name");
    let problems = dns1035_label_problems(name);
    if !problems.is_empty() {
        errors.push(Error::invalid(path.child("name"), name, problems.join(",")));
    }
    deprecation(errors, version, path);
    let subresources_of = if common.subresources { &list(spec, "versions")[0] } else { version };
    if !common.schema {
        let status = at(subresources_of, "subresources.status").is_object();
        schema::validate(errors, &version["schema"], status, rules, &path.child("schema"));
    }
    if !common.subresources {
        subresources(errors, &version["subresources"], &path.child("subresources"));
    }
    if !common.columns {
        columns(errors, version, path);
    }
    if !common.selectable {
        selectable(errors, version, Some(at(version, "schema.openAPIV3Schema")), path);
    }
}

fn deprecation(errors: &mut ErrorList, version: &Value, path: &Path) {
    let Some(warning) = version.get("deprecationWarning").and_then(Value::as_str) else { return };
    let mut invalid = |why: String| errors.push(Error::invalid(path.child("deprecationWarning"), warning, why));
    if !truth(version, "deprecated") {
        invalid("can only be set for deprecated versions".into());
        return;
    }
    if warning.len() > 256 {
        invalid("must be <= 256 characters long".into());
    }
    if warning.is_empty() {
        invalid("must not be an empty string".into());
    }
    if let Some((at, _)) = warning.char_indices().find(|(_, c)| c.is_control() || (c.is_whitespace() && *c != ' ')) {
        let why = "must only contain printable UTF-8 characters; non-printable character found at index";
        invalid(format!("{why} {at}"));
    }
}

fn versions(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let versions = list(spec, "versions");
    let mut names: Vec<&str> = versions.iter().map(|version| text(version, "name")).collect();
    names.sort_unstable();
    names.dedup();
    let path = path.child("versions");
    if names.len() != versions.len() {
        errors.push(Error::invalid(path.clone(), versions.to_vec(), "must contain unique version names"));
    }
    if versions.iter().filter(|version| truth(version, "storage")).count() != 1 {
        let why = "must have exactly one version marked as storage version";
        errors.push(Error::invalid(path, versions.to_vec(), why));
    }
}

/// Names as they are asked for, or have been given.
pub(super) fn names(errors: &mut ErrorList, names: &Value, path: &Path) {
    let mut check = |path: Path, name: &str, lower: &str, words: &str| {
        let problems = dns1035_label_problems(lower);
        if !name.is_empty() && !problems.is_empty() {
            errors.push(Error::invalid(path, name, format!("{words}{}", problems.join(","))));
        }
    };
    for field in ["plural", "singular"] {
        check(path.child(field), text(names, field), text(names, field), "");
    }
    for field in ["kind", "listKind"] {
        let name = text(names, field);
        check(path.child(field), name, &name.to_lowercase(), "may have mixed case, but should otherwise match: ");
    }
    for (index, name) in list(names, "shortNames").iter().enumerate() {
        let name = name.as_str().unwrap_or_default();
        check(path.child("shortNames").index(index), name, name, "");
    }
    for (index, name) in list(names, "categories").iter().enumerate() {
        let name = name.as_str().unwrap_or_default();
        check(path.child("categories").index(index), name, name, "");
    }
    let kind = text(names, "kind");
    if !kind.is_empty() && kind == text(names, "listKind") {
        errors.push(Error::invalid(path.child("listKind"), kind, "kind and listKind may not be the same"));
    }
}

fn columns(errors: &mut ErrorList, version: &Value, path: &Path) {
    const TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
    const FORMATS: [&str; 8] = ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
    for (index, column) in list(version, "additionalPrinterColumns").iter().enumerate() {
        let path = path.child("additionalPrinterColumns").index(index);
        if text(column, "name").is_empty() {
            errors.push(Error::required(path.child("name"), ""));
        }
        let (kind, types) = (text(column, "type"), format!("must be one of {}", TYPES.join(",")));
        if kind.is_empty() {
            errors.push(Error::required(path.child("type"), types));
        } else if !TYPES.contains(&kind) {
            errors.push(Error::invalid(path.child("type"), kind, types));
        }
        let format = text(column, "format");
        if !format.is_empty() && !FORMATS.contains(&format) {
            errors.push(Error::invalid(path.child("format"), format, format!("must be one of {}", FORMATS.join(","))));
        }
        let json_path = text(column, "jsonPath");
        if json_path.is_empty() {
            errors.push(Error::required(path.child("JSONPath"), ""));
        } else {
            simple_path(errors, json_path, &path.child("JSONPath"));
        }
    }
}

fn simple_path(errors: &mut ErrorList, text: &str, path: &Path) -> bool {
    if text.starts_with('.') {
        return true;
    }
    errors.push(Error::invalid(path.clone(), text, "must be a simple json path starting with ."));
    false
}

fn subresources(errors: &mut ErrorList, subresources: &Value, path: &Path) {
    let scale = &subresources["scale"];
    if !scale.is_object() {
        return;
    }
    for (field, root, why) in [
        ("specReplicasPath", ".spec.", "should be a json path under .spec"),
        ("statusReplicasPath", ".status.", "should be a json path under .status"),
    ] {
        let path = path.child("scale").child(field);
        let value = text(scale, field);
        if value.is_empty() {
            errors.push(Error::required(path, ""));
        } else if simple_path(errors, value, &path) && !value.starts_with(root) {
            errors.push(Error::invalid(path, value, why));
        }
    }
    let selector = text(scale, "labelSelectorPath");
    let path = path.child("scale.labelSelectorPath");
    if !selector.is_empty()
        && simple_path(errors, selector, &path)
        && !selector.starts_with(".spec.")
        && !selector.starts_with(".status.")
    {
        errors.push(Error::invalid(path, selector, "should be a json path under either .spec or .status"));
    }
}

fn selectable(errors: &mut ErrorList, version: &Value, schema: Option<&Value>, path: &Path) {
    let fields = list(version, "selectableFields");
    let path = path.child("selectableFields");
    if fields.is_empty() {
        return;
    }
    let Some(schema) = schema.filter(|schema| schema.is_object()) else {
        errors.push(Error::invalid(path, "", "may only be set when validations.schema is included"));
        return;
    };
    let mut seen: Vec<&str> = Vec::new();
    for (index, field) in fields.iter().enumerate() {
        let json_path = text(field, "jsonPath");
        let path = path.index(index).child("jsonPath");
        if json_path.is_empty() {
            errors.push(Error::required(path, ""));
            continue;
        }
        let found = match structural::field_at(schema, json_path, false) {
            Ok(found) => found,
            Err(why) => {
                errors.push(Error::invalid(path, json_path, format!("is an invalid path: {why}")));
                continue;
            }
        };
        if json_path.trim_start_matches('.').split('.').next() == Some("metadata") {
            errors.push(Error::invalid(path.clone(), json_path, "must not point to fields in metadata"));
        }
        if !matches!(text(found, "type"), "string" | "boolean" | "integer") {
            let why = "must point to a field of type string, boolean or integer. Enum string fields and strings with \
                       formats are allowed.";
            errors.push(Error::invalid(path.clone(), json_path, why));
        }
        if seen.contains(&json_path) {
            errors.push(Error::duplicate(path, json_path));
        } else {
            seen.push(json_path);
        }
    }
    if seen.len() > MAX_SELECTABLE_FIELDS {
        errors.push(Error::too_many(path, seen.len(), MAX_SELECTABLE_FIELDS));
    }
}

fn bundle(spec: &Value) -> &str {
    text(spec, "conversion.webhook.clientConfig.caBundle")
}

fn conversion(errors: &mut ErrorList, spec: &Value, lenient: bool, path: &Path) {
    let conversion = &spec["conversion"];
    if !conversion.is_object() {
        return;
    }
    let strategy = text(conversion, "strategy");
    if !matches!(strategy, "" | "None") && truth(spec, "preserveUnknownFields") {
        let why = "must be None if spec.preserveUnknownFields is true";
        errors.push(Error::invalid(path.child("strategy"), strategy, why));
    }
    required_one_of(errors, conversion, path, "strategy", &["None", "Webhook"]);
    let (client, reviews) = (path.child("webhookClientConfig"), path.child("conversionReviewVersions"));
    let webhook = &conversion["webhook"];
    if strategy != "Webhook" {
        for (part, path) in [("clientConfig", client), ("conversionReviewVersions", reviews)] {
            if has(webhook, part) && !(webhook[part].as_array().is_some_and(Vec::is_empty)) {
                errors.push(Error::forbidden(path, "should not be set when strategy is not set to Webhook"));
            }
        }
        return;
    }
    let config = &webhook["clientConfig"];
    if !config.is_object() {
        errors.push(Error::required(client.clone(), "required when strategy is set to Webhook"));
    } else if has(config, "url") == has(config, "service") {
        errors.push(Error::required(client.clone(), "exactly one of url or service is required"));
    } else if has(config, "url") {
        webhook_url(errors, text(config, "url"), &client.child("url"));
    } else {
        webhook_service(errors, &config["service"], &client.child("service"));
    }
    if !lenient && is_invalid_bundle(text(config, "caBundle")) {
        let why = "unable to load root certificates: unable to parse bytes as PEM block";
        errors.push(Error::invalid(client.child("caBundle"), text(config, "caBundle"), why));
    }
    review_versions(errors, list(webhook, "conversionReviewVersions"), &reviews);
}

fn webhook_url(errors: &mut ErrorList, url: &str, path: &Path) {
    const FORM: &str = "; desired format: https://host[/path]";
    let mut invalid = |value: &str, why: String| errors.push(Error::invalid(path.clone(), value, why));
    let Some((scheme, rest)) = url.split_once("://") else {
        invalid(url, format!("'https' is the only allowed URL scheme{FORM}"));
        return;
    };
    if scheme != "https" {
        invalid(scheme, format!("'https' is the only allowed URL scheme{FORM}"));
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.rsplit('@').next().unwrap_or_default().is_empty() {
        invalid("", format!("host must be specified{FORM}"));
    }
    if let Some((user, _)) = authority.rsplit_once('@') {
        invalid(user, "user information is not permitted in the URL".into());
    }
    if let Some((_, fragment)) = rest.split_once('#') {
        invalid(fragment, "fragments are not permitted in the URL".into());
    }
    if let Some((_, query)) = rest.split('#').next().unwrap_or_default().split_once('?') {
        invalid(query, "query parameters are not permitted in the URL".into());
    }
}

fn webhook_service(errors: &mut ErrorList, service: &Value, path: &Path) {
    if text(service, "name").is_empty() {
        errors.push(Error::required(path.child("name"), "service name is required"));
    }
    if text(service, "namespace").is_empty() {
        errors.push(Error::required(path.child("namespace"), "service namespace is required"));
    }
    let port = service["port"].as_i64().unwrap_or(443);
    if !(1..=65535).contains(&port) {
        let why = "port is not valid: must be between 1 and 65535, inclusive";
        errors.push(Error::invalid(path.child("port"), port, why));
    }
    let Some(url_path) = service["path"].as_str().filter(|path| !path.is_empty()) else { return };
    let path = path.child("path");
    if !url_path.starts_with('/') {
        errors.push(Error::invalid(path.clone(), url_path, "must start with a '/'"));
    }
    if url_path.len() > 1 && url_path.trim_start_matches('/').trim_end_matches('/').split('/').any(str::is_empty) {
        errors.push(Error::invalid(path, url_path, "segment[0] may not be empty"));
    }
}

fn review_versions(errors: &mut ErrorList, versions: &[Value], path: &Path) {
    if versions.is_empty() {
        errors.push(Error::required(path.clone(), ""));
        return;
    }
    let names: Vec<&str> = versions.iter().filter_map(Value::as_str).collect();
    for (index, name) in names.iter().enumerate() {
        if names[..index].contains(name) {
            errors.push(Error::invalid(path.index(index), *name, "duplicate version"));
            continue;
        }
        for problem in dns1035_label_problems(name) {
            errors.push(Error::invalid(path.index(index), *name, problem));
        }
    }
    if !names.iter().any(|name| matches!(*name, "v1" | "v1beta1")) {
        errors.push(Error::invalid(path.clone(), versions.to_vec(), "must include at least one of v1, v1beta1"));
    }
}

/// Whether any version's schema is as `found` says.
pub(super) fn any_schema(spec: &Value, found: impl Fn(&Value) -> bool + Copy) -> bool {
    list(spec, "versions").iter().any(|version| any(at(version, "schema.openAPIV3Schema"), found))
}
