//! A container's environment: variables, their sources, `$(VAR)` expansion and service links.

use std::collections::BTreeMap;
use std::net::IpAddr;

use indexmap::IndexMap;

use super::resources;
use crate::api::pod::{Container, EnvSource, ResourceFieldRef};
use crate::api::{ConfigMap, Pod, Secret, Service};
use xebec_schema::quantity::Quantity;

/// Why a container's configuration cannot be made: `CreateContainerConfigError`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// The objects that a pod's variables refer to, by name. None: it does not exist.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// ConfigMaps.
    pub config_maps: BTreeMap<String, Option<ConfigMap>>,
    /// Secrets.
    pub secrets: BTreeMap<String, Option<Secret>>,
    /// The services whose addresses are told, sorted by name.
    pub services: Vec<Service>,
}

/// What the node knows about the pod that its object does not say.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The node's address.
    pub host_ip: IpAddr,
    /// Thousandths of a CPU that pods may use on the node.
    pub allocatable_cpu_milli: i64,
    /// Memory that pods may use on the node, in bytes.
    pub allocatable_memory_bytes: i64,
}

/// The names of the ConfigMaps and Secrets that a container's variables refer to.
pub fn references(container: &Container) -> (Vec<String>, Vec<String>) {
    let (mut config_maps, mut secrets) = (Vec::new(), Vec::new());
    for from in &container.env_from {
        config_maps.extend(from.config_map_ref.iter().map(|r| r.name.clone()));
        secrets.extend(from.secret_ref.iter().map(|r| r.name.clone()));
    }
    for source in container.env.iter().filter_map(|e| e.value_from.as_ref()) {
        config_maps.extend(source.config_map_key_ref.iter().map(|r| r.name.clone()));
        secrets.extend(source.secret_key_ref.iter().map(|r| r.name.clone()));
    }
    (config_maps, secrets)
}

