//! The resource table: a row for each kind and version that the API serves.

use std::borrow::Cow;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::custom::Custom;
use crate::field::ErrorList;

/// A row of the table.
#[derive(Clone, Debug)]
pub struct Resource {
    /// API group; empty for the core group.
    pub group: Cow<'static, str>,
    /// API version, `v1`.
    pub version: Cow<'static, str>,
    /// `Deployment`.
    pub kind: Cow<'static, str>,
    /// `DeploymentList`.
    pub list_kind: Cow<'static, str>,
    /// `deployments`: the name in URLs.
    pub plural: Cow<'static, str>,
    /// `deployment`.
    pub singular: Cow<'static, str>,
    /// `deploy`.
    pub short_names: Cow<'static, [Cow<'static, str>]>,
    /// `all`.
    pub categories: Cow<'static, [Cow<'static, str>]>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Verbs, sorted as discovery prints them: `create delete deletecollection get list patch update watch`.
    pub verbs: Cow<'static, [Cow<'static, str>]>,
    /// Served below the object.
    pub subresources: Cow<'static, [Subresource]>,
    /// Which definition describes the object: the key that `types` knows it by
    /// (`io.k8s.api.apps.v1.Deployment`).
    pub schema: Cow<'static, str>,
    /// What differs from kind to kind.
    pub strategy: Strategy,
    /// The columns of its table form, without the leading Name column's special cases: exactly what upstream's
    /// printer declares.
    pub columns: &'static [Column],
    /// Whether this kind is created by a POST and answered without being stored (TokenReview,
    /// SubjectAccessReview...).
    pub virtual_kind: bool,
    /// What a CustomResourceDefinition says of the kind; `None` for a built-in kind.
    pub custom: Option<Arc<Custom>>,
}

/// What is served below an object: `status`, `scale`, `log`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subresource {
    /// The path segment.
    pub name: Cow<'static, str>,
    /// Group of the kind it exchanges; empty with an empty `version` means the parent's group and version.
    pub group: Cow<'static, str>,
    /// Version of the kind it exchanges.
    pub version: Cow<'static, str>,
    /// The kind it exchanges: `Deployment` for status, `Scale`, `Eviction`, `Binding`, `TokenRequest`.
    pub kind: Cow<'static, str>,
    /// Verbs, as discovery prints them.
    pub verbs: Cow<'static, [Cow<'static, str>]>,
}

/// What differs from kind to kind, beyond what the schema says. Every function is total: on an object of the wrong
/// shape (the schema check has refused it before) it does nothing.
#[derive(Clone, Copy)]
pub struct Strategy {
    /// Fills in defaults that the schema's table of defaults cannot express.
    pub default: fn(&mut Value),
    /// Clears what a client may not set on create (status, mostly).
    pub prepare_create: fn(&mut Value),
    /// Changes an object that is about to be marked as being deleted.
    pub prepare_delete: fn(&mut Value, Timestamp),
    /// `(new, old)`: carries over what an update of the main resource may not change.
    pub prepare_update: fn(&mut Value, &Value),
    /// `(subresource, new, old, now)`: what an update of the status, by `status` or `approval`, keeps and fills in.
    pub prepare_status: fn(&str, &mut Value, &Value, Timestamp),
    /// Everything that is wrong with a new object, metadata excepted.
    pub validate: fn(&Value) -> ErrorList,
    /// `(new, old)`: everything that is wrong with an update, immutable fields included, metadata excepted.
    pub validate_update: fn(&Value, &Value) -> ErrorList,
    /// `(new, old)`: the same for an update of the status subresource.
    pub validate_status: fn(&Value, &Value) -> ErrorList,
    /// Field-selector labels beyond `metadata.name` and `metadata.namespace`, with their values.
    pub fields: fn(&Value) -> Vec<(&'static str, String)>,
    /// What clients of this group and version call some of `fields`: its name for a label, and the label.
    pub field_names: &'static [(&'static str, &'static str)],
    /// Warnings for the client about a new or changed object.
    pub warnings: fn(&Value) -> Vec<String>,
    /// `metadata.generation` is kept: it starts at 1, and goes up when anything but metadata and status changes.
    pub generation: bool,
    /// An update may create the object (leases, services' endpoints...: `AllowCreateOnUpdate`).
    pub create_on_update: bool,
    /// An update need not say which state of the object it was made from.
    pub unconditional_update: bool,
    /// How names are checked.
    pub name: NameRule,
    /// Deletion waits `metadata.deletionGracePeriodSeconds` for a node to confirm (pods).
    pub graceful_delete: bool,
    /// The subresources that exchange the object itself and change a part of its spec, by name.
    pub parts: &'static [(&'static str, Part)],
}

