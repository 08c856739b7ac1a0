//! The OCI runtime specification of a container: pure (runtime-spec 1.0, config-linux.md).

use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use super::host::Host;
use super::namespaces::Pins;
use super::user::User;
use crate::runtime::{CPU_PERIOD_US, ContainerSpec, Limits, PidMode, RuntimeError};

/// The annotation by which containers share a shim: the pod's uid.
const SHIM_GROUP: &str = "io.containerd.runc.v2.group";

/// What a container may do unless its pod says otherwise; the same in every runtime.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

const MASKED_PATHS: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];

const READ_ONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What an image says about its containers (image-spec config.md).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    /// `user`, `uid`, `user:group`, ...
    pub user: String,
    /// `NAME=value`.
    pub env: Option<Vec<String>>,
    /// The command.
    pub entrypoint: Option<Vec<String>>,
    /// Its arguments.
    pub cmd: Option<Vec<String>>,
    /// Where it starts.
    pub working_dir: String,
    /// What stops it.
    pub stop_signal: String,
}

/// Everything the specification depends on.
pub struct Input<'a> {
    /// What the pod wants.
    pub spec: &'a ContainerSpec,
    /// What the image says.
    pub image: &'a ImageConfig,
    /// Who the process is.
    pub user: &'a User,
    /// What the machine allows.
    pub host: &'a Host,
    /// The pod's namespaces.
    pub pins: &'a Pins,
    /// The PID namespace of others that it joins.
    pub shared_pids: Option<&'a Path>,
    /// The container's cgroup, from the root of the hierarchy.
    pub cgroup: &'a str,
}

/// The specification, as JSON.
pub fn specification(input: &Input<'_>) -> Result<Value, RuntimeError> {
    let Input { spec, host, .. } = input;
    let security = &spec.security;
    let mut spec_json = json!({
        "ociVersion": "1.0.2",
        "process": process(input)?,
        "root": { "path": "rootfs", "readonly": security.read_only_root },
        "mounts": mounts(input),
        "annotations": { SHIM_GROUP: spec.pod.uid },
        "linux": {
            "cgroupsPath": input.cgroup,
            "namespaces": namespaces(input),
            "resources": resources(input),
            "sysctl": security.sysctls,
        },
    });
    // On the pod's own UTS namespace the name is set already.
    let linux = &mut spec_json["linux"];
    if security.privileged {
        linux["devices"] = host
            .devices
            .iter()
            .map(|d| {
                json!({
                    "path": d.path, "type": d.kind.to_string(), "major": d.major, "minor": d.minor,
                    "fileMode": d.mode, "uid": 0, "gid": 0,
                })
            })
            .collect();
    } else if !security.unmasked_proc {
        linux["maskedPaths"] = json!(MASKED_PATHS);
        linux["readonlyPaths"] = json!(READ_ONLY_PATHS);
    }
    let shared = spec.mounts.iter().any(|m| m.propagation == "rshared");
    let slave = spec.mounts.iter().any(|m| m.propagation == "rslave");
    if shared || slave {
        linux["rootfsPropagation"] = json!(if shared { "rshared" } else { "rslave" });
    }
    spec.edits.iter().for_each(|edits| edits.apply(&mut spec_json));
    Ok(spec_json)
}

fn process(input: &Input<'_>) -> Result<Value, RuntimeError> {
    let Input { spec, image, user, host, .. } = input;
    let security = &spec.security;
    let capabilities: Vec<String> = capabilities(input).iter().map(|c| format!("CAP_{c}")).collect();
    let cwd = [&spec.working_dir, &image.working_dir].into_iter().find(|d| !d.is_empty());
    // Only root has them without asking; others would keep them over an exec by the ambient set, which upstream does not
    // give.
    let held = if user.uid == 0 { capabilities.clone() } else { Vec::new() };
    Ok(json!({
        "terminal": spec.tty,
        "user": { "uid": user.uid, "gid": user.gid, "additionalGids": user.groups },
        "args": arguments(spec, image)?,
        "env": environment(spec, image),
        "cwd": cwd.map_or("/", |d| d.as_str()),
        "capabilities": {
            "bounding": capabilities, "effective": held, "permitted": held,
        },
        "noNewPrivileges": !security.privilege_escalation && !security.privileged,
        "oomScoreAdj": spec.oom_score_adj.clamp(host.oom_score_adj_min, 1000),
    }))
}

fn arguments(spec: &ContainerSpec, image: &ImageConfig) -> Result<Vec<String>, RuntimeError> {
    let of_image = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    // A command of the pod's own takes the image's arguments away, too.
    let mut args = if spec.command.is_empty() { of_image(&image.entrypoint) } else { spec.command.clone() };
    if !spec.args.is_empty() {
        args.extend(spec.args.iter().cloned());
    } else if spec.command.is_empty() {
        args.extend(of_image(&image.cmd));
    }
    if args.is_empty() {
        return Err(RuntimeError::Invalid(
            "no command specified: neither the image nor the pod says what to run".to_owned(),
        ));
    }
    Ok(args)
}

