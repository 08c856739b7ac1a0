use super::*;

#[test]
fn every_row_has_a_schema_and_is_found() {
    let registry = Registry::builtin();
    for row in registry.iter() {
        assert!(row.definition().is_some(), "{} has no definition", row.schema);
        assert_eq!(registry.get(&row.group, &row.version, &row.plural).unwrap().kind, row.kind);
        assert_eq!(registry.by_kind(&row.group, &row.version, &row.kind).unwrap().plural, row.plural);
        assert!(row.verbs.is_sorted() && row.subresources.iter().all(|s| s.verbs.is_sorted()));
        assert!(row.subresources.is_sorted_by_key(|s| s.name.clone()));
    }
    assert!(registry.get("apps", "v1", "pods").is_none());
    assert!(registry.by_kind("", "v1", "Deployment").is_none());
}

#[test]
fn versions_sort_as_upstreams_do() {
    let mut versions = ["v1alpha1", "foo", "v1", "v2beta1", "v10", "v1beta2", "v2"];
    versions.sort_by_key(|v| version_rank(v));
    assert_eq!(versions, ["v10", "v2", "v1", "v2beta1", "v1beta2", "v1alpha1", "foo"]);
}

#[test]
fn groups_come_in_upstreams_order() {
    let registry = Registry::builtin();
    let groups = registry.groups();
    assert_eq!(&groups[..4], ["", "apiregistration.k8s.io", "apps", "events.k8s.io"]);
    assert_eq!(registry.versions("apps"), ["v1"]);
}

#[test]
fn a_row_more_is_a_row_more() {
    let registry = Registry::builtin();
    let pods = registry.get("", "v1", "pods").unwrap();
    let definition = serde_json::json!({
        "spec": {"group": "example.com", "versions": [{"name": "v1", "served": true, "storage": true}]},
        "status": {"acceptedNames": {"plural": "widgets", "kind": "Widget"}},
    });
    let row = Resource::clone(&crate::custom::rows(&definition).unwrap().stored);
    let impostor = Resource { custom: row.custom.clone(), ..Resource::clone(pods) };
    let more = registry.with_custom([Arc::new(row), Arc::new(impostor)]);
    assert_eq!(more.iter().count(), registry.iter().count() + 1);
    assert!(more.by_kind("example.com", "v1", "Widget").is_some());
    assert!(registry.by_kind("example.com", "v1", "Widget").is_none());
    assert!(more.get("", "v1", "pods").unwrap().custom.is_none());
    assert_eq!(more.with_custom([]).iter().count(), registry.iter().count());
}
