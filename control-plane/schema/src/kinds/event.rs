//! Events, of the core group and of `events.k8s.io` (`pkg/registry/core/event`).

use jiff::Timestamp;
use serde_json::Value;

use super::checks::{dns_subdomain_problems, immutable, qualified_name_problems, report};
use super::json::{at, has, int, same, text};
use crate::field::{Error, ErrorList, Path};
use crate::resource::{PLAIN, Strategy};

/// Of the core group: an event that says when it took place in the new way has to be whole, an old one hardly anything.
pub(super) const STRATEGY: Strategy = Strategy {
    validate: |event| check(event, "reportingComponent"),
    validate_update: |new, _| check(new, "reportingComponent"),
    fields,
    create_on_update: true,
    ..PLAIN
};

/// Of `events.k8s.io`, whose clients have their own names for what the core group selects by
/// (`pkg/apis/events/v1/conversion.go`).
pub(super) const NEW_STRATEGY: Strategy = Strategy {
    field_names: &[
        ("regarding.kind", "involvedObject.kind"),
        ("regarding.namespace", "involvedObject.namespace"),
        ("regarding.name", "involvedObject.name"),
        ("regarding.uid", "involvedObject.uid"),
        ("regarding.apiVersion", "involvedObject.apiVersion"),
        ("regarding.resourceVersion", "involvedObject.resourceVersion"),
        ("regarding.fieldPath", "involvedObject.fieldPath"),
        ("reportingController", "reportingComponent"),
    ],
    validate: |event| [check(event, "reportingController"), check_new(event)].concat(),
    validate_update: |new, old| [check(new, "reportingController"), check_change(new, old)].concat(),
    ..STRATEGY
};

/// Characters that `action`, `reason` and `reportingInstance` may have.
const WORD_LIMIT: usize = 128;
/// Bytes that `message` may have.
const MESSAGE_LIMIT: usize = 1024;

/// The object that an event is about, by either group's name for it.
fn regarding(event: &Value) -> &Value {
    at(event, if has(event, "regarding") { "regarding" } else { "involvedObject" })
}

/// What holds for every event (upstream `legacyValidateEvent`). Events are checked in the form in which they are stored;
/// `controller` is what the request's version calls `reportingComponent`.
fn check(event: &Value, controller: &str) -> ErrorList {
    let mut errors = Vec::new();
    let (namespace, about) = (text(event, "metadata.namespace"), text(event, "involvedObject.namespace"));
    let timed = has(event, "eventTime");
    // Events about what is in no namespace are kept in the default one.
    let fits = match about.is_empty() {
        true => namespace.is_empty() && !timed || namespace == "default" || timed && namespace == "kube-system",
        false => timed || namespace == about,
    };
    if !fits {
        let detail = "does not match event.namespace";
        errors.push(Error::invalid(Path::new("involvedObject").child("namespace"), about, detail));
    }
    if timed {
        let path = Path::new(controller);
        let name = text(event, "reportingComponent");
        if name.is_empty() {
            errors.push(Error::required(path.clone(), ""));
        }
        report(&mut errors, &path, name, qualified_name_problems(name));
        for key in ["reportingInstance", "action", "reason"] {
            if text(event, key).is_empty() {
                errors.push(Error::required(Path::new(key), ""));
            }
            at_most(&mut errors, event, key, WORD_LIMIT);
        }
        at_most(&mut errors, event, "message", MESSAGE_LIMIT);
    }
    report(&mut errors, &Path::new("namespace"), namespace, dns_subdomain_problems(namespace));
    errors
}

fn at_most(errors: &mut ErrorList, event: &Value, key: &str, limit: usize) {
    if text(event, key).len() > limit {
        errors.push(Error::invalid(Path::new(key), "", format!("can have at most {limit} characters")));
    }
}

/// What holds besides for one that is made by `events.k8s.io`.
fn check_new(event: &Value) -> ErrorList {
    let mut errors = check_series(event);
    if !has(event, "eventTime") {
        errors.push(Error::required(Path::new("eventTime"), ""));
    }
    let kind = text(event, "type");
    if !matches!(kind, "Normal" | "Warning") {
        errors.push(Error::invalid(Path::new("type"), "", format!("has invalid value: {kind}")));
    }
    let mut unset = |key: &str, set: bool| {
        if set {
            errors.push(Error::invalid(Path::new(key), "", "needs to be unset"));
        }
    };
    unset("firstTimestamp", has(event, "firstTimestamp"));
    unset("lastTimestamp", has(event, "lastTimestamp"));
    unset("count", int(event, "count").is_some_and(|count| count != 0));
    unset("source", !text(event, "source.component").is_empty() || !text(event, "source.host").is_empty());
    errors
}

fn check_series(event: &Value) -> ErrorList {
    let mut errors = Vec::new();
    if has(event, "series") {
        if int(event, "series.count").unwrap_or_default() < 2 {
            errors.push(Error::invalid(Path::new("series.count"), "", "should be at least 2"));
        }
        if !has(event, "series.lastObservedTime") {
            errors.push(Error::required(Path::new("series.lastObservedTime"), ""));
        }
    }
    errors
}

/// What `events.k8s.io` lets nobody change: everything but the series and metadata. Paths, and fields as they are stored.
const FIXED: [(&str, &str); 13] = [
    ("involvedObject", "involvedObject"),
    ("reason", "reason"),
    ("message", "message"),
    ("source", "source"),
    ("firstTimestamp", "firstTimestamp"),
    ("lastTimestamp", "lastTimestamp"),
    ("count", "count"),
    ("reason", "reason"),
    ("type", "type"),
    ("action", "action"),
    ("related", "related"),
    ("reportingController", "reportingComponent"),
    ("reportingInstance", "reportingInstance"),
];

