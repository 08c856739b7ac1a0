//! The API server under load: over TLS, with RBAC deciding, SQLite on disk, the generator on the same machine.

mod etcd;
mod load;
mod watchers;
mod webhooks;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use jiff::SignedDuration;
use serde_json::json;
use tokio::time::Instant;
use xebec_clock::{Clock, Random};
use xebec_pki::{ClusterCa, client_config};

use self::webhooks::Webhooks;
use self::wire::{Target, request};
use super::figure::{Figure, percentile};
use super::server::OwnServer;
use super::{cpu_s, resident_mb};
use crate::api;

/// Who sends the requests: no administrator, so that RBAC is asked.
const USER: &str = "bench";
const CONNECTIONS: usize = 64;
/// What a ConfigMap's value makes of the whole: 26,600 of them are 24 MB.
const CONFIG_MAP_VALUE_BYTES: usize = 600;
/// How large the pods are, as they are served.
const POD_BYTES: usize = 5_000;
const FAN_OUT_WRITES: usize = 200;
/// What 13,000 creates a second leave of two cores for each of them: for the server, and for the generator. These figures
/// hold whatever else the machine does.
const SERVER_CREATE_CPU_US: f64 = 114.0;
const GENERATOR_CREATE_CPU_US: f64 = 40.0;
/// Webhooks that a pod goes through.
const WEBHOOKS: usize = 10;
/// Pods that are made one after the other without them, and as many with them.
const WEBHOOK_PODS: usize = 300;
/// How many pods a cluster is to have room for.
const MANY_PODS: usize = 150_000;
/// Making them takes no longer.
const PODS_BOUND: Duration = Duration::from_secs(600);
const CONFIG_MAPS: &str = "/api/v1/namespaces/bench/configmaps";
const PODS: &str = "/api/v1/namespaces/bench/pods";

/// Loads an API server of the bench's own.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many ConfigMaps are made and listed
    #[arg(long, default_value_t = 26_600)]
    config_maps: usize,
    /// How many GETs are sent
    #[arg(long, default_value_t = 200_000)]
    gets: usize,
    /// How many watchers see a write
    #[arg(long, default_value_t = 1_000)]
    watchers: usize,
    /// How many pods of 5 KB are stored; with fewer than 150,000, the memory of 150,000 is reckoned from them
    #[arg(long, default_value_t = MANY_PODS)]
    pods: usize,
}

/// Measures.
pub async fn run(args: &Args) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Bench::start().await?.config_maps(args).await?;
    figures.push(Bench::start().await?.webhooks().await?);
    figures.push(Bench::start().await?.pods(args).await?);
    let puts = etcd::puts_per_second(CONNECTIONS, args.config_maps, CONFIG_MAP_VALUE_BYTES + 300).await?;
    match puts {
        Some(puts) => {
            figures.push(Figure::at_least("raw etcd: puts, 64 clients", "/s", puts, 0.0, args.config_maps));
            let ratio = figures[0].value / puts;
            figures.push(Figure::at_least("creates against raw etcd puts", "", ratio, 1.0, args.config_maps));
        }
        None => eprintln!("note: no etcd on this machine (Debian's etcd-server), so no ratio to its puts"),
    }
    Ok(figures)
}

struct Bench {
    server: OwnServer,
    target: Target,
    admin: kube::Client,
}

impl Bench {
    async fn start() -> anyhow::Result<Self> {
        let server = OwnServer::start().await?;
        let (clock, random) = (Clock::system(), Random::system());
        let ca = ClusterCa::load_or_create(&server.data_dir(), &clock, &random)?;
        let certified = ca.client_cert(USER, &[], SignedDuration::from_hours(1))?;
        let mut config = rustls::ClientConfig::clone(&*client_config(ca.certificate_pem(), Some(&certified), &clock)?);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let target = Target { address: server.address, tls: Arc::new(config) };
        let admin = server.admin().await?;
        let bench = Self { server, target, admin };
        bench.prepare().await?;
        Ok(bench)
    }

    /// A namespace, and the user's rights in it.
    async fn prepare(&self) -> anyhow::Result<()> {
        let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/bench";
        let meta = json!({"name": "bench", "namespace": "bench"});
        super::make_namespace(&self.admin, "bench").await?;
        let rules = json!([{"apiGroups": [""], "resources": ["configmaps", "pods"], "verbs": ["*"]}]);
        api::post(&self.admin, &format!("{rbac}/roles"), &json!({"metadata": meta, "rules": rules})).await?;
        let binding = json!({
            "metadata": meta,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "bench"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": USER}],
        });
        api::post(&self.admin, &format!("{rbac}/rolebindings"), &binding).await
    }

