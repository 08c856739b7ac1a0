//! A node's status: pure (nodestatus/setters.go upstream).

use std::net::IpAddr;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::machine::Machine;
use crate::eviction::Pressure;
use crate::images::manifest::architecture;
use crate::pods::Allocatable;

/// What the status depends on.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The node's name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The machine.
    pub machine: Machine,
    /// What it offers to pods.
    pub allocatable: Allocatable,
    /// What of its disk, in bytes.
    pub allocatable_storage_bytes: i64,
    /// Where the kubelet API is.
    pub port: u16,
    /// `v1.37.1`.
    pub version: String,
}

/// What changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// What is short.
    pub pressure: Pressure,
    /// The runtime's name and version; or why it does not answer.
    pub runtime: Option<Result<String, String>>,
    /// Why pods cannot be connected, if so.
    pub network_problem: Option<String>,
    /// Why the kernel does not hold all services, if so.
    pub service_problem: Option<String>,
    /// Why flows may be forgotten, if so.
    pub flow_problem: Option<String>,
    /// Why large packets do not get to other nodes, if so.
    pub path_problem: Option<String>,
    /// Names and sizes of the images, the largest first.
    pub images: Vec<(Vec<String>, u64)>,
}

/// At most so many images are listed, with at most so many names each.
const IMAGES_MAX: usize = 50;
const NAMES_MAX: usize = 5;

/// A condition before its times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// `Ready`.
    pub kind: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// For programs.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// A condition that upstream does not have.
fn own(kind: &'static str, problem: Option<&String>, yes: (&'static str, &str), no: (&'static str, &str)) -> Condition {
    match problem {
        Some(problem) => Condition { kind, holds: true, reason: yes.0, message: format!("{}: {problem}", yes.1) },
        None => Condition { kind, holds: false, reason: no.0, message: no.1.to_owned() },
    }
}

/// The node's conditions, in upstream's order; after `PIDPressure`, those of our own.
pub fn conditions(observed: &Observed) -> Vec<Condition> {
    let pressure = |kind, holds: bool, yes: (&'static str, &str), no: (&'static str, &str)| {
        let (reason, message) = if holds { yes } else { no };
        Condition { kind, holds, reason, message: message.to_owned() }
    };
    let problem = match (&observed.runtime, &observed.network_problem) {
        (Some(Err(_)), _) => Some("container runtime is down".to_owned()),
        (None, _) => Some("container runtime status check may not have completed yet".to_owned()),
        (Some(Ok(_)), Some(problem)) => Some(format!(
            "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:{problem}"
        )),
        (Some(Ok(_)), None) => None,
    };
    let ready = Condition {
        kind: "Ready",
        holds: problem.is_none(),
        reason: if problem.is_none() { "KubeletReady" } else { "KubeletNotReady" },
        message: problem.unwrap_or_else(|| "kubelet is posting ready status".to_owned()),
    };
    vec![
        pressure(
            "MemoryPressure",
            observed.pressure.memory,
            ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ),
        pressure(
            "DiskPressure",
            observed.pressure.disk,
            ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ),
        pressure(
            "PIDPressure",
            observed.pressure.pid,
            ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ),
        own(
            "ServicesOutOfDate",
            observed.service_problem.as_ref(),
            ("ServiceMapsBehind", "not every service is served as the API has it"),
            ("ServiceMapsUpToDate", "the kernel holds every service"),
        ),
        own(
            "FlowTablePressure",
            observed.flow_problem.as_ref(),
            ("FlowTableFull", "the table of flows through the node is full"),
            ("FlowTableHasRoom", "the table of flows through the node has room"),
        ),
        own(
            "PathMTUReduced",
            observed.path_problem.as_ref(),
            ("PathSmallerThanLink", "packets of full size do not get to every node"),
            ("PathsCarryFullSize", "packets of full size get to every node"),
        ),
        ready,
    ]
}

