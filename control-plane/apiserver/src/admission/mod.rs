//! Is it acceptable here? A file per plugin, run in upstream's order: all that mutate, then all that validate.

mod certificates;
mod claim_resize;
mod default_ingress_class;
mod default_storage_class;
mod default_toleration_seconds;
mod defaults;
mod devices;
pub(crate) mod dynamic;
mod limit_ranger;
mod namespace_lifecycle;
mod node_restriction;
mod node_taint;
mod pod_security;
mod pod_topology_labels;
mod priority;
mod rbac_escalation;
mod resource_quota;
mod runtime_class;
mod service_account;
mod storage_object_in_use;
mod support;

#[cfg(test)]
mod tests;

pub use defaults::{Parts, default_plugins};
pub use dynamic::{MutatingPolicies, ValidatingPolicies, Webhooks};
pub use pod_security::{Exemptions, PodSecurityConfig};

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use xebec_schema::registry::Registry;
use xebec_schema::resource::Resource;
use xebec_schema::status::Status;
use xebec_store::{Condition, Operation as StoreOperation};

use crate::authn::UserInfo;
use crate::chain::Call;

/// What is done to the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// It is created, or its subresource is POSTed to.
    Create,
    /// It is changed.
    Update,
    /// It is deleted.
    Delete,
    /// A stream to it is opened (exec, attach, port-forward, proxy).
    Connect,
}

impl Operation {
    /// Its name in AdmissionReviews and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// A request on its way to the store.
pub struct Review<'a> {
    /// Who asks.
    pub user: &'a UserInfo,
    /// Of which kind, in the version that is stored: the one of the objects here.
    pub resource: &'a Resource,
    /// The same in the version that was asked for.
    pub requested: &'a Arc<Resource>,
    /// All kinds.
    pub registry: Arc<Registry>,
    /// Empty for the object itself.
    pub subresource: &'a str,
    /// What is done.
    pub operation: Operation,
    /// Empty for cluster-scoped kinds.
    pub namespace: &'a str,
    /// Empty for a create with `generateName`.
    pub name: &'a str,
    /// The object as it is to be; `None` on delete.
    pub object: Option<Value>,
    /// The object as it was; `None` on create.
    pub old: Option<&'a Value>,
    /// The call that it is part of, if it is part of one.
    pub call: Option<&'a Call>,
    /// Nothing will be stored.
    pub dry_run: bool,
    /// What is known of a first time, when plugins see a request twice.
    pub reinvocation: dynamic::Reinvocation,
    /// Shown to the client.
    pub warnings: Vec<String>,
    /// Noted in the audit log, with keys such as `pod-security.kubernetes.io/audit`.
    pub annotations: Vec<(String, String)>,
}

impl Review<'_> {
    /// `CreateOptions` and the like; for a stream, what it is opened with. Made when it is asked for: most writes meet no
    /// webhook and no policy.
    pub fn options(&self) -> Value {
        self.call.map_or(Value::Null, |call| dynamic::request::options(call, self.operation, self.dry_run))
    }
}

/// What is written together with the object in one transaction, or not at all.
#[derive(Default)]
pub struct Rider {
    /// Must hold for any of it to be written; if one does not, the plugin is asked again.
    pub conditions: Vec<Condition>,
    /// Written with the object.
    pub operations: Vec<StoreOperation>,
    /// Held until it is known what became of the write.
    pub guard: Option<tokio::sync::OwnedMutexGuard<()>>,
}

/// An admission plugin.
#[async_trait]
pub trait Plugin: Send + Sync + 'static {
    /// Upstream's name: `NamespaceLifecycle`.
    fn name(&self) -> &'static str;

    /// Whether what it does is configured by objects (webhooks, policies): it is run after the others that mutate, and
    /// what it changes they see again.
    fn is_dynamic(&self) -> bool {
        false
    }

    /// Changes the object, or refuses.
    async fn mutate(&self, _review: &mut Review<'_>) -> Result<(), Status> {
        Ok(())
    }

    /// Refuses, or not.
    async fn validate(&self, _review: &mut Review<'_>) -> Result<(), Status> {
        Ok(())
    }

    /// Whether [`Plugin::ride`] is to be asked.
    fn rides(&self) -> bool {
        false
    }

    /// Refuses, or says what has to be written together with the object. Asked last, just before the object is
    /// stored, and again if somebody else was faster. Only what the plugin itself chose for the object may it change here.
    async fn ride(&self, _review: &mut Review<'_>) -> Result<Rider, Status> {
        Ok(Rider::default())
    }
}
