//! What every namespace has: the default service account, and the cluster's root certificate (upstream
//! `pkg/controller/serviceaccount`, `pkg/controller/certificates/rootcacertpublisher`).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;

use crate::context::Context;
use crate::runtime::meta::Key;
use crate::runtime::plan::{Plan, Write};
use crate::runtime::{Controller, Keys, SyncError, kind};
use crate::views::{ConfigMap, Namespace, ServiceAccount};

const ACCOUNT: &str = "default";
const CERTIFICATE: &str = "kube-root-ca.crt";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal \
    endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across \
    distributions of Kubernetes clusters.";

/// What the planner looks at.
#[derive(Debug)]
pub struct View<'a> {
    /// The namespace.
    pub namespace: &'a Namespace,
    /// Its default service account.
    pub account: Option<&'a ServiceAccount>,
    /// Its copy of the root certificate.
    pub certificate: Option<&'a ConfigMap>,
    /// The root certificate, PEM; `None` if it is not to be published.
    pub root_certificate: Option<&'a str>,
}

/// Makes what is missing.
pub fn plan(view: &View<'_>) -> Plan {
    let mut plan = Plan::nothing();
    let name = &view.namespace.metadata.name;
    if view.namespace.metadata.is_terminating() || view.namespace.status.phase == "Terminating" {
        return plan;
    }
    let mut actions = Vec::new();
    if view.account.is_none() {
        let body = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {
            "name": ACCOUNT, "namespace": name}});
        actions.push(Write::create(&kind::SERVICE_ACCOUNT, name, body).accept_existing().into());
    }
    if let Some(pem) = view.root_certificate {
        match view.certificate {
            None => {
                let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"ca.crt": pem}, "metadata": {
                    "name": CERTIFICATE, "namespace": name, "annotations": {"kubernetes.io/description": DESCRIPTION}}});
                actions.push(Write::create(&kind::CONFIG_MAP, name, body).accept_existing().into());
            }
            Some(map) if map.data.get("ca.crt").map(String::as_str) != Some(pem) || map.data.len() != 1 => {
                let mut data = json!({"ca.crt": pem});
                for other in map.data.keys().filter(|k| *k != "ca.crt") {
                    data[other] = serde_json::Value::Null;
                }
                actions.push(Write::merge(&kind::CONFIG_MAP, &map.metadata, "", json!({"data": data})).into());
            }
            Some(_) => {}
        }
    }
    plan.step(actions);
    plan
}

/// The controller.
#[derive(Debug)]
pub struct NamespaceContents {
    cx: Context,
    queue: Arc<Keys>,
    root_certificate: Option<String>,
}

impl NamespaceContents {
    /// Connects the controller to the caches.
    pub fn new(cx: &Context, root_certificate: Option<String>) -> Arc<Self> {
        let queue = Arc::<Keys>::default();
        let keys = queue.clone();
        cx.caches.namespaces.on_change(move |change| keys.add(change.latest().metadata.key()));
        let keys = queue.clone();
        cx.caches.service_accounts.on_change(move |change| {
            if change.latest().metadata.name == ACCOUNT {
                keys.add(Key::new("", &change.latest().metadata.namespace));
            }
        });
        let keys = queue.clone();
        cx.caches
            .root_certificates
            .on_change(move |change| keys.add(Key::new("", &change.latest().metadata.namespace)));
        Arc::new(Self { cx: cx.of("serviceaccount-controller"), queue, root_certificate })
    }
}

#[async_trait]
impl Controller for NamespaceContents {
    fn name(&self) -> &'static str {
        "namespace-contents"
    }

    fn queue(&self) -> &Arc<Keys> {
        &self.queue
    }

    async fn sync(&self, key: &Key) -> Result<Option<Duration>, SyncError> {
        let caches = &self.cx.caches;
        let Some(namespace) = caches.namespaces.get(key) else { return Ok(None) };
        let account = caches.service_accounts.get(&Key::new(&key.name, ACCOUNT));
        let certificate = caches.root_certificates.get(&Key::new(&key.name, CERTIFICATE));
        let view = View {
            namespace: &namespace,
            account: account.as_deref(),
            certificate: certificate.as_deref(),
            root_certificate: self.root_certificate.as_deref(),
        };
        self.cx.execute(plan(&view)).await?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(phase: &str, account: bool, pem: Option<&str>, published: Option<&str>) -> usize {
        let namespace: Namespace =
            serde_json::from_value(json!({"metadata": {"name": "n"}, "status": {"phase": phase}})).unwrap();
        let account = account.then(ServiceAccount::default);
        let certificate = published.map(|p| {
            serde_json::from_value::<ConfigMap>(json!({"metadata": {"name": CERTIFICATE}, "data": {"ca.crt": p}}))
                .unwrap()
        });
        let view = View {
            namespace: &namespace,
            account: account.as_ref(),
            certificate: certificate.as_ref(),
            root_certificate: pem,
        };
        plan(&view).actions().count()
    }

    #[test]
    fn makes_what_is_missing_and_mends_what_is_wrong() {
        assert_eq!(count("Active", false, Some("pem"), None), 2);
        assert_eq!(count("Active", true, Some("pem"), Some("pem")), 0);
        assert_eq!(count("Active", true, Some("pem"), Some("other")), 1);
        assert_eq!(count("Active", true, None, None), 0);
        assert_eq!(count("Terminating", false, Some("pem"), None), 0);
    }
}
