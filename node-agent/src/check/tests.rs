use std::collections::BTreeSet;
use std::path::Path;

use super::*;

/// A machine that has everything but what it is told not to.
#[derive(Default)]
struct Fake {
    lacks: BTreeSet<&'static str>,
    forbids: bool,
}

impl Fake {
    fn without(things: &[&'static str]) -> Self {
        Self { lacks: things.iter().copied().collect(), forbids: false }
    }

    fn presence(&self, name: &str) -> Presence {
        if self.forbids {
            Presence::Forbidden
        } else if self.lacks.contains(name) {
            Presence::Missing("Invalid argument".to_owned())
        } else {
            Presence::Here
        }
    }
}

impl Machine for Fake {
    fn hook(&self, hook: Hook) -> Presence {
        self.presence(match hook {
            Hook::Tcx => "tcx",
            Hook::SocketAddress => "connect",
            Hook::SocketOps => "sockops",
            Hook::Xdp => "xdp",
        })
    }

    fn is_mounted(&self, path: &Path, kind: &str) -> bool {
        assert_eq!((path, kind), (Path::new("/cg"), "cgroup2"));
        !self.lacks.contains("cgroup2")
    }

    fn knows_filesystem(&self, kind: &str) -> bool {
        !self.lacks.contains(kind)
    }

    fn link(&self, kind: Link) -> Presence {
        self.presence(if kind == Link::Veth { "veth" } else { "vxlan" })
    }

    fn read(&self, path: &str) -> Option<String> {
        if path.ends_with("bpf_jit_enable") {
            return Some(if self.lacks.contains("jit") { "0\n" } else { "1\n" }.to_owned());
        }
        (!self.lacks.contains("btf")).then(String::new)
    }

    fn has_namespace(&self, kind: &str) -> bool {
        !self.lacks.contains(kind)
    }

    fn has_program(&self, name: &str) -> bool {
        !self.lacks.contains(name)
    }
}

fn missing_of(report: &Report) -> Vec<&'static str> {
    report.findings.iter().filter(|f| f.missing.is_some()).map(|f| f.name).collect()
}

#[test]
fn a_machine_with_everything_is_sufficient() {
    let report = report(&Fake::default(), Path::new("/cg"));
    assert!(report.is_sufficient());
    assert_eq!(missing_of(&report), [""; 0]);
    assert!(report.to_string().lines().all(|line| line.starts_with("ok ")), "{report}");
}

#[test]
fn what_is_required_and_missing_says_what_to_do() {
    for (lack, name, advice) in [
        ("tcx", "tcx", "6.6"),
        ("connect", "cgroup socket hooks", "CONFIG_CGROUP_BPF"),
        ("cgroup2", "cgroup v2", "mount -t cgroup2 none /cg"),
        ("bpf", "BPF file system", "CONFIG_BPF_SYSCALL"),
        ("veth", "veth", "module veth"),
        ("overlay", "overlay file system", "module overlay"),
        ("pid", "namespaces", "none for pid"),
        ("runc", "runc", "apt-get install runc"),
        ("containerd", "containerd", "apt-get install containerd"),
    ] {
        let report = report(&Fake::without(&[lack]), Path::new("/cg"));
        assert!(!report.is_sufficient(), "{lack}");
        assert_eq!(missing_of(&report), [name]);
        let text = report.to_string();
        let line = text.lines().find(|line| line.starts_with("MISSING ")).unwrap();
        assert!(line.contains(name) && line.contains(advice), "{line}");
    }
}

#[test]
fn what_is_optional_may_be_absent() {
    let lacks = ["vxlan", "xdp", "sockops", "jit", "btf", "nft"];
    let report = report(&Fake::without(&lacks), Path::new("/cg"));
    assert!(report.is_sufficient());
    assert_eq!(missing_of(&report).len(), lacks.len());
    assert_eq!(report.to_string().lines().filter(|line| line.starts_with("absent ")).count(), lacks.len());
}

#[test]
fn without_permission_it_says_so() {
    let report = report(&Fake { forbids: true, ..Fake::default() }, Path::new("/cg"));
    assert!(!report.is_sufficient());
    assert!(report.to_string().contains("run as root"));
}

/// The tests of this project need them all; so does whoever runs this.
#[test]
fn this_machine_is_what_the_other_tests_need() {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    let cgroup = mounts.lines().map(|l| l.split(' ').collect::<Vec<_>>()).find(|fields| fields[2] == "cgroup2");
    let report = network(&machine::ThisMachine, Path::new(cgroup.unwrap()[1]));
    assert!(report.is_sufficient(), "{report}");
}
