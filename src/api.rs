//! The command line's view of a cluster's API: no more of the objects than it reads.

use std::borrow::Cow;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use kube::api::{Api, ListParams, ObjectMeta};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde::Deserialize;
use serde_json::Value;

/// A client by the kubeconfig at `path`.
pub async fn client(path: &Path) -> anyhow::Result<kube::Client> {
    let file = Kubeconfig::read_from(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("{} is no usable kubeconfig", path.display()))?;
    // Under this name the server notes what the command line changes.
    config.headers.push((http::header::USER_AGENT, http::HeaderValue::from_static("xebec")));
    config.connect_timeout = Some(Duration::from_secs(2));
    config.read_timeout = Some(Duration::from_secs(10));
    kube::Client::try_from(config).context("cannot make a client")
}

/// How to reach what the kubeconfig at `path` names.
pub async fn config(path: &Path) -> anyhow::Result<kube::Config> {
    let file = Kubeconfig::read_from(path).with_context(|| format!("cannot read {}", path.display()))?;
    kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("{} is no usable kubeconfig", path.display()))
}

/// Creates an object; the answer is not looked at further than whether it is one of success.
pub async fn post(client: &kube::Client, url: &str, object: &Value) -> anyhow::Result<()> {
    let request = http::Request::post(url)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(serde_json::to_vec(object)?)?;
    client.request_text(request).await.with_context(|| format!("POST {url}")).map(drop)
}

/// True if the server says it is ready.
pub async fn ready(client: &kube::Client) -> anyhow::Result<()> {
    let request = http::Request::get("/readyz").body(Vec::new()).context("an impossible request")?;
    client.request_text(request).await.map(drop).context("the API server is not ready")
}

/// A Node, as far as it is looked at.
#[derive(Clone, Debug, Deserialize)]
pub struct NodeView {
    /// `metadata`.
    pub metadata: ObjectMeta,
    /// `status`.
    #[serde(default)]
    pub status: NodeStatusView,
}

/// `status` of a [`NodeView`].
#[derive(Clone, Debug, Default, Deserialize)]
pub struct NodeStatusView {
    /// `status.conditions`.
    #[serde(default)]
    pub conditions: Vec<ConditionView>,
}

/// A condition.
#[derive(Clone, Debug, Deserialize)]
pub struct ConditionView {
    /// `Ready`, among others.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// For people.
    #[serde(default)]
    pub message: String,
}

impl NodeView {
    /// The condition `Ready`.
    pub fn ready(&self) -> Option<&ConditionView> {
        self.status.conditions.iter().find(|c| c.kind == "Ready")
    }
}

impl kube::Resource for NodeView {
    type DynamicType = ();
    type Scope = kube::core::ClusterResourceScope;

    fn kind(_: &()) -> Cow<'_, str> {
        "Node".into()
    }

    fn group(_: &()) -> Cow<'_, str> {
        "".into()
    }

    fn version(_: &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural(_: &()) -> Cow<'_, str> {
        "nodes".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// The cluster's nodes.
pub async fn nodes(client: &kube::Client) -> anyhow::Result<Vec<NodeView>> {
    let list = Api::<NodeView>::all(client.clone()).list(&ListParams::default()).await;
    Ok(list.context("cannot list the nodes")?.items)
}
