//! Schemas: `k8s-openapi`'s, with descriptions, completed by our facts about merging.

use std::borrow::Cow;
use std::sync::Arc;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use k8s_openapi::schemars::generate::{SchemaGenerator, SchemaSettings};
use k8s_openapi::schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

use crate::resource::{Resource, Subresource};
use crate::types::{self, Definition, List};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// A type of `k8s-openapi`: its definition's name, and how to generate its schema.
type Type = (fn() -> Cow<'static, str>, fn(&mut SchemaGenerator) -> Schema);

macro_rules! types {
    ($($module:ident :: $version:ident :: { $($kind:ident),* $(,)? }),* $(,)?) => {
        &[$($((
            <k8s_openapi::api::$module::$version::$kind as JsonSchema>::schema_name,
            |generator: &mut SchemaGenerator| {
                generator.subschema_for::<k8s_openapi::api::$module::$version::$kind>()
            },
        ),)*)*]
    };
}

/// The kinds that `k8s-openapi` has elsewhere.
const OTHER_TYPES: &[Type] = &[
    (<CustomResourceDefinition as JsonSchema>::schema_name, |generator: &mut SchemaGenerator| {
        generator.subschema_for::<CustomResourceDefinition>()
    }),
    (<APIService as JsonSchema>::schema_name, |generator: &mut SchemaGenerator| {
        generator.subschema_for::<APIService>()
    }),
];

/// Every kind of the table and of its subresources. A test holds this against the table.
const TYPES: &[Type] = types! {
    admissionregistration::v1::{
        MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding, MutatingWebhookConfiguration,
        ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding, ValidatingWebhookConfiguration,
    },
    apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet},
    authentication::v1::{SelfSubjectReview, TokenRequest, TokenReview},
    authorization::v1::{
        LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview,
    },
    autoscaling::v1::{HorizontalPodAutoscaler, Scale},
    autoscaling::v2::{HorizontalPodAutoscaler},
    batch::v1::{CronJob, Job},
    certificates::v1::{CertificateSigningRequest, ClusterTrustBundle, PodCertificateRequest},
    coordination::v1::{Lease},
    core::v1::{
        Binding, ComponentStatus, ConfigMap, Endpoints, Event, LimitRange, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod,
        PodTemplate, ReplicationController, ResourceQuota, Secret, Service, ServiceAccount,
    },
    discovery::v1::{EndpointSlice},
    events::v1::{Event},
    flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration},
    networking::v1::{IPAddress, Ingress, IngressClass, NetworkPolicy, ServiceCIDR},
    node::v1::{RuntimeClass},
    policy::v1::{Eviction, PodDisruptionBudget},
    rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
    resource::v1::{DeviceClass, DeviceTaintRule, ResourceClaim, ResourceClaimTemplate, ResourceSlice},
    scheduling::v1::{PriorityClass},
    storage::v1::{
        CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment, VolumeAttributesClass,
    },
    storagemigration::v1::{StorageVersionMigration},
};

/// The definition of what a subresource exchanges; `None` for a connection.
pub fn of_kind(row: &Resource, sub: &Subresource) -> Option<String> {
    if sub.version.is_empty() && sub.kind == row.kind {
        return Some(row.schema.to_string());
    }
    let module = if sub.version.is_empty() { &row.group } else { &sub.group };
    let module = module.split('.').next().filter(|m| !m.is_empty()).unwrap_or("core");
    let name = format!("io.k8s.api.{module}.v1.{}", sub.kind);
    types::definition(&name).map(|_| name)
}

/// Completes a schema of somebody's own by the fields that all objects have.
pub fn add_object_fields(schema: &mut Value) {
    add_type_fields(schema);
    let mut metadata = reference(&format!("{META}.ObjectMeta"));
    metadata["description"] = "Standard object's metadata.".into();
    schema["properties"]["metadata"] = metadata;
}

/// The two that lists have, too.
fn add_type_fields(schema: &mut Value) {
    let text = |description: &str| json!({ "type": "string", "description": description });
    schema["properties"]["apiVersion"] = text("The versioned schema of this representation of an object.");
    schema["properties"]["kind"] = text("The REST resource that this object represents.");
}

fn reference(name: &str) -> Value {
    json!({ "allOf": [{ "$ref": format!("#/components/schemas/{name}") }], "default": {} })
}

