//! `/configz`: how the node is configured, under the names of `KubeletConfiguration` (`kubelet.config.k8s.io/v1beta1`), so that
//! what reads a kubelet's configuration reads this one. What Xebec has no setting for is left out.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use axum::Router;
use axum::http::header;
use axum::routing::get;
use ipnet::IpNet;
use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::agent::{AgentConfig, KUBELET_PORT};
use crate::logger::{LOG_BYTES_MAX, LOG_FILES_MAX};
use crate::node::{lease, register};
use crate::pods::backoff::go_seconds;

/// What the cluster says, and the node was given.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a> {
    /// Where pods ask for names.
    pub cluster_dns: &'a [IpAddr],
    /// What names end with.
    pub cluster_domain: &'a str,
    /// The pods' addresses.
    pub pod_cidrs: &'a [IpNet],
}

/// The document.
pub fn document(config: &AgentConfig, given: Given<'_>) -> Value {
    let hard: BTreeMap<_, _> =
        config.eviction.hard.iter().map(|one| (one.signal.name(), one.least.to_string())).collect();
    let pod_cidrs: Vec<String> = given.pod_cidrs.iter().map(IpNet::to_string).collect();
    let mut of = json!({
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "enableServer": true,
        "address": config.node_ip,
        "port": KUBELET_PORT,
        "rotateCertificates": true,
        "serverTLSBootstrap": true,
        "authentication": { "anonymous": { "enabled": false }, "webhook": { "enabled": false } },
        "registerNode": true,
        "clusterDomain": given.cluster_domain,
        "clusterDNS": given.cluster_dns,
        "podCIDR": pod_cidrs.join(","),
        "nodeStatusUpdateFrequency": go(register::LOOK_EVERY),
        "nodeLeaseDurationSeconds": lease::DURATION_SECONDS,
        "imageMinimumGCAge": go(config.images.age_min),
        "imageGCHighThresholdPercent": config.images.high_percent,
        "imageGCLowThresholdPercent": config.images.low_percent,
        "cgroupRoot": config.cgroup_root,
        "cgroupsPerQOS": true,
        "cgroupDriver": "cgroupfs",
        "maxPods": config.pods_max,
        "podPidsLimit": config.pod_pids_max.unwrap_or(-1),
        "resolvConf": config.resolv_conf,
        "containerRuntimeEndpoint": format!("unix://{}", config.containerd_socket.display()),
        "podLogsDir": config.log_root,
        "containerLogMaxSize": format!("{}Mi", LOG_BYTES_MAX >> 20),
        "containerLogMaxFiles": LOG_FILES_MAX,
        "evictionHard": hard,
        "evictionPressureTransitionPeriod": go(config.eviction.pressure_transition),
        "failSwapOn": false,
        "localStorageCapacityIsolation": true,
    });
    if given.cluster_dns.is_empty() {
        of.as_object_mut().map(|fields| fields.remove("clusterDNS"));
    }
    json!({ "kubeletconfig": of })
}

fn go(duration: Duration) -> String {
    go_seconds(SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX))
}

/// Serves it.
pub fn router(document: &Value) -> Router {
    let text = document.to_string();
    Router::new().route("/configz", get(move || async move { ([(header::CONTENT_TYPE, "application/json")], text) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_the_node_does_under_upstreams_names() {
        let config = AgentConfig::new("n1", "10.0.0.1".parse().unwrap());
        let cluster_dns = ["10.96.0.10".parse().unwrap()];
        let pod_cidrs = ["10.244.1.0/24".parse().unwrap()];
        let given = Given { cluster_dns: &cluster_dns, cluster_domain: "cluster.local", pod_cidrs: &pod_cidrs };
        let of = &document(&config, given)["kubeletconfig"];
        assert_eq!(of["evictionHard"]["memory.available"], "100Mi");
        assert_eq!(of["evictionHard"]["nodefs.inodesFree"], "5%");
        assert_eq!(of["evictionPressureTransitionPeriod"], "5m0s");
        assert_eq!(of["clusterDNS"], json!(["10.96.0.10"]));
        assert_eq!((&of["maxPods"], &of["port"]), (&json!(110), &json!(10250)));
        let bare = Given { cluster_dns: &[], ..given };
        assert!(document(&config, bare)["kubeletconfig"].get("clusterDNS").is_none());
    }
}
