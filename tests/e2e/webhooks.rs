//! An admission webhook in a pod, behind a service: the way that most of them run.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::harness::{Cluster, Result, SOON, TOOLS, contains, same, wait_until};

/// Adds an annotation to what it sees.
const PROGRAM: &str = r#"
import base64, http.server, json, ssl
class Hook(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *args):
        pass
    def do_POST(self):
        review = json.loads(self.rfile.read(int(self.headers["content-length"])))
        patch = [{"op": "add", "path": "/metadata/annotations", "value": {"seen": review["request"]["operation"]}}]
        response = {"uid": review["request"]["uid"], "allowed": True, "patchType": "JSONPatch",
                    "patch": base64.b64encode(json.dumps(patch).encode()).decode()}
        body = json.dumps({"apiVersion": review["apiVersion"], "kind": "AdmissionReview", "response": response}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
server = http.server.ThreadingHTTPServer(("", 8443), Hook)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/tls/tls.crt", "/tls/tls.key")
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"#;

pub fn a_webhook_in_a_pod(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("webhook")?;
    let space = &ns.name;
    let certified = rcgen::generate_simple_self_signed(vec![format!("hook.{space}.svc")]).map_err(|e| e.to_string())?;
    let (certificate, key) = (certified.cert.pem(), certified.signing_key.serialize_pem());
    let encode = |text: &str| STANDARD.encode(text);
    ns.apply(&format!(
        "apiVersion: v1
kind: Secret
metadata: {{name: tls}}
type: kubernetes.io/tls
data: {{tls.crt: {}, tls.key: {}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: program}}
binaryData: {{hook.py: {}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: hook, labels: {{app: hook}}}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: {TOOLS}
    command: [python3, /program/hook.py]
    readinessProbe: {{tcpSocket: {{port: 8443}}, periodSeconds: 1}}
    volumeMounts:
    - {{name: tls, mountPath: /tls}}
    - {{name: program, mountPath: /program}}
  volumes:
  - {{name: tls, secret: {{secretName: tls}}}}
  - {{name: program, configMap: {{name: program}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: hook}}
spec: {{selector: {{app: hook}}, ports: [{{port: 443, targetPort: 8443}}]}}
",
        encode(&certificate),
        encode(&key),
        encode(PROGRAM)
    ))?;
    ns.ready("hook")?;
    ns.apply(&format!(
        "apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {{name: {space}}}
webhooks:
- name: hook.e2e.example.com
  clientConfig: {{service: {{name: hook, namespace: {space}, path: /mutate}}, caBundle: {}}}
  rules: [{{apiGroups: [''], apiVersions: [v1], resources: [configmaps], operations: [CREATE]}}]
  namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {space}}}}}
  sideEffects: None
  admissionReviewVersions: [v1]
  timeoutSeconds: 5
",
        encode(&certificate)
    ))?;
    // The service's endpoints may lag behind the pod's readiness.
    wait_until("the webhook is called", SOON, || {
        Ok(ns.try_kubectl(&["create", "configmap", "seen"])?.ok("create").is_ok())
    })?;
    same(ns.field("configmap/seen", "{.metadata.annotations.seen}")?.as_str(), "CREATE", "what the webhook added")?;
    ns.kubectl(&["delete", "pod", "hook", "--now"])?;
    wait_until("nobody is there", Duration::from_secs(30), || {
        let refused = ns.refused(&["create", "configmap", "unseen"]).unwrap_or_default();
        Ok(refused.contains("no endpoints available for service \"hook\"") || refused.contains("connection refused"))
    })?;
    let refused = ns.refused(&["create", "configmap", "unseen"])?;
    contains(&refused, "failed calling webhook \"hook.e2e.example.com\": failed to call webhook: ")?;
    ns.kubectl(&["delete", "mutatingwebhookconfiguration", space]).map(drop)
}
