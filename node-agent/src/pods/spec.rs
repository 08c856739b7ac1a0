//! What the runtime is to make of a pod: pure.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::env::expand;
use super::resources;
use super::state::Connected;
use crate::api::Pod;
use crate::api::pod::Container;
use crate::network::PodIdentity;
use crate::runtime::{ContainerSpec, LocalImage, Mount, SandboxSpec, Security};

/// Which pod it is.
pub fn identity(pod: &Pod) -> PodIdentity {
    PodIdentity {
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
    }
}

/// What the pod calls itself, cut to what the kernel takes.
pub fn hostname(pod: &Pod) -> String {
    let name = if pod.spec.hostname.is_empty() { &pod.metadata.name } else { &pod.spec.hostname };
    let cut: String = name.chars().take(63).collect();
    cut.trim_end_matches(['-', '.']).to_owned()
}

/// The pod's sandbox.
pub fn sandbox(pod: &Pod, pids_max: Option<i64>) -> SandboxSpec {
    SandboxSpec {
        pod: identity(pod),
        hostname: if pod.spec.host_network { String::new() } else { hostname(pod) },
        host_network: pod.spec.host_network,
        host_ipc: pod.spec.host_ipc,
        cgroup: resources::cgroup(&pod.spec, &pod.metadata.uid),
        limits: resources::pod_limits(&pod.spec, pids_max),
    }
}

/// What goes into a container besides what its pod says.
pub struct Ingredients {
    /// Its id.
    pub id: String,
    /// How many there were before it.
    pub attempt: u32,
    /// Its image.
    pub image: LocalImage,
    /// Its environment.
    pub env: Vec<(String, String)>,
    /// Files of the node.
    pub mounts: Vec<Mount>,
    /// Where its output goes.
    pub log_path: PathBuf,
    /// Memory of the node, in bytes.
    pub capacity_bytes: i64,
}

/// A container.
pub fn container(pod: &Pod, container: &Container, connected: &Connected, with: Ingredients) -> ContainerSpec {
    let lookup: BTreeMap<&str, &str> = with.env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let expand_all = |list: &[String]| -> Vec<String> {
        list.iter().map(|text| expand(text, |name| lookup.get(name).map(|v| (*v).to_owned()))).collect()
    };
    ContainerSpec {
        pod: identity(pod),
        name: container.name.clone(),
        command: expand_all(&container.command),
        args: expand_all(&container.args),
        working_dir: container.working_dir.clone(),
        stdin: container.stdin,
        stdin_once: container.stdin_once,
        tty: container.tty,
        hostname: if pod.spec.host_network { String::new() } else { hostname(pod) },
        sandbox: connected.sandbox.clone(),
        host_network: pod.spec.host_network,
        host_pid: pod.spec.host_pid,
        host_ipc: pod.spec.host_ipc,
        cgroup: resources::cgroup(&pod.spec, &pod.metadata.uid),
        limits: resources::container_limits(container),
        oom_score_adj: resources::oom_score_adj(&pod.spec, container, with.capacity_bytes),
        security: security(pod, container),
        stop_signal: container.lifecycle.stop_signal.clone(),
        id: with.id,
        attempt: with.attempt,
        image: with.image,
        env: with.env,
        mounts: with.mounts,
        log_path: with.log_path,
    }
}

fn security(pod: &Pod, container: &Container) -> Security {
    let (of_pod, own) = (&pod.spec.security_context, &container.security_context);
    let plain = |names: &[String]| -> Vec<String> {
        names.iter().map(|n| n.trim_start_matches("CAP_").to_uppercase()).collect()
    };
    let mut groups = of_pod.supplemental_groups.clone();
    groups.extend(of_pod.fs_group);
    Security {
        user: own.run_as_user.or(of_pod.run_as_user),
        group: own.run_as_group.or(of_pod.run_as_group),
        non_root: own.run_as_non_root.or(of_pod.run_as_non_root).unwrap_or(false),
        groups,
        privileged: own.privileged,
        read_only_root: own.read_only_root_filesystem,
        privilege_escalation: own.allow_privilege_escalation.unwrap_or(true),
        add_capabilities: plain(&own.capabilities.add),
        drop_capabilities: plain(&own.capabilities.drop),
        sysctls: of_pod.sysctls.iter().map(|s| (s.name.replace('/', "."), s.value.clone())).collect(),
        unmasked_proc: own.proc_mount.as_deref() == Some("Unmasked"),
    }
}