fn check_change(new: &Value, old: &Value) -> ErrorList {
    let mut errors = if same(at(new, "series"), at(old, "series")) { Vec::new() } else { check_series(new) };
    for (path, key) in FIXED {
        immutable(&mut errors, &Path::new(path), at(new, key), at(old, key));
        // Clients that round nanoseconds in their own way change nothing.
        if key == "type" && time(new) != time(old) {
            immutable(&mut errors, &Path::new("eventTime"), at(new, "eventTime"), at(old, "eventTime"));
        }
    }
    errors
}

/// When an event took place, in microseconds.
fn time(event: &Value) -> Option<i64> {
    text(event, "eventTime").parse::<Timestamp>().ok().map(Timestamp::as_microsecond)
}

fn fields(event: &Value) -> Vec<(&'static str, String)> {
    let object = regarding(event);
    let either = |a: &str, b: &str| if text(event, a).is_empty() { text(event, b) } else { text(event, a) }.to_owned();
    let controller = either("reportingComponent", "reportingController");
    let source = either("source.component", "deprecatedSource.component");
    vec![
        ("involvedObject.kind", text(object, "kind").to_owned()),
        ("involvedObject.namespace", text(object, "namespace").to_owned()),
        ("involvedObject.name", text(object, "name").to_owned()),
        ("involvedObject.uid", text(object, "uid").to_owned()),
        ("involvedObject.apiVersion", text(object, "apiVersion").to_owned()),
        ("involvedObject.resourceVersion", text(object, "resourceVersion").to_owned()),
        ("involvedObject.fieldPath", text(object, "fieldPath").to_owned()),
        ("reason", text(event, "reason").to_owned()),
        ("source", if source.is_empty() { controller.clone() } else { source }),
        ("reportingComponent", controller),
        ("type", text(event, "type").to_owned()),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(change: Value) -> Value {
        let mut event = json!({"metadata": {"name": "e", "namespace": "n"}, "eventTime": "2026-01-01T00:00:00.000000Z",
            "involvedObject": {"kind": "Pod", "namespace": "n", "name": "p"}, "type": "Normal", "reason": "Started",
            "action": "Start", "reportingComponent": "example.com/me", "reportingInstance": "me-1", "message": "hm"});
        for (key, value) in change.as_object().into_iter().flatten() {
            event[key] = value.clone();
        }
        event
    }

    fn words(errors: ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_old_event_need_not_say_much() {
        let old = |namespace: &str, about: Value| {
            let event = json!({"metadata": {"namespace": namespace}, "involvedObject": {"namespace": about}});
            words((STRATEGY.validate)(&event))
        };
        assert_eq!(old("n", json!("n")), [""; 0]);
        assert_eq!(old("default", Value::Null), [""; 0]);
        let elsewhere = r#"involvedObject.namespace: Invalid value: "": does not match event.namespace"#;
        assert_eq!(old("kube-system", Value::Null), [elsewhere]);
        assert_eq!(old("n", json!("m")), [elsewhere.replace(r#""""#, r#""m""#)]);
    }

    #[test]
    fn a_new_event_is_whole() {
        assert_eq!((NEW_STRATEGY.validate)(&event(json!({}))), []);
        let poor = event(json!({"reportingComponent": null, "reportingInstance": "", "action": "a".repeat(129)}));
        let required = |controller: &str| {
            vec![
                format!("{controller}: Required value"),
                "reportingInstance: Required value".into(),
                r#"action: Invalid value: "": can have at most 128 characters"#.into(),
            ]
        };
        // An empty name is no qualified name either.
        let mut found = words((STRATEGY.validate)(&poor));
        found.retain(|e| !e.contains("name part"));
        assert_eq!(found, required("reportingComponent"));
        let mut found = words((NEW_STRATEGY.validate)(&poor));
        found.retain(|e| !e.contains("name part"));
        assert_eq!(found, required("reportingController"));
    }

    #[test]
    fn the_new_group_is_strict() {
        let odd = event(json!({"type": "Odd", "count": 1, "source": {"host": "h"}, "series": {"count": 1}}));
        assert_eq!((STRATEGY.validate)(&odd), []);
        assert_eq!(
            words((NEW_STRATEGY.validate)(&odd)),
            [
                r#"series.count: Invalid value: "": should be at least 2"#,
                "series.lastObservedTime: Required value",
                r#"type: Invalid value: "": has invalid value: Odd"#,
                r#"count: Invalid value: "": needs to be unset"#,
                r#"source: Invalid value: "": needs to be unset"#,
            ]
        );
    }

    #[test]
    fn only_the_series_changes() {
        let old = event(json!({}));
        let series = json!({"count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z"});
        let rounded = event(json!({"series": series, "eventTime": "2026-01-01T00:00:00.0000001Z"}));
        assert_eq!((NEW_STRATEGY.validate_update)(&rounded, &old), []);
        let changed = event(json!({"message": "ho", "eventTime": "2026-01-01T00:00:01.000000Z"}));
        assert_eq!((STRATEGY.validate_update)(&changed, &old), []);
        assert_eq!(
            words((NEW_STRATEGY.validate_update)(&changed, &old)),
            [
                r#"message: Invalid value: "ho": field is immutable"#,
                r#"eventTime: Invalid value: "2026-01-01T00:00:01.000000Z": field is immutable"#,
            ]
        );
    }
}
