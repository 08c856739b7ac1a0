//! Events, of the core group and of `events.k8s.io` (`pkg/registry/core/event`).

use serde_json::Value;

use super::json::{at, has, text};
use crate::field::{Error, ErrorList, Path};
use crate::resource::{PLAIN, Strategy};

pub(super) const STRATEGY: Strategy = Strategy { validate, fields, create_on_update: true, ..PLAIN };

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
    ..STRATEGY
};

/// The object that an event is about, by either group's name for it.
fn regarding(event: &Value) -> (&'static str, &Value) {
    let key = if has(event, "regarding") { "regarding" } else { "involvedObject" };
    (key, at(event, key))
}

fn validate(event: &Value) -> ErrorList {
    let mut errors = Vec::new();
    let (key, object) = regarding(event);
    let (namespace, about) = (text(event, "metadata.namespace"), text(object, "namespace"));
    // Events about what is in no namespace are kept in the default one.
    let fits = if about.is_empty() { namespace == "default" || namespace == "kube-system" } else { namespace == about };
    if !fits && !namespace.is_empty() {
        let detail = "does not match event.namespace";
        errors.push(Error::invalid(Path::new(key).child("namespace"), about, detail));
    }
    errors
}

fn fields(event: &Value) -> Vec<(&'static str, String)> {
    let (_, object) = regarding(event);
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
