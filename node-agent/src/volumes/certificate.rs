//! Certificates for pods (KEP-4317): a key that never leaves the node, a PodCertificateRequest for it, and what the signer makes of
//! that, renewed in time (podcertificatemanager.go upstream).

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::{SignedDuration, Timestamp};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use serde::Deserialize;
use serde_json::{Value, json};
use xebec_clock::{Clock, Random};

use super::VolumeError;
use super::atomic::{FileEntry, Files};
use super::trust::{blocks, pem};
use crate::api::pod::CertificateProjection;
use crate::api::{ApiError, Meta, Pod, Rest};

/// How long until it is looked again what has come of a request.
const LOOK_AGAIN: SignedDuration = SignedDuration::from_secs(2);
/// Renewals are spread over this time, so that pods made together do not ask together.
const SPREAD_MS: u64 = 5 * 60 * 1000;

/// A key and what was issued for it.
#[derive(Clone, Debug)]
struct Credentials {
    key: String,
    chain: String,
    renew_at: Timestamp,
}

/// A request that was made, and the key it is for.
#[derive(Debug)]
struct Asked {
    name: String,
    key: String,
}

/// One projection's certificate, as long as its pod is here.
#[derive(Debug, Default)]
pub(super) struct Certificate {
    current: Option<Credentials>,
    asked: Option<Asked>,
    /// The signer has refused, for good.
    refused: Option<String>,
    look_at: Option<Timestamp>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Named {
    metadata: Meta,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Requested {
    status: Answer,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Answer {
    conditions: Vec<Condition>,
    certificate_chain: String,
    begin_refresh_at: Option<Timestamp>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    reason: String,
    message: String,
}

/// What it takes to ask for a certificate.
pub(super) struct Asking<'a> {
    pub rest: &'a Rest,
    pub pod: &'a Pod,
    pub projection: &'a CertificateProjection,
    pub clock: &'a Clock,
    pub random: &'a Random,
}

impl Certificate {
    /// When there is something to do again.
    pub(super) fn look_at(&self) -> Option<Timestamp> {
        if self.refused.is_some() { None } else { self.look_at }
    }

    /// Adds the projection's files; until there is a certificate, an error.
    pub(super) async fn collect(&mut self, with: &Asking<'_>, mode: u32, files: &mut Files) -> Result<(), VolumeError> {
        self.advance(with).await?;
        let Some(current) = &self.current else {
            return Err(VolumeError("credential bundle is not issued yet".to_owned()));
        };
        let projection = with.projection;
        let both = format!("{}{}", current.key, current.chain);
        for (path, text) in [
            (&projection.credential_bundle_path, &both),
            (&projection.key_path, &current.key),
            (&projection.certificate_chain_path, &current.chain),
        ] {
            if !path.is_empty() {
                files.insert(path.clone(), FileEntry { bytes: text.clone().into_bytes(), mode });
            }
        }
        Ok(())
    }

    /// Asks if it is time to, and takes what has been issued.
    async fn advance(&mut self, with: &Asking<'_>) -> Result<(), VolumeError> {
        if let Some(why) = &self.refused {
            return Err(VolumeError(why.clone()));
        }
        let now = with.clock.now();
        if self.asked.is_none() {
            if self.current.as_ref().is_some_and(|current| current.renew_at > now) {
                return Ok(());
            }
            self.asked = Some(ask(with).await?);
        }
        let again = now.checked_add(LOOK_AGAIN).unwrap_or(now);
        self.look_at = Some(again);
        let Some(asked) = &self.asked else { return Ok(()) };
        let path = format!("{}/{}", requests(with.pod), asked.name);
        let answer = match with.rest.get::<Requested>(&path).await {
            Ok(found) => found.status,
            // Somebody has deleted it: a new one is made the next time.
            Err(error) if error.is_not_found() => {
                self.asked = None;
                return Ok(());
            }
            Err(error) => return Err(failed("while getting PodCertificateRequest", &error)),
        };
        for condition in &answer.conditions {
            let why = |what: &str| {
                let Condition { reason, message, .. } = condition;
                format!("PodCertificateRequest was permanently {what}: reason={reason:?} message={message:?}")
            };
            match condition.kind.as_str() {
                "Denied" => self.refused = Some(why("denied")),
                "Failed" => self.refused = Some(why("failed")),
                "Issued" => {
                    let spread = i64::try_from(with.random.below(SPREAD_MS)).unwrap_or(0);
                    let renew_at = answer.begin_refresh_at.unwrap_or(Timestamp::MAX);
                    let renew_at = renew_at.checked_add(SignedDuration::from_millis(spread)).unwrap_or(Timestamp::MAX);
                    let chain = pem(blocks(&answer.certificate_chain));
                    self.current = Some(Credentials { key: asked.key.clone(), chain, renew_at });
                    self.look_at = Some(renew_at.max(again));
                }
                _ => continue,
            }
            self.asked = None;
            break;
        }
        match &self.refused {
            Some(why) => Err(VolumeError(why.clone())),
            None => Ok(()),
        }
    }
}

fn requests(pod: &Pod) -> String {
    format!("/apis/certificates.k8s.io/v1/namespaces/{}/podcertificaterequests", pod.metadata.namespace)
}

fn failed(what: &str, error: &ApiError) -> VolumeError {
    VolumeError(format!("{what}: {error}"))
}

/// Makes a key and asks for a certificate for it.
async fn ask(with: &Asking<'_>) -> Result<Asked, VolumeError> {
    let Asking { rest, pod, projection, .. } = with;
    let key = generate(&projection.key_type)?;
    let meta = &pod.metadata;
    let account = match pod.spec.service_account_name.as_str() {
        "" => "default",
        name => name,
    };
    let uid = |path: String, what: &'static str| async move {
        let found = rest.get::<Named>(&path).await;
        found.map(|object| object.metadata.uid).map_err(|e| failed(what, &e))
    };
    let account_path = format!("/api/v1/namespaces/{}/serviceaccounts/{account}", meta.namespace);
    let node = &pod.spec.node_name;
    let mut spec = json!({
        "signerName": projection.signer_name,
        "podName": meta.name, "podUID": meta.uid,
        "serviceAccountName": account,
        "serviceAccountUID": uid(account_path, "while fetching service account").await?,
        "nodeName": node,
        "nodeUID": uid(format!("/api/v1/nodes/{node}"), "while getting node object").await?,
        "stubPKCS10Request": BASE64_STANDARD.encode(empty_request(&key)?),
    });
    if let Some(seconds) = projection.max_expiration_seconds {
        spec["maxExpirationSeconds"] = json!(seconds);
    }
    if !projection.user_annotations.is_empty() {
        spec["unverifiedUserAnnotations"] = json!(projection.user_annotations);
    }
    let owner = json!({ "apiVersion": "core/v1", "kind": "Pod", "name": meta.name, "uid": meta.uid });
    let request: Value = json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "PodCertificateRequest",
        "metadata": { "namespace": meta.namespace, "generateName": "req-", "ownerReferences": [owner] },
        "spec": spec,
    });
    let made = rest.post::<Named>(&requests(pod), &request).await;
    let made = made.map_err(|e| failed("while creating PodCertificateRequest", &e))?;
    Ok(Asked { name: made.metadata.name, key: pem_key(&key) })
}

