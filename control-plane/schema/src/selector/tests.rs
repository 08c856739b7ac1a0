use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::registry::Registry;

fn error(text: &str) -> String {
    LabelSelector::parse(text).unwrap_err()
}

#[test]
fn selectors_match_as_upstreams() {
    let web = [("app", "web"), ("tier", "2")];
    let selects = |text: &str| LabelSelector::parse(text).unwrap().matches(web.as_slice());
    for text in [
        "",
        "app",
        "app=web",
        "app==web",
        "app = web",
        "app in (web, db)",
        "app!=db",
        "other!=x",
        "app notin (db)",
        "other notin (x)",
        "!other",
        "tier>1",
        "tier<3",
        "app,tier",
        " app = web , tier = 2 ",
        "in!=x",
    ] {
        assert!(selects(text), "{text}");
    }
    for text in [
        "other",
        "app=db",
        "app=",
        "app in (db)",
        "app!=web",
        "app notin (web)",
        "!app",
        "tier>2",
        "app>1",
        "app in ()x",
    ] {
        let selected = LabelSelector::parse(text).is_ok_and(|s| s.matches(web.as_slice()));
        assert!(!selected, "{text}");
    }
    assert_eq!(LabelSelector::parse("b in (z,a),a=1,!c").unwrap().to_string(), "a=1,b in (a,z),!c");
    assert_eq!(LabelSelector::parse("x in ()").unwrap().requirements()[0].values, [""]);
    assert_eq!(LabelSelector::parse("x in (,a,)").unwrap().to_string(), "x in (,a)");
}

#[test]
fn errors_of_label_selectors_are_upstreams() {
    assert_eq!(error("=web"), "found '=', expected: !, identifier, or 'end of string'");
    assert_eq!(error("a,"), "found '', expected: identifier after ','");
    assert_eq!(error("a b"), "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt");
    assert_eq!(error("a=b=c"), "found '=', expected: ',' or 'end of string'");
    assert_eq!(error("a in b"), "unable to parse requirement: found 'b' expected: '('");
    assert_eq!(error("a in (b"), "unable to parse requirement: found '', expected: ',' or ')'");
    assert_eq!(error("!"), "unable to parse requirement: found '', expected: identifier");
    assert_eq!(error("a=("), "unable to parse requirement: found '(', expected: identifier");
    assert!(error("a=b@").starts_with(
        "unable to parse requirement: values[0][a]: Invalid value: \"b@\": a valid label must be an empty string or"
    ));
    assert!(
        error("a@=b").starts_with("unable to parse requirement: <nil>: Invalid value: \"a@\": name part must consist")
    );
    assert!(
        error("a>b")
            .contains("values[0]: Invalid value: \"b\": for 'Gt', 'Lt' operators, the value must be an integer")
    );
}

#[test]
fn selectors_in_objects() {
    assert!(LabelSelector::from_json(&Value::Null).unwrap().is_nothing());
    assert!(!LabelSelector::from_json(&Value::Null).unwrap().matches(&json!({})));
    assert!(LabelSelector::from_json(&json!({})).unwrap().is_everything());
    let selector = LabelSelector::from_json(&json!({"matchLabels": {"app": "web"}, "matchExpressions": [
        {"key": "tier", "operator": "In", "values": ["b", "a"]}, {"key": "old", "operator": "DoesNotExist"}]}));
    let selector = selector.unwrap();
    assert_eq!(selector.to_string(), "app=web,!old,tier in (a,b)");
    assert!(selector.matches(&json!({"app": "web", "tier": "b"})));
    assert!(!selector.matches(&json!({"app": "web", "tier": "b", "old": ""})));
    let wrong = LabelSelector::from_json(&json!({"matchExpressions": [{"key": "a", "operator": "Is"}]}));
    assert_eq!(wrong.unwrap_err(), "\"Is\" is not a valid label selector operator");
    let none = LabelSelector::from_json(&json!({"matchExpressions": [{"key": "a", "operator": "In"}]}));
    assert_eq!(none.unwrap_err(), "values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty");
    assert!(LabelSelector::from_map(&json!({"a": "b"})).matches(&BTreeMap::from([("a".to_owned(), "b".to_owned())])));
}

