//! Decisions over stored roles.

use serde_json::{Value, json};

use super::*;
use crate::test_reader::FakeReader;

fn role(reader: &FakeReader, namespace: &str, name: &str, rules: Value) {
    let plural = if namespace.is_empty() { "clusterroles" } else { "roles" };
    let object = json!({"metadata": {"name": name, "namespace": namespace}, "rules": rules});
    reader.put(GROUP, plural, object);
}

fn bind(reader: &FakeReader, namespace: &str, name: &str, role_kind: &str, subject: Value) {
    let plural = if namespace.is_empty() { "clusterrolebindings" } else { "rolebindings" };
    reader.put(
        GROUP,
        plural,
        json!({"metadata": {"name": format!("{name}-{namespace}"), "namespace": namespace},
            "roleRef": {"kind": role_kind, "name": name, "apiGroup": GROUP}, "subjects": [subject]}),
    );
}

fn user(name: &str, groups: &[&str]) -> UserInfo {
    UserInfo { name: name.into(), groups: groups.iter().map(|g| (*g).into()).collect(), ..UserInfo::default() }
}

/// A request in short: `verb resource[.group][/subresource][:name][@namespace]`, or `verb /path`.
fn request(user: UserInfo, text: &str) -> Attributes {
    let (verb, rest) = text.split_once(' ').unwrap();
    let base = Attributes { user, verb: verb.into(), ..Attributes::default() };
    if rest.starts_with('/') {
        return Attributes { path: rest.into(), ..base };
    }
    let (rest, namespace) = rest.split_once('@').unwrap_or((rest, ""));
    let (rest, name) = rest.split_once(':').unwrap_or((rest, ""));
    let (rest, subresource) = rest.split_once('/').unwrap_or((rest, ""));
    let (resource, group) = rest.split_once('.').unwrap_or((rest, ""));
    Attributes {
        resource: resource.into(),
        group: group.into(),
        subresource: subresource.into(),
        name: name.into(),
        namespace: namespace.into(),
        is_resource: true,
        ..base
    }
}

fn allowed(rbac: &Rbac, user: UserInfo, text: &str) -> bool {
    matches!(rbac.authorize(&request(user, text)), Decision::Allow(_))
}

#[test]
fn rules_decide() {
    let one = |groups: &[&str], resources: &[&str], verbs: &[&str]| json!([{"apiGroups": groups, "resources": resources, "verbs": verbs}]);
    let named = json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"], "resourceNames": ["a"]}]);
    let urls = json!([{"nonResourceURLs": ["/healthz", "/apis/*"], "verbs": ["get"]}]);
    let cases: &[(Value, &[&str], &[&str])] = &[
        (
            one(&[""], &["pods"], &["get"]),
            &["get pods@ns", "get pods:x@ns"],
            &["list pods@ns", "get pods/log@ns", "get pods.apps@ns", "get /pods"],
        ),
        (one(&[""], &["pods/log"], &["get"]), &["get pods/log:x@ns"], &["get pods@ns", "get pods/exec@ns"]),
        (
            one(&["*"], &["*/scale"], &["update"]),
            &["update deployments.apps/scale:x@ns"],
            &["update scale@ns", "update deployments.apps@ns"],
        ),
        (one(&["*"], &["*"], &["*"]), &["get pods/log@ns", "escalate roles.x"], &["get /metrics"]),
        (one(&["apps"], &["*"], &["get"]), &["get deployments.apps/status@ns"], &["get pods@ns"]),
        (named, &["get configmaps:a@ns"], &["get configmaps:b@ns", "get configmaps@ns", "list configmaps@ns"]),
        (
            urls,
            &["get /healthz", "get /apis/apps/v1", "get /apis/"],
            &["get /healthz/etcd", "post /healthz", "get /api"],
        ),
    ];
    for (rules, yes, no) in cases {
        let reader = FakeReader::new();
        role(&reader, "", "r", rules.clone());
        bind(&reader, "", "r", "ClusterRole", json!({"kind": "User", "name": "jane"}));
        let rbac = Rbac::new(reader);
        for text in *yes {
            assert!(allowed(&rbac, user("jane", &[]), text), "{rules} should permit {text}");
            assert!(!allowed(&rbac, user("joe", &[]), text), "{rules} is not joe's");
        }
        for text in *no {
            assert!(!allowed(&rbac, user("jane", &[]), text), "{rules} should not permit {text}");
        }
    }
}

#[test]
fn subjects_and_namespaces() {
    let pods = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]);
    let cases: &[(Value, UserInfo, bool)] = &[
        (json!({"kind": "Group", "name": "dev"}), user("x", &["dev"]), true),
        (json!({"kind": "Group", "name": "dev"}), user("dev", &[]), false),
        (json!({"kind": "User", "name": "dev"}), user("x", &["dev"]), false),
        (
            json!({"kind": "ServiceAccount", "name": "sa", "namespace": "other"}),
            user("system:serviceaccount:other:sa", &[]),
            true,
        ),
        (json!({"kind": "ServiceAccount", "name": "sa"}), user("system:serviceaccount:ns:sa", &[]), true),
    ];
    for (subject, who, expected) in cases {
        let reader = FakeReader::new();
        role(&reader, "ns", "r", pods.clone());
        role(&reader, "", "c", pods.clone());
        bind(&reader, "ns", "r", "Role", subject.clone());
        bind(&reader, "elsewhere", "c", "ClusterRole", subject.clone());
        let rbac = Rbac::new(reader);
        assert_eq!(allowed(&rbac, who.clone(), "get pods@ns"), *expected, "{subject}");
        assert!(!allowed(&rbac, who.clone(), "get pods"), "a role binding is no cluster role binding");
        assert!(!allowed(&rbac, who.clone(), "get pods@third"));
    }
}

