//! Paths and their operations.

use serde_json::{Map, Value, json};

use crate::resource::{Resource, Subresource};

/// The suffix of a list across all namespaces.
const ALL_NAMESPACES: &str = "ForAllNamespaces";

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// The group, version and kind that an operation is about.
struct Kind<'a>(&'a str, &'a str, &'a str);

/// The paths of a resource and its subresources.
pub(super) fn of_resource(row: &Resource) -> Vec<(String, Value)> {
    let base = if row.group.is_empty() {
        format!("/api/{}", row.version)
    } else {
        format!("/apis/{}/{}", row.group, row.version)
    };
    let plural = &row.plural;
    let collection =
        if row.namespaced { format!("{base}/namespaces/{{namespace}}/{plural}") } else { format!("{base}/{plural}") };
    let maker = Maker { row };
    let mut paths = vec![(collection.clone(), maker.collection())];
    if row.namespaced && row.allows("list") {
        paths.push((format!("{base}/{plural}"), maker.across_namespaces()));
    }
    if row.allows("get") {
        paths.push((format!("{collection}/{{name}}"), maker.object()));
    }
    for sub in row.subresources.iter() {
        paths.push((format!("{collection}/{{name}}/{}", sub.name), maker.subresource(sub)));
    }
    paths
}

struct Maker<'a> {
    row: &'a Resource,
}

