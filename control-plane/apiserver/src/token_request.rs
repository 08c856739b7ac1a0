//! `serviceaccounts/token`: a token for a service account, bound to a pod, a Secret, a node or nothing (upstream
//! `pkg/registry/core/serviceaccount/storage/token.go`).

use std::sync::Arc;

use async_trait::async_trait;
use jiff::SignedDuration;
use serde_json::Value;
use xebec_clock::{Clock, Random};
use xebec_pki::{BoundObject, ServiceAccountKeys};
use xebec_schema::field::{Error as FieldError, Path};
use xebec_schema::status::Status;

use crate::authn::UserInfo;
use crate::authz::node::node_name;
use crate::extension::{Answer, Question};
use crate::json::{decode, strings, text};
use crate::reader::Reader;

const DEFAULT_SECONDS: i64 = 3600;
const LEAST_SECONDS: i64 = 600;
const MOST_SECONDS: i64 = 1 << 32;
/// What the pods' own volumes ask for. Such a token lives on for a year, with a note when it should have been renewed:
/// old clients do not read the file again (KEP-1205).
const EXTENDABLE_SECONDS: i64 = 3607;
const EXTENDED: SignedDuration = SignedDuration::from_hours(365 * 24);

/// Makes tokens.
pub struct Tokens {
    keys: Arc<ServiceAccountKeys>,
    reader: Arc<dyn Reader>,
    clock: Clock,
    random: Random,
    audiences: Vec<String>,
}

/// What a token is bound to.
#[derive(Default)]
struct Bound {
    pod: Option<BoundObject>,
    secret: Option<BoundObject>,
    node: Option<BoundObject>,
}

impl Tokens {
    /// `audiences` are the API server's own, which a token is for if the request names none.
    pub fn new(
        keys: Arc<ServiceAccountKeys>,
        reader: Arc<dyn Reader>,
        clock: &Clock,
        random: &Random,
        audiences: Vec<String>,
    ) -> Self {
        Self { keys, reader, clock: clock.clone(), random: random.clone(), audiences }
    }

    /// Fills in the status of `request`, a TokenRequest for `account`.
    ///
    /// # Errors
    ///
    /// As upstream: 422 for a bad expiration, 404 and 409 for what it is to be bound to, 403 for a node that asks for what
    /// is not its own.
    pub fn create(&self, user: &UserInfo, account: &Value, mut request: Value) -> Result<Value, Status> {
        let namespace = text(account, "/metadata/namespace");
        let name = text(account, "/metadata/name");
        let seconds = request.pointer("/spec/expirationSeconds").and_then(Value::as_i64).unwrap_or(DEFAULT_SECONDS);
        check_seconds(name, seconds)?;
        if let Some(node) = node_name(user) {
            self.check_node(node, namespace, name, &request)?;
        }
        let bound = self.bind(namespace, name, &request)?;
        let audiences = match strings(&request, "/spec/audiences") {
            none if none.is_empty() => self.audiences.clone(),
            some => some,
        };
        let issued = self.clock.now_seconds();
        let mut expires = issued + SignedDuration::from_secs(seconds);
        let mut warn_after = None;
        let ours = audiences.iter().all(|a| self.audiences.contains(a));
        if seconds == EXTENDABLE_SECONDS && bound.pod.is_some() && ours {
            warn_after = Some(expires);
            expires = issued + EXTENDED;
        }
        let token = self.keys.sign(&xebec_pki::TokenRequest {
            namespace,
            service_account: bound_object(account),
            pod: bound.pod,
            secret: bound.secret,
            node: bound.node,
            audiences: &audiences,
            issued,
            expires,
            warn_after,
            id: &self.random.uuid(),
        });
        let token = token.map_err(|e| Status::internal(format!("failed to generate token: {e}")))?;
        request["metadata"]["name"] = name.into();
        request["metadata"]["namespace"] = namespace.into();
        request["metadata"]["creationTimestamp"] = issued.to_string().into();
        request["spec"]["audiences"] = audiences.into();
        request["spec"]["expirationSeconds"] = seconds.into();
        let renew_before = warn_after.unwrap_or(expires);
        request["status"] = serde_json::json!({"token": token, "expirationTimestamp": renew_before.to_string()});
        Ok(request)
    }