#[test]
fn changes_count_at_once_and_missing_roles_are_named() {
    let reader = FakeReader::new();
    let rbac = Rbac::new(reader.clone());
    let jane = || user("jane", &[]);
    bind(&reader, "ns", "gone", "Role", json!({"kind": "User", "name": "jane"}));
    let decision = rbac.authorize(&request(jane(), "get pods@ns"));
    assert_eq!(decision, Decision::NoOpinion("RBAC: role.rbac.authorization.k8s.io \"gone\" not found".into()));
    role(&reader, "ns", "gone", json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]));
    let decision = rbac.authorize(&request(jane(), "get pods@ns"));
    let reason = "RBAC: allowed by RoleBinding \"gone-ns/ns\" of Role \"gone\" to User \"jane\"";
    assert_eq!(decision, Decision::Allow(reason.into()));
    reader.remove(GROUP, "rolebindings", "ns", "gone-ns");
    assert!(!allowed(&rbac, jane(), "get pods@ns"));
    assert!(allowed(&rbac, user("root", &["system:masters"]), "delete nodes:x"));
}

#[test]
fn aggregated_roles_have_the_rules_of_the_labelled_ones() {
    let reader = FakeReader::new();
    let aggregate = |name: &str, label: &str, own: &str| {
        reader.put(
            GROUP,
            "clusterroles",
            json!({"metadata": {"name": name, "labels": {own: "true"}}, "rules": null,
                "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]}}),
        );
    };
    aggregate("admin", "to-admin", "none");
    aggregate("edit", "to-edit", "to-admin");
    bind(&reader, "", "admin", "ClusterRole", json!({"kind": "User", "name": "jane"}));
    let rbac = Rbac::new(reader.clone());
    assert!(!allowed(&rbac, user("jane", &[]), "get widgets.example.com"));
    reader.put(
        GROUP,
        "clusterroles",
        json!({"metadata": {"name": "widgets", "labels": {"to-edit": "true"}},
            "rules": [{"apiGroups": ["example.com"], "resources": ["widgets"], "verbs": ["get"]}]}),
    );
    assert!(allowed(&rbac, user("jane", &[]), "get widgets.example.com"), "two steps of aggregation");
    reader.remove(GROUP, "clusterroles", "", "widgets");
    assert!(!allowed(&rbac, user("jane", &[]), "get widgets.example.com"));
}

#[test]
fn covering_is_per_rule_part() {
    let rule = |value: Value| serde_json::from_value::<Rule>(value).unwrap();
    let wide = rule(json!({"apiGroups": ["*"], "resources": ["pods", "*/scale"], "verbs": ["get", "list"]}));
    let covered = |value: Value| rule(value).split().iter().all(|part| wide.covers(part));
    assert!(covered(json!({"apiGroups": ["", "apps"], "resources": ["pods"], "verbs": ["get"]})));
    assert!(covered(json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["list"], "resourceNames": ["x"]})));
    assert!(covered(json!({"apiGroups": ["apps"], "resources": ["deployments/scale"], "verbs": ["get"]})));
    assert!(!covered(json!({"apiGroups": [""], "resources": ["pods", "secrets"], "verbs": ["get"]})));
    assert!(!covered(json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["*"]})));
    assert!(!covered(json!({"nonResourceURLs": ["/x"], "verbs": ["get"]})));
    let named = rule(json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get"], "resourceNames": ["x"]}));
    assert!(!named.covers(&rule(json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}))));
}

mod laws {
    use proptest::prelude::*;

    use super::*;

    fn some(of: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
        proptest::sample::subsequence(of, 0..=of.len().min(3)).prop_map(|v| v.into_iter().map(str::to_owned).collect())
    }

    fn any_rule() -> impl Strategy<Value = Rule> {
        (
            some(&["*", "get", "list"]),
            some(&["*", "", "apps"]),
            some(&["*", "pods", "pods/log", "*/log", "secrets"]),
            some(&["a", "b"]),
            some(&["*", "/api", "/api/*", "/healthz"]),
        )
            .prop_map(|(verbs, api_groups, resources, resource_names, non_resource_urls)| Rule {
                verbs,
                api_groups,
                resources,
                resource_names,
                non_resource_urls,
            })
    }

    fn any_request() -> impl Strategy<Value = Attributes> {
        let text = proptest::sample::select(vec![
            "get pods",
            "get pods:a",
            "get pods/log:b",
            "list secrets.apps",
            "list pods.apps/log",
            "get secrets:a",
            "get /api",
            "get /api/v1",
            "list /healthz",
            "get pods/exec",
        ]);
        text.prop_map(|text| request(user("jane", &[]), text))
    }

    proptest! {
        /// A rule in parts permits what the rule does.
        #[test]
        fn parts_make_the_whole(rule in any_rule(), request in any_request()) {
            prop_assert_eq!(rule.allows(&request), rule.split().iter().any(|part| part.allows(&request)));
        }

        /// Who holds rules that cover another gains nothing by being granted it.
        #[test]
        fn what_covers_permits_no_less(
            held in proptest::collection::vec(any_rule(), 0..4), granted in any_rule(), request in any_request()
        ) {
            let covered = granted.split().iter().all(|part| held.iter().any(|rule| rule.covers(part)));
            if covered && granted.allows(&request) {
                prop_assert!(held.iter().any(|rule| rule.allows(&request)));
            }
        }
    }
}