fn environment(spec: &ContainerSpec, image: &ImageConfig) -> Vec<String> {
    const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let mut env: indexmap::IndexMap<String, String> = indexmap::IndexMap::new();
    env.insert("PATH".to_owned(), PATH.to_owned());
    env.insert("HOSTNAME".to_owned(), spec.hostname.clone());
    if spec.tty {
        env.insert("TERM".to_owned(), "xterm".to_owned());
    }
    for variable in image.env.iter().flatten() {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        env.insert(name.to_owned(), value.to_owned());
    }
    env.extend(spec.env.iter().cloned());
    if env.get("HOSTNAME").is_some_and(String::is_empty) {
        env.shift_remove("HOSTNAME");
    }
    env.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// The capabilities of the process: no more than the agent has itself.
fn capabilities(input: &Input<'_>) -> Vec<&'static str> {
    let security = &input.spec.security;
    let has = |list: &[String], name: &str| list.iter().any(|n| n == name || n == "ALL");
    let wanted = |name: &str| {
        if security.privileged || has(&security.add_capabilities, name) {
            return !security.drop_capabilities.iter().any(|n| n == name) || security.privileged;
        }
        DEFAULT_CAPABILITIES.contains(&name) && !has(&security.drop_capabilities, name)
    };
    input.host.capabilities.iter().copied().filter(|name| wanted(name)).collect()
}

fn namespaces(input: &Input<'_>) -> Value {
    let Input { spec, pins, .. } = input;
    let mut list = vec![json!({ "type": "mount" })];
    match input.shared_pids {
        Some(path) => list.push(json!({ "type": "pid", "path": path })),
        None if spec.pid == PidMode::Node => {}
        None => list.push(json!({ "type": "pid" })),
    }
    if !spec.host_ipc {
        list.push(json!({ "type": "ipc", "path": pins.ipc }));
    }
    if !spec.host_network {
        list.push(json!({ "type": "network", "path": spec.sandbox.netns.as_ref().unwrap_or(&pins.net) }));
        list.push(json!({ "type": "uts", "path": pins.uts }));
    }
    if matches!(input.host.cgroups, super::host::Cgroups::Unified(_)) && !spec.security.privileged {
        list.push(json!({ "type": "cgroup" }));
    }
    Value::Array(list)
}

fn resources(input: &Input<'_>) -> Value {
    let Input { spec, host, .. } = input;
    let limits = &spec.limits;
    let mut resources = json!({
        "devices": [{ "allow": spec.security.privileged, "access": "rwm" }],
        "cpu": { "shares": limits.cpu_shares.max(2) },
    });
    if let Some(quota) = limits.cpu_quota_us {
        resources["cpu"]["quota"] = json!(quota);
        resources["cpu"]["period"] = json!(CPU_PERIOD_US);
    }
    if let Some(bytes) = limits.memory_bytes {
        resources["memory"] = json!({ "limit": bytes });
        if host.swap_limit {
            // Memory and swap together: no swap.
            resources["memory"]["swap"] = json!(bytes);
        }
    }
    if let Some(pids) = limits.pids {
        resources["pids"] = json!({ "limit": pids });
    }
    resources
}

/// The same for a container that runs: what is not limited any more is said, too.
pub fn changed_resources(limits: &Limits, host: &Host) -> Value {
    let memory = limits.memory_bytes.unwrap_or(-1);
    let mut resources = json!({
        "cpu": {
            "shares": limits.cpu_shares.max(2), "quota": limits.cpu_quota_us.unwrap_or(-1), "period": CPU_PERIOD_US,
        },
        "memory": { "limit": memory },
    });
    if host.swap_limit {
        resources["memory"]["swap"] = json!(memory);
    }
    resources
}

fn mounts(input: &Input<'_>) -> Value {
    let spec = input.spec;
    let writable = if spec.security.privileged { "rw" } else { "ro" };
    let mut list = vec![
        json!({ "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] }),
        json!({
            "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
        }),
        json!({
            "destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        }),
        json!({
            "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
            "options": ["nosuid", "noexec", "nodev"],
        }),
        json!({
            "destination": "/sys", "type": "sysfs", "source": "sysfs",
            "options": ["nosuid", "noexec", "nodev", writable],
        }),
        json!({
            "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", writable],
        }),
    ];
    if !spec.mounts.iter().any(|m| m.container == "/dev/shm") {
        list.push(json!({
            "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
            "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        }));
    }
    // Shorter paths first: a mount below another one must come after it.
    let mut own: Vec<_> = spec.mounts.iter().collect();
    own.sort_by_key(|m| m.container.trim_end_matches('/').matches('/').count());
    for mount in own {
        // A mount of the pod's takes the place of a default one.
        list.retain(|m| m["destination"] != mount.container.as_str());
        let mut options = vec!["rbind", mount.propagation, if mount.read_only { "ro" } else { "rw" }];
        if mount.no_exec {
            options.push("noexec");
        }
        list.push(json!({
            "destination": mount.container, "type": "bind", "source": mount.host, "options": options,
        }));
    }
    Value::Array(list)
}

#[cfg(test)]
mod tests;
