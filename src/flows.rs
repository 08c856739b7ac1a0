//! `xebec flows`: what flows begin and which packets are dropped, as it happens.

use std::net::IpAddr;

use anyhow::Context as _;
use clap::ValueEnum;
use futures::{AsyncBufReadExt as _, TryStreamExt as _};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use xebec_node_agent::sight::Flow;

use crate::kubelets::{Kubelets, Which};
use crate::names::{Name, Names};

/// Shows flows as they begin, and packets that are dropped, until it is stopped.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// Only from or to this pod: NAME or NAMESPACE/NAME
    #[arg(long)]
    pod: Option<String>,
    /// Only from or to pods of this namespace
    #[arg(long, short)]
    namespace: Option<String>,
    /// Only to this service, by its address or its endpoints': NAME or NAMESPACE/NAME
    #[arg(long)]
    service: Option<String>,
    /// Only these
    #[arg(long)]
    verdict: Option<Verdict>,
    /// Only drops for this reason (`policy-ingress`, `no-backend`, ...)
    #[arg(long)]
    reason: Option<String>,
    /// How to print
    #[arg(long, short, default_value = "text")]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Verdict {
    Forwarded,
    Dropped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// `xebec flows`.
pub fn main(args: &Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(follow(args))
}

async fn follow(args: &Args) -> anyhow::Result<()> {
    let cluster = args.which.open().await?;
    let clients = cluster.clients(args.which.node.as_deref()).await?;
    let mut names = read(&cluster).await?;
    let (sender, mut lines) = mpsc::channel(256);
    for (node, client) in clients {
        let sender = sender.clone();
        tokio::spawn(async move {
            let result = listen(&client, &sender).await;
            // The receiver is gone only when this program is.
            let _ = sender.send(Err(result.err().unwrap_or_else(|| anyhow::anyhow!("it ended")).context(node))).await;
        });
    }
    drop(sender);
    while let Some(line) = lines.recv().await {
        let line: Value = match line {
            Ok(line) => line,
            Err(error) => {
                eprintln!("xebec: {error:#}");
                continue;
            }
        };
        if let Some(lost) = line.get("lost") {
            eprintln!("xebec: {lost} flows were lost: this is too slow for them");
            continue;
        }
        let flow: Flow = serde_json::from_value(line).context("an agent of another version?")?;
        // Somebody new: a pod that has started since.
        if !names.knows(flow.source) || !names.knows(flow.destination) {
            // What cannot be read stays as it was.
            names = read(&cluster).await.unwrap_or(names);
        }
        if args.wants(&flow, &names) {
            println!("{}", args.show(&flow, &names));
        }
    }
    anyhow::bail!("no agent answers any more")
}

async fn listen(client: &kube::Client, out: &mpsc::Sender<anyhow::Result<Value>>) -> anyhow::Result<()> {
    let request = http::Request::get("/xebec/flows").body(Vec::new())?;
    let mut lines = client.request_stream(request).await?.lines();
    while let Some(line) = lines.try_next().await? {
        if line.is_empty() {
            continue;
        }
        let value = serde_json::from_str(&line).context("what the agent says is no JSON")?;
        if out.send(Ok(value)).await.is_err() {
            break;
        }
    }
    Ok(())
}

async fn read(cluster: &Kubelets) -> anyhow::Result<Names> {
    let mut names = Names::default();
    cluster.list("/api/v1/pods").await?.iter().for_each(|pod| names.add_pod(pod));
    cluster.list("/apis/discovery.k8s.io/v1/endpointslices").await?.iter().for_each(|slice| names.add_slice(slice));
    cluster.list("/api/v1/services").await?.iter().for_each(|service| names.add_service(service));
    Ok(names)
}

fn show(names: &Names, ip: IpAddr, port: u16) -> String {
    match names.pods.get(&ip) {
        Some((namespace, name)) => format!("{namespace}/{name} ({ip}:{port})"),
        None => format!("{ip}:{port}"),
    }
}

/// Whether `wanted` (NAME or NAMESPACE/NAME) is this one.
fn is_named(wanted: &str, found: &Name) -> bool {
    match wanted.split_once('/') {
        Some((namespace, name)) => found.0 == namespace && found.1 == name,
        None => found.1 == wanted,
    }
}