/// The environment of `container`, in order; later variables may use earlier ones by `$(NAME)`.
pub fn environment(
    pod: &Pod,
    container: &Container,
    sources: &Sources,
    facts: &Facts,
) -> Result<Vec<(String, String)>, ConfigError> {
    let links = service_links(&sources.services);
    let mut env: IndexMap<String, String> = IndexMap::new();
    for from in &container.env_from {
        if let Some(reference) = &from.config_map_ref {
            match sources.config_maps.get(&reference.name).and_then(Option::as_ref) {
                Some(map) => {
                    env.extend(map.data.iter().map(|(k, v)| (format!("{}{k}", from.prefix), v.clone())));
                }
                None if reference.optional => {}
                None => return Err(missing("configmap", &reference.name)),
            }
        }
        if let Some(reference) = &from.secret_ref {
            match sources.secrets.get(&reference.name).and_then(Option::as_ref) {
                Some(secret) => env.extend(secret.data.iter().map(|(k, v)| (format!("{}{k}", from.prefix), lossy(v)))),
                None if reference.optional => {}
                None => return Err(missing("secret", &reference.name)),
            }
        }
    }
    for variable in &container.env {
        let value = match (&variable.value_from, &variable.value) {
            (Some(source), _) => match from_source(pod, container, source, sources, facts)? {
                Some(value) => value,
                None => continue,
            },
            (None, Some(text)) => expand(text, |name| env.get(name).or_else(|| links.get(name)).cloned()),
            (None, None) => String::new(),
        };
        env.shift_remove(&variable.name);
        env.insert(variable.name.clone(), value);
    }
    // Upstream's order: what the pod sets comes first, and wins.
    for (name, value) in links {
        env.entry(name).or_insert(value);
    }
    Ok(env.into_iter().collect())
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn missing(kind: &str, name: &str) -> ConfigError {
    ConfigError(format!("{kind} \"{name}\" not found"))
}

/// The value of a variable that comes from elsewhere; none if that may be absent, and is.
fn from_source(
    pod: &Pod,
    container: &Container,
    source: &EnvSource,
    sources: &Sources,
    facts: &Facts,
) -> Result<Option<String>, ConfigError> {
    if let Some(field) = &source.field_ref {
        return field_value(pod, &field.field_path, facts).map(Some);
    }
    if let Some(resource) = &source.resource_field_ref {
        return resource_value(pod, container, resource, facts).map(Some);
    }
    let full_name = |name: &str| format!("{}/{name}", pod.metadata.namespace);
    if let Some(key) = &source.config_map_key_ref {
        return match sources.config_maps.get(&key.name).and_then(Option::as_ref) {
            Some(map) => match map.data.get(&key.key) {
                Some(value) => Ok(Some(value.clone())),
                None if key.optional => Ok(None),
                None => {
                    Err(ConfigError(format!("couldn't find key {} in ConfigMap {}", key.key, full_name(&key.name))))
                }
            },
            None if key.optional => Ok(None),
            None => Err(missing("configmap", &key.name)),
        };
    }
    if let Some(key) = &source.secret_key_ref {
        return match sources.secrets.get(&key.name).and_then(Option::as_ref) {
            Some(secret) => match secret.data.get(&key.key) {
                Some(value) => Ok(Some(lossy(value))),
                None if key.optional => Ok(None),
                None => Err(ConfigError(format!("couldn't find key {} in Secret {}", key.key, full_name(&key.name)))),
            },
            None if key.optional => Ok(None),
            None => Err(missing("secret", &key.name)),
        };
    }
    Err(ConfigError("a variable's valueFrom names a source that this node does not have".to_owned()))
}

/// The value of a field of the pod, `metadata.labels['app']`.
pub fn field_value(pod: &Pod, path: &str, facts: &Facts) -> Result<String, ConfigError> {
    let keyed = |prefix: &str| path.strip_prefix(prefix)?.strip_prefix("['")?.strip_suffix("']");
    if let Some(key) = keyed("metadata.labels") {
        return Ok(pod.metadata.labels.get(key).cloned().unwrap_or_default());
    }
    if let Some(key) = keyed("metadata.annotations") {
        return Ok(pod.metadata.annotations.get(key).cloned().unwrap_or_default());
    }
    let all = |ips: &[IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    Ok(match path {
        "metadata.name" => pod.metadata.name.clone(),
        "metadata.namespace" => pod.metadata.namespace.clone(),
        "metadata.uid" => pod.metadata.uid.clone(),
        "metadata.labels" => format_map(&pod.metadata.labels),
        "metadata.annotations" => format_map(&pod.metadata.annotations),
        "spec.nodeName" => pod.spec.node_name.clone(),
        "spec.serviceAccountName" => pod.spec.service_account_name.clone(),
        "status.hostIP" | "status.hostIPs" => facts.host_ip.to_string(),
        "status.podIP" => facts.addresses.first().map(ToString::to_string).unwrap_or_default(),
        "status.podIPs" => all(&facts.addresses),
        _ => return Err(ConfigError(format!("unsupported fieldPath: {path}"))),
    })
}

/// Labels or annotations as a file shows them: `key="value"`, a line each.
fn format_map(map: &BTreeMap<String, String>) -> String {
    map.iter().map(|(key, value)| format!("{key}={value:?}")).collect::<Vec<_>>().join("\n")
}

/// The value of a request or limit of a container.
pub fn resource_value(
    pod: &Pod,
    container: &Container,
    field: &ResourceFieldRef,
    facts: &Facts,
) -> Result<String, ConfigError> {
    let container = match field.container_name.as_str() {
        "" => container,
        name => {
            pod.spec.container(name).ok_or_else(|| ConfigError(format!("container \"{name}\" not found in pod")))?
        }
    };
    let unknown = || ConfigError(format!("unsupported container resource : {}", field.resource));
    let (kind, resource) = field.resource.split_once('.').ok_or_else(unknown)?;
    let lists = &container.resources;
    let list = match kind {
        "limits" => &lists.limits,
        "requests" => &lists.requests,
        _ => return Err(unknown()),
    };
    let divisor = field.divisor.as_ref().and_then(Quantity::of_json);
    let one_or = |d: i64| if d == 0 { 1 } else { d };
    let up = |value: i64, divisor: i64| (value + divisor - 1) / divisor;
    if resource == "cpu" {
        let value = resources::cpu_milli(list)
            .or_else(|| (kind == "limits").then_some(facts.allocatable_cpu_milli))
            .unwrap_or(0);
        let divisor = one_or(divisor.map_or(0, |d| d.milli_value()));
        // Without a divisor the value is in CPUs.
        let divisor = if divisor == 1 && field.divisor.as_ref().and_then(Quantity::of_json).is_none_or(|d| d.is_zero())
        {
            1000
        } else {
            divisor
        };
        return Ok(up(value, divisor).to_string());
    }
    let value = resources::amount(list, resource)
        .or_else(|| (kind == "limits" && resource == "memory").then_some(facts.allocatable_memory_bytes))
        .unwrap_or(0);
    Ok(up(value, one_or(divisor.map_or(0, |d| d.value()))).to_string())
}

/// Replaces `$(NAME)` by what `lookup` gives; `$$` is a dollar sign; what is not found stays as it is.
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|r| r.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// `REDIS_SERVICE_HOST` and its kin (envvars.go upstream).
pub fn service_links(services: &[Service]) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    for service in services {
        let ip = service.spec.cluster_ip.as_str();
        let Some(first) = service.spec.ports.first() else { continue };
        if ip.is_empty() || ip == "None" {
            continue;
        }
        let name = service.metadata.name.to_uppercase().replace('-', "_");
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        env.insert(format!("{name}_SERVICE_HOST"), ip.to_owned());
        env.insert(format!("{name}_SERVICE_PORT"), first.port.to_string());
        for (index, port) in service.spec.ports.iter().enumerate() {
            if !port.name.is_empty() {
                let port_name = port.name.to_uppercase().replace('-', "_");
                env.insert(format!("{name}_SERVICE_PORT_{port_name}"), port.port.to_string());
            }
            let protocol = if port.protocol.is_empty() { "TCP" } else { &port.protocol };
            let lower = protocol.to_lowercase();
            let url = format!("{lower}://{host}:{}", port.port);
            if index == 0 {
                env.insert(format!("{name}_PORT"), url.clone());
            }
            let prefix = format!("{name}_PORT_{}_{}", port.port, protocol.to_uppercase());
            env.insert(prefix.clone(), url);
            env.insert(format!("{prefix}_PROTO"), lower);
            env.insert(format!("{prefix}_PORT"), port.port.to_string());
            env.insert(format!("{prefix}_ADDR"), ip.to_owned());
        }
    }
    env
}

#[cfg(test)]
mod tests;
