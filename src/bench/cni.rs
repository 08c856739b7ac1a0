//! `xebec bench cni`: the plugin as a container runtime calls it, in namespaces of the bench's own.

use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sched::{CloneFlags, unshare};
use serde_json::json;

use super::figure::{Figure, percentile};

/// Containers on the node before the measurement begins.
const PRESENT: usize = 100;
/// Containers added, and measured.
const MEASURED: usize = 50;
/// The goal for the median, in milliseconds.
const ADD_MS: f64 = 15.0;

/// A container: a process in a network namespace of its own.
struct Container {
    id: String,
    process: Child,
}

impl Drop for Container {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Measures ADD.
pub fn run() -> anyhow::Result<Vec<Figure>> {
    // In a thread of its own, which becomes the node.
    let measured = std::thread::spawn(measure).join();
    let mut adds = measured.map_err(|_| anyhow::anyhow!("the measuring thread died"))??;
    let (median, p99) = (percentile(&mut adds, 50), percentile(&mut adds, 99));
    Ok(vec![
        Figure::at_most("CNI ADD with 100 pods on the node: median", "ms", median, ADD_MS, adds.len()),
        Figure::at_most("CNI ADD with 100 pods on the node: p99", "ms", p99, 4.0 * ADD_MS, adds.len()),
    ])
}

fn measure() -> anyhow::Result<Vec<f64>> {
    unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace (try sudo)")?;
    let leases = tempfile::tempdir()?;
    let (mut containers, mut times) = (Vec::new(), Vec::new());
    for number in 0..PRESENT + MEASURED {
        let container = container(number)?;
        let took = add(&container, leases.path())?;
        if number >= PRESENT {
            times.push(took.as_secs_f64() * 1e3);
        }
        containers.push(container);
    }
    Ok(times)
}

fn container(number: usize) -> anyhow::Result<Container> {
    let process = Command::new("unshare").args(["--net", "sleep", "600"]).spawn().context("cannot run unshare")?;
    let container = Container { id: format!("bench-{number}"), process };
    let own = std::fs::read_link("/proc/thread-self/ns/net")?;
    while std::fs::read_link(netns(&container))? == own {
        std::thread::yield_now();
    }
    Ok(container)
}

fn netns(container: &Container) -> String {
    format!("/proc/{}/ns/net", container.process.id())
}

fn add(container: &Container, leases: &Path) -> anyhow::Result<Duration> {
    use std::os::unix::process::CommandExt as _;
    let config = json!({
        "cniVersion": "1.1.0", "name": "bench", "type": "xebec-cni", "subnet": "10.244.0.0/23", "dataDir": leases,
    });
    let begun = now()?;
    let mut plugin = Command::new("/proc/self/exe")
        .arg0("xebec-cni")
        .env("CNI_COMMAND", "ADD")
        .env("CNI_CONTAINERID", &container.id)
        .env("CNI_NETNS", netns(container))
        .env("CNI_IFNAME", "eth0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run the plugin")?;
    plugin.stdin.take().context("the plugin has no input")?.write_all(config.to_string().as_bytes())?;
    let output = plugin.wait_with_output()?;
    let took = now()?.saturating_sub(begun);
    if !output.status.success() {
        bail!("CNI ADD: {}", String::from_utf8_lossy(&output.stdout).trim());
    }
    Ok(took)
}

fn now() -> anyhow::Result<Duration> {
    Ok(nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?.into())
}
