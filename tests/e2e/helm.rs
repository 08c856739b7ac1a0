//! A chart's life by the real Helm: install, upgrade, a failed upgrade, rollback, hooks, tests, uninstall.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use crate::harness::{Cluster, Namespace, Printed, Result, TOOLS, contains, run, same};

/// The files of the chart.
fn chart(directory: &Path) -> std::io::Result<()> {
    let file = |name: &str, text: &str| {
        let path = directory.join(name);
        std::fs::create_dir_all(path.parent().unwrap_or(directory))?;
        std::fs::write(path, text)
    };
    file("Chart.yaml", "apiVersion: v2\nname: web\nversion: 0.1.0\nappVersion: '1'\n")?;
    file("values.yaml", &format!("replicas: 1\nmessage: one\nimage: {TOOLS}\nready: 'true'\n"))?;
    file(
        "templates/web.yaml",
        "apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}, labels: {app.kubernetes.io/managed-by: {{ .Release.Service }}}}
data: {message: {{ .Values.message | quote }}}
---
apiVersion: v1
kind: Service
metadata: {name: {{ .Release.Name }}}
spec:
  selector: {app: {{ .Release.Name }}}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app: {{ .Release.Name }}}}
  template:
    metadata:
      labels: {app: {{ .Release.Name }}}
      annotations: {message: {{ .Values.message | quote }}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: main
        image: {{ .Values.image }}
        command: [sleep, '100000']
        readinessProbe: {exec: {command: [sh, -c, {{ .Values.ready | quote }}]}, periodSeconds: 1}
",
    )?;
    let hook = |name: &str, when: &str, policy: &str| {
        format!(
            "apiVersion: batch/v1
kind: Job
metadata:
  name: {{{{ .Release.Name }}}}-{name}
  annotations: {{helm.sh/hook: {when}, helm.sh/hook-delete-policy: {policy}}}
spec:
  template:
    spec:
      restartPolicy: Never
      containers: [{{name: main, image: {TOOLS}, command: ['true']}}]
"
        )
    };
    file("templates/before.yaml", &hook("before", "pre-install", "before-hook-creation"))?;
    file("templates/after.yaml", &hook("after", "post-upgrade", "hook-succeeded"))?;
    file("templates/last.yaml", &hook("last", "pre-delete", "hook-succeeded"))?;
    file(
        "templates/tests/test.yaml",
        &format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: {{{{ .Release.Name }}}}-test, annotations: {{helm.sh/hook: test}}}}
spec:
  restartPolicy: Never
  containers:
  - {{name: main, image: {TOOLS}, command: [sh, -c, 'test \"$MESSAGE\" = one'],
     env: [{{name: MESSAGE, valueFrom: {{configMapKeyRef: {{name: {{{{ .Release.Name }}}}, key: message}}}}}}]}}
"
        ),
    )
}

struct Helm {
    program: PathBuf,
    home: tempfile::TempDir,
    ns: Namespace,
}

impl Helm {
    fn new(ns: Namespace) -> Result<Self> {
        let home = tempfile::tempdir().map_err(|e| e.to_string())?;
        chart(&home.path().join("web")).map_err(|e| e.to_string())?;
        let tools = std::env::var("XEBEC_TOOLS").unwrap_or_default();
        let found = PathBuf::from(tools).join("bin/helm");
        let program = if found.exists() { found } else { PathBuf::from("helm") };
        Ok(Self { program, home, ns })
    }

    fn run(&self, args: &[&str]) -> Result<Printed> {
        let home = self.home.path();
        let mut command = Command::new(&self.program);
        command.current_dir(home).env("HOME", home).env("KUBECONFIG", self.ns.cluster.kubeconfig());
        run(command.args(["--namespace", &self.ns.name]).args(args), None)
    }

    fn ok(&self, args: &[&str]) -> Result<String> {
        self.run(args)?.ok(&args.join(" "))
    }
}

pub fn a_chart_lives(cluster: &Arc<Cluster>) -> Result {
    let helm = Helm::new(cluster.namespace("helm")?)?;
    let ns = &helm.ns;
    let wait = ["--wait", "--timeout", "90s"];
    let with = |args: &[&str]| -> Result<String> { helm.ok(&[args, &wait].concat()) };

    contains(&with(&["install", "web", "./web"])?, "STATUS: deployed")?;
    same(ns.field("deployment/web", "{.status.readyReplicas}")?, "1".into(), "it waited")?;
    same(ns.field("job/web-before", "{.status.succeeded}")?, "1".into(), "the hook before the install")?;
    contains(&helm.ok(&["list"])?, "web-0.1.0")?;
    contains(&helm.ok(&["get", "manifest", "web"])?, "kind: Deployment")?;
    contains(&helm.ok(&["test", "web"])?, "Phase:")?;

    contains(&with(&["upgrade", "web", "./web", "--set", "replicas=2,message=two"])?, "REVISION: 2")?;
    same(ns.field("deployment/web", "{.status.readyReplicas}")?, "2".into(), "replicas of the upgrade")?;
    same(ns.field("configmap/web", "{.data.message}")?, "two".into(), "the message of the upgrade")?;
    contains(&ns.refused(&["get", "job", "web-after"])?, "NotFound")?;
    contains(&helm.run(&["test", "web"])?.failed("test")?, "failed")?;

    // Its pods never become ready: it goes back to what was there.
    let failing = ["upgrade", "web", "./web", "--set", "replicas=1,message=three,ready=false"];
    let failing = [&failing[..], &["--rollback-on-failure", "--wait", "--timeout", "8s"]].concat();
    helm.run(&failing)?.failed("an upgrade that cannot succeed")?;
    same(ns.field("configmap/web", "{.data.message}")?, "two".into(), "the message after the failure")?;

    contains(&with(&["rollback", "web", "1"])?, "Rollback was a success")?;
    same(ns.field("configmap/web", "{.data.message}")?, "one".into(), "the message of the rollback")?;
    same(ns.field("deployment/web", "{.spec.replicas}")?, "1".into(), "the replicas of the rollback")?;
    let history = helm.ok(&["history", "web"])?;
    contains(&history, "Rollback to 1")?;
    contains(&history, "superseded")?;

    contains(&with(&["uninstall", "web"])?, "release \"web\" uninstalled")?;
    for kind in ["deployment", "service", "configmap"] {
        contains(&ns.refused(&["get", kind, "web"])?, "NotFound")?;
    }
    same(helm.ok(&["list", "-q"])?.trim().to_owned(), String::new(), "releases left")
}