    fn bind(&self, namespace: &str, account: &str, request: &Value) -> Result<Bound, Status> {
        let Some(reference) = request.pointer("/spec/boundObjectRef").filter(|r| !r.is_null()) else {
            return Ok(Bound::default());
        };
        let (version, kind) = (text(reference, "/apiVersion"), text(reference, "/kind"));
        let plural = match (version, kind) {
            ("v1" | "", "Pod") => "pods",
            ("v1" | "", "Secret") => "secrets",
            ("v1" | "", "Node") => "nodes",
            _ => {
                let (group, version) = version.split_once('/').unwrap_or(("", version));
                let what = format!("{group}/{version}, Kind={kind}");
                return Err(Status::bad_request(format!("cannot bind token to object of type {what}")));
            }
        };
        let name = text(reference, "/name");
        let scope = if plural == "nodes" { "" } else { namespace };
        let found = self.reader.get("", plural, scope, name).ok_or_else(|| Status::not_found("", plural, name))?;
        let object = decode(&found.bytes);
        let uid = text(reference, "/uid");
        if !uid.is_empty() && uid != &*found.uid {
            let why = format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have \
                 been deleted and then recreated"
            );
            return Err(Status::conflict("", kind, name, &why));
        }
        let itself = Some(bound_object(&object));
        match plural {
            "pods" => {
                let runs_as = text(&object, "/spec/serviceAccountName");
                if runs_as != account {
                    return Err(Status::bad_request(format!(
                        "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount \
                         name."
                    )));
                }
                Ok(Bound { pod: itself, node: self.node_of(&object), ..Bound::default() })
            }
            "secrets" => Ok(Bound { secret: itself, ..Bound::default() }),
            _ => Ok(Bound { node: itself, ..Bound::default() }),
        }
    }

    /// The node that a pod runs on; without a UID if the node is not there (any more).
    fn node_of(&self, pod: &Value) -> Option<BoundObject> {
        let name = text(pod, "/spec/nodeName");
        if name.is_empty() {
            return None;
        }
        let uid = self.reader.get("", "nodes", "", name).map(|node| node.uid.to_string()).unwrap_or_default();
        Some(BoundObject { name: name.to_owned(), uid })
    }

    /// A node asks only for its pods (upstream's NodeRestriction).
    fn check_node(&self, node: &str, namespace: &str, account: &str, request: &Value) -> Result<(), Status> {
        let refuse = |why: &str| Err(Status::forbidden("", "serviceaccounts", account, why));
        let part = |pointer| text(request, pointer);
        let (name, uid) = (part("/spec/boundObjectRef/name"), part("/spec/boundObjectRef/uid"));
        if (part("/spec/boundObjectRef/apiVersion"), part("/spec/boundObjectRef/kind")) != ("v1", "Pod")
            || name.is_empty()
        {
            return refuse("node requested token not bound to a pod");
        }
        if uid.is_empty() {
            return refuse("node requested token with a pod binding without a uid");
        }
        let pod = self.reader.get("", "pods", namespace, name).ok_or_else(|| Status::not_found("", "pods", name))?;
        if uid != &*pod.uid {
            return refuse(&format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been \
                 deleted and then recreated"
            ));
        }
        if text(&decode(&pod.bytes), "/spec/nodeName") != node {
            return refuse("node requested token bound to a pod scheduled on a different node");
        }
        Ok(())
    }
}

fn check_seconds(account: &str, seconds: i64) -> Result<(), Status> {
    let why = match seconds {
        ..LEAST_SECONDS => "may not specify a duration less than 10 minutes",
        seconds if seconds > MOST_SECONDS => "may not specify a duration larger than 2^32 seconds",
        _ => return Ok(()),
    };
    let error = FieldError::invalid(Path::new("spec.expirationSeconds"), seconds, why);
    Err(Status::invalid("authentication.k8s.io", "TokenRequest", account, &[error]))
}

fn bound_object(object: &Value) -> BoundObject {
    BoundObject { name: text(object, "/metadata/name").into(), uid: text(object, "/metadata/uid").into() }
}

