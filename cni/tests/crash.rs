//! The plugin is killed before each of the system calls by which it changes something, and nothing leaks.

mod support;

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Output};

use serde_json::{Value, json};
use support::{Pod, become_a_node, call, ip, leases, network, plugin, xebec_cni};

/// The calls that change something, or stand between two that do: netlink requests, files, namespaces.
const CALLS: [&str; 8] = ["sendto", "openat", "unlink", "write", "mkdir", "flock", "setns", "socket"];
/// More often than this none of them is called.
const TIMES_MAX: u32 = 200;

/// Runs a command that is killed when it makes `syscall` for the `nth` time.
fn killed_at(syscall: &str, nth: u32, verb: &str, pod: &Pod, config: &Value) -> Output {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qqq", "-o", "/dev/null", "-e", &format!("trace={syscall}")]);
    strace.args(["-e", &format!("inject={syscall}:signal=SIGKILL:when={nth}")]).arg(xebec_cni());
    call(strace, verb, pod, config)
}

fn was_killed(output: &Output) -> bool {
    output.status.signal() == Some(9) || output.status.code() == Some(137)
}

/// Kills `verb` at each point; `then` puts right what is left, and says whether all is well.
fn at_each_point(verb: &str, pod: &Pod, config: &Value, mut before: impl FnMut(), mut then: impl FnMut(&str)) -> u32 {
    let mut points = 0;
    for syscall in CALLS {
        for nth in 1..=TIMES_MAX {
            before();
            let output = killed_at(syscall, nth, verb, pod, config);
            let killed = was_killed(&output);
            assert!(killed || output.status.success(), "{syscall} {nth}: {}", String::from_utf8_lossy(&output.stderr));
            then(&format!("{verb} killed at {syscall} number {nth}"));
            if !killed {
                break;
            }
            points += 1;
        }
    }
    points
}

fn assert_nothing_left(dir: &std::path::Path, what: &str) {
    assert_eq!(leases(dir), Vec::<String>::new(), "{what}");
    assert!(!ip("link").contains("xb"), "{what}: {}", ip("link"));
    assert!(!ip("route").contains("10.244."), "{what}");
}

fn assert_connected(pod: &Pod, result: &Value, what: &str) {
    let address = result["ips"][0]["address"].as_str().unwrap();
    assert!(pod.run("ip -4 address show eth0").contains(address), "{what}");
    assert!(pod.run("ip route").contains("default via 169.254.1.1"), "{what}");
    assert!(ip("route").contains(address.trim_end_matches("/32")), "{what}");
}

#[test]
fn add_that_was_killed_is_done_again_or_undone() {
    become_a_node();
    let dir = tempfile::tempdir().unwrap();
    let config = network(dir.path());
    let pod = Pod::new("c1");
    let mut turn = 0;
    let points = at_each_point(
        "ADD",
        &pod,
        &config,
        || (),
        |what| {
            turn += 1;
            match turn % 3 {
                0 => {
                    let result = plugin("ADD", &pod, &config);
                    assert_connected(&pod, &result, what);
                    assert_eq!(leases(dir.path()).len(), 1, "{what}");
                    plugin("DEL", &pod, &config);
                }
                1 => drop(plugin("DEL", &pod, &config)),
                _ => {
                    let mut gc = config.clone();
                    gc["cni.dev/valid-attachments"] = json!([]);
                    plugin("GC", &pod, &gc);
                }
            }
            assert_nothing_left(dir.path(), what);
        },
    );
    println!("killed at {points} points");
    assert!(points > 30, "{points} points");
}

#[test]
fn delete_and_collect_that_were_killed_are_done_again() {
    become_a_node();
    let dir = tempfile::tempdir().unwrap();
    let config = network(dir.path());
    let pod = Pod::new("c1");
    let mut gc = config.clone();
    gc["cni.dev/valid-attachments"] = json!([]);
    for (verb, config) in [("DEL", &config), ("GC", &gc)] {
        let points = at_each_point(
            verb,
            &pod,
            config,
            || drop(plugin("ADD", &pod, &network(dir.path()))),
            |what| {
                plugin(verb, &pod, config);
                assert_nothing_left(dir.path(), what);
            },
        );
        assert!(points > 5, "{points} points in {verb}");
    }
}
