//! The plugin as a container runtime uses it: in chains with the standard plugins, and a hundred times at once.

mod support;

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use support::{Pod, STANDARD_PLUGINS, become_a_node, call, ip, leases, network, plugin, text, xebec_cni};

/// Adds a pod to the plugins of a list one after the other, as libcni does.
fn add_chain(plugins: &[Value], pod: &Pod) -> Value {
    let mut result = Value::Null;
    for config in plugins {
        result = call_chained("ADD", config, pod, &result);
    }
    result
}

fn call_chained(verb: &str, config: &Value, pod: &Pod, previous: &Value) -> Value {
    let mut config = config.clone();
    if !previous.is_null() {
        config["prevResult"] = previous.clone();
    }
    let kind = config["type"].as_str().unwrap().to_owned();
    let program = if kind == "xebec-cni" { xebec_cni() } else { Path::new(STANDARD_PLUGINS).join(&kind) };
    let output = call(Command::new(program), verb, pod, &config);
    assert!(output.status.success(), "{kind} {verb}: {}{}", text(&output), String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

#[test]
fn it_chains_with_the_standard_plugins() {
    become_a_node();
    ip("address add 192.0.2.1/32 dev lo");
    let dir = tempfile::tempdir().unwrap();
    let pod = Pod::new("c1");
    // Debian's plugins of 1.1.1 speak up to 1.0.0.
    let with = |mut config: Value| {
        config["cniVersion"] = json!("1.0.0");
        config["name"] = json!("pods");
        config
    };
    let mut own = network(dir.path());
    own["nodeIP"] = json!("192.0.2.1");
    let plugins = [
        with(own),
        with(json!({ "type": "tuning", "sysctl": { "net.core.somaxconn": "77" } })),
        with(json!({
            "type": "bandwidth", "capabilities": { "bandwidth": true },
            "runtimeConfig": { "bandwidth": {
                "ingressRate": 8_000_000, "ingressBurst": 8_000_000, "egressRate": 8_000_000, "egressBurst": 8_000_000,
            } },
        })),
        with(json!({
            "type": "portmap", "capabilities": { "portMappings": true }, "snat": true,
            "runtimeConfig": { "portMappings": [{ "hostPort": 18_080, "containerPort": 8_080, "protocol": "tcp" }] },
        })),
    ];
    let result = add_chain(&plugins, &pod);
    assert_eq!(result["cniVersion"], "1.0.0");
    assert_eq!(result["ips"][0]["address"], "10.244.1.2/32");
    assert_eq!(pod.run("cat /proc/sys/net/core/somaxconn").trim(), "77");
    let host_interface = result["interfaces"][0]["name"].as_str().unwrap().to_owned();
    let shaped = text(&Command::new("tc").args(["qdisc", "show", "dev", &host_interface]).output().unwrap());
    assert!(shaped.contains("tbf"), "{shaped}");
    // Through the host's port into the pod.
    let mut server = pod.command("nc -l -p 8080 -q 1").stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    while !pod.run("ss -ltn").contains(":8080") {
        std::thread::yield_now();
    }
    drop(TcpStream::connect("192.0.2.1:18080").unwrap());
    server.wait().unwrap();
    // Not portmap's: that of 1.1.1 looks for the rules of IPv4 among those of IPv6.
    for config in &plugins[..3] {
        call_chained("CHECK", config, &pod, &result);
    }
    for _ in 0..2 {
        for config in plugins.iter().rev() {
            call_chained("DEL", config, &pod, &result);
        }
    }
    assert_eq!(leases(dir.path()), Vec::<String>::new());
    let links = ip("link");
    assert!(!links.contains("xb") && !links.contains("bwp"), "{links}");
}

#[test]
fn a_hundred_at_once() {
    become_a_node();
    let dir = tempfile::tempdir().unwrap();
    let config = network(dir.path());
    let pods: Vec<Pod> = (0..100).map(|i| Pod::new(&format!("c{i}"))).collect();
    let start = |pod: &Pod| {
        let mut child = Command::new(xebec_cni())
            .env("CNI_COMMAND", "ADD")
            .env("CNI_CONTAINERID", &pod.id)
            .env("CNI_NETNS", pod.netns())
            .env("CNI_IFNAME", "eth0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), config.to_string().as_bytes()).unwrap();
        child
    };
    let children: Vec<_> = pods.iter().map(start).collect();
    let mut addresses = BTreeSet::new();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        let result: Value = serde_json::from_slice(&output.stdout).unwrap();
        addresses.insert(result["ips"][0]["address"].as_str().unwrap().to_owned());
    }
    assert_eq!(addresses.len(), 100);
    assert_eq!(leases(dir.path()).len(), 100);
    assert_eq!(ip("route").matches("10.244.1.").count(), 100);
    let mut gc = config.clone();
    gc["cni.dev/valid-attachments"] = json!([{ "containerID": "c7", "ifname": "eth0" }]);
    plugin("GC", &pods[0], &gc);
    assert_eq!(leases(dir.path()).len(), 1);
    assert_eq!(ip("route").matches("10.244.1.").count(), 1);
}