#[async_trait]
impl Answer for Tokens {
    async fn answer(&self, question: Question<'_>) -> Result<Value, Status> {
        let missing = || Status::not_found("", "serviceaccounts", question.name);
        let account = question.parent.ok_or_else(missing)?;
        self.create(question.user, account, question.object)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use xebec_pki::DEFAULT_ISSUER;

    use super::*;
    use crate::test_reader::FakeReader;

    struct World {
        keys: Arc<ServiceAccountKeys>,
        clock: Clock,
        tokens: Tokens,
    }

    fn world() -> World {
        let reader = FakeReader::new();
        reader.put("", "nodes", json!({"metadata": {"name": "n1"}}));
        reader.put(
            "",
            "pods",
            json!({"metadata": {"name": "web", "namespace": "ns"},
            "spec": {"nodeName": "n1", "serviceAccountName": "sa"}}),
        );
        let keys = Arc::new(ServiceAccountKeys::ephemeral(DEFAULT_ISSUER).unwrap());
        let clock = Clock::system();
        let audiences = vec![DEFAULT_ISSUER.to_owned()];
        let tokens = Tokens::new(keys.clone(), reader, &clock, &Random::seeded(1), audiences);
        World { keys, clock, tokens }
    }

    fn ask(world: &World, user: &str, spec: Value) -> Result<Value, Status> {
        let groups = if user.starts_with("system:node:") { vec!["system:nodes".to_owned()] } else { Vec::new() };
        let user = UserInfo { name: user.into(), groups, ..UserInfo::default() };
        let account = json!({"metadata": {"name": "sa", "namespace": "ns", "uid": "u1"}});
        world.tokens.create(&user, &account, json!({"kind": "TokenRequest", "metadata": {}, "spec": spec}))
    }

    #[test]
    fn a_token_says_what_it_is_bound_to() {
        let world = world();
        let pod = json!({"kind": "Pod", "apiVersion": "v1", "name": "web", "uid": "web-uid"});
        let made = ask(&world, "system:node:n1", json!({"boundObjectRef": pod, "expirationSeconds": 3607})).unwrap();
        let audiences = [DEFAULT_ISSUER.to_owned()];
        let claims = world.keys.verify(text(&made, "/status/token"), &audiences, world.clock.now()).unwrap();
        let bound = &claims.kubernetes;
        assert_eq!(bound.pod.as_ref().unwrap().uid, "web-uid");
        assert_eq!(bound.node.as_ref().unwrap().uid, "n1-uid");
        assert_eq!(bound.serviceaccount.uid, "u1");
        assert_eq!(bound.warnafter, Some(claims.iat + 3607));
        assert_eq!(claims.exp - claims.iat, 365 * 24 * 3600, "the pods' own tokens are extended");
        assert_eq!(made["spec"]["audiences"], json!([DEFAULT_ISSUER]));

        let other = ask(&world, "jane", json!({"audiences": ["vault"], "expirationSeconds": 3607})).unwrap();
        let claims = world.keys.verify(text(&other, "/status/token"), &["vault".into()], world.clock.now()).unwrap();
        assert_eq!((claims.exp - claims.iat, claims.kubernetes.pod), (3607, None));
    }

    #[test]
    fn refusals_are_upstreams() {
        let world = world();
        let reference = |kind: &str, name: &str, uid: &str| json!({"boundObjectRef": {"kind": kind, "apiVersion": "v1", "name": name, "uid": uid}});
        let cases = [
            ("jane", json!({"expirationSeconds": 599}), 422, "may not specify a duration less than 10 minutes"),
            ("jane", reference("Pod", "gone", ""), 404, "pods \"gone\" not found"),
            ("jane", reference("Pod", "web", "old"), 409, "does not match the UID in record"),
            ("jane", reference("Service", "web", ""), 400, "cannot bind token to object of type /v1, Kind=Service"),
            ("system:node:n1", json!({}), 403, "node requested token not bound to a pod"),
            ("system:node:n1", reference("Pod", "web", ""), 403, "without a uid"),
            ("system:node:n2", reference("Pod", "web", "web-uid"), 403, "scheduled on a different node"),
        ];
        for (user, spec, code, words) in cases {
            let error = ask(&world, user, spec.clone()).unwrap_err();
            assert_eq!(error.code, code, "{spec}");
            assert!(error.message.contains(words), "{} does not say {words}", error.message);
        }
    }
}
