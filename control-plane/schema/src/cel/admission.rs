//! What expressions see of a request: in match conditions and in admission policies (apiserver
//! `admission/plugin/cel/compile.go`).

use std::sync::Arc;

use super::types::{Field, Object};
use super::{Environment, Type};

/// What an expression sees beyond `object`, `oldObject`, `request` and `namespaceObject`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sees {
    /// `params`, of a policy that has a `paramKind`.
    pub params: bool,
    /// `authorizer`.
    pub authorizer: bool,
    /// `Object` and `JSONPatch`, to make changes of.
    pub patches: bool,
}

/// The environment of an expression that looks at a request.
pub fn environment(sees: Sees) -> Environment {
    let mut environment = Environment::new()
        .variable("object", Type::Dyn)
        .variable("oldObject", Type::Dyn)
        .variable("request", request())
        .variable("namespaceObject", namespace());
    if sees.params {
        environment = environment.variable("params", Type::Dyn);
    }
    if sees.authorizer {
        environment = environment.authorizer();
    }
    if sees.patches {
        environment = environment.structure("Object").structure("JSONPatch");
    }
    environment
}

/// An object type whose fields are called as they are in JSON, reserved words and all.
pub fn record<const N: usize>(name: &str, fields: [(&str, Type); N]) -> Type {
    let fields = fields.into_iter().map(|(name, ty)| (name.to_owned(), Field { json: name.to_owned(), ty }));
    Type::Object(Arc::new(Object { name: name.to_owned(), fields: fields.collect() }))
}

/// Who makes a request: `authentication/v1 UserInfo`.
pub fn user_info() -> Type {
    record(
        "kubernetes.UserInfo",
        [
            ("username", Type::String),
            ("uid", Type::String),
            ("groups", Type::list(Type::String)),
            ("extra", Type::map(Type::list(Type::String))),
        ],
    )
}

/// `request`: the AdmissionRequest, without the objects.
fn request() -> Type {
    let kind = |name: &str, last: &str| {
        record(name, [("group", Type::String), ("version", Type::String), (last, Type::String)])
    };
    let (gvk, gvr) = (kind("kubernetes.GroupVersionKind", "kind"), kind("kubernetes.GroupVersionResource", "resource"));
    let user = user_info();
    record(
        "kubernetes.AdmissionRequest",
        [
            ("kind", gvk.clone()),
            ("resource", gvr.clone()),
            ("subResource", Type::String),
            ("requestKind", gvk),
            ("requestResource", gvr),
            ("requestSubResource", Type::String),
            ("name", Type::String),
            ("namespace", Type::String),
            ("operation", Type::String),
            ("userInfo", user),
            ("dryRun", Type::Bool),
            ("options", Type::Dyn),
        ],
    )
}

/// `namespaceObject`: what the API server shows of the namespace.
fn namespace() -> Type {
    let metadata = record(
        "kubernetes.NamespaceMetadata",
        [
            ("name", Type::String),
            ("generateName", Type::String),
            ("namespace", Type::String),
            ("labels", Type::map(Type::String)),
            ("annotations", Type::map(Type::String)),
            ("UID", Type::String),
            ("creationTimestamp", Type::Timestamp),
            ("deletionGracePeriodSeconds", Type::Int),
            ("deletionTimestamp", Type::Timestamp),
            ("generation", Type::Int),
            ("resourceVersion", Type::String),
            ("finalizers", Type::list(Type::String)),
        ],
    );
    let spec = record("kubernetes.NamespaceSpec", [("finalizers", Type::list(Type::String))]);
    let status = record("kubernetes.NamespaceStatus", [("phase", Type::String)]);
    record("kubernetes.Namespace", [("metadata", metadata), ("spec", spec), ("status", status)])
}