/// The status as a patch. `since` tells when a condition of that kind took that value.
pub fn status(
    facts: &Facts,
    observed: &Observed,
    since: impl Fn(&str, bool) -> Option<Timestamp>,
    now: Timestamp,
) -> Value {
    let machine = &facts.machine;
    let resources = |offer: &Allocatable, storage: String| {
        let cpu = match offer.cpu_milli {
            milli if milli % 1000 == 0 => (milli / 1000).to_string(),
            milli => format!("{milli}m"),
        };
        json!({
            "cpu": cpu,
            "memory": format!("{}Ki", offer.memory_bytes / 1024),
            "ephemeral-storage": storage,
            "pods": offer.pods.to_string(),
        })
    };
    let capacity = Allocatable {
        cpu_milli: machine.cpu_milli.max(facts.allocatable.cpu_milli),
        memory_bytes: machine.memory_bytes.max(facts.allocatable.memory_bytes),
        pods: facts.allocatable.pods,
    };
    let mut addresses: Vec<Value> =
        facts.addresses.iter().map(|ip| json!({ "type": "InternalIP", "address": ip.to_string() })).collect();
    addresses.push(json!({ "type": "Hostname", "address": facts.name }));
    // The list's key in patches is the type, which addresses of two families share (kubernetes/kubernetes#79391).
    addresses.push(json!({ "$patch": "replace" }));
    let conditions: Vec<Value> = conditions(observed)
        .into_iter()
        .map(|c| {
            json!({
                "type": c.kind,
                "status": if c.holds { "True" } else { "False" },
                "reason": c.reason,
                "message": c.message,
                "lastHeartbeatTime": now.to_string(),
                "lastTransitionTime": since(c.kind, c.holds).unwrap_or(now).to_string(),
            })
        })
        .collect();
    let images: Vec<Value> = observed
        .images
        .iter()
        .take(IMAGES_MAX)
        .map(|(names, size)| json!({ "names": names.iter().take(NAMES_MAX).collect::<Vec<_>>(), "sizeBytes": size }))
        .collect();
    json!({ "status": {
        "capacity": resources(&capacity, format!("{}Ki", machine.storage_bytes / 1024)),
        "allocatable": resources(&facts.allocatable, facts.allocatable_storage_bytes.to_string()),
        "addresses": addresses,
        "conditions": conditions,
        "daemonEndpoints": { "kubeletEndpoint": { "Port": facts.port } },
        "images": images,
        "nodeInfo": {
            "machineID": machine.machine_id,
            "systemUUID": machine.system_uuid,
            "bootID": machine.boot_id,
            "kernelVersion": machine.kernel_version,
            "osImage": machine.os_image,
            "containerRuntimeVersion": match &observed.runtime { Some(Ok(version)) => version, _ => "containerd://Unknown" },
            "kubeletVersion": facts.version,
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": architecture(),
        },
    }})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(observed: &Observed) -> Condition {
        conditions(observed).pop().unwrap()
    }

    #[test]
    fn a_dead_runtime_makes_the_node_unready_with_upstreams_words() {
        let mut observed = Observed { runtime: Some(Ok("containerd://1.7".to_owned())), ..Observed::default() };
        assert!(ready(&observed).holds);
        observed.network_problem = Some("no pod CIDR yet".to_owned());
        assert!(ready(&observed).message.contains("NetworkPluginNotReady message:no pod CIDR yet"));
        observed.runtime = Some(Err("gone".to_owned()));
        let ready = ready(&observed);
        assert_eq!(
            (ready.holds, ready.reason, ready.message.as_str()),
            (false, "KubeletNotReady", "container runtime is down")
        );
    }

    #[test]
    fn amounts_are_written_as_upstream_does() {
        let facts = Facts {
            name: "n".to_owned(),
            addresses: vec!["172.30.0.11".parse().unwrap()],
            machine: Machine { cpu_milli: 2000, memory_bytes: 4 << 30, storage_bytes: 10 << 30, ..Machine::default() },
            allocatable: Allocatable { cpu_milli: 1500, memory_bytes: 2 << 30, pods: 110 },
            allocatable_storage_bytes: 9_000_000_000,
            port: 10250,
            version: "v1.37.1".to_owned(),
        };
        let status = status(&facts, &Observed::default(), |_, _| None, Timestamp::UNIX_EPOCH);
        assert_eq!(status["status"]["allocatable"]["cpu"], "1500m");
        assert_eq!(status["status"]["capacity"]["cpu"], "2");
        assert_eq!(status["status"]["allocatable"]["memory"], "2097152Ki");
        assert_eq!(status["status"]["capacity"]["ephemeral-storage"], "10485760Ki");
        assert_eq!(status["status"]["allocatable"]["ephemeral-storage"], "9000000000");
        assert_eq!(status["status"]["conditions"].as_array().unwrap().len(), 7);
    }
}
