//! Pods from creation to readiness.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use futures::{StreamExt as _, TryStreamExt as _};
use http::Request;
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, timeout};

use super::figure::{Figure, percentile};
use super::{BOUND, OwnCluster, xebec};
use crate::api;
use crate::cluster::{Name, Paths};

const ALONE: usize = 50;
const TOGETHER: usize = 60;
const NAMESPACE: &str = "xebec-bench";

/// Creates pods of an image that the nodes have, and waits for each to be ready.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Measure this cluster instead of one of the bench's own
    #[arg(long)]
    name: Option<Name>,
    /// An archive to load into every node first
    #[arg(long)]
    archive: Option<PathBuf>,
    /// The image; it must have `sleep`
    #[arg(long, default_value = "xebec.local/busybox:1")]
    image: String,
}

/// Measures.
pub async fn run(args: &Args) -> anyhow::Result<Vec<Figure>> {
    let own = if args.name.is_none() { Some(OwnCluster::up()?) } else { None };
    let name = match (&own, &args.name) {
        (Some(own), _) => &own.0,
        (None, Some(name)) => name,
        (None, None) => bail!("no cluster"),
    };
    if let Some(archive) = &args.archive {
        let archive = archive.to_str().context("the archive's path is not UTF-8")?;
        xebec(&["image", "load", archive, "--name", name.as_str()])?;
    }
    let client = api::client(&Paths::of(name).kubeconfig()).await?;
    let bench = Bench { client, image: args.image.clone() };
    super::make_namespace(&bench.client, NAMESPACE).await?;
    let result = bench.measure().await;
    bench.remove_namespace().await?;
    result
}

struct Bench {
    client: kube::Client,
    image: String,
}

#[derive(Deserialize)]
struct Event {
    object: Pod,
}

#[derive(Deserialize)]
struct Pod {
    metadata: Metadata,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
}

#[derive(Default, Deserialize)]
struct Status {
    #[serde(default)]
    conditions: Vec<api::ConditionView>,
}

impl Bench {
    async fn measure(&self) -> anyhow::Result<Vec<Figure>> {
        // The first pod warms up what every later one finds warm.
        self.create_and_wait("warm-up", 1).await?;
        let mut alone = Vec::new();
        for number in 0..ALONE {
            alone.push(self.create_and_wait(&format!("alone-{number}"), 1).await? * 1e3);
        }
        let together = self.create_and_wait("together", TOGETHER).await?;
        Ok(vec![
            Figure::at_most("pod alone: create to ready, median", "ms", percentile(&mut alone, 50), 200.0, ALONE),
            Figure::at_most("pod alone: create to ready, p99", "ms", percentile(&mut alone, 99), 500.0, ALONE),
            Figure::at_most("60 pods at once: create to all ready", "s", together, 6.0, TOGETHER),
        ])
    }

    /// Seconds from the first request to the last pod's readiness. The pods are removed afterwards.
    async fn create_and_wait(&self, prefix: &str, count: usize) -> anyhow::Result<f64> {
        let names: Vec<String> = (0..count).map(|n| format!("{prefix}-{n}")).collect();
        let selector = format!("bench={prefix}");
        let watch = format!("{}?watch=true&labelSelector={selector}", self.pods());
        let lines = self.client.request_stream(Request::get(watch).body(Vec::new())?).await?;
        let mut lines = std::pin::pin!(futures::io::AsyncBufReadExt::lines(lines));
        let mut waiting: BTreeMap<&str, ()> = names.iter().map(|n| (n.as_str(), ())).collect();
        let started = Instant::now();
        let creates = futures::stream::iter(&names)
            .map(|name| self.create(name, prefix))
            .buffer_unordered(16)
            .try_for_each(|()| async { Ok(()) });
        let ready = async {
            while !waiting.is_empty() {
                let line = lines.next().await.context("the watch ended")??;
                let event: Event = serde_json::from_str(&line).with_context(|| format!("not an event: {line}"))?;
                if event.object.status.conditions.iter().any(|c| c.kind == "Ready" && c.status == "True") {
                    waiting.remove(event.object.metadata.name.as_str());
                }
            }
            Ok(started.elapsed().as_secs_f64())
        };
        let both = async { futures::try_join!(creates, ready) };
        let ((), elapsed_s) = timeout(BOUND, both).await.context("the pods are not ready")??;
        self.remove(&selector).await?;
        Ok(elapsed_s)
    }

    async fn create(&self, name: &str, label: &str) -> anyhow::Result<()> {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": {"bench": label}},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "main", "image": self.image, "imagePullPolicy": "Never", "command": ["sleep", "100000"]}],
            },
        });
        api::post(&self.client, &self.pods(), &pod).await
    }

    /// Deletes the pods, and waits until they are gone: they would disturb what is measured next.
    async fn remove(&self, selector: &str) -> anyhow::Result<()> {
        let url = format!("{}?labelSelector={selector}", self.pods());
        self.client.request_text(Request::delete(&url).body(Vec::new())?).await?;
        super::until("the pods do not go away", async || Ok(self.count(&url).await? == 0)).await
    }

    async fn count(&self, url: &str) -> anyhow::Result<usize> {
        #[derive(Deserialize)]
        struct List {
            items: Vec<serde::de::IgnoredAny>,
        }
        Ok(self.client.request::<List>(Request::get(url).body(Vec::new())?).await?.items.len())
    }

    fn pods(&self) -> String {
        format!("/api/v1/namespaces/{NAMESPACE}/pods")
    }

    async fn remove_namespace(&self) -> anyhow::Result<()> {
        let url = format!("/api/v1/namespaces/{NAMESPACE}");
        self.client.request_text(Request::delete(url).body(Vec::new())?).await?;
        Ok(())
    }
}
