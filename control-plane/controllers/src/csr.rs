//! Certificate signing requests: those by which nodes join are approved and signed; others that someone approved, for
//! the API server's own signers, are signed (upstream `pkg/controller/certificates`).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use xebec_pki::{ClusterCa, RequestedIdentity, Signer};

use crate::context::Context;
use crate::runtime::api::{decode_base64, encode_base64};
use crate::runtime::cache::Change;
use crate::runtime::meta::{Condition, Key, condition_is_true, seconds};
use crate::runtime::plan::{Plan, Write};
use crate::runtime::{Controller, Keys, SyncError, kind};
use crate::views::CertificateSigningRequest;

/// The group that bootstrap tokens of nodes put their bearers in.
const BOOTSTRAPPERS: &str = "system:bootstrappers";
const NODES: &str = "system:nodes";
/// The shortest life that can be asked for.
const MIN_VALIDITY_SECONDS: i64 = 600;
/// Requests are kept so long after they were made: issued or not, upstream's `certificatecleaner`.
const KEEP_ISSUED: SignedDuration = SignedDuration::from_hours(1);
const KEEP_PENDING: SignedDuration = SignedDuration::from_hours(24);

/// Signs a request in PEM for a signer and usages, valid so many seconds; a certificate in PEM, or why not.
pub type Sign<'a> = &'a dyn Fn(&str, Signer, &[&str], i64) -> Result<String, String>;

/// Approves, signs, or cleans up a request. A certificate is good for `longest` at most, and if nothing else is asked.
pub fn plan(request: &CertificateSigningRequest, sign: Sign<'_>, longest: SignedDuration, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    if let Some(wait) = expiry(request, now) {
        if wait.is_zero() {
            plan.act(Write::delete(&kind::CERTIFICATE_SIGNING_REQUEST, &request.metadata).into());
            return plan;
        }
        plan.look_again(wait);
    }
    let conditions = &request.status.conditions;
    let is = |kind: &str| condition_is_true(conditions, kind);
    if is("Denied") || is("Failed") || !request.status.certificate.is_empty() {
        return plan;
    }
    let Some(signer) = Signer::from_name(&request.spec.signer_name) else { return plan };
    if !is("Approved") {
        if let Some(message) = approval(request, signer) {
            let approved = with(conditions, "Approved", "AutoApproved", &message, now);
            plan.act(status(request, "approval", json!({"conditions": approved})));
        }
        return plan;
    }
    let usages: Vec<&str> = request.spec.usages.iter().map(String::as_str).collect();
    let asked = request.spec.expiration_seconds.map(|seconds| seconds.max(MIN_VALIDITY_SECONDS));
    let seconds = asked.unwrap_or(i64::MAX).min(longest.as_secs());
    let signed = pem(request).and_then(|pem| sign(&pem, signer, &usages, seconds));
    let patch = match signed {
        Ok(certificate) => json!({"certificate": encode_base64(certificate.as_bytes())}),
        Err(message) => json!({"conditions": with(conditions, "Failed", "SignerValidationFailure", &message, now)}),
    };
    plan.act(status(request, "status", patch));
    plan
}

fn status(
    request: &CertificateSigningRequest,
    subresource: &'static str,
    status: serde_json::Value,
) -> crate::runtime::plan::Action {
    let patch = json!({"status": status});
    Write::merge_exact(&kind::CERTIFICATE_SIGNING_REQUEST, &request.metadata, subresource, patch).into()
}

fn with(conditions: &[Condition], kind: &str, reason: &str, message: &str, now: Timestamp) -> Vec<Condition> {
    let mut conditions = conditions.to_vec();
    conditions.push(Condition {
        kind: kind.into(),
        status: "True".into(),
        last_update_time: Some(seconds(now)),
        last_transition_time: Some(seconds(now)),
        reason: Some(reason.into()),
        message: Some(message.into()),
        ..Condition::default()
    });
    conditions
}

fn pem(request: &CertificateSigningRequest) -> Result<String, String> {
    let bytes = decode_base64(&request.spec.request).map_err(|e| e.to_string())?;
    String::from_utf8(bytes).map_err(|e| e.to_string())
}

/// Why the request is approved without a person having to look at it, if it is.
fn approval(request: &CertificateSigningRequest, signer: Signer) -> Option<String> {
    let asked = RequestedIdentity::of_pem(&pem(request).ok()?).ok()?;
    let node = asked.common_name.strip_prefix("system:node:")?;
    let spec = &request.spec;
    let is_in = |group: &str| spec.groups.iter().any(|g| g == group);
    let is_self = spec.username == asked.common_name && is_in(NODES);
    match signer {
        Signer::KubeletClient if is_self => {
            Some("Auto approving self kubelet client certificate after SubjectAccessReview.".into())
        }
        Signer::KubeletClient if is_in(BOOTSTRAPPERS) => {
            Some("Auto approving kubelet client certificate after SubjectAccessReview.".into())
        }
        // A node serves as itself: under its name, and at addresses that are no one else's to speak for in particular.
        Signer::KubeletServing if is_self => {
            let own_name = asked.dns_names.iter().all(|n| n == node || n == "localhost");
            let fit = asked.addresses.iter().all(|ip: &IpAddr| !ip.is_unspecified() && !ip.is_multicast());
            (own_name && fit).then(|| "Auto approving self kubelet serving certificate".into())
        }
        _ => None,
    }
}