impl Args {
    fn wants(&self, flow: &Flow, names: &Names) -> bool {
        let pods = [names.pods.get(&flow.source), names.pods.get(&flow.destination)];
        let service = names.services.get(&(flow.destination, flow.destination_port));
        let verdict = match self.verdict {
            None => true,
            Some(Verdict::Forwarded) => flow.verdict == "forwarded",
            Some(Verdict::Dropped) => flow.verdict == "dropped",
        };
        verdict
            && self.pod.as_ref().is_none_or(|wanted| pods.into_iter().flatten().any(|pod| is_named(wanted, pod)))
            && self.namespace.as_ref().is_none_or(|wanted| pods.into_iter().flatten().any(|(ns, _)| ns == wanted))
            && self.service.as_ref().is_none_or(|wanted| service.is_some_and(|service| is_named(wanted, service)))
            && self.reason.as_ref().is_none_or(|wanted| flow.reason.as_ref() == Some(wanted))
    }

    fn show(&self, flow: &Flow, names: &Names) -> String {
        let service = names.services.get(&(flow.destination, flow.destination_port));
        if self.output == Output::Json {
            let mut value = json!(flow);
            let named = |pod: Option<&Name>| pod.map(|(ns, name)| format!("{ns}/{name}"));
            value["sourcePod"] = json!(named(names.pods.get(&flow.source)));
            value["destinationPod"] = json!(named(names.pods.get(&flow.destination)));
            value["destinationService"] = json!(named(service));
            return value.to_string();
        }
        let reason = flow.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        let direction = flow.direction.as_ref().map(|direction| format!(" {direction}")).unwrap_or_default();
        let service = service.map(|(ns, name)| format!(" of service {ns}/{name}")).unwrap_or_default();
        format!(
            "{} {} {} {} -> {}{service} {}{reason}{direction}",
            flow.time.strftime("%H:%M:%S%.3f"),
            flow.node,
            flow.protocol,
            show(names, flow.source, flow.source_port),
            show(names, flow.destination, flow.destination_port),
            flow.verdict,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(extra: &[&str]) -> Args {
        use clap::Parser as _;
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: Args,
        }
        Line::parse_from(["flows"].iter().chain(extra)).args
    }

    #[test]
    fn filters() {
        let flow: Flow = serde_json::from_value(json!({
            "time": "2026-01-01T00:00:00Z", "node": "n1", "verdict": "dropped", "reason": "policy-ingress",
            "direction": "ingress", "protocol": "TCP", "source": "10.244.1.5", "sourcePort": 40_000,
            "destination": "10.244.2.7", "destinationPort": 80, "length": 74,
        }))
        .unwrap();
        let mut names = Names::default();
        names.pods.insert("10.244.1.5".parse().unwrap(), ("shop".into(), "client".into()));
        names.services.insert(("10.244.2.7".parse().unwrap(), 80), ("shop".into(), "web".into()));
        for wanted in [
            &[][..],
            &["--pod", "client"],
            &["--pod", "shop/client"],
            &["-n", "shop"],
            &["--service", "web", "--verdict", "dropped"],
            &["--reason", "policy-ingress"],
        ] {
            assert!(args(wanted).wants(&flow, &names), "{wanted:?}");
        }
        for unwanted in [
            &["--pod", "other/client"][..],
            &["--pod", "web"],
            &["-n", "default"],
            &["--service", "other"],
            &["--verdict", "forwarded"],
            &["--reason", "no-peer"],
        ] {
            assert!(!args(unwanted).wants(&flow, &names), "{unwanted:?}");
        }
        let text = args(&[]).show(&flow, &names);
        let expected = "00:00:00.000 n1 TCP shop/client (10.244.1.5:40000) -> 10.244.2.7:80 of service shop/web dropped \
                        (policy-ingress) ingress";
        assert_eq!(text, expected);
        let json: Value = serde_json::from_str(&args(&["-o", "json"]).show(&flow, &names)).unwrap();
        assert_eq!((&json["sourcePod"], &json["destinationService"]), (&json!("shop/client"), &json!("shop/web")));
    }
}
