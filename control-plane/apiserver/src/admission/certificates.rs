//! `CertificateApproval`, `CertificateSigning`, `ClusterTrustBundleAttest`, `CertificateSubjectRestriction`: who may
//! approve and sign requests for which signer and say whom to trust, and what nobody may ask for.

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use xebec_pki::RequestedIdentity;
use xebec_schema::status::Status;

use super::support::{forbidden, is, is_part};
use super::{Operation, Plugin, Review};
use crate::authz::{Attributes, Authorizer, Decision};
use crate::json::{list, text};

const GROUP: &str = "certificates.k8s.io";
const PLURAL: &str = "certificatesigningrequests";

/// Whether the user may do `verb` (`approve`, `sign`, `attest`) for the signer, or for all of the signer's domain.
async fn permitted(authorizer: &dyn Authorizer, review: &Review<'_>, verb: &str, signer: &str) -> bool {
    let domain = signer.split_once('/').map_or(signer, |(domain, _)| domain);
    for name in [signer.to_owned(), format!("{domain}/*")] {
        let attributes = Attributes {
            user: review.user.clone(),
            verb: verb.into(),
            group: GROUP.into(),
            version: "*".into(),
            resource: "signers".into(),
            name,
            is_resource: true,
            ..Attributes::default()
        };
        if let Decision::Allow(_) = authorizer.authorize(&attributes).await {
            return true;
        }
    }
    false
}

/// Writes down who asks, whatever the request says; upstream does it in its registry. Approval goes by it.
pub struct CertificateRequester;

#[async_trait]
impl Plugin for CertificateRequester {
    fn name(&self) -> &'static str {
        "CertificateRequester"
    }

    async fn mutate(&self, review: &mut Review<'_>) -> Result<(), Status> {
        if review.operation != Operation::Create || !is(review, GROUP, PLURAL) {
            return Ok(());
        }
        let user = review.user;
        if let Some(spec) = review.object.as_mut().and_then(|o| o.get_mut("spec")).and_then(Value::as_object_mut) {
            spec.insert("username".into(), user.name.as_str().into());
            spec.insert("groups".into(), user.groups.clone().into());
            let extra = (!user.extra.is_empty()).then(|| json!(user.extra));
            let uid = (!user.uid.is_empty()).then(|| json!(user.uid));
            for (field, value) in [("uid", uid), ("extra", extra)] {
                match value {
                    Some(value) => drop(spec.insert(field.into(), value)),
                    None => drop(spec.remove(field)),
                }
            }
        }
        Ok(())
    }
}

/// The plugin `CertificateApproval`.
pub struct CertificateApproval {
    authorizer: Arc<dyn Authorizer>,
}

impl CertificateApproval {
    /// `authorizer` is asked for the verb `approve` on the signer.
    pub fn new(authorizer: Arc<dyn Authorizer>) -> Self {
        Self { authorizer }
    }
}

#[async_trait]
impl Plugin for CertificateApproval {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    async fn validate(&self, review: &mut Review<'_>) -> Result<(), Status> {
        if review.operation != Operation::Update || !is_part(review, GROUP, PLURAL, "approval") {
            return Ok(());
        }
        let signer = review.old.map(|old| text(old, "/spec/signerName")).unwrap_or_default();
        if permitted(&*self.authorizer, review, "approve", signer).await {
            return Ok(());
        }
        Err(forbidden(review, &format!("user not permitted to approve requests with signerName {signer:?}")))
    }
}

/// The plugin `CertificateSigning`.
pub struct CertificateSigning {
    authorizer: Arc<dyn Authorizer>,
}

impl CertificateSigning {
    /// `authorizer` is asked for the verb `sign` on the signer.
    pub fn new(authorizer: Arc<dyn Authorizer>) -> Self {
        Self { authorizer }
    }
}

#[async_trait]
impl Plugin for CertificateSigning {
    fn name(&self) -> &'static str {
        "CertificateSigning"
    }

    async fn validate(&self, review: &mut Review<'_>) -> Result<(), Status> {
        if review.operation != Operation::Update || !is_part(review, GROUP, PLURAL, "status") {
            return Ok(());
        }
        let (Some(new), Some(old)) = (&review.object, review.old) else { return Ok(()) };
        let certificate = |object: &Value| text(object, "/status/certificate").to_owned();
        let same_conditions = list(new, "/status/conditions") == list(old, "/status/conditions");
        if certificate(new) == certificate(old) && same_conditions {
            return Ok(());
        }
        let signer = text(old, "/spec/signerName");
        if permitted(&*self.authorizer, review, "sign", signer).await {
            return Ok(());
        }
        Err(forbidden(review, &format!("user not permitted to sign requests with signerName {signer:?}")))
    }
}

/// The plugin `ClusterTrustBundleAttest`.
pub struct ClusterTrustBundleAttest {
    authorizer: Arc<dyn Authorizer>,
}

impl ClusterTrustBundleAttest {
    /// `authorizer` is asked for the verb `attest` on the signer.
    pub fn new(authorizer: Arc<dyn Authorizer>) -> Self {
        Self { authorizer }
    }
}

#[async_trait]
impl Plugin for ClusterTrustBundleAttest {
    fn name(&self) -> &'static str {
        "ClusterTrustBundleAttest"
    }

    async fn validate(&self, review: &mut Review<'_>) -> Result<(), Status> {
        let asks = matches!(review.operation, Operation::Create | Operation::Update);
        if !asks || !is(review, GROUP, "clustertrustbundles") {
            return Ok(());
        }
        let Some(new) = &review.object else { return Ok(()) };
        if review.old.is_some_and(|old| old["spec"] == new["spec"]) {
            return Ok(());
        }
        // Who changes the signer speaks for both.
        let signers = [review.old.map(|old| text(old, "/spec/signerName")), Some(text(new, "/spec/signerName"))];
        for signer in signers.into_iter().flatten().filter(|signer| !signer.is_empty()) {
            if !permitted(&*self.authorizer, review, "attest", signer).await {
                return Err(forbidden(review, &format!("user not permitted to attest for signerName {signer:?}")));
            }
        }
        Ok(())
    }
}

/// The plugin `CertificateSubjectRestriction`: nobody gets into `system:masters` by a request.
pub struct CertificateSubjectRestriction;

#[async_trait]
impl Plugin for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    async fn validate(&self, review: &mut Review<'_>) -> Result<(), Status> {
        if review.operation != Operation::Create || !is(review, GROUP, PLURAL) {
            return Ok(());
        }
        let Some(object) = &review.object else { return Ok(()) };
        let signer = text(object, "/spec/signerName");
        if signer != "kubernetes.io/kube-apiserver-client" {
            return Ok(());
        }
        let pem = STANDARD.decode(text(object, "/spec/request")).unwrap_or_default();
        let identity = match RequestedIdentity::of_pem(&String::from_utf8_lossy(&pem)) {
            Ok(identity) => identity,
            Err(e) => return Err(forbidden(review, &format!("failed to parse CSR: {e}"))),
        };
        if identity.organizations.iter().any(|o| o == "system:masters") {
            let why = format!("use of {signer} signer with system:masters group is not allowed");
            return Err(forbidden(review, &why));
        }
        Ok(())
    }
}
