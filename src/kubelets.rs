//! The agents of a cluster's nodes, asked directly as an administrator may: each at its kubelet API.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::api;
use crate::cluster::{Name, Paths};

/// Which cluster, and which of its nodes.
#[derive(Debug, clap::Args)]
pub struct Which {
    /// The cluster's name, for one made by `up`
    #[arg(long, default_value = "xebec")]
    pub name: Name,
    /// The kubeconfig of an administrator, for any other
    #[arg(long, conflicts_with = "name")]
    pub kubeconfig: Option<PathBuf>,
    /// This node only
    #[arg(long)]
    pub node: Option<String>,
}

/// A cluster that can be asked.
pub struct Kubelets {
    config: kube::Config,
    /// The API server.
    pub api: kube::Client,
}

impl Which {
    fn path(&self) -> PathBuf {
        self.kubeconfig.clone().unwrap_or_else(|| Paths::of(&self.name).kubeconfig())
    }

    /// Reads the kubeconfig.
    pub async fn open(&self) -> anyhow::Result<Kubelets> {
        Kubelets::new(&self.path()).await
    }
}

impl Kubelets {
    async fn new(path: &Path) -> anyhow::Result<Self> {
        let mut config = api::config(path).await?;
        config.connect_timeout = Some(Duration::from_secs(3));
        // Flows may be silent for as long as they like.
        config.read_timeout = None;
        let api = kube::Client::try_from(config.clone()).context("cannot make a client")?;
        Ok(Self { config, api })
    }

    /// Clients for the nodes' agents, by the nodes' names.
    pub async fn clients(&self, only: Option<&str>) -> anyhow::Result<BTreeMap<String, kube::Client>> {
        let nodes = self.list("/api/v1/nodes").await?;
        let mut out = BTreeMap::new();
        for node in &nodes {
            let name = text(node, "/metadata/name");
            if only.is_some_and(|only| only != name) {
                continue;
            }
            let addresses = node.pointer("/status/addresses").and_then(Value::as_array);
            let internal = addresses.into_iter().flatten().find(|a| a["type"] == "InternalIP");
            let Some(ip) = internal.and_then(|a| a["address"].as_str()?.parse::<IpAddr>().ok()) else { continue };
            let port = node.pointer("/status/daemonEndpoints/kubeletEndpoint/Port").and_then(Value::as_u64);
            let host = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
            let mut config = self.config.clone();
            config.cluster_url = format!("https://{host}:{}", port.unwrap_or(10_250)).parse()?;
            config.tls_server_name = None;
            out.insert(name.to_owned(), kube::Client::try_from(config).context("cannot make a client")?);
        }
        if out.is_empty() {
            match only {
                Some(node) => bail!("the cluster has no node {node}"),
                None => bail!("the cluster has no nodes yet"),
            }
        }
        Ok(out)
    }

    /// The objects under a path of the API.
    pub async fn list(&self, path: &str) -> anyhow::Result<Vec<Value>> {
        let request = http::Request::get(path).body(Vec::new())?;
        let list: Value = self.api.request(request).await.with_context(|| format!("cannot list {path}"))?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }
}

/// A field's text; empty if there is none.
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
