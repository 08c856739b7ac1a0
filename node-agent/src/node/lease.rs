//! The node's lease: by its renewal the control plane knows that the node lives (KEP-589).

use std::time::Duration;

use serde_json::{Value, json};
use xebec_clock::Clock;

use crate::api::{ApiError, Rest};

/// How often it is renewed.
pub const RENEW_EVERY: Duration = Duration::from_secs(10);
/// How long it holds.
pub(crate) const DURATION_SECONDS: u32 = 40;
/// How long to wait after a failure.
const RETRY: Duration = Duration::from_secs(1);

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

/// Renews the lease of the node for ever.
pub async fn keep(rest: Rest, node: String, uid: String, clock: Clock) {
    let mut lease: Option<Value> = None;
    loop {
        let wait = match renew(&rest, &node, &uid, &clock, lease.take()).await {
            Ok(renewed) => {
                lease = Some(renewed);
                RENEW_EVERY
            }
            Err(error) => {
                tracing::debug!(%error, "the node's lease was not renewed");
                RETRY
            }
        };
        tokio::time::sleep(wait).await;
    }
}

async fn renew(rest: &Rest, node: &str, uid: &str, clock: &Clock, known: Option<Value>) -> Result<Value, ApiError> {
    let path = format!("{LEASES}/{node}");
    let renew_time = format!("{:.6}", clock.now());
    let lease = match known {
        Some(lease) => Some(lease),
        None => match rest.get::<Value>(&path).await {
            Ok(lease) => Some(lease),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        },
    };
    match lease {
        Some(mut lease) => {
            lease["spec"]["renewTime"] = json!(renew_time);
            lease["spec"]["holderIdentity"] = json!(node);
            lease["spec"]["leaseDurationSeconds"] = json!(DURATION_SECONDS);
            rest.put(&path, &lease).await
        }
        None => {
            let lease = json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {
                    "name": node, "namespace": "kube-node-lease",
                    "ownerReferences": [{ "apiVersion": "v1", "kind": "Node", "name": node, "uid": uid }],
                },
                "spec": {
                    "holderIdentity": node, "leaseDurationSeconds": DURATION_SECONDS, "renewTime": renew_time,
                },
            });
            rest.post(LEASES, &lease).await
        }
    }
}