/// A subresource that exchanges the object itself and changes a part of its spec: `pods/resize`.
#[derive(Clone, Copy)]
pub struct Part {
    /// `(new, old)`: puts everything but the part back to what it was; metadata has been put back before.
    pub prepare: fn(&mut Value, &Value),
    /// `(new, old)`: everything that is wrong with the update, metadata excepted.
    pub validate: fn(&Value, &Value) -> ErrorList,
}

impl std::fmt::Debug for Strategy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Strategy").field("name", &self.name).finish_non_exhaustive()
    }
}

/// How `metadata.name` is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    /// RFC 1123 subdomain, at most 253 bytes: most kinds.
    Subdomain,
    /// RFC 1123 label, at most 63 bytes: namespaces.
    Label,
    /// RFC 1035 label: services before 1.34's relaxation.
    Label1035,
    /// A path segment: RBAC kinds.
    PathSegment,
    /// Anything that is a path segment and passes the kind's own validation.
    Other,
}

/// A kind with nothing special about it.
pub const PLAIN: Strategy = Strategy {
    default: |_| {},
    prepare_create: |_| {},
    prepare_delete: |_, _| {},
    prepare_update: |_, _| {},
    prepare_status: |_, _, _, _| {},
    validate: |_| Vec::new(),
    validate_update: |_, _| Vec::new(),
    validate_status: |_, _| Vec::new(),
    fields: |_| Vec::new(),
    field_names: &[],
    warnings: |_| Vec::new(),
    generation: false,
    create_on_update: false,
    unconditional_update: true,
    name: NameRule::Subdomain,
    graceful_delete: false,
    parts: &[],
};

/// A column of a kind's table form (`meta.k8s.io/v1 Table`).
#[derive(Clone, Copy)]
pub struct Column {
    /// `Ready`; kubectl prints it in capitals.
    pub name: &'static str,
    /// `string`, `integer`, `date`...
    pub kind: &'static str,
    /// `name` for the name column, else mostly empty.
    pub format: &'static str,
    /// For people.
    pub description: &'static str,
    /// 0 is always shown, above that with `-o wide` only.
    pub priority: i32,
    /// The cell of an object, at a time.
    pub cell: fn(&Value, Timestamp) -> Value,
}

impl std::fmt::Debug for Column {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Column").field("name", &self.name).finish_non_exhaustive()
    }
}

const ANSWERED_WITH_OBJECT: [(&str, &str); 16] = [
    ("", "persistentvolumeclaims"),
    ("", "persistentvolumes"),
    ("", "pods"),
    ("", "podtemplates"),
    ("", "resourcequotas"),
    ("", "serviceaccounts"),
    ("", "services"),
    ("resource.k8s.io", "deviceclasses"),
    ("resource.k8s.io", "resourceclaims"),
    ("resource.k8s.io", "resourceclaimtemplates"),
    ("resource.k8s.io", "resourceslices"),
    ("storage.k8s.io", "csidrivers"),
    ("storage.k8s.io", "csinodes"),
    ("storage.k8s.io", "storageclasses"),
    ("storage.k8s.io", "volumeattachments"),
    ("storage.k8s.io", "volumeattributesclasses"),
];

impl Resource {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_string() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `pods` or `deployments.apps`.
    pub fn qualified_plural(&self) -> String {
        if self.group.is_empty() { self.plural.to_string() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// Whether `verb` is served.
    pub fn allows(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }

    /// Whether a deletion is answered with the object as it was, not with a Status (upstream's `ReturnDeletedObject`).
    pub fn answers_deleted(&self) -> bool {
        let row = (self.group.as_ref(), self.plural.as_ref());
        self.custom.is_none() && ANSWERED_WITH_OBJECT.contains(&row)
    }

    /// The values by which field selectors find an object, beyond its name and namespace.
    pub fn fields(&self, object: &Value) -> Vec<(Cow<'static, str>, String)> {
        match &self.custom {
            Some(custom) => custom.fields(object),
            None => (self.strategy.fields)(object).into_iter().map(|(label, value)| (label.into(), value)).collect(),
        }
    }

    /// The part of the object that the subresource called `name` changes.
    pub fn part(&self, name: &str) -> Option<Part> {
        self.strategy.parts.iter().find(|(part, _)| *part == name).map(|(_, part)| *part)
    }

    /// The subresource called `name`.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }
}