    async fn config_maps(&self, args: &Args) -> anyhow::Result<Vec<Figure>> {
        let body = |number: usize| config_map(&format!("map-{number}"));
        let server_s = cpu_s(self.server.pid())?;
        let creates = load::run(&self.target, CONNECTIONS, args.config_maps, 201, |n| {
            request("POST", CONFIG_MAPS, Some(&body(n)))
        });
        let mut creates = creates.await.context("creating ConfigMaps")?;
        #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
        let server_us = (cpu_s(self.server.pid())? - server_s) * 1e6 / args.config_maps as f64;
        let gets = load::run(&self.target, CONNECTIONS, args.gets, 200, |n| {
            // A step that has no factor in common with the count, so that neighbours are not asked for in a row.
            request("GET", &format!("{CONFIG_MAPS}/map-{}", n * 7919 % args.config_maps), None)
        });
        let mut gets = gets.await.context("getting ConfigMaps")?;
        let list_s = self.list().await?;
        let memory_mb = resident_mb(self.server.pid())?;
        let mut fan_out = self.fan_out(args.watchers).await?;
        let (create_p99, get_p99) = (percentile(&mut creates.latencies_ms, 99), percentile(&mut gets.latencies_ms, 99));
        Ok(vec![
            Figure::at_least("durable creates, 64 connections", "/s", creates.per_second(), 13_000.0, args.config_maps),
            Figure::at_most("create, 64 connections, p99", "ms", create_p99, 75.0, args.config_maps),
            Figure::at_most("create: CPU time of the server", "us", server_us, SERVER_CREATE_CPU_US, args.config_maps),
            Figure::at_most(
                "create: CPU time of the generator",
                "us",
                creates.cpu_us(),
                GENERATOR_CREATE_CPU_US,
                args.config_maps,
            ),
            Figure::at_least("GETs, 64 connections", "/s", gets.per_second(), 40_000.0, args.gets),
            Figure::at_most("GET, 64 connections, p99", "ms", get_p99, 10.0, args.gets),
            Figure::at_most("LIST of the ConfigMaps, median", "s", list_s, 0.08, LISTS),
            Figure::at_most("resident memory after that", "MB", memory_mb, 150.0, 1),
            Figure::at_most(
                "write to the last watcher's event, p99",
                "ms",
                percentile(&mut fan_out, 99),
                50.0,
                FAN_OUT_WRITES,
            ),
        ])
    }

    /// Seconds for a whole list, the median of some.
    async fn list(&self) -> anyhow::Result<f64> {
        let mut connection = self.target.connect().await?;
        let list = request("GET", CONFIG_MAPS, None);
        let mut samples = Vec::new();
        for _ in 0..LISTS {
            let started = Instant::now();
            let (status, bytes) = connection.exchange(&list).await?;
            ensure!(status == 200, "the list was answered with {status}");
            ensure!(bytes > 0, "the list is empty");
            samples.push(started.elapsed().as_secs_f64());
        }
        Ok(percentile(&mut samples, 50))
    }

    async fn fan_out(&self, count: usize) -> anyhow::Result<Vec<f64>> {
        let mut writer = self.target.connect().await?;
        let watched = "/api/v1/namespaces/bench/pods";
        watchers::fan_out(&self.target, watched, count, FAN_OUT_WRITES, async |number| {
            let (status, _) = writer.exchange(&request("POST", PODS, Some(&pod(&format!("seen-{number}"), 0)))).await?;
            ensure!(status == 201, "the write was answered with {status}");
            Ok(())
        })
        .await
    }

    async fn pods(&self, args: &Args) -> anyhow::Result<Figure> {
        let (status, bare) =
            self.target.connect().await?.exchange(&request("POST", PODS, Some(&pod("bare", 0)))).await?;
        ensure!(status == 201, "the first pod was answered with {status}");
        let padding = POD_BYTES.saturating_sub(bare);
        let before_gb = resident_mb(self.server.pid())? / 1e3;
        let creates = load::run(&self.target, CONNECTIONS, args.pods, 201, |n| {
            request("POST", PODS, Some(&pod(&format!("pod-{n}"), padding)))
        });
        let in_time = tokio::time::timeout(PODS_BOUND, creates).await;
        in_time.with_context(|| format!("{} pods are not made after {PODS_BOUND:?}", args.pods))??;
        let after_gb = resident_mb(self.server.pid())? / 1e3;
        #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
        let share = MANY_PODS as f64 / args.pods.max(1) as f64;
        let memory_gb = before_gb + (after_gb - before_gb) * share;
        Ok(Figure::at_most("150,000 pods of 5 KB: resident memory", "GB", memory_gb, 1.5, args.pods))
    }

    /// What webhooks add to the creation of a pod: its time with them, without its median time without them.
    async fn webhooks(&self) -> anyhow::Result<Figure> {
        let in_one_thread = tokio::task::LocalSet::new();
        let added = in_one_thread.run_until(async {
            let webhooks = Webhooks::start(WEBHOOKS).await?;
            let mut without = self.pods_in_turn("without").await?;
            let url = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
            api::post(&self.admin, url, &webhooks.configuration()).await?;
            let mut with = self.pods_in_turn("with").await?;
            let (calls, due) = (webhooks.calls(), WEBHOOKS * WEBHOOK_PODS);
            ensure!(calls == due, "the webhooks were called {calls} times, not {due}");
            anyhow::Ok(percentile(&mut with, 99) - percentile(&mut without, 50))
        });
        let name = "pod through 10 mutating webhooks: added latency, p99";
        Ok(Figure::at_most(name, "ms", added.await?, 30.0, WEBHOOK_PODS))
    }

    /// How long each of some pods takes, in ms, made one after the other.
    async fn pods_in_turn(&self, prefix: &str) -> anyhow::Result<Vec<f64>> {
        let load = load::run(&self.target, 1, WEBHOOK_PODS, 201, |n| {
            request("POST", PODS, Some(&pod(&format!("{prefix}-{n}"), 0)))
        });
        Ok(load.await.context("creating pods")?.latencies_ms)
    }
}

const LISTS: usize = 11;

fn config_map(name: &str) -> Bytes {
    let value = "x".repeat(CONFIG_MAP_VALUE_BYTES);
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"value": value}})
        .to_string()
        .into()
}

/// A pod that no scheduler takes, so that it stays as it is.
fn pod(name: &str, padding_bytes: usize) -> Bytes {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "schedulerName": "none",
            "containers": [{"name": "main", "image": "main:1", "env": [{"name": "A", "value": "x".repeat(padding_bytes)}]}],
        },
    })
    .to_string()
    .into()
}
