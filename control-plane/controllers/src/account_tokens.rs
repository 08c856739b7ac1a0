//! Secrets of the type `kubernetes.io/service-account-token` get the token of their service account, and go with it
//! (upstream `pkg/controller/serviceaccount/tokens_controller.go`).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use xebec_pki::{BoundObject, SecretClaims, ServiceAccountKeys};

use crate::context::Context;
use crate::runtime::api::encode_base64;
use crate::runtime::cache::Change;
use crate::runtime::meta::Key;
use crate::runtime::plan::{Plan, Write};
use crate::runtime::{Controller, Keys, SyncError, kind};
use crate::views::{Secret, ServiceAccount};

const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

/// What the planner looks at.
#[derive(Debug)]
pub struct View<'a> {
    /// The Secret.
    pub secret: &'a Secret,
    /// The service account that it names.
    pub account: Option<&'a ServiceAccount>,
    /// The cluster's root certificate, PEM.
    pub root_certificate: &'a str,
}

/// Fills in what the Secret lacks, or deletes it if its account is not there. `sign` makes its token.
pub fn plan(view: &View<'_>, sign: impl FnOnce(&SecretClaims) -> Option<String>) -> Plan {
    let mut plan = Plan::nothing();
    let meta = &view.secret.metadata;
    if meta.is_terminating() {
        return plan;
    }
    let uid = meta.annotations.get(ACCOUNT_UID).filter(|uid| !uid.is_empty());
    let account = view.account.filter(|a| uid.is_none_or(|uid| *uid == a.metadata.uid));
    let Some(account) = account.map(|account| &account.metadata) else {
        plan.act(Write::delete(&kind::SECRET, meta).into());
        return plan;
    };
    let data = &view.secret.data;
    let (certificate, namespace) =
        (encode_base64(view.root_certificate.as_bytes()), encode_base64(meta.namespace.as_bytes()));
    let mut wanted = json!({});
    if data.get("ca.crt") != Some(&certificate) {
        wanted["ca.crt"] = certificate.into();
    }
    if data.get("namespace").is_none_or(String::is_empty) {
        wanted["namespace"] = namespace.into();
    }
    if data.get("token").is_none_or(String::is_empty) {
        let bound = BoundObject { name: account.name.clone(), uid: account.uid.clone() };
        let Some(token) = sign(&SecretClaims::new(&meta.namespace, &bound, &meta.name)) else { return plan };
        wanted["token"] = encode_base64(token.as_bytes()).into();
    }
    if wanted.as_object().is_some_and(|wanted| !wanted.is_empty()) {
        let annotations = json!({ACCOUNT_NAME: account.name, ACCOUNT_UID: account.uid});
        let patch = json!({"metadata": {"annotations": annotations}, "data": wanted});
        plan.act(Write::merge_exact(&kind::SECRET, meta, "", patch).into());
    }
    plan
}

/// The controller.
#[derive(Debug)]
pub struct AccountTokens {
    cx: Context,
    queue: Arc<Keys>,
    keys: Arc<ServiceAccountKeys>,
    root_certificate: String,
}

impl AccountTokens {
    /// Connects the controller to the caches.
    pub fn new(cx: &Context, keys: Arc<ServiceAccountKeys>, root_certificate: String) -> Arc<Self> {
        let queue = Arc::<Keys>::default();
        let changed = queue.clone();
        cx.caches.account_tokens.on_change(move |change: &Change<'_, Secret>| {
            if !matches!(change, Change::Removed(_)) {
                changed.add(change.latest().metadata.key());
            }
        });
        let (changed, secrets) = (queue.clone(), cx.caches.account_tokens.clone());
        cx.caches.service_accounts.on_change(move |change: &Change<'_, ServiceAccount>| {
            let account = &change.latest().metadata;
            for secret in secrets.in_namespace(&account.namespace) {
                if secret.metadata.annotations.get(ACCOUNT_NAME) == Some(&account.name) {
                    changed.add(secret.metadata.key());
                }
            }
        });
        Arc::new(Self { cx: cx.of("serviceaccount-token-controller"), queue, keys, root_certificate })
    }
}

#[async_trait]
impl Controller for AccountTokens {
    fn name(&self) -> &'static str {
        "serviceaccount-token"
    }

    fn queue(&self) -> &Arc<Keys> {
        &self.queue
    }

    async fn sync(&self, key: &Key) -> Result<Option<Duration>, SyncError> {
        let caches = &self.cx.caches;
        let Some(secret) = caches.account_tokens.get(key) else { return Ok(None) };
        let name = secret.metadata.annotations.get(ACCOUNT_NAME).cloned().unwrap_or_default();
        let mut account = caches.service_accounts.get(&Key::new(&key.namespace, &name));
        if account.is_none() {
            // The account may be newer than what is known: to delete a Secret in error cannot be undone.
            account = match self.cx.api.get::<ServiceAccount>(&kind::SERVICE_ACCOUNT, &key.namespace, &name).await {
                Ok(account) => Some(Arc::new(account)),
                Err(error) if error.is_not_found() => None,
                Err(error) => return Err(error.into()),
            };
        }
        let view = View { secret: &secret, account: account.as_deref(), root_certificate: &self.root_certificate };
        let plan = plan(&view, |claims| match self.keys.sign_for_secret(claims) {
            Ok(token) => Some(token),
            Err(error) => {
                tracing::error!(%key, %error, "a service account's token cannot be made");
                None
            }
        });
        self.cx.execute(plan).await?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::runtime::plan::{Action, Verb};

    fn secret(data: Value, uid: &str) -> Secret {
        let annotations = json!({ACCOUNT_NAME: "builder", ACCOUNT_UID: uid});
        let metadata = json!({"name": "robot", "namespace": "n", "uid": "s", "annotations": annotations});
        serde_json::from_value(json!({"metadata": metadata, "data": data})).unwrap()
    }

    /// What is done with a Secret: the patch, or null for its deletion.
    fn done(secret: &Secret, account: Option<&ServiceAccount>) -> Option<Value> {
        let plan = plan(&View { secret, account, root_certificate: "pem" }, |claims| Some(claims.sub.clone()));
        let mut writes = plan.actions().map(|action| match action {
            Action::Write(write) => match &write.verb {
                Verb::Patch("", _, patch) => patch.clone(),
                Verb::Delete(_) => Value::Null,
                other => panic!("{other:?}"),
            },
            Action::Event(note) => panic!("{note:?}"),
        });
        writes.next()
    }

    #[test]
    fn a_secret_gets_its_accounts_token_and_goes_with_it() {
        let account: ServiceAccount =
            serde_json::from_value(json!({"metadata": {"name": "builder", "namespace": "n", "uid": "u"}})).unwrap();
        let patch = done(&secret(json!({}), ""), Some(&account)).unwrap();
        let token = encode_base64(b"system:serviceaccount:n:builder");
        let data = json!({"ca.crt": encode_base64(b"pem"), "namespace": encode_base64(b"n"), "token": token});
        assert_eq!(patch["data"], data);
        assert_eq!(patch["metadata"]["annotations"][ACCOUNT_UID], "u");
        assert_eq!(done(&secret(data.clone(), "u"), Some(&account)), None, "what is whole is left alone");
        assert_eq!(done(&secret(data.clone(), "u"), None), Some(Value::Null));
        assert_eq!(done(&secret(data, "older"), Some(&account)), Some(Value::Null), "another of the same name");
    }
}