/// A key of a type that pods may ask for.
fn generate(kind: &str) -> Result<KeyPair, VolumeError> {
    let algorithm = match kind {
        "ECDSAP256" => &rcgen::PKCS_ECDSA_P256_SHA256,
        "ECDSAP384" => &rcgen::PKCS_ECDSA_P384_SHA384,
        "ED25519" => &rcgen::PKCS_ED25519,
        "RSA3072" | "RSA4096" | "ECDSAP521" => {
            let has = "ECDSAP256, ECDSAP384 and ED25519";
            return Err(VolumeError(format!("this node makes no keys of type {kind}: it has {has}")));
        }
        _ => return Err(VolumeError(format!("unknown key type {kind:?}"))),
    };
    KeyPair::generate_for(algorithm).map_err(|e| VolumeError(format!("while generating keypair: {e}")))
}

/// PKCS #8.
fn pem_key(key: &KeyPair) -> String {
    super::trust::pem_block("PRIVATE KEY", &key.serialize_der())
}

/// A request that says nothing but the key: DER.
fn empty_request(key: &KeyPair) -> Result<Vec<u8>, VolumeError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(key);
    Ok(request.map_err(|e| VolumeError(format!("while signing the request: {e}")))?.der().to_vec())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;

    use http_body_util::BodyExt as _;
    use parking_lot::Mutex;
    use x509_parser::prelude::{FromDer as _, X509CertificationRequest};

    use super::*;

    /// An API that keeps the requests it gets, and answers as it is told to.
    #[derive(Clone, Default)]
    struct Api(Arc<Mutex<(Vec<Value>, Value)>>);

    impl Api {
        fn rest(&self) -> Rest {
            let api = self.clone();
            let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
                let api = api.clone();
                async move {
                    let (parts, body) = request.into_parts();
                    let body = body.collect().await.unwrap().to_bytes();
                    let mut state = api.0.lock();
                    let answer = match parts.uri.path().rsplit('/').next() {
                        _ if parts.method == http::Method::POST => {
                            state.0.push(serde_json::from_slice(&body).unwrap());
                            json!({ "metadata": { "name": format!("req-{}", state.0.len()) } })
                        }
                        Some(name) if name.starts_with("req-") => json!({ "status": state.1 }),
                        Some(name) => json!({ "metadata": { "name": name, "uid": format!("uid-of-{name}") } }),
                        None => Value::Null,
                    };
                    Ok::<_, Infallible>(http::Response::new(axum::body::Body::from(answer.to_string())))
                }
            });
            Rest::new(kube::Client::new(service, "default"))
        }

        fn say(&self, status: Value) {
            self.0.lock().1 = status;
        }

        fn asked(&self) -> Vec<Value> {
            self.0.lock().0.clone()
        }
    }

    fn issued(chain: &str, refresh: &str) -> Value {
        let block =
            format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", BASE64_STANDARD.encode(chain));
        json!({ "conditions": [{ "type": "Issued" }], "certificateChain": format!("# who\n{block}"), "beginRefreshAt": refresh })
    }

    #[tokio::test(start_paused = true)]
    async fn a_certificate_is_asked_for_once_and_renewed_with_a_new_key() {
        let api = Api::default();
        api.say(json!({}));
        let rest = api.rest();
        let clock = Clock::simulated("2026-01-01T00:00:00Z".parse().unwrap());
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "namespace": "ns", "name": "p", "uid": "u" }, "spec": { "nodeName": "n", "serviceAccountName": "robot" },
        }))
        .unwrap();
        let projection: CertificateProjection = serde_json::from_value(json!({
            "signerName": "example.com/s", "keyType": "ED25519", "credentialBundlePath": "bundle", "keyPath": "key",
            "maxExpirationSeconds": 3600, "userAnnotations": { "example.com/a": "b" },
        }))
        .unwrap();
        let random = Random::seeded(1);
        let with = Asking { rest: &rest, pod: &pod, projection: &projection, clock: &clock, random: &random };
        let mut certificate = Certificate::default();
        for _ in 0..2 {
            let error = certificate.collect(&with, 0o600, &mut Files::new()).await.unwrap_err();
            assert_eq!(error.0, "credential bundle is not issued yet");
        }
        let asked = api.asked();
        assert_eq!(asked.len(), 1, "the same request is waited for");
        let spec = &asked[0]["spec"];
        assert_eq!((&spec["podUID"], &spec["serviceAccountUID"]), (&json!("u"), &json!("uid-of-robot")));
        assert_eq!((&spec["nodeUID"], &spec["maxExpirationSeconds"]), (&json!("uid-of-n"), &json!(3600)));
        assert_eq!(spec["unverifiedUserAnnotations"], json!({ "example.com/a": "b" }));
        let der = BASE64_STANDARD.decode(spec["stubPKCS10Request"].as_str().unwrap()).unwrap();
        let (_, request) = X509CertificationRequest::from_der(&der).unwrap();
        request.verify_signature().unwrap();
        assert_eq!(request.certification_request_info.subject.iter().count(), 0);

        api.say(issued("first", "2026-01-01T01:00:00Z"));
        let mut files = Files::new();
        certificate.collect(&with, 0o600, &mut files).await.unwrap();
        let text = |files: &Files, path: &str| String::from_utf8(files[path].bytes.clone()).unwrap();
        let key = text(&files, "key");
        assert!(key.starts_with("-----BEGIN PRIVATE KEY-----\n"));
        assert!(text(&files, "bundle").starts_with(&key) && !text(&files, "bundle").contains("who"));
        let at = certificate.look_at().unwrap();
        let refresh: Timestamp = "2026-01-01T01:00:00Z".parse().unwrap();
        assert!(at >= refresh && at.duration_since(refresh).as_secs() <= 300);
        // What is good is not asked for again; what is to be renewed is, and is good until then.
        certificate.collect(&with, 0o600, &mut Files::new()).await.unwrap();
        assert_eq!(api.asked().len(), 1);
        tokio::time::sleep(std::time::Duration::from_secs(3600 + 301)).await;
        api.say(json!({}));
        let mut kept = Files::new();
        certificate.collect(&with, 0o600, &mut kept).await.unwrap();
        assert_eq!((api.asked().len(), text(&kept, "key")), (2, key.clone()));
        assert!(certificate.look_at().unwrap() > clock.now(), "or it would be looked at for ever");
        api.say(issued("second", "2026-01-01T03:00:00Z"));
        let mut renewed = Files::new();
        certificate.collect(&with, 0o600, &mut renewed).await.unwrap();
        assert_ne!(text(&renewed, "key"), key);
        // Refused, it stays so.
        tokio::time::sleep(std::time::Duration::from_secs(3 * 3600)).await;
        api.say(json!({ "conditions": [{ "type": "Denied", "reason": "No", "message": "never" }] }));
        for _ in 0..2 {
            let error = certificate.collect(&with, 0o600, &mut Files::new()).await.unwrap_err();
            assert_eq!(error.0, "PodCertificateRequest was permanently denied: reason=\"No\" message=\"never\"");
        }
        assert_eq!((api.asked().len(), certificate.look_at()), (3, None));
    }

    #[test]
    fn keys_are_of_the_types_that_can_be_made() {
        for kind in ["ECDSAP256", "ECDSAP384", "ED25519"] {
            let key = generate(kind).unwrap();
            let der = empty_request(&key).unwrap();
            X509CertificationRequest::from_der(&der).unwrap().1.verify_signature().unwrap();
        }
        assert!(generate("RSA4096").unwrap_err().0.contains("this node makes no keys of type RSA4096"));
        assert_eq!(generate("DSA").unwrap_err().0, "unknown key type \"DSA\"");
    }
}