/// How long the request is kept.
fn expiry(request: &CertificateSigningRequest, now: Timestamp) -> Option<Duration> {
    let conditions = &request.status.conditions;
    let settled = !request.status.certificate.is_empty() || conditions.iter().any(|c| c.kind != "Approved");
    let keep = if settled { KEEP_ISSUED } else { KEEP_PENDING };
    let due = request.metadata.creation_timestamp?.checked_add(keep).ok()?;
    Some(Duration::try_from(due.duration_since(now)).unwrap_or_default())
}

/// The controller.
pub struct SigningRequests {
    cx: Context,
    queue: Arc<Keys>,
    ca: Arc<ClusterCa>,
    longest: SignedDuration,
}

impl SigningRequests {
    /// Connects the controller to the caches; certificates are good for `longest` at most.
    pub fn new(cx: &Context, ca: Arc<ClusterCa>, longest: SignedDuration) -> Arc<Self> {
        let queue = Arc::<Keys>::default();
        let keys = queue.clone();
        cx.caches.signing_requests.on_change(move |change| {
            if !matches!(change, Change::Removed(_)) {
                keys.add(change.latest().metadata.key());
            }
        });
        Arc::new(Self { cx: cx.of("certificate-controller"), queue, ca, longest })
    }
}

#[async_trait]
impl Controller for SigningRequests {
    fn name(&self) -> &'static str {
        "csr"
    }

    fn queue(&self) -> &Arc<Keys> {
        &self.queue
    }

    async fn sync(&self, key: &Key) -> Result<Option<Duration>, SyncError> {
        let Some(request) = self.cx.caches.signing_requests.get(key) else { return Ok(None) };
        let sign = |pem: &str, signer: Signer, usages: &[&str], seconds: i64| {
            self.ca.sign_csr(pem, signer, usages, SignedDuration::from_secs(seconds)).map_err(|e| e.to_string())
        };
        let plan = plan(&request, &sign, self.longest, self.cx.clock.now());
        let wait = plan.requeue_after;
        self.cx.execute(plan).await?;
        Ok(wait)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use xebec_pki::KeyAndRequest;

    use super::*;
    use crate::runtime::plan::{Action, Verb};

    fn request(
        cn: &str,
        names: &[&str],
        signer: &str,
        user: &str,
        group: &str,
        status: Value,
    ) -> CertificateSigningRequest {
        let key = KeyAndRequest::generate(cn, &["system:nodes"], names).unwrap();
        serde_json::from_value(json!({
            "metadata": {"name": "csr", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"request": encode_base64(key.request_pem.as_bytes()), "signerName": signer, "username": user,
                "groups": [group], "usages": ["digital signature", "client auth"]},
            "status": status,
        }))
        .unwrap()
    }

    fn run(request: &CertificateSigningRequest, at: &str) -> Option<(String, Value)> {
        let sign = |_: &str, _: Signer, _: &[&str], seconds: i64| Ok(format!("valid {seconds}"));
        plan(request, &sign, SignedDuration::from_hours(365 * 24), at.parse().unwrap()).actions().next().map(
            |a| match a {
                Action::Write(w) => match &w.verb {
                    Verb::Patch(sub, _, patch) => ((*sub).to_owned(), patch["status"].clone()),
                    Verb::Delete(_) => ("delete".to_owned(), Value::Null),
                    other => panic!("{other:?}"),
                },
                Action::Event(e) => panic!("{e:?}"),
            },
        )
    }

    const NOW: &str = "2026-01-01T00:00:05Z";
    const CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
    const SERVING: &str = "kubernetes.io/kubelet-serving";

    #[test]
    fn joining_nodes_are_approved_then_signed() {
        let token = ("system:bootstrap:abcdef", "system:bootstrappers");
        let pending = request("system:node:n1", &[], CLIENT, token.0, token.1, json!({}));
        let (sub, status) = run(&pending, NOW).unwrap();
        assert_eq!((sub.as_str(), &status["conditions"][0]["type"]), ("approval", &json!("Approved")));
        let approved = request("system:node:n1", &[], CLIENT, token.0, token.1, status);
        let (sub, status) = run(&approved, NOW).unwrap();
        assert_eq!(sub, "status");
        assert_eq!(status["certificate"], encode_base64(b"valid 31536000"));
    }

    #[test]
    fn nobody_else_gets_a_node_certificate_by_itself() {
        let stranger = request("system:node:n1", &[], CLIENT, "mallory", "system:authenticated", json!({}));
        assert_eq!(run(&stranger, NOW), None);
        let other = request("system:node:n1", &["n1"], SERVING, "system:node:n2", "system:nodes", json!({}));
        assert_eq!(run(&other, NOW), None);
        let foreign_name =
            request("system:node:n1", &["api.example.com"], SERVING, "system:node:n1", "system:nodes", json!({}));
        assert_eq!(run(&foreign_name, NOW), None);
        let own =
            request("system:node:n1", &["n1", "172.30.0.11"], SERVING, "system:node:n1", "system:nodes", json!({}));
        assert!(run(&own, NOW).is_some());
        let token =
            request("system:node:n1", &["n1"], SERVING, "system:bootstrap:x", "system:bootstrappers", json!({}));
        assert_eq!(run(&token, NOW), None);
    }

    #[test]
    fn old_requests_go() {
        let pending = request("x", &[], CLIENT, "u", "g", json!({}));
        assert_eq!(run(&pending, "2026-01-01T23:00:00Z"), None);
        assert_eq!(run(&pending, "2026-01-02T00:00:01Z").unwrap().0, "delete");
        let issued = request("x", &[], CLIENT, "u", "g", json!({"certificate": "eA=="}));
        assert_eq!(run(&issued, "2026-01-01T01:00:01Z").unwrap().0, "delete");
    }
}
