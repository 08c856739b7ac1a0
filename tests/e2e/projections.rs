//! Projected volumes that hold more than the pod's own objects: whom to trust, and who the pod is.

use std::sync::Arc;

use serde_json::json;

use crate::harness::{Cluster, Result, SOON, TOOLS, contains, same, wait_for, wait_until};

pub fn trust_bundles_and_certificates(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("projections")?;
    let authority = wait_for("the namespace's copy of the cluster's authority", SOON, || {
        Ok(ns.field("configmap/kube-root-ca.crt", "{.data.ca\\.crt}").ok())
    })?;
    // Bundles are the whole cluster's: the name is this test's.
    let bundle = format!("{}-roots", ns.name);
    let object = json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "ClusterTrustBundle", "metadata": { "name": bundle },
        "spec": { "trustBundle": format!("# the cluster's own\n{authority}\n") },
    });
    ns.apply(&object.to_string())?;
    ns.apply(&format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: reader}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {{name: main, image: {TOOLS}, command: [sleep, '100000'], volumeMounts: [{{name: v, mountPath: /v}}]}}
  volumes:
  - name: v
    projected:
      sources:
      - clusterTrustBundle: {{name: {bundle}, path: roots.pem}}
      - clusterTrustBundle: {{signerName: example.com/none, labelSelector: {{}}, optional: true, path: none.pem}}
      - podCertificate: {{signerName: example.com/signer, keyType: ECDSAP256, credentialBundlePath: bundle.pem}}
"
    ))?;
    let request = wait_for("the pod's request", SOON, || {
        let name = ns.field("podcertificaterequests", "{.items[0].metadata.name}").unwrap_or_default();
        Ok((!name.is_empty()).then_some(name))
    })?;
    let what = format!("podcertificaterequest/{request}");
    same(
        ns.field(&what, "{.spec.podName} {.spec.maxExpirationSeconds}")?.as_str(),
        "reader 86400",
        "what it asks for",
    )?;
    let phase = ns.field("pod/reader", "{.status.phase}")?;
    same(phase.as_str(), "Pending", "the pod, before its certificate is there")?;
    let issued = json!({ "status": {
        "certificateChain": authority, "notBefore": "2026-01-01T00:00:00Z", "beginRefreshAt": "2126-01-01T00:00:00Z",
        "notAfter": "2126-01-02T00:00:00Z",
        "conditions": [{ "type": "Issued", "status": "True", "reason": "Test", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z" }],
    }});
    ns.kubectl(&["patch", &what, "--subresource=status", "--type=merge", "-p", &issued.to_string()])?;
    ns.ready("reader")?;
    let roots = ns.shell("reader", "cat /v/roots.pem; wc -c < /v/none.pem")?;
    same(roots.trim(), &*format!("{}\n0", authority.trim()), "the anchors, and none")?;
    let own = ns.shell("reader", "cat /v/bundle.pem")?;
    contains(&own, "-----BEGIN PRIVATE KEY-----")?;
    contains(&own, authority.trim())?;
    let twice = json!({ "spec": { "trustBundle": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" } });
    ns.kubectl(&["patch", "clustertrustbundle", &bundle, "--type=merge", "-p", &twice.to_string()])?;
    wait_until("the file follows", SOON, || Ok(ns.shell("reader", "cat /v/roots.pem")?.contains("AAAA")))?;
    ns.kubectl(&["delete", "clustertrustbundle", &bundle])?;
    ns.kubectl(&["delete", "pod", "reader"]).map(drop)
}
