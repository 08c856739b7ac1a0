//! The datapath as API objects: flows, and services as the kernels hold them.

use std::sync::Arc;

use crate::harness::{Cluster, Namespace, Result, SOON, contains, same, wait_for, wait_until};
use crate::sight::set_up;

const DENY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny-all}
spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]}
";

const REQUEST: &str = "import urllib.request as u
try: u.urlopen('http://web', timeout=1).read()
except Exception as e: print(e)";

/// `kubectl get datapathservices`: the counts of all nodes, and whether they hold what they should.
pub fn services_are_objects(cluster: &Arc<Cluster>) -> Result {
    let ns = set_up(cluster, "dpsvc")?;
    let all = ns.kubectl(&["api-resources", "--api-group=datapath.xebec.io", "-o", "wide"])?;
    contains(&all, "dpsvc")?;
    contains(&ns.kubectl(&["explain", "flows.destination.service.name"])?, "The service's name.")?;
    let explained = ns.kubectl(&["explain", "dpsvc", "--recursive"])?;
    contains(&explained, "connectP99Microseconds\t<integer>")?;
    contains(&explained, "metadata\t<ObjectMeta>")?;
    let state = "{.status.synced} {.status.nodesAnswered}/{.status.nodesTotal} {.status.backends}";
    wait_until("every node holds the service as it should", SOON, || {
        Ok(ns.field("datapathservice/web", state)? == "true 3/3 3")
    })?;
    same(ns.field("datapathservice/empty", "{.status.backends}")?, "0".to_owned(), "a service without endpoints")?;
    for _ in 0..3 {
        ns.python("client", REQUEST)?;
    }
    same(ns.field("datapathservice/web", "{.status.connections}")?, "3".to_owned(), "connections of all nodes")?;
    let address = ns.field("service/web", "{.spec.clusterIP}")?;
    let table = ns.kubectl(&["get", "dpsvc", "-o", "wide"])?;
    let lines: Vec<&str> = table.lines().collect();
    same(lines.len(), 4, "the table has a line for each service, and a head")?;
    contains(lines[0], "CONNECTIONS")?;
    contains(&table, &format!("{address}:80/TCP"))?;
    same(ns.kubectl(&["get", "dpsvc", "--chunk-size=1", "-o", "name"])?.lines().count(), 3, "pages")?;
    let not = ns.kubectl(&["get", "dpsvc", "--field-selector", "status.synced=false", "-o", "name"])?;
    same(not.as_str(), "", "services that are not as they should be")?;

    // Who may see the namespace may see it, and nobody else.
    let user = format!("--as=system:serviceaccount:{}:default", ns.name);
    contains(
        &ns.refused(&["get", "dpsvc", &user])?,
        "cannot list resource \"datapathservices\" in API group \"datapath.xebec.io\"",
    )?;
    let account = format!("--serviceaccount={}:default", ns.name);
    ns.kubectl(&["create", "rolebinding", "view", "--clusterrole=view", &account])?;
    wait_until("the role is in force", SOON, || Ok(ns.try_kubectl(&["get", "dpsvc,flows", &user])?.status.success()))?;
    contains(&ns.refused(&["get", "flows", "-A", &user])?, "at the cluster scope")?;
    contains(&ns.refused(&["delete", "dpsvc", "web"])?, "the server does not allow this method")
}

/// `kubectl get flows`, with selectors, and watched.
pub fn flows_are_objects(cluster: &Arc<Cluster>) -> Result {
    let ns = set_up(cluster, "flows")?;
    let mut watch = ns.start_kubectl(&["get", "flows", "--watch", "-o", "wide"])?;
    let line = wait_for("a connection is shown as it begins", SOON, || {
        ns.python("client", REQUEST)?;
        Ok(std::iter::from_fn(|| watch.line()).find(|line| line.contains("forwarded")))
    })?;
    contains(&line, &format!("{}/client:", ns.name))?;
    let columns: Vec<String> = get(&ns, "destination.service=web")?;
    contains(&columns[0], &format!("{}/web", ns.name))?;

    ns.apply(DENY)?;
    let denied = "verdict=dropped,reason=policy-ingress,source.pod=client";
    let line = wait_for("a drop is kept", SOON, || {
        ns.python("client", REQUEST)?;
        Ok(get(&ns, denied)?.into_iter().next())
    })?;
    contains(&line, &format!("{}/client:", ns.name))?;
    let name = line.split_whitespace().next().unwrap_or_default().to_owned();
    same(
        ns.field(&format!("flow/{name}"), "{.verdict} {.source.pod}")?,
        "dropped client".to_owned(),
        "one by its name",
    )?;
    let elsewhere = cluster.namespace("flows-other")?;
    same(get(&elsewhere, "")?, Vec::new(), "flows of a namespace that has no pods")?;
    contains(&ns.kubectl(&["get", "flows", "-A"])?, &name)?;
    contains(&ns.refused(&["get", "flows", "--field-selector", "length=74"])?, "field label not supported: length")
}

fn get(ns: &Namespace, fields: &str) -> Result<Vec<String>> {
    let table = ns.kubectl(&["get", "flows", "--no-headers", "--field-selector", fields])?;
    Ok(table.lines().map(str::to_owned).collect())
}