#[test]
fn field_selectors() {
    let selector = FieldSelector::parse(r"status.phase!=Running,metadata.name==a\,b,x=\\").unwrap();
    assert_eq!(selector.exact("metadata.name"), Some("a,b"));
    assert_eq!(selector.exact("x"), Some("\\"));
    assert_eq!(selector.to_string(), r"metadata.name=a\,b,status.phase!=Running,x=\\");
    assert!(selector.matches(|f| match f {
        "metadata.name" => Some("a,b"),
        "x" => Some("\\"),
        _ => None,
    }));
    assert!(FieldSelector::parse("").unwrap().is_everything());
    assert_eq!(FieldSelector::parse("foo").unwrap_err(), "invalid selector: 'foo'; can't understand 'foo'");
    assert!(
        FieldSelector::parse("a=b=c").unwrap_err().starts_with("invalid field selector: unescaped character in value")
    );
    assert_eq!(FieldSelector::parse(r"a=\b").unwrap_err(), r"invalid field selector: invalid escape sequence: \b");
}

#[test]
fn field_labels_of_kinds() {
    let registry = Registry::builtin();
    let row = registry.get("", "v1", "configmaps").unwrap();
    let check = |text: &str| FieldSelector::parse(text).unwrap().check(row);
    assert_eq!(check("metadata.name=a,metadata.namespace=b"), Ok(()));
    assert_eq!(
        check("spec.x=a").unwrap_err(),
        "\"spec.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
    );
    for (group, plural, fields) in [
        ("", "pods", "spec.nodeName=a,spec.schedulerName=a,spec.restartPolicy=a,status.phase=a,status.podIP=a"),
        ("", "events", "involvedObject.kind=a,involvedObject.name=a,involvedObject.uid=a,reason=a,type=a,source=a"),
        ("", "nodes", "spec.unschedulable=true"),
        ("", "secrets", "type=a"),
        ("", "namespaces", "status.phase=Active"),
        ("batch", "jobs", "status.successful=1"),
        ("apps", "replicasets", "status.replicas=1"),
    ] {
        let row = registry.get(group, "v1", plural).unwrap();
        assert_eq!(FieldSelector::parse(fields).unwrap().check(row), Ok(()), "{plural}");
        let wrong = FieldSelector::parse("spec.nope=a").unwrap().check(row).unwrap_err();
        assert_eq!(wrong, "field label not supported: spec.nope", "{plural}");
    }
    // Two groups serve events, each by its own names.
    let events = registry.get("events.k8s.io", "v1", "events").unwrap();
    let selector = FieldSelector::parse("regarding.name=a,reportingController=b").unwrap();
    assert!(selector.check(events).is_err());
    let translated = selector.translated(events);
    assert_eq!(translated.check(events), Ok(()));
    assert_eq!(translated.to_string(), "involvedObject.name=a,reportingComponent=b");
    let object = json!({"metadata": {"name": "a", "namespace": "n"}});
    let matches = |text: &str| FieldSelector::parse(text).unwrap().matches_object(row, &object);
    assert!(matches("metadata.name=a") && !matches("metadata.name!=a") && !matches("metadata.namespace=x"));
}

proptest! {
    #[test]
    fn label_selectors_print_and_read_back(text in "[a-c=!(),<> inot0-3]{0,24}") {
        if let Ok(selector) = LabelSelector::parse(&text) {
            prop_assert_eq!(LabelSelector::parse(&selector.to_string()).unwrap(), selector);
        }
    }

    #[test]
    fn field_selectors_print_and_read_back(text in r"[a-c=!,\\.]{0,24}") {
        if let Ok(selector) = FieldSelector::parse(&text) {
            let back = FieldSelector::parse(&selector.to_string()).unwrap();
            let sorted = |s: FieldSelector| {
                let mut all = s.requirements().to_vec();
                all.sort_by_key(|r| format!("{r:?}"));
                all
            };
            prop_assert_eq!(sorted(back), sorted(selector));
        }
    }

    #[test]
    fn a_requirement_and_its_opposite_part_the_world(value in "[a-c]{0,2}", label in proptest::option::of("[a-c]{0,2}")) {
        let labels: Vec<(&str, String)> = label.into_iter().map(|l| ("k", l)).collect();
        let is = LabelSelector::parse(&format!("k={value}")).unwrap();
        let is_not = LabelSelector::parse(&format!("k!={value}")).unwrap();
        prop_assert!(is.matches(labels.as_slice()) != is_not.matches(labels.as_slice()));
    }
}
