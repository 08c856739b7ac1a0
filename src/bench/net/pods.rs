//! Pods that do nothing: loads run in their network namespaces.

use std::net::Ipv4Addr;

use anyhow::Context as _;
use http::Request;
use serde_json::{Value, json};

use super::on;
use crate::api;
use crate::cluster::Cluster;

/// A pod, ready.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Which node it is on.
    pub node: u16,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its network namespace, as a path on that node.
    pub namespace: String,
}

/// Makes two pods on the first node and one on the second.
pub async fn make(client: &kube::Client, cluster: &Cluster, namespace: &str, image: &str) -> anyhow::Result<Vec<Pod>> {
    let url = format!("/api/v1/namespaces/{namespace}/pods");
    let places = [("pod-1", 1), ("pod-2", 1), ("pod-3", 2)];
    for (name, node) in places {
        let pod = json!({
            "metadata": {"name": name},
            "spec": {
                "nodeName": cluster.name.node(node),
                "containers": [{"name": "main", "image": image, "imagePullPolicy": "Never", "command": ["sleep", "100000"]}],
            },
        });
        api::post(client, &url, &pod).await?;
    }
    let mut pods = Vec::new();
    for (name, node) in places {
        let get = async || -> anyhow::Result<Value> {
            Ok(client.request(Request::get(format!("{url}/{name}")).body(Vec::new())?).await?)
        };
        crate::bench::until("a pod does not run", async || Ok(get().await?["status"]["phase"] == "Running")).await?;
        let pod = get().await?;
        let text = |value: &Value| value.as_str().map(str::to_owned).context("a pod without address or uid");
        let (address, uid) = (text(&pod["status"]["podIP"])?, text(&pod["metadata"]["uid"])?);
        let found = on(cluster, node, "find").args(["/run", "-path", &format!("*/netns/*{uid}*")]).output()?;
        let found = String::from_utf8_lossy(&found.stdout);
        let namespace = found.lines().next().context("the pod has no network namespace")?.to_owned();
        pods.push(Pod { node, address: address.parse()?, namespace });
    }
    Ok(pods)
}
