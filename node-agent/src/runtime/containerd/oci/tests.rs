use std::collections::BTreeMap;
use std::path::PathBuf;

use super::*;
use crate::network::PodIdentity;
use crate::runtime::containerd::host::Cgroups;
use crate::runtime::{Limits, LocalImage, Mount, Sandbox, Security};

fn spec() -> ContainerSpec {
    ContainerSpec {
        id: "c1".to_owned(),
        pod: PodIdentity { namespace: "ns".to_owned(), name: "p".to_owned(), uid: "u".to_owned() },
        name: "web".to_owned(),
        attempt: 0,
        image: LocalImage::default(),
        command: Vec::new(),
        args: Vec::new(),
        env: vec![("A".to_owned(), "pod".to_owned())],
        working_dir: String::new(),
        mounts: vec![Mount {
            host: "/v".into(),
            container: "/data".to_owned(),
            read_only: true,
            no_exec: false,
            propagation: "rprivate",
        }],
        edits: Vec::new(),
        log_path: PathBuf::from("/l"),
        stdin: false,
        stdin_once: false,
        tty: false,
        hostname: "p".to_owned(),
        sandbox: Sandbox { netns: Some("/n".into()) },
        host_network: false,
        pid: PidMode::Container,
        host_ipc: false,
        cgroup: "podu".to_owned(),
        limits: Limits { cpu_shares: 512, memory_bytes: Some(1 << 20), ..Limits::default() },
        oom_score_adj: -997,
        security: Security { privilege_escalation: true, ..Security::default() },
        stop_signal: None,
    }
}

fn build(spec: &ContainerSpec) -> Value {
    let image = ImageConfig {
        env: Some(vec!["PATH=/bin".to_owned(), "A=image".to_owned()]),
        entrypoint: Some(vec!["/start".to_owned()]),
        cmd: Some(vec!["now".to_owned()]),
        working_dir: "/srv".to_owned(),
        ..ImageConfig::default()
    };
    let host = Host {
        capabilities: vec!["CHOWN", "NET_ADMIN", "NET_RAW", "SYS_ADMIN"],
        oom_score_adj_min: 0,
        cgroups: Cgroups::Legacy(BTreeMap::new()),
        swap_limit: true,
        devices: Vec::new(),
    };
    let pins = Pins::new("/run/x".as_ref(), "u");
    let user = User::default();
    specification(&Input {
        spec,
        image: &image,
        user: &user,
        host: &host,
        pins: &pins,
        shared_pids: None,
        cgroup: "/kubepods/podu/c1",
    })
    .unwrap()
}

#[test]
fn the_pods_command_takes_the_images_arguments_away() {
    let mut spec = spec();
    assert_eq!(build(&spec)["process"]["args"], json!(["/start", "now"]));
    spec.args = vec!["x".to_owned()];
    assert_eq!(build(&spec)["process"]["args"], json!(["/start", "x"]));
    spec.args.clear();
    spec.command = vec!["sh".to_owned()];
    assert_eq!(build(&spec)["process"]["args"], json!(["sh"]));
}

#[test]
fn the_pods_variables_replace_the_images() {
    assert_eq!(build(&spec())["process"]["env"], json!(["PATH=/bin", "HOSTNAME=p", "A=pod"]));
}

#[test]
fn what_the_process_lacks_is_not_given() {
    let mut spec = spec();
    let bounding = |s: &ContainerSpec| build(s)["process"]["capabilities"]["bounding"].clone();
    assert_eq!(build(&spec)["process"]["oomScoreAdj"], 0);
    assert_eq!(bounding(&spec), json!(["CAP_CHOWN", "CAP_NET_RAW"]));
    spec.security.add_capabilities = vec!["NET_ADMIN".to_owned(), "SYS_TIME".to_owned()];
    spec.security.drop_capabilities = vec!["ALL".to_owned()];
    assert_eq!(bounding(&spec), json!(["CAP_NET_ADMIN"]));
    spec.security.privileged = true;
    assert_eq!(bounding(&spec).as_array().unwrap().len(), 4);
}

#[test]
fn a_change_says_what_is_not_limited_any_more() {
    let host = Host {
        capabilities: Vec::new(),
        oom_score_adj_min: 0,
        cgroups: Cgroups::Unified("/sys/fs/cgroup".into()),
        swap_limit: true,
        devices: Vec::new(),
    };
    let limits =
        Limits { cpu_shares: 512, cpu_quota_us: Some(50_000), memory_bytes: Some(1 << 20), ..Limits::default() };
    let expected = json!({
        "cpu": { "shares": 512, "quota": 50_000, "period": 100_000 }, "memory": { "limit": 1 << 20, "swap": 1 << 20 },
    });
    assert_eq!(changed_resources(&limits, &host), expected);
    let free = json!({ "cpu": { "shares": 2, "quota": -1, "period": 100_000 }, "memory": { "limit": -1, "swap": -1 } });
    assert_eq!(changed_resources(&Limits::default(), &host), free);
}

#[test]
fn namespaces_are_the_pods_and_limits_the_containers() {
    let built = build(&spec());
    assert_eq!(built["annotations"][SHIM_GROUP], "u");
    assert_eq!(
        built["linux"]["namespaces"],
        json!([
            { "type": "mount" }, { "type": "pid" }, { "type": "ipc", "path": "/run/x/ipcns/u" },
            { "type": "network", "path": "/n" }, { "type": "uts", "path": "/run/x/utsns/u" },
        ])
    );
    assert_eq!(built["linux"]["resources"]["memory"], json!({ "limit": 1 << 20, "swap": 1 << 20 }));
    assert_eq!(built["linux"]["resources"]["cpu"], json!({ "shares": 512 }));
    let mount = built["mounts"].as_array().unwrap().iter().find(|m| m["destination"] == "/data").unwrap().clone();
    assert_eq!(mount["options"], json!(["rbind", "rprivate", "ro"]));
}