impl Maker<'_> {
    fn own(&self) -> Kind<'_> {
        Kind(&self.row.group, &self.row.version, &self.row.kind)
    }

    /// The list's definition stands beside the kind's.
    fn list_schema(&self) -> String {
        format!("{}List", self.row.schema)
    }

    fn parameters(&self, named: bool, namespaced: bool) -> Value {
        let mut parameters = Vec::new();
        let mut path = |name: &str, description: &str| {
            let schema = json!({ "type": "string", "uniqueItems": true });
            let parameter =
                json!({ "name": name, "in": "path", "description": description, "required": true, "schema": schema });
            parameters.push(parameter);
        };
        if named {
            path("name", &format!("name of the {}", self.row.kind));
        }
        if namespaced {
            path("namespace", "object name and auth scope, such as for teams and projects");
        }
        parameters.push(query("pretty"));
        parameters.into()
    }

    fn collection(&self) -> Value {
        let row = self.row;
        let mut item = Map::new();
        if row.allows("list") {
            let operation = self.operation("list", "", &LIST_QUERY, &self.own());
            item.insert("get".into(), respond(operation, &self.list_schema(), &[200]));
        }
        if row.allows("create") {
            let operation = self.operation("post", "", &WRITE_QUERY, &self.own());
            let operation = body(operation, &row.schema, &["*/*"], true);
            item.insert("post".into(), respond(operation, &row.schema, &[200, 201, 202]));
        }
        if row.allows("deletecollection") {
            let operation = self.operation("deletecollection", "", &DELETE_COLLECTION_QUERY, &self.own());
            let operation = body(operation, &format!("{META}.DeleteOptions"), &["*/*"], false);
            item.insert("delete".into(), respond(operation, &format!("{META}.Status"), &[200]));
        }
        item.insert("parameters".into(), self.parameters(false, row.namespaced));
        item.into()
    }

    fn across_namespaces(&self) -> Value {
        let operation = self.operation("list", ALL_NAMESPACES, &LIST_QUERY, &self.own());
        let mut parameters = vec![query("pretty")];
        parameters.extend(LIST_QUERY.iter().map(|name| query(name)));
        json!({ "get": respond(operation, &self.list_schema(), &[200]), "parameters": parameters })
    }

    fn object(&self) -> Value {
        let row = self.row;
        let schema = row.schema.as_ref();
        let mut item = self.read_and_write(&row.verbs, schema, "", &self.own());
        if row.allows("delete") {
            let operation = self.operation("delete", "", &DELETE_QUERY, &self.own());
            let operation = body(operation, &format!("{META}.DeleteOptions"), &["*/*"], false);
            let answer = if row.answers_deleted() { schema.to_owned() } else { format!("{META}.Status") };
            item.insert("delete".into(), respond(operation, &answer, &[200, 202]));
        }
        item.insert("parameters".into(), self.parameters(true, row.namespaced));
        item.into()
    }

    /// `get`, `put` and `patch`, as far as the verbs say.
    fn read_and_write(
        &self,
        verbs: &[std::borrow::Cow<'static, str>],
        schema: &str,
        suffix: &str,
        kind: &Kind<'_>,
    ) -> Map<String, Value> {
        let allows = |verb: &str| verbs.iter().any(|v| v == verb);
        let mut item = Map::new();
        if allows("get") {
            item.insert("get".into(), respond(self.operation("get", suffix, &[], kind), schema, &[200]));
        }
        if allows("update") {
            let operation = body(self.operation("put", suffix, &WRITE_QUERY, kind), schema, &["*/*"], true);
            item.insert("put".into(), respond(operation, schema, &[200, 201]));
        }
        if allows("patch") {
            let operation = self.operation("patch", suffix, &PATCH_QUERY, kind);
            let mut types = vec!["application/json-patch+json", "application/merge-patch+json"];
            if self.row.custom.is_none() {
                types.push("application/strategic-merge-patch+json");
            }
            let operation = body(operation, &format!("{META}.Patch"), &types, true);
            item.insert("patch".into(), respond(operation, schema, &[200, 201]));
        }
        item
    }

    fn subresource(&self, sub: &Subresource) -> Value {
        let row = self.row;
        let (group, version) =
            if sub.version.is_empty() { (&row.group, &row.version) } else { (&sub.group, &sub.version) };
        let kind = Kind(group, version, &sub.kind);
        let mut item = match super::schemas::of_kind(row, sub) {
            Some(schema) => {
                let mut item = self.read_and_write(&sub.verbs, &schema, &sub.name, &kind);
                if sub.verbs.iter().any(|v| v == "create") {
                    let operation =
                        body(self.operation("post", &sub.name, &WRITE_QUERY, &kind), &schema, &["*/*"], true);
                    item.insert("post".into(), respond(operation, &schema, &[200, 201, 202]));
                }
                item
            }
            None => self.connect(sub, &kind),
        };
        if sub.name == "log" {
            let operation = self.operation("get", "log", &LOG_QUERY, &self.own());
            let text = json!({ "description": "OK", "content": { "text/plain": { "schema": { "type": "string" } } } });
            let mut operation = Value::Object(operation);
            operation["responses"]["200"] = text;
            item.insert("get".into(), operation);
        }
        item.insert("parameters".into(), self.parameters(true, row.namespaced));
        item.into()
    }

    /// What is a connection rather than an object.
    fn connect(&self, sub: &Subresource, kind: &Kind<'_>) -> Map<String, Value> {
        let methods = sub.verbs.iter().filter_map(|verb| {
            Some(match verb.as_ref() {
                "get" => "get",
                "create" => "post",
                "update" => "put",
                "delete" => "delete",
                _ => return None,
            })
        });
        let operation = |method: &str| {
            let mut operation = Value::Object(self.operation(method, &sub.name, &[], kind));
            operation["x-kubernetes-action"] = "connect".into();
            let text = json!({ "description": "OK", "content": { "*/*": { "schema": { "type": "string" } } } });
            operation["responses"]["200"] = text;
            operation
        };
        methods.map(|method| (method.to_owned(), operation(method))).collect()
    }

    /// An operation; the `suffix` tells its name from those on the object itself.
    fn operation(&self, action: &str, suffix: &str, parameters: &[&str], kind: &Kind<'_>) -> Map<String, Value> {
        let row = self.row;
        let group = row.group.split('.').next().filter(|g| !g.is_empty()).unwrap_or("core");
        let scope = if row.namespaced && suffix != ALL_NAMESPACES { "Namespaced" } else { "" };
        let id = format!("{action}{}{}{scope}{}{}", title(group), title(&row.version), row.kind, title(suffix));
        let operation = json!({
            "tags": [format!("{group}_{}", row.version)],
            "description": format!("{action} {} ({})", row.plural, kind.2),
            "operationId": id,
            "parameters": parameters.iter().map(|name| query(name)).collect::<Vec<_>>(),
            "responses": { "401": { "description": "Unauthorized" } },
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": { "group": kind.0, "version": kind.1, "kind": kind.2 },
        });
        match operation {
            Value::Object(entries) => entries,
            _ => Map::new(),
        }
    }
}

