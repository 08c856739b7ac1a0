use std::collections::BTreeMap;
use std::fs::File;
use std::process::Command;

use super::*;
use std::path::Path;

/// A network namespace of its own for "the node", whose thread runs the commands, and one for a pod.
struct Namespaces {
    pod: String,
    pid: u32,
    child: std::process::Child,
}

impl Namespaces {
    /// Moves this thread into a new network namespace, and makes another.
    fn new() -> Self {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let child = Command::new("unshare").args(["--net", "sleep", "600"]).spawn().unwrap();
        let pid = child.id();
        let pod = format!("/proc/{pid}/ns/net");
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        while std::fs::read_link(&pod).is_ok_and(|link| link == own) {
            std::thread::yield_now();
        }
        Self { pod, pid, child }
    }

    fn in_pod(&self, command: &[&str]) -> String {
        let target = self.pid.to_string();
        let output = Command::new("nsenter").args(["--net", "--target", &target]).args(command).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn call(command: &str, environment: &[(&str, &str)], config: &Value) -> Result<Option<Value>, Failure> {
    let mut variables: BTreeMap<&str, &str> = environment.iter().copied().collect();
    variables.insert("CNI_COMMAND", command);
    run(&|name| variables.get(name).map(|v| (*v).to_owned()), &config.to_string())
}

fn config(dir: &Path) -> Value {
    json!({
        "cniVersion": "1.1.0", "name": "xebec", "type": "xebec-cni",
        "subnet": "10.244.1.0/24", "dataDir": dir, "mtu": 1400,
    })
}

fn host(command: &[&str]) -> String {
    String::from_utf8(Command::new("ip").args(command).output().unwrap().stdout).unwrap()
}

#[test]
fn a_pod_is_connected_checked_and_disconnected() {
    let dir = tempfile::tempdir().unwrap();
    let namespaces = Namespaces::new();
    let environment = [("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", namespaces.pod.as_str())];
    let config = config(dir.path());

    let result = call("ADD", &environment, &config).unwrap().unwrap();
    assert_eq!(result["ips"][0]["address"], "10.244.1.2/32");
    assert_eq!(result["ips"][0]["interface"], 1);
    assert_eq!(result["interfaces"][1]["sandbox"], namespaces.pod);
    assert!(namespaces.in_pod(&["ip", "-4", "address", "show", "eth0"]).contains("inet 10.244.1.2/32"));
    assert!(namespaces.in_pod(&["ip", "route"]).contains("default via 169.254.1.1 dev eth0"));
    assert!(namespaces.in_pod(&["ip", "neighbour"]).contains("PERMANENT"));
    assert!(namespaces.in_pod(&["ip", "link", "show", "eth0"]).contains("mtu 1400"));
    assert!(host(&["route"]).contains("10.244.1.2 dev xb"));
    assert!(host(&["route"]).contains("proto 235"));

    // Again: the same. And traffic flows in both directions.
    assert_eq!(call("ADD", &environment, &config).unwrap().unwrap(), result);
    let mut checked = config.clone();
    checked["prevResult"] = result;
    call("CHECK", &environment, &checked).unwrap();
    host(&["address", "add", "192.0.2.1/32", "dev", "lo"]);
    host(&["link", "set", "lo", "up"]);
    let listener = std::net::TcpListener::bind("192.0.2.1:9999").unwrap();
    listener.set_nonblocking(true).unwrap();
    namespaces.in_pod(&["sh", "-c", "echo hello | nc -N -w 2 192.0.2.1 9999"]);
    let (mut stream, peer) = listener.accept().unwrap();
    assert_eq!(peer.ip().to_string(), "10.244.1.2");
    let mut received = String::new();
    stream.read_to_string(&mut received).unwrap();
    assert_eq!(received, "hello\n");

    // Something takes the address away.
    namespaces.in_pod(&["ip", "address", "flush", "dev", "eth0"]);
    let failure = call("CHECK", &environment, &checked).unwrap_err();
    assert_eq!(failure.code, code::DAMAGED);
    assert!(failure.message.contains("10.244.1.2"), "{}", failure.message);

    call("DEL", &environment, &config).unwrap();
    call("DEL", &environment, &config).unwrap();
    assert!(!host(&["link"]).contains("xb"));
    assert!(Pool::new(dir.path().join("xebec"), "10.244.1.0/24".parse().unwrap()).leases().unwrap().is_empty());
}

#[test]
fn a_failed_add_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let namespaces = Namespaces::new();
    let environment = [("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", "/nowhere")];
    let failure = call("ADD", &environment, &config(dir.path())).unwrap_err();
    assert_eq!(failure.code, code::INVALID_ENVIRONMENT);
    // The pod's half cannot have this name: it is taken.
    namespaces.in_pod(&["ip", "link", "add", "taken", "type", "veth", "peer", "name", "other"]);
    let environment = [("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "taken"), ("CNI_NETNS", namespaces.pod.as_str())];
    let failure = call("ADD", &environment, &config(dir.path())).unwrap_err();
    assert_eq!(failure.code, code::IO, "{}", failure.message);
    assert!(!host(&["link"]).contains("xb"));
    assert!(Pool::new(dir.path().join("xebec"), "10.244.1.0/24".parse().unwrap()).leases().unwrap().is_empty());
}

#[test]
fn garbage_is_collected() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (Namespaces::new(), Namespaces::new());
    let config = config(dir.path());
    for (id, namespaces) in [("c1", &one), ("c2", &two)] {
        let environment = [("CNI_CONTAINERID", id), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", namespaces.pod.as_str())];
        call("ADD", &environment, &config).unwrap();
    }
    let mut gc = config.clone();
    gc["cni.dev/valid-attachments"] = json!([{ "containerID": "c2", "ifname": "eth0" }]);
    call("GC", &[], &gc).unwrap();
    let leases = Pool::new(dir.path().join("xebec"), "10.244.1.0/24".parse().unwrap()).leases().unwrap();
    assert_eq!(leases.iter().map(|l| l.owner.as_str()).collect::<Vec<_>>(), ["c2:eth0"]);
    assert!(!host(&["link"]).contains(&connect::host_interface("c1:eth0")));
    assert!(host(&["link"]).contains(&connect::host_interface("c2:eth0")));
    call("STATUS", &[], &config).unwrap();
}

#[test]
fn bad_input_gets_the_codes_of_the_specification() {
    let dir = tempfile::tempdir().unwrap();
    let good = config(dir.path());
    let named = [("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", "/x")];
    let code_of = |command: &str, environment: &[(&str, &str)], config: &Value| {
        call(command, environment, config).unwrap_err().code
    };
    let mut version = good.clone();
    version["cniVersion"] = json!("0.1.0");
    assert_eq!(code_of("ADD", &[], &version), code::INCOMPATIBLE_VERSION);
    assert_eq!(code_of("ADD", &[], &good), code::INVALID_ENVIRONMENT);
    assert_eq!(code_of("EXPLODE", &[], &good), code::INVALID_ENVIRONMENT);
    for (field, value) in [
        ("subnet", json!("x")),
        ("subnet", json!("fd00::/64")),
        ("subnets", json!(["10.0.0.0/24", "10.1.0.0/24"])),
        ("name", json!("")),
        ("name", json!("a b")),
        ("name", json!("../x")),
    ] {
        let mut bad = good.clone();
        bad[field] = value;
        assert_eq!(code_of("ADD", &named, &bad), code::INVALID_CONFIG, "{bad}");
    }
    let long = [("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "a-name-that-is-too-long"), ("CNI_NETNS", "/x")];
    assert_eq!(code_of("ADD", &long, &good), code::INVALID_ENVIRONMENT);
    assert_eq!(run(&|_| Some("ADD".to_owned()), "not json").unwrap_err().code, code::DECODE);
    let odd = [("CNI_CONTAINERID", "../c1"), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", "/x")];
    assert_eq!(code_of("DEL", &odd, &good), code::INVALID_ENVIRONMENT);
    assert_eq!(code_of("CHECK", &named, &good), code::INVALID_CONFIG, "no prevResult");
    assert_eq!(code_of("GC", &[], &good), code::INVALID_CONFIG, "not everything is garbage");
}

#[test]
fn commands_come_with_their_versions() {
    let dir = tempfile::tempdir().unwrap();
    let named = [("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", "/x")];
    for (command, since) in [("CHECK", "0.4.0"), ("GC", "1.1.0"), ("STATUS", "1.1.0")] {
        for version in version::SUPPORTED {
            let mut config = config(dir.path());
            config["cniVersion"] = json!(version);
            let refused = call(command, &named, &config).is_err_and(|f| f.code == code::INCOMPATIBLE_VERSION);
            assert_eq!(refused, version < since, "{command} in {version}");
        }
    }
    let version = |input: &str| run(&|_| Some("VERSION".to_owned()), input).unwrap().unwrap();
    assert_eq!(version("")["cniVersion"], "1.1.0");
    assert_eq!(version(r#"{"cniVersion": "0.4.0"}"#)["cniVersion"], "0.4.0");
    assert_eq!(version("")["supportedVersions"], json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
    assert_eq!(
        asked_version(r#"{"cniVersion": "0.3.1", "subnet": 1}"#),
        "0.3.1",
        "a failure answers in the version asked"
    );
}

#[test]
fn a_full_range_is_not_available() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config["subnet"] = json!("10.244.1.0/30");
    call("STATUS", &[], &config).unwrap();
    Pool::new(dir.path().join("xebec"), "10.244.1.0/30".parse().unwrap()).lease("c9:eth0").unwrap();
    assert_eq!(call("STATUS", &[], &config).unwrap_err().code, code::NOT_AVAILABLE);
    let named = [("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", "/x")];
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    assert_eq!(call("ADD", &named, &config).unwrap_err().code, code::TRY_AGAIN);
}

#[test]
fn results_are_as_their_version_has_them() {
    let success = Success {
        interfaces: [
            Interface { name: "xb1", mac: [10, 89, 0, 0, 0, 1], sandbox: "" },
            Interface { name: "eth0", mac: [10, 88, 0, 0, 0, 1], sandbox: "/ns" },
        ],
        addresses: vec![
            ("10.0.0.1".parse().unwrap(), "169.254.1.1".parse().unwrap()),
            ("fd00::1".parse().unwrap(), "fe80::1".parse().unwrap()),
        ],
        mtu: 1450,
    };
    let of = |text: &str, previous: Option<&Value>| {
        success.to_json(Version::of(&json!({ "cniVersion": text })).unwrap(), previous)
    };
    let newest = of("1.1.0", None);
    assert_eq!(
        newest,
        json!({
            "cniVersion": "1.1.0",
            "interfaces": [
                { "name": "xb1", "mac": "0a:59:00:00:00:01", "mtu": 1450 },
                { "name": "eth0", "mac": "0a:58:00:00:00:01", "mtu": 1450, "sandbox": "/ns" },
            ],
            "ips": [
                { "address": "10.0.0.1/32", "gateway": "169.254.1.1", "interface": 1 },
                { "address": "fd00::1/128", "gateway": "fe80::1", "interface": 1 },
            ],
            "routes": [{ "dst": "0.0.0.0/0", "gw": "169.254.1.1" }, { "dst": "::/0", "gw": "fe80::1" }],
            "dns": {},
        })
    );
    assert_eq!(of("1.0.0", None)["interfaces"][0], json!({ "name": "xb1", "mac": "0a:59:00:00:00:01" }));
    assert_eq!(of("0.3.1", None)["ips"][1]["version"], "6");
    let previous =
        json!({ "cniVersion": "1.0.0", "interfaces": [{ "name": "a" }], "dns": { "nameservers": ["192.0.2.1"] } });
    let merged = of("1.0.0", Some(&previous));
    assert_eq!(merged["ips"][0]["interface"], 2);
    assert_eq!(merged["interfaces"][0]["name"], "a");
    assert_eq!(merged["dns"]["nameservers"][0], "192.0.2.1");
}

#[test]
fn two_ranges_make_two_addresses() {
    let dir = tempfile::tempdir().unwrap();
    let namespaces = Namespaces::new();
    let environment = [("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", namespaces.pod.as_str())];
    let mut config = config(dir.path());
    config["subnets"] = json!(["fd00:10:244:1::/64"]);
    let result = call("ADD", &environment, &config).unwrap().unwrap();
    assert_eq!(result["ips"][1]["address"], "fd00:10:244:1::2/128");
    assert_eq!(call("ADD", &environment, &config).unwrap().unwrap(), result);
    config["prevResult"] = result;
    call("CHECK", &environment, &config).unwrap();
    host(&["-6", "address", "add", "2001:db8::1/128", "dev", "lo"]);
    host(&["link", "set", "lo", "up"]);
    let listener = std::net::TcpListener::bind("[2001:db8::1]:9999").unwrap();
    listener.set_nonblocking(true).unwrap();
    namespaces.in_pod(&["sh", "-c", "echo hello | nc -N -w 2 2001:db8::1 9999"]);
    assert_eq!(listener.accept().unwrap().1.ip().to_string(), "fd00:10:244:1::2");
    namespaces.in_pod(&["ip", "-6", "address", "flush", "dev", "eth0", "scope", "global"]);
    assert_eq!(call("CHECK", &environment, &config).unwrap_err().code, code::DAMAGED);
    call("DEL", &environment, &config).unwrap();
    assert!(!host(&["-6", "route"]).contains("fd00:10:244:1::2"));
}

#[test]
fn adding_is_quick() {
    let dir = tempfile::tempdir().unwrap();
    let namespaces = Namespaces::new();
    let config = config(dir.path());
    let mut times = Vec::new();
    for i in 0..30 {
        let name = format!("eth{i}");
        let environment =
            [("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", name.as_str()), ("CNI_NETNS", namespaces.pod.as_str())];
        let before = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
        call("ADD", &environment, &config).unwrap();
        let after = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
        times.push(std::time::Duration::from(after) - std::time::Duration::from(before));
    }
    times.sort();
    println!("ADD: median {:?}, most {:?}", times[15], times[29]);
    assert!(times[15].as_millis() <= 15, "median {:?}", times[15]);
    drop(File::open(&namespaces.pod));
}
