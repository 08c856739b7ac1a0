//! `xebec bench`: the figures by which Xebec is measured, on this machine.

mod api_server;
mod cni;
mod control;
mod dns;
mod figure;
pub mod net;
mod pods;
mod server;
mod start;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::json;

use crate::api;
use crate::cluster::{Name, Paths};

/// What has not come by then will not.
const BOUND: Duration = Duration::from_secs(120);

/// Measures.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// How long the server and a whole cluster take to start, and the memory they take when idle
    Start,
    /// How long the CNI plugin takes to connect a container, with a hundred on the node
    Cni,
    /// How many DNS queries a second are answered, beside Debian's unbound; as root
    Dns,
    /// How long pods take from their creation until they are ready
    Pods(pods::Args),
    /// The API server under load: creates, GETs, lists, watchers, memory
    Api(api_server::Args),
    /// How long services take to reach the kernel: all of a large cluster, and one changed endpoint in it; as root
    Control(control::Args),
    /// The network, beside the bare path and the rules of kube-proxy's modes; as root
    Net(net::Args),
}

/// `xebec bench`. Fails if a figure misses its bound.
pub fn main(args: &Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut rows = None;
    let figures = runtime.block_on(async {
        match &args.what {
            What::Cni => cni::run(),
            What::Dns => dns::run(),
            What::Start => start::run().await,
            What::Pods(pods) => pods::run(pods).await,
            What::Api(args) => api_server::run(args).await,
            What::Control(control) => control::run(control).await,
            What::Net(net) => {
                let by_driver = net::driver_figure(net)?;
                let measured = net::run(net).await?;
                let mut figures = net::figures(&measured);
                figures.push(by_driver);
                rows = Some(measured);
                Ok(figures)
            }
        }
    })?;
    if args.json {
        let text = match &rows {
            Some(rows) => serde_json::to_string_pretty(&json!({"rows": rows, "figures": figures})),
            None => serde_json::to_string_pretty(&figures),
        };
        println!("{}", text?);
    } else {
        print!("{}{}", rows.as_deref().map(net::table).unwrap_or_default(), figure::table(&figures));
    }
    match figures.iter().filter(|f| !f.holds()).count() {
        0 => Ok(()),
        missed => bail!("{missed} of {} figures miss their bound", figures.len()),
    }
}

/// A cluster of the bench's own, taken down when dropped.
struct OwnCluster(Name);

impl OwnCluster {
    /// Starts it. What an earlier bench may have left behind is taken down first.
    fn up() -> anyhow::Result<Self> {
        let name: Name = "bench".parse()?;
        xebec(&["down", "--name", name.as_str()])?;
        let cluster = Self(name);
        xebec(&["up", "--name", cluster.0.as_str(), "--nodes", "3", "--no-context"])?;
        Ok(cluster)
    }

    fn paths(&self) -> Paths {
        Paths::of(&self.0)
    }
}

impl Drop for OwnCluster {
    fn drop(&mut self) {
        if let Err(error) = xebec(&["down", "--name", self.0.as_str()]) {
            eprintln!("note: {error:#}");
        }
    }
}

/// Waits until `holds`, for some seconds at most.
async fn until(otherwise: &'static str, mut holds: impl AsyncFnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let waiting = async {
        while !holds().await? {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(BOUND, waiting).await.context(otherwise)?
}

/// A namespace that pods can be made in.
async fn make_namespace(client: &kube::Client, name: &str) -> anyhow::Result<()> {
    api::post(client, "/api/v1/namespaces", &json!({"metadata": {"name": name}})).await?;
    // Pods are refused until the namespace has its service account.
    let account = format!("/api/v1/namespaces/{name}/serviceaccounts/default");
    until("the namespace gets no service account", async || {
        Ok(client.request_text(http::Request::get(&account).body(Vec::new())?).await.is_ok())
    })
    .await
}

/// Runs this same binary.
fn xebec(args: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("/proc/self/exe")
        .args(args)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run xebec {}", args.join(" ")))?;
    if !output.status.success() {
        bail!("xebec {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// A process's resident memory in MB (10^6 bytes), from `/proc/PID/status`.
fn resident_mb(pid: i32) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(Path::new(&path)).with_context(|| format!("cannot read {path}"))?;
    let kib = status.lines().find_map(|l| l.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<f64>().ok());
    kib.map(|kib| kib * 1024.0 / 1e6).with_context(|| format!("{path} has no VmRSS"))
}

/// The CPU time that a process has taken so far, in seconds, from `/proc/PID/stat`.
fn cpu_s(pid: i32) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(Path::new(&path)).with_context(|| format!("cannot read {path}"))?;
    // The program's name, in parentheses, may have spaces in it; the times of user and kernel are fields 14 and 15.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3).and_then(|text| text.parse::<f64>().ok());
    let a_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.unwrap_or(100);
    let ticks = ticks(14).zip(ticks(15)).with_context(|| format!("{path} has no times"))?;
    #[expect(clippy::cast_precision_loss, reason = "a hundred or so")]
    Ok((ticks.0 + ticks.1) / a_second as f64)
}
