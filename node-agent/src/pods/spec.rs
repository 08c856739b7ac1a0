//! What the runtime is to make of a pod: pure.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::env::expand;
use super::resources;
use super::state::Connected;
use super::sysctls::normalized;
use crate::api::Pod;
use crate::api::pod::Container;
use crate::devices::ContainerEdits;
use crate::network::PodIdentity;
use crate::runtime::{ContainerSpec, LocalImage, Mount, PidMode, SandboxSpec, Seccomp, Security};

/// Which pod it is.
pub fn identity(pod: &Pod) -> PodIdentity {
    PodIdentity {
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
    }
}

/// The longest name of a machine that the kernel takes, in bytes.
const HOSTNAME_BYTES_MAX: usize = 64;

/// What `hostname` prints in the pod's containers: its full name in DNS, if it wants that.
pub fn own_hostname(pod: &Pod, cluster_domain: &str) -> Result<String, String> {
    let name = hostname(pod);
    if let Some(own) = pod.spec.hostname_override.as_ref().filter(|name| !name.is_empty()) {
        return Ok(own.clone());
    }
    if !pod.spec.set_hostname_as_fqdn || pod.spec.subdomain.is_empty() {
        return Ok(name);
    }
    let full = format!("{name}.{}.{}.svc.{cluster_domain}", pod.spec.subdomain, pod.metadata.namespace);
    if full.len() > HOSTNAME_BYTES_MAX {
        return Err(format!(
            "failed to construct FQDN from Pod hostname and cluster domain, FQDN {full} is too long \
             ({HOSTNAME_BYTES_MAX} characters is the max, {} characters requested)",
            full.len()
        ));
    }
    Ok(full)
}

/// What the pod is called in DNS, cut to what fits there.
pub fn hostname(pod: &Pod) -> String {
    if let Some(own) = pod.spec.hostname_override.as_ref().filter(|name| !name.is_empty()) {
        return own.clone();
    }
    let name = if pod.spec.hostname.is_empty() { &pod.metadata.name } else { &pod.spec.hostname };
    let cut: String = name.chars().take(63).collect();
    cut.trim_end_matches(['-', '.']).to_owned()
}

/// The pod's sandbox.
pub fn sandbox(pod: &Pod, hostname: String, pids_max: Option<i64>) -> SandboxSpec {
    SandboxSpec {
        pod: identity(pod),
        hostname: if pod.spec.host_network { String::new() } else { hostname },
        host_network: pod.spec.host_network,
        host_ipc: pod.spec.host_ipc,
        share_pid: pod.spec.share_process_namespace && !pod.spec.host_pid,
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
    /// What `hostname` prints.
    pub hostname: String,
    /// Its environment.
    pub env: Vec<(String, String)>,
    /// Files of the node.
    pub mounts: Vec<Mount>,
    /// What its devices need.
    pub edits: Vec<ContainerEdits>,
    /// Where its output goes.
    pub log_path: PathBuf,
    /// Memory of the node, in bytes.
    pub capacity_bytes: i64,
    /// The container whose processes it sees, by its id.
    pub target: Option<String>,
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
        hostname: if pod.spec.host_network { String::new() } else { with.hostname },
        sandbox: connected.sandbox.clone(),
        host_network: pod.spec.host_network,
        pid: match with.target {
            Some(id) => PidMode::Target(id),
            None if pod.spec.host_pid => PidMode::Node,
            None if pod.spec.share_process_namespace => PidMode::Pod,
            None => PidMode::Container,
        },
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
        edits: with.edits,
        log_path: with.log_path,
    }
}

/// Which system calls are filtered. Who is privileged has no filter.
fn seccomp(pod: &Pod, container: &Container) -> Seccomp {
    let own = container.security_context.seccomp_profile.as_ref();
    let profile = own.or(pod.spec.security_context.seccomp_profile.as_ref());
    match profile {
        _ if container.security_context.privileged => Seccomp::Unconfined,
        Some(profile) if profile.kind == "RuntimeDefault" => Seccomp::Default,
        Some(profile) if profile.kind == "Localhost" => Seccomp::Local(profile.localhost_profile.clone()),
        _ => Seccomp::Unconfined,
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
        only_these_groups: of_pod.supplemental_groups_policy == "Strict",
        privileged: own.privileged,
        read_only_root: own.read_only_root_filesystem,
        privilege_escalation: own.allow_privilege_escalation.unwrap_or(true),
        add_capabilities: plain(&own.capabilities.add),
        drop_capabilities: plain(&own.capabilities.drop),
        sysctls: of_pod.sysctls.iter().map(|s| (normalized(&s.name), s.value.clone())).collect(),
        seccomp: seccomp(pod, container),
        unmasked_proc: own.proc_mount.as_deref() == Some("Unmasked"),
    }
}
