//! The Lease by which a server is known (apiserver `pkg/controlplane`, `apiserver-identity`): renewed every ten seconds,
//! and thrown away by any server an hour after that has ended.

use std::time::Duration;

use http::{Method, Request};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use xebec_clock::Clock;

use crate::authn::UserInfo;
use crate::json::{list, text};
use crate::server::ApiServer;

/// How often the lease is renewed.
const RENEW: Duration = Duration::from_secs(10);
/// How long it holds, in seconds.
const HOLDS_SECONDS: i64 = 3600;
/// How often leases are looked for that hold no more.
const COLLECT: Duration = Duration::from_secs(3600);
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
const LABEL: &str = "apiserver.kubernetes.io/identity";
const KIND: &str = "kube-apiserver";

/// `apiserver-` and a hash of the machine's name.
pub(super) fn name(hostname: &str) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let (mut out, mut bits, mut held) = (String::from("apiserver-"), 0_u32, 0);
    for byte in &Sha256::digest(hostname)[..16] {
        (bits, held) = (bits << 8 | u32::from(*byte), held + 8);
        while held >= 5 {
            held -= 5;
            out.push(char::from(ALPHABET[(bits >> held & 31) as usize]));
        }
    }
    if held > 0 {
        out.push(char::from(ALPHABET[(bits << (5 - held) & 31) as usize]));
    }
    out
}

/// A server's lease.
pub(super) struct Identity {
    client: kube::Client,
    clock: Clock,
    name: String,
    hostname: String,
    /// Says which process it is.
    holder: String,
}

impl Identity {
    pub(super) fn new(server: &ApiServer, hostname: &str) -> Self {
        let name = name(hostname);
        Self {
            client: server.client(UserInfo::system("system:apiserver")),
            clock: server.shared().clock.clone(),
            holder: format!("{name}_{}", server.shared().random.uuid()),
            hostname: hostname.to_owned(),
            name,
        }
    }

    /// Renews the lease, and throws old ones away, for ever.
    pub(super) async fn follow(self) {
        let mut collected = tokio::time::Instant::now();
        loop {
            if let Err(error) = self.renew().await {
                tracing::debug!(%error, lease = self.name, "this server's lease could not be renewed");
            }
            if collected.elapsed() >= COLLECT {
                collected = tokio::time::Instant::now();
                if let Err(error) = self.collect().await {
                    tracing::debug!(%error, "leases of servers that are gone could not be thrown away");
                }
            }
            tokio::time::sleep(RENEW).await;
        }
    }

    async fn renew(&self) -> Result<(), kube::Error> {
        let path = format!("{LEASES}/{}", self.name);
        let spec = json!({
            "holderIdentity": self.holder,
            "leaseDurationSeconds": HOLDS_SECONDS,
            "renewTime": format!("{:.6}", self.clock.now()),
        });
        let labels = json!({LABEL: KIND, "kubernetes.io/hostname": self.hostname});
        match self.send(Method::GET, &path, None).await {
            Ok(mut lease) => {
                lease["metadata"]["labels"] = labels;
                lease["spec"] = spec;
                self.send(Method::PUT, &path, Some(&lease)).await.map(drop)
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {
                let lease = json!({
                    "apiVersion": "coordination.k8s.io/v1",
                    "kind": "Lease",
                    "metadata": {"name": self.name, "namespace": "kube-system", "labels": labels},
                    "spec": spec,
                });
                self.send(Method::POST, LEASES, Some(&lease)).await.map(drop)
            }
            Err(error) => Err(error),
        }
    }

    async fn collect(&self) -> Result<(), kube::Error> {
        let path = format!("{LEASES}?labelSelector={LABEL}%3D{KIND}");
        let leases = self.send(Method::GET, &path, None).await?;
        for lease in list(&leases, "/items").iter().filter(|lease| is_over(lease, self.clock.now())) {
            let path = format!("{LEASES}/{}", text(lease, "/metadata/name"));
            let uid = json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions":
                {"uid": lease["metadata"]["uid"], "resourceVersion": lease["metadata"]["resourceVersion"]}});
            self.send(Method::DELETE, &path, Some(&uid)).await?;
        }
        Ok(())
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, kube::Error> {
        let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        self.client.request(request.body(body).map_err(kube::Error::HttpError)?).await
    }
}

/// Whether a lease holds no more, or never said until when.
pub(super) fn is_over(lease: &Value, now: Timestamp) -> bool {
    let renewed = text(lease, "/spec/renewTime").parse::<Timestamp>().ok();
    let holds = lease["spec"]["leaseDurationSeconds"].as_i64();
    let end = renewed.zip(holds).and_then(|(at, seconds)| at.checked_add(SignedDuration::from_secs(seconds)).ok());
    end.is_none_or(|end| end < now)
}
