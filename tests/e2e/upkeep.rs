//! What the control plane does on its own: tokens in Secrets, migrations of what is stored, remarks on policies.

use std::sync::Arc;

use crate::harness::{Cluster, Result, SOON, contains, same, wait_until};

pub fn a_secret_gets_its_accounts_token(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("account-token")?;
    ns.kubectl(&["create", "serviceaccount", "robot"])?;
    ns.apply(
        "apiVersion: v1
kind: Secret
type: kubernetes.io/service-account-token
metadata: {name: robot, annotations: {kubernetes.io/service-account.name: robot}}
",
    )?;
    wait_until("the secret has a token", SOON, || Ok(!ns.field("secret/robot", "{.data.token}")?.is_empty()))?;
    contains(&ns.kubectl(&["describe", "secret", "robot"])?, "ca.crt:")?;
    let token = ns.kubectl(&["get", "secret", "robot", "-o", "go-template={{.data.token | base64decode}}"])?;
    let server = ns.kubectl(&["config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}"])?;
    // Without the kubeconfig: its client certificate would count for more than the token.
    let whoami = || {
        let asked = ["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}", "--token", &token];
        let plain = ["--kubeconfig=/dev/null", "--insecure-skip-tls-verify", "--server", &server];
        ns.try_kubectl(&[&asked[..], &plain[..]].concat())
    };
    same(whoami()?.ok("who the token is")?, format!("system:serviceaccount:{}:robot", ns.name), "who the token is")?;
    ns.kubectl(&["delete", "serviceaccount", "robot"])?;
    wait_until("the secret goes with its account", SOON, || {
        Ok(ns.kubectl(&["get", "secrets", "--field-selector=metadata.name=robot", "-o", "name"])?.is_empty())
    })?;
    whoami()?.failed("the token is not good any more").map(drop)
}

pub fn what_is_stored_is_migrated(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("migration")?;
    let migrate = |resource: &str| {
        ns.apply(&format!(
            "apiVersion: storagemigration.k8s.io/v1
kind: StorageVersionMigration
metadata: {{name: {0}-{resource}}}
spec: {{resource: {{group: '', resource: {resource}}}}}
",
            ns.name
        ))
    };
    let is = |resource: &str, condition: &str| {
        let path = format!("{{.status.conditions[?(@.type=='{condition}')].status}}");
        Ok(ns.field(&format!("storageversionmigration/{}-{resource}", ns.name), &path)? == "True")
    };
    migrate("configmaps")?;
    wait_until("config maps are migrated", SOON, || is("configmaps", "Succeeded"))?;
    same(is("configmaps", "Running")?, false, "whether it still runs")?;
    migrate("nonesuch")?;
    wait_until("what is not served cannot be migrated", SOON, || is("nonesuch", "Failed"))?;
    for resource in ["configmaps", "nonesuch"] {
        ns.kubectl(&["delete", "storageversionmigration", &format!("{}-{resource}", ns.name)])?;
    }
    Ok(())
}

pub fn policies_are_checked(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("policy-types")?;
    let policy = |expression: &str| {
        ns.apply(&format!(
            "apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {{name: {}}}
spec:
  matchConstraints:
    resourceRules: [{{apiGroups: [apps], apiVersions: [v1], operations: [CREATE], resources: [deployments]}}]
  validations: [{{expression: '{expression}'}}]
",
            ns.name
        ))
    };
    let warning = "{.status.typeChecking.expressionWarnings[0].warning}";
    let name = format!("validatingadmissionpolicy/{}", ns.name);
    policy("object.replicas > 1")?;
    wait_until("the slip is told", SOON, || Ok(ns.field(&name, warning)?.contains("undefined field 'replicas'")))?;
    policy("object.spec.replicas > 1")?;
    wait_until("nothing is wrong any more", SOON, || Ok(ns.field(&name, warning)?.is_empty()))?;
    same(ns.field(&name, "{.status.observedGeneration}")?.as_str(), "2", "what has been checked")?;
    ns.kubectl(&["delete", &name]).map(drop)
}
