use serde_json::{Value, json};

use super::columns;
use crate::resource::{PLAIN, Resource};
use crate::table::{Include, render, without_columns};

const NOW: &str = "2026-01-02T03:04:05Z";

fn resource(group: &str, kind: &str) -> Resource {
    Resource {
        group: group.to_owned().into(),
        version: "v1".into(),
        kind: kind.to_owned().into(),
        list_kind: format!("{kind}List").into(),
        plural: format!("{}s", kind.to_lowercase()).into(),
        singular: kind.to_lowercase().into(),
        short_names: vec![].into(),
        categories: vec![].into(),
        namespaced: true,
        verbs: vec![].into(),
        subresources: vec![].into(),
        schema: "".into(),
        strategy: PLAIN,
        columns: columns(group, kind),
        virtual_kind: false,
        custom: None,
    }
}

/// The objects of a fixture as `kubectl get -o wide` lays them out.
fn table(group: &str, kind: &str, fixture: &str) -> String {
    laid_out(&resource(group, kind), &serde_saphyr::from_multiple::<Value>(fixture).unwrap())
}

fn laid_out(resource: &Resource, objects: &[Value]) -> String {
    let table = render(resource, objects, NOW.parse().unwrap(), Include::None, Value::Null);
    let titles = table["columnDefinitions"].as_array().unwrap().iter();
    let mut lines: Vec<Vec<String>> = vec![
        titles
            .map(|c| {
                let title = c["name"].as_str().unwrap().to_uppercase();
                if c["priority"] == 0 { title } else { format!("({title})") }
            })
            .collect(),
    ];
    let cell = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    lines.extend(
        table["rows"].as_array().unwrap().iter().map(|row| row["cells"].as_array().unwrap().iter().map(cell).collect()),
    );
    let widths: Vec<_> =
        (0..lines[0].len()).map(|n| lines.iter().map(|line| line[n].len()).max().unwrap_or_default()).collect();
    let lay_out = |line: &Vec<String>| {
        line.iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}   "))
            .collect::<String>()
            .trim_end()
            .to_owned()
    };
    lines.iter().map(lay_out).collect::<Vec<_>>().join("\n")
}

#[test]
fn pods() {
    insta::assert_snapshot!(table("", "Pod", include_str!("fixtures/pods.yaml")));
}

#[test]
fn services() {
    insta::assert_snapshot!(table("", "Service", include_str!("fixtures/services.yaml")));
}

#[test]
fn nodes() {
    insta::assert_snapshot!(table("", "Node", include_str!("fixtures/nodes.yaml")));
}

#[test]
fn deployments() {
    insta::assert_snapshot!(table("apps", "Deployment", include_str!("fixtures/deployments.yaml")));
}

#[test]
fn jobs() {
    insta::assert_snapshot!(table("batch", "Job", include_str!("fixtures/jobs.yaml")));
}

#[test]
fn events() {
    insta::assert_snapshot!(table("", "Event", include_str!("fixtures/events.yaml")));
}

#[test]
fn endpoints() {
    insta::assert_snapshot!(table("discovery.k8s.io", "EndpointSlice", include_str!("fixtures/endpoint_slices.yaml")));
}

#[test]
fn the_rest() {
    let all = [
        ("rbac.authorization.k8s.io", "RoleBinding"),
        ("rbac.authorization.k8s.io", "Role"),
        ("certificates.k8s.io", "CertificateSigningRequest"),
        ("apps", "ControllerRevision"),
        ("policy", "PodDisruptionBudget"),
        ("", "Secret"),
        ("", "Endpoints"),
    ];
    let text = include_str!("fixtures/others.yaml");
    let tables = all.map(|(group, kind)| {
        let documents = text.split("---\n").filter(|d| d.contains(&format!("kind: {kind}\n"))).collect::<Vec<_>>();
        table(group, kind, &documents.join("---\n"))
    });
    insta::assert_snapshot!(tables.join("\n\n"));
}

/// Kinds that have a fixture of their own above.
const ELSEWHERE: [&str; 8] = ["Pod", "Service", "Node", "Deployment", "Job", "Event", "EndpointSlice", "Secret"];

/// Every kind that there is, by the objects with which the strategies are tested.
#[test]
fn every_other_kind() {
    let text = include_str!("../kinds/fixtures/everything.yaml");
    let mut tables = Vec::new();
    for row in crate::registry::Registry::builtin().iter().filter(|row| !row.virtual_kind) {
        if ELSEWHERE.contains(&row.kind.as_ref()) {
            continue;
        }
        let head = format!("apiVersion: {}\nkind: {}\n", row.api_version(), row.kind);
        let documents: Vec<_> = text.split("---\n").filter(|d| d.starts_with(&head)).collect();
        assert!(!documents.is_empty(), "no object of {head} in everything.yaml");
        let mut objects: Vec<Value> = serde_saphyr::from_multiple(&documents.join("---\n")).unwrap();
        objects.iter_mut().for_each(|object| crate::defaults::apply(row, object));
        tables.push(format!("# {} {}\n{}", row.api_version(), row.plural, laid_out(row, &objects)));
    }
    insta::assert_snapshot!(tables.join("\n\n"));
}

#[test]
fn rows_carry_what_is_asked_for() {
    let pod = json!({"metadata": {"name": "a", "resourceVersion": "5"}, "status": {"phase": "Succeeded"}});
    let render = |include| {
        let metadata = json!({"resourceVersion": "9"});
        render(&resource("", "Pod"), [&pod], NOW.parse().unwrap(), include, metadata)
    };
    let table = render(Include::default());
    assert_eq!(table["metadata"]["resourceVersion"], "9");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(table["rows"][0]["object"]["metadata"]["name"], "a");
    assert_eq!(table["rows"][0]["object"].get("status"), None);
    assert_eq!(table["rows"][0]["conditions"][0]["type"], "Completed");
    assert_eq!(render(Include::Full)["rows"][0]["object"], pod);
    assert!(render(Include::None)["rows"][0]["object"].is_null());
    assert!(without_columns(table)["columnDefinitions"].is_null());
}