fn title(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

fn body(mut operation: Map<String, Value>, schema: &str, types: &[&str], required: bool) -> Map<String, Value> {
    let content: Map<String, Value> =
        types.iter().map(|kind| ((*kind).to_owned(), json!({ "schema": reference(schema) }))).collect();
    let mut body = json!({ "content": content });
    if required {
        body["required"] = true.into();
    }
    operation.insert("requestBody".into(), body);
    operation
}

fn respond(operation: Map<String, Value>, schema: &str, codes: &[u16]) -> Value {
    let mut operation = Value::Object(operation);
    for code in codes {
        let words = match code {
            200 => "OK",
            201 => "Created",
            _ => "Accepted",
        };
        let content = json!({ "application/json": { "schema": reference(schema) } });
        operation["responses"][code.to_string()] = json!({ "description": words, "content": content });
    }
    operation
}

const WRITE_QUERY: [&str; 3] = ["dryRun", "fieldManager", "fieldValidation"];
const PATCH_QUERY: [&str; 3] = ["dryRun", "fieldManager", "fieldValidation"];
const DELETE_QUERY: [&str; 4] = ["dryRun", "gracePeriodSeconds", "orphanDependents", "propagationPolicy"];
const LIST_QUERY: [&str; 10] = [
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
    "watch",
];
const DELETE_COLLECTION_QUERY: [&str; 11] = [
    "continue",
    "dryRun",
    "fieldSelector",
    "gracePeriodSeconds",
    "labelSelector",
    "limit",
    "orphanDependents",
    "propagationPolicy",
    "resourceVersion",
    "resourceVersionMatch",
    "timeoutSeconds",
];
const LOG_QUERY: [&str; 8] =
    ["container", "follow", "limitBytes", "previous", "sinceSeconds", "sinceTime", "tailLines", "timestamps"];

/// A parameter of the query string.
fn query(name: &str) -> Value {
    let (kind, description) = match name {
        "pretty" => ("string", "If 'true', then the output is pretty printed."),
        "dryRun" => ("string", "When present, indicates that modifications should not be persisted. Valid: All."),
        "fieldManager" => ("string", "The name of the actor or entity that is making these changes."),
        "fieldValidation" => (
            "string",
            "What the server does with unknown or duplicate fields: Ignore drops them, Warn (the default) drops them \
             and sends a warning for each, Strict refuses the request.",
        ),
        "gracePeriodSeconds" => ("integer", "Seconds before the object is deleted; zero deletes immediately."),
        "orphanDependents" => ("boolean", "Deprecated: use propagationPolicy. Whether dependents are orphaned."),
        "propagationPolicy" => ("string", "How dependents are collected: Orphan, Background or Foreground."),
        "allowWatchBookmarks" => ("boolean", "Asks for watch events of type BOOKMARK."),
        "continue" => ("string", "Where the next chunk of a list begins, as the last chunk said."),
        "fieldSelector" => ("string", "A selector of objects by their fields. Defaults to everything."),
        "labelSelector" => ("string", "A selector of objects by their labels. Defaults to everything."),
        "limit" => ("integer", "How many objects a chunk of a list has at most."),
        "resourceVersion" => ("string", "A constraint on what resource versions a request may be served from."),
        "resourceVersionMatch" => ("string", "How resourceVersion is applied to lists: Exact or NotOlderThan."),
        "sendInitialEvents" => ("boolean", "Begins a watch with the objects that are there."),
        "timeoutSeconds" => ("integer", "How long a call may take."),
        "watch" => ("boolean", "Watches for changes instead of listing."),
        "container" => ("string", "The container whose log to stream; may be left out if there is only one."),
        "follow" => ("boolean", "Follows the log as it grows."),
        "limitBytes" => ("integer", "How many bytes of the log to return at most."),
        "previous" => ("boolean", "Returns the log of the container's previous run."),
        "sinceSeconds" => ("integer", "Begins this many seconds ago."),
        "sinceTime" => ("string", "Begins at this time, in RFC 3339."),
        "tailLines" => ("integer", "Begins this many lines before the end."),
        "timestamps" => ("boolean", "Adds a timestamp to each line."),
        _ => ("string", ""),
    };
    let schema = json!({ "type": kind, "uniqueItems": true });
    json!({ "name": name, "in": "query", "description": description, "schema": schema })
}