/// The schemas of these rows (of one group version) and of everything that they refer to; `own` are those that only their maker
/// knows.
pub(super) fn of_rows(rows: &[Arc<Resource>], own: &Map<String, Value>) -> Map<String, Value> {
    let settings = SchemaSettings::draft2020_12().with(|s| s.definitions_path = "/components/schemas".into());
    let mut generator = settings.into_generator();
    let mut kinds: Vec<(String, Value)> = Vec::new();
    let mut lists = Vec::new();
    for row in rows {
        kinds.push((row.schema.to_string(), kind(&row.group, &row.version, &row.kind)));
        if row.custom.is_some() || own.contains_key(&*row.schema) {
            generator.subschema_for::<k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta>();
        }
        if !row.list_kind.is_empty() {
            lists.push((format!("{}List", row.schema), row));
        }
        for sub in row.subresources.iter() {
            if let Some(schema) = of_kind(row, sub).filter(|schema| *schema != row.schema) {
                let (group, version) =
                    if sub.version.is_empty() { (&row.group, &row.version) } else { (&sub.group, &sub.version) };
                kinds.push((schema, kind(group, version, &sub.kind)));
            }
        }
    }
    for (name, generate) in TYPES.iter().chain(OTHER_TYPES) {
        if kinds.iter().any(|(schema, _)| *schema == name()) {
            generate(&mut generator);
        }
    }
    use k8s_openapi::apimachinery::pkg::apis::meta::v1;
    generator.subschema_for::<v1::DeleteOptions>();
    generator.subschema_for::<v1::ListMeta>();
    generator.subschema_for::<v1::Patch>();
    generator.subschema_for::<v1::Status>();
    generator.subschema_for::<v1::WatchEvent<k8s_openapi::apimachinery::pkg::runtime::RawExtension>>();
    let mut schemas: Map<String, Value> = generator
        .take_definitions(false)
        .into_iter()
        .map(|(name, schema)| {
            let schema = complete(&name, schema);
            (name, schema)
        })
        .collect();
    for row in rows {
        if let Some(custom) = &row.custom {
            schemas.insert(row.schema.to_string(), custom.openapi_v3());
        }
    }
    schemas.extend(own.clone());
    for (name, row) in lists {
        kinds.push((name.clone(), kind(&row.group, &row.version, &row.list_kind)));
        schemas.insert(name, list(row));
    }
    if let Some(row) = rows.first() {
        for name in ["DeleteOptions", "WatchEvent"] {
            kinds.push((format!("{META}.{name}"), kind(&row.group, &row.version, name)));
        }
        kinds.push((format!("{META}.Status"), kind("", "v1", "Status")));
    }
    for (name, kind) in kinds {
        if let Some(schema) = schemas.get_mut(&name) {
            schema["x-kubernetes-group-version-kind"] = json!([kind]);
        }
    }
    schemas
}

fn kind(group: &str, version: &str, kind: &str) -> Value {
    json!({ "group": group, "version": version, "kind": kind })
}

fn list(row: &Resource) -> Value {
    let mut schema = json!({
        "description": format!("{} is a list of {} objects.", row.list_kind, row.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "metadata": reference(&format!("{META}.ListMeta")),
            "items": { "description": "The objects.", "type": "array", "items": reference(&row.schema) },
        },
    });
    add_type_fields(&mut schema);
    schema
}

/// A generated schema in the form in which upstream publishes it.
fn complete(name: &str, mut schema: Value) -> Value {
    match name.rsplit('.').next() {
        Some("Quantity") => schema["oneOf"] = json!([{ "type": "string" }, { "type": "number" }]),
        Some("IntOrString") => {
            schema["oneOf"] = json!([{ "type": "integer" }, { "type": "string" }]);
            schema["format"] = "int-or-string".into();
        }
        _ => {}
    }
    if let Some(object) = schema.as_object_mut() {
        object.remove("x-kubernetes-int-or-string");
    }
    let definition = types::definition(name);
    if let Some(definition) = definition {
        required(&mut schema, definition);
        if definition.atomic {
            schema["x-kubernetes-map-type"] = "atomic".into();
        }
    }
    for (field, property) in schema.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
        wrap_references(property);
        if let Some(field) = definition.and_then(|d| d.field(field)) {
            merging(property, field);
        }
    }
    schema
}

/// `k8s-openapi` marks metadata as required, which upstream does not.
fn required(schema: &mut Value, definition: &Definition) {
    let names: Vec<&str> = definition.fields.iter().filter(|f| f.required).map(|f| f.name.as_ref()).collect();
    match schema.as_object_mut() {
        Some(object) if names.is_empty() => {
            object.remove("required");
        }
        Some(object) => {
            object.insert("required".into(), json!(names));
        }
        None => {}
    }
}

/// OpenAPI 3.0 ignores what stands beside a reference.
fn wrap_references(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    for below in ["items", "additionalProperties"] {
        object.get_mut(below).into_iter().for_each(wrap_references);
    }
    if let Some(reference) = object.remove("$ref") {
        object.insert("allOf".into(), json!([{ "$ref": reference }]));
    }
}

/// The facts that clients need to make patches.
fn merging(property: &mut Value, field: &types::Field) {
    let node = &field.node;
    let is_list = property["type"] == "array";
    match &node.list {
        List::Atomic if is_list && !node.patch.merge => property["x-kubernetes-list-type"] = "atomic".into(),
        List::Atomic => {}
        List::Set => property["x-kubernetes-list-type"] = "set".into(),
        List::Map(keys) => {
            property["x-kubernetes-list-type"] = "map".into();
            property["x-kubernetes-list-map-keys"] = json!(keys);
        }
    }
    if node.atomic_map {
        property["x-kubernetes-map-type"] = "atomic".into();
    }
    let patch = &node.patch;
    let strategy = [("merge", patch.merge), ("retainKeys", patch.retain_keys), ("replace", patch.replace)];
    let strategy: Vec<&str> = strategy.into_iter().filter(|(_, is)| *is).map(|(word, _)| word).collect();
    if !strategy.is_empty() {
        property["x-kubernetes-patch-strategy"] = strategy.join(",").into();
    }
    if let Some(key) = &patch.merge_key {
        property["x-kubernetes-patch-merge-key"] = json!(key);
    }
}
