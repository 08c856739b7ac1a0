//! `ServiceAccount`: a new pod runs as a service account that exists, and is given its token.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use xebec_clock::Random;
use xebec_schema::status::Status;

use super::support::{containers_mut, forbidden, is_mirror_pod, is_new_pod};
use super::{Plugin, Review};
use crate::json::{array, decode, list, text};
use crate::reader::Reader;

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// An hour and a few seconds, by which the API server knows the tokens that it may extend
/// ([`crate::token_request`]).
const TOKEN_EXPIRATION_SECONDS: u64 = 3607;
/// The account `default` of a new namespace is made by a controller: it is waited for, this often and long.
const ATTEMPTS: usize = 20;
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// The plugin.
pub struct ServiceAccount {
    reader: Arc<dyn Reader>,
    random: Random,
}

impl ServiceAccount {
    /// Accounts are read from `reader`; names of volumes end randomly.
    pub fn new(reader: Arc<dyn Reader>, random: Random) -> Self {
        Self { reader, random }
    }

    async fn account(&self, namespace: &str, name: &str) -> Option<Value> {
        let attempts = if name == "default" { ATTEMPTS } else { 1 };
        for attempt in 0..attempts {
            if attempt > 0 {
                tokio::time::sleep(RETRY_AFTER).await;
            }
            if let Some(entry) = self.reader.get("", "serviceaccounts", namespace, name) {
                return Some(decode(&entry.bytes));
            }
        }
        None
    }

    fn volume_name(&self, pod: &Value) -> String {
        loop {
            let name = format!("kube-api-access-{}", self.random.name_suffix(5));
            if !list(pod, "/spec/volumes").iter().any(|v| text(v, "/name") == name) {
                return name;
            }
        }
    }

    /// Mounts the token where no other volume is mounted.
    fn mount_token(&self, pod: &mut Value) {
        let volume = self.volume_name(pod);
        let mut used = false;
        for (_, container) in containers_mut(pod) {
            if list(container, "/volumeMounts").iter().any(|m| text(m, "/mountPath") == MOUNT_PATH) {
                continue;
            }
            if let Some(mounts) = array(container, "volumeMounts") {
                mounts.push(json!({"name": volume, "readOnly": true, "mountPath": MOUNT_PATH}));
                used = true;
            }
        }
        if used && let Some(volumes) = pod.get_mut("spec").and_then(|spec| array(spec, "volumes")) {
            volumes.push(token_volume(&volume));
        }
    }
}

fn token_volume(name: &str) -> Value {
    json!({
        "name": name,
        "projected": {
            "defaultMode": 0o644,
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": TOKEN_EXPIRATION_SECONDS, "path": "token"}},
                {"configMap": {
                    "name": "kube-root-ca.crt",
                    "items": [{"key": "ca.crt", "path": "ca.crt"}],
                }},
                {"downwardAPI": {"items": [{
                    "path": "namespace",
                    "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
                }]}},
            ],
        },
    })
}

/// A pod's wish counts before its account's; by default the token is mounted.
fn wants_token(pod: &Value, account: &Value) -> bool {
    let wish = |value: &Value, pointer| value.pointer(pointer).and_then(Value::as_bool);
    wish(pod, "/spec/automountServiceAccountToken")
        .or_else(|| wish(account, "/automountServiceAccountToken"))
        .unwrap_or(true)
}

fn check_mirror_pod(pod: &Value) -> Result<(), &'static str> {
    if !text(pod, "/spec/serviceAccountName").is_empty() {
        return Err("a mirror pod may not reference service accounts");
    }
    for volume in list(pod, "/spec/volumes") {
        if volume.get("secret").is_some() {
            return Err("a mirror pod may not reference secrets");
        }
        if list(volume, "/projected/sources").iter().any(|s| s.get("serviceAccountToken").is_some()) {
            return Err("a mirror pod may not use ServiceAccountToken volume projections");
        }
    }
    Ok(())
}

#[async_trait]
impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    async fn mutate(&self, review: &mut Review<'_>) -> Result<(), Status> {
        if !is_new_pod(review) {
            return Ok(());
        }
        let Some(mut pod) = review.object.take() else { return Ok(()) };
        let result = self.admit(review.namespace, &mut pod).await;
        review.object = Some(pod);
        result.map_err(|why| forbidden(review, &why))
    }
}

impl ServiceAccount {
    async fn admit(&self, namespace: &str, pod: &mut Value) -> Result<(), String> {
        if is_mirror_pod(pod) {
            return check_mirror_pod(pod).map_err(str::to_owned);
        }
        if !pod.get("spec").is_some_and(Value::is_object) {
            return Ok(());
        }
        let name = match text(pod, "/spec/serviceAccountName") {
            "" => "default".to_owned(),
            name => name.to_owned(),
        };
        pod["spec"]["serviceAccountName"] = name.as_str().into();
        // The deprecated name of the same field.
        pod["spec"]["serviceAccount"] = name.as_str().into();
        let Some(account) = self.account(namespace, &name).await else {
            return Err(format!(
                "error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
            ));
        };
        if wants_token(pod, &account) {
            self.mount_token(pod);
        }
        let secrets = list(&account, "/imagePullSecrets");
        if list(pod, "/spec/imagePullSecrets").is_empty() && !secrets.is_empty() {
            pod["spec"]["imagePullSecrets"] = secrets.to_vec().into();
        }
        Ok(())
    }
}
