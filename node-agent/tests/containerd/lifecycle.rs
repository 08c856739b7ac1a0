//! Containers from create to remove, and what they outlive.

use std::time::Duration;

use crate::support::{Node, Running, log_holds};
use tokio::sync::mpsc;
use xebec_node_agent::network::PodIdentity;
use xebec_node_agent::runtime::{ExecSpec, Limits, Phase, PidMode, Runtime, RuntimeEvent, Seccomp};

async fn exit(events: &mut mpsc::Receiver<RuntimeEvent>, id: &str) -> xebec_node_agent::runtime::Exit {
    let wait = async {
        loop {
            if let RuntimeEvent::Exited { id: ended, exit } = events.recv().await.unwrap()
                && ended == id
            {
                return exit;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect("the container's end was not told")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_lives_from_create_to_remove() {
    let node = Node::start().await;
    let runtime = node.runtime();
    let mut events = runtime.subscribe();
    assert_eq!(events.recv().await, Some(RuntimeEvent::Resync));
    let pod = Running::new(&node, &runtime, "life").await;

    let script = "echo $GREETING from $(hostname); echo oops >&2; trap 'exit 3' TERM; while true; do sleep 0.05; done";
    let spec = pod.container("talker", &["sh", "-c", script]).await;
    let began = tokio::time::Instant::now();
    pod.run(&spec).await;
    println!("create to running: {:?}", began.elapsed());
    log_holds(&pod.log("talker"), " stdout F hello from my-pod\n").await;
    log_holds(&pod.log("talker"), " stderr F oops\n").await;

    let second = pod.container("second", &["sh", "-c", "sleep 1000"]).await;
    let began = tokio::time::Instant::now();
    pod.run(&second).await;
    println!("second container of the pod: {:?}", began.elapsed());
    assert_eq!(runtime.list().await.unwrap().len(), 2);

    let command = ["sh", "-c", "id -u; echo $GREETING; exit 7"].map(str::to_owned);
    let began = tokio::time::Instant::now();
    let output = runtime.exec_output(&node.id("talker"), &command, Duration::from_secs(5)).await.unwrap();
    println!("exec: {:?}", began.elapsed());
    assert_eq!((output.code, String::from_utf8(output.output).unwrap().as_str()), (7, "0\nhello\n"));
    let slow = ["sleep", "60"].map(str::to_owned);
    assert!(runtime.exec_output(&node.id("talker"), &slow, Duration::from_millis(300)).await.is_err());

    let spec = ExecSpec { command: vec!["cat".to_owned()], tty: false, stdin: true, stdout: true, stderr: true };
    let mut streams = runtime.exec(&node.id("talker"), spec).await.unwrap();
    let big = vec![b'x'; 300_000];
    let input = streams.stdin.take().unwrap();
    let sent = big.clone();
    tokio::spawn(async move { input.send(sent.into()).await.unwrap() });
    let mut received = Vec::new();
    let mut stdout = streams.stdout.take().unwrap();
    while let Some(bytes) = stdout.recv().await {
        received.extend_from_slice(&bytes);
    }
    assert_eq!(received, big);
    assert_eq!(streams.exit.await.unwrap().unwrap(), 0);

    assert!(runtime.usage(&node.id("talker")).await.unwrap().cpu_ns > 0);
    runtime.signal(&node.id("talker"), None).await.unwrap();
    assert_eq!(exit(&mut events, &node.id("talker")).await.code, 3);
    assert!(matches!(runtime.inspect(&node.id("talker")).await.unwrap().phase, Phase::Exited(_, e) if e.code == 3));
    runtime.signal(&node.id("second"), Some(libc::SIGKILL)).await.unwrap();
    assert_eq!(exit(&mut events, &node.id("second")).await.code, 137);
    pod.remove(&["talker", "second"]).await;
    assert!(runtime.list().await.unwrap().is_empty());
    assert!(runtime.sandboxes().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_limited_and_the_kill_is_told() {
    let node = Node::start().await;
    let runtime = node.runtime();
    let mut events = runtime.subscribe();
    assert_eq!(events.recv().await, Some(RuntimeEvent::Resync));
    let pod = Running::new(&node, &runtime, "oom").await;
    let mut spec =
        pod.container("eater", &["sh", "-c", "head -c 200000000 /dev/zero | cat | (x=$(cat); echo $x)"]).await;
    spec.limits.memory_bytes = Some(16 << 20);
    spec.command = ["dd", "if=/dev/zero", "of=/dev/null", "bs=100M", "count=1"].map(str::to_owned).to_vec();
    pod.run(&spec).await;
    let ended = exit(&mut events, &node.id("eater")).await;
    assert_eq!((ended.code, ended.oom_killed), (137, true));
    pod.remove(&["eater"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_outlive_agent_and_containerd() {
    let mut node = Node::start().await;
    {
        let runtime = node.runtime();
        let pod = Running::new(&node, &runtime, "adopt").await;
        pod.run(&pod.container("lasting", &["sh", "-c", "while true; do echo tick; sleep 0.1; done"]).await).await;
        pod.run(&pod.container("short", &["sh", "-c", "sleep 0.5; exit 5"]).await).await;
        log_holds(&pod.log("lasting"), "tick").await;
    }
    node.restart_containerd().await;
    // A new agent.
    let runtime = node.runtime();
    let mut events = runtime.subscribe();
    assert_eq!(events.recv().await, Some(RuntimeEvent::Resync));
    let mut ended = false;
    for _ in 0..50 {
        let records = runtime.list().await.unwrap();
        assert_eq!(records.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["lasting", "short"]);
        assert!(matches!(records[0].phase, Phase::Running(_)), "{records:?}");
        ended = matches!(&records[1].phase, Phase::Exited(_, exit) if exit.code == 5);
        if ended {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(ended, "the short container's exit code was lost");
    assert_eq!(runtime.sandboxes().await.unwrap(), ["adopt"]);
    let log = node.path("logs").join("lasting").join("0.log");
    let before = std::fs::metadata(&log).unwrap().len();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(std::fs::metadata(&log).unwrap().len() > before, "the log stopped when containerd did");
    let echo = ["echo", "alive"].map(str::to_owned);
    let output = runtime.exec_output(&node.id("lasting"), &echo, Duration::from_secs(5)).await.unwrap();
    assert_eq!(output.output, b"alive\n");
    let pod = PodIdentity { namespace: "default".to_owned(), name: "p".to_owned(), uid: "adopt".to_owned() };
    runtime.remove(&node.id("lasting")).await.unwrap();
    runtime.remove(&node.id("short")).await.unwrap();
    runtime.remove_sandbox(&pod, "burstable/podadopt").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_not_there_is_an_error() {
    let node = Node::start().await;
    let runtime = node.runtime();
    let pod = Running::new(&node, &runtime, "wrong").await;
    let spec = pod.container("wrong", &["/no/such/file"]).await;
    runtime.create(&spec).await.unwrap();
    let error = runtime.start(&node.id("wrong")).await.unwrap_err().to_string();
    assert!(error.contains("/no/such/file"), "{error}");
    pod.remove(&["wrong"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_a_pod_follow_one_another_at_once() {
    let node = Node::start().await;
    let runtime = node.runtime();
    let mut events = runtime.subscribe();
    assert_eq!(events.recv().await, Some(RuntimeEvent::Resync));
    let pod = Running::new(&node, &runtime, "following").await;
    // The shim that they share goes with each, and may be on its way out when the next one comes.
    let names: Vec<String> = (0..20).map(|n| format!("c{n}")).collect();
    for name in &names {
        let spec = pod.container(name, &["true"]).await;
        pod.run(&spec).await;
        assert_eq!(exit(&mut events, &node.id(name)).await.code, 0);
    }
    pod.remove(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_with_standard_input_reads_it() {
    let node = Node::start().await;
    let runtime = node.runtime();
    let mut events = runtime.subscribe();
    assert_eq!(events.recv().await, Some(RuntimeEvent::Resync));
    let pod = Running::new(&node, &runtime, "input").await;
    let mut spec = pod.container("reader", &["sh", "-c", "read line; echo got $line; exit 4"]).await;
    spec.stdin = true;
    pod.run(&spec).await;
    let input = runtime.stdin(&node.id("reader"), false).await.unwrap();
    input.send("words\n".into()).await.unwrap();
    assert_eq!(exit(&mut events, &node.id("reader")).await.code, 4);
    log_holds(&pod.log("reader"), " stdout F got words\n").await;
    let mut spec = pod.container("terminal", &["sh", "-c", "read line; echo got $line; exit 6"]).await;
    (spec.stdin, spec.tty) = (true, true);
    pod.run(&spec).await;
    runtime.resize(&node.id("terminal"), 100, 30).await.unwrap();
    let input = runtime.stdin(&node.id("terminal"), false).await.unwrap();
    input.send("words\n".into()).await.unwrap();
    assert_eq!(exit(&mut events, &node.id("terminal")).await.code, 6);
    log_holds(&pod.log("terminal"), "got words").await;
    // Once: when the first that attached goes, the input is at its end.
    let mut spec = pod.container("once", &["sh", "-c", "cat; exit 5"]).await;
    spec.stdin = true;
    pod.run(&spec).await;
    let input = runtime.stdin(&node.id("once"), true).await.unwrap();
    input.send("words\n".into()).await.unwrap();
    drop(input);
    assert_eq!(exit(&mut events, &node.id("once")).await.code, 5);
    pod.remove(&["reader", "terminal", "once"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_are_seen_by_those_who_share_them() {
    let node = Node::start().await;
    let runtime = node.runtime();
    let pod = Running::new(&node, &runtime, "pids").await;
    let sleeper = ["sh", "-c", "exec sleep 54321"];
    let ps = |id: String| {
        let runtime = &runtime;
        async move {
            let command = ["ps"].map(str::to_owned);
            let output = runtime.exec_output(&id, &command, Duration::from_secs(5)).await.unwrap();
            String::from_utf8(output.output).unwrap()
        }
    };
    pod.run(&pod.container("own", &sleeper).await).await;
    let mut target = pod.container("target", &["sh", "-c", "sleep 1000"]).await;
    target.pid = PidMode::Target(node.id("own"));
    pod.run(&target).await;
    let seen = ps(node.id("target")).await;
    assert!(seen.contains("sleep 54321"), "the target's processes: {seen}");
    for name in ["one", "two"] {
        let mut spec = pod.container(name, &["sh", "-c", &format!("exec sleep 1{}", name.len())]).await;
        spec.pid = PidMode::Pod;
        pod.run(&spec).await;
    }
    let seen = ps(node.id("two")).await;
    assert!(seen.contains("container-pause") && seen.contains("sleep 13"), "the pod's processes: {seen}");
    assert!(!seen.contains("54321"), "but not those of a container with its own: {seen}");
    // What the first process's files are is nobody's business.
    let root = ["ls", "/proc/1/root/"].map(str::to_owned);
    let output = runtime.exec_output(&node.id("two"), &root, Duration::from_secs(5)).await.unwrap();
    assert!(!String::from_utf8_lossy(&output.output).contains("etc"));
    pod.remove(&["own", "target", "one", "two"]).await;
    assert!(runtime.sandboxes().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_change_while_a_container_runs() {
    let node = Node::start().await;
    let runtime = node.runtime();
    let mut events = runtime.subscribe();
    assert_eq!(events.recv().await, Some(RuntimeEvent::Resync));
    let pod = Running::new(&node, &runtime, "limits").await;
    let script = "read line; dd if=/dev/zero of=/dev/null bs=100M count=1";
    let mut spec = pod.container("eater", &["sh", "-c", script]).await;
    spec.stdin = true;
    spec.limits.memory_bytes = Some(512 << 20);
    spec.security.seccomp = Seccomp::Default;
    pod.run(&spec).await;
    let filter = ["grep", "Seccomp:", "/proc/self/status"].map(str::to_owned);
    let output = runtime.exec_output(&node.id("eater"), &filter, Duration::from_secs(5)).await.unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.output).split_whitespace().last(),
        Some("2"),
        "system calls are filtered"
    );
    let limits = Limits { memory_bytes: Some(16 << 20), cpu_quota_us: Some(50_000), ..spec.limits.clone() };
    runtime.limit_sandbox(&pod.spec.cgroup, &Limits { cpu_shares: 200, ..Limits::default() }).await.unwrap();
    runtime.limit(&node.id("eater"), &limits).await.unwrap();
    let input = runtime.stdin(&node.id("eater"), false).await.unwrap();
    input.send("go\n".into()).await.unwrap();
    let ended = exit(&mut events, &node.id("eater")).await;
    assert_eq!((ended.code, ended.oom_killed), (137, true));
    pod.remove(&["eater"]).await;
}
