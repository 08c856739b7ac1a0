//! What is in the kernel goes on without those who put it there: agents that are killed, a server that is silent.

use std::fmt::Display;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::harness::{Cluster, Namespace, Result, SOON, TOOLS, contains, same, wait_for, wait_until};

/// How many connections are open, if not [`CONNECTIONS`].
const CONNECTIONS_VARIABLE: &str = "XEBEC_OUTAGE_CONNECTIONS";
const CONNECTIONS: usize = 300;
/// How long the server is silent, in seconds, if not [`SERVER_SILENCE_S`].
const SILENCE_VARIABLE: &str = "XEBEC_OUTAGE_SILENCE_S";
const SERVER_SILENCE_S: u64 = 3;
/// For what takes its time with many connections.
const LONG: Duration = Duration::from_secs(120);
/// Longer than a node may be silent.
const SILENCE: Duration = Duration::from_millis(2_500);

/// A server that sends back what it gets, on as many connections as there are.
fn echo() -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: echo}}
spec:
  replicas: 3
  selector: {{matchLabels: {{app: echo}}}}
  template:
    metadata: {{labels: {{app: echo}}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: echo
        image: {TOOLS}
        ports: [{{containerPort: 7000, name: echo}}]
        readinessProbe: {{tcpSocket: {{port: echo}}, periodSeconds: 1}}
        command:
        - python3
        - -c
        - |
          import asyncio, resource
          most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
          resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
          async def serve(reader, writer):
              while data := await reader.read(100):
                  writer.write(data)
          async def main():
              await (await asyncio.start_server(serve, '0.0.0.0', 7000, backlog=1024)).serve_forever()
          asyncio.run(main())
---
apiVersion: v1
kind: Service
metadata: {{name: echo}}
spec: {{type: LoadBalancer, selector: {{app: echo}}, ports: [{{port: 7000, targetPort: echo}}]}}
---
"
    )
}

/// A client inside, which holds connections to the service's own address, tries all of them over and over, and writes down
/// how often it did and how many broke.
fn holder(connections: usize) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: holder}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: holder
    image: {TOOLS}
    command:
    - python3
    - -c
    - |
      import os, resource, socket, time
      most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
      resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
      held = [socket.create_connection(('echo', 7000), 10) for _ in range({connections})]
      rounds = broken = 0
      while True:
          for connection in list(held):
              try:
                  connection.sendall(b'ping')
                  if connection.recv(4) != b'ping': raise OSError
              except OSError:
                  held.remove(connection); broken += 1
          rounds += 1
          with open('/tmp/new', 'w') as f: f.write(f'{{rounds}} {{broken}}')
          os.rename('/tmp/new', '/tmp/state')
          time.sleep(0.1)
---
"
    )
}

/// Waits until the holder has tried all its connections twice from now on; none may have broken.
fn holder_is_well(ns: &Namespace, when: &str) -> Result {
    let state = || -> Result<(u64, u64)> {
        let text = ns.shell("holder", "cat /tmp/state")?;
        let mut numbers = text.split(' ').map(|n| n.parse().map_err(|e| format!("{text}: {e}")));
        Ok((numbers.next().ok_or("no rounds")??, numbers.next().ok_or("no broken ones")??))
    };
    let begin = wait_for("the holder's state", LONG, || Ok(state().ok()))?.0;
    let (_, broken) =
        wait_for("the holder to go on", LONG, || Ok(state().ok().filter(|(rounds, _)| *rounds >= begin + 2)))?;
    same(broken, 0, &format!("connections inside that broke {when}"))
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).map_err(|e| format!("{address}: {e}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).map_err(|e| e.to_string())?;
    Ok(stream)
}

/// Every connection must send back what it is sent.
fn all_answer(connections: &mut [TcpStream], when: &str) -> Result {
    let mut broken = Vec::new();
    for stream in &mut *connections {
        let mut answer = [0; 4];
        let done = stream.write_all(b"ping").and_then(|()| stream.read_exact(&mut answer));
        if let Err(error) = done {
            broken.push(error.to_string());
        }
    }
    if broken.is_empty() {
        return Ok(());
    }
    Err(format!("{when}: {} of {} connections broke: {}", broken.len(), connections.len(), broken[0]))
}

/// Over and over.
fn all_answer_for(time: Duration, connections: &mut [TcpStream], when: &str) -> Result {
    let now = || nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map_err(|e| e.to_string());
    let begin = Duration::from(now()?);
    while Duration::from(now()?) - begin < time {
        all_answer(connections, when)?;
    }
    Ok(())
}

fn from_environment<T: FromStr<Err: Display>>(variable: &str, otherwise: T) -> Result<T> {
    match std::env::var(variable) {
        Ok(text) => text.parse().map_err(|e| format!("{variable}={text}: {e}")),
        Err(_) => Ok(otherwise),
    }
}

/// The connections of this machine need as many files.
fn allow_files() -> Result {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|e| e.to_string())?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).map_err(|e| e.to_string())
}

pub fn connections_outlive_agents_and_the_server(cluster: &Arc<Cluster>) -> Result {
    let count = from_environment(CONNECTIONS_VARIABLE, CONNECTIONS)?;
    allow_files()?;
    let ns = cluster.namespace("outage")?;
    ns.apply(&echo())?;
    ns.client("client", Some(&cluster.node(2)))?;
    ns.rolled_out("echo")?;
    let ip = ns.field(&format!("node/{}", cluster.node(1)), "{.status.addresses[?(@.type=='InternalIP')].address}")?;
    let port = ns.field("service/echo", "{.spec.ports[0].nodePort}")?;
    let address: SocketAddr = format!("{ip}:{port}").parse().map_err(|e| format!("{ip}:{port}: {e}"))?;
    let balancer = wait_for("an address from the pool", SOON, || {
        let ip = ns.field("service/echo", "{.status.loadBalancer.ingress[0].ip}")?;
        Ok(format!("{ip}:7000").parse::<SocketAddr>().ok())
    })?;
    // A third by the node's port, a third by the load balancer's address, a third inside.
    ns.apply(&holder(count / 3))?;
    let mut connections = Vec::new();
    for entry in [address, balancer] {
        wait_until("the service answers from outside", SOON, || Ok(connect(entry).is_ok()))?;
        for _ in 0..count / 3 {
            connections.push(connect(entry)?);
        }
    }
    ns.ready("holder")?;
    all_answer(&mut connections, "at first")?;
    holder_is_well(&ns, "at first")?;
    agents_hang_and_die(cluster, &ns, &mut connections)?;
    another_layout_comes(cluster, &ns, &mut connections)?;
    the_server_is_silent(cluster, &ns, &mut connections, address)
}

fn agents_hang_and_die(cluster: &Cluster, ns: &Namespace, connections: &mut [TcpStream]) -> Result {
    // What agents that hang do not say is no reason to take their addresses.
    for spared in 1..=3 {
        let others: Vec<String> = (1..=3).filter(|n| *n != spared).map(|n| cluster.node(n)).collect();
        signal_agents(cluster, &others, "-STOP")?;
        let result = all_answer_for(SILENCE, connections, "with two agents that hang");
        signal_agents(cluster, &others, "-CONT")?;
        result?;
    }
    let all = all_nodes(cluster);
    signal_agents(cluster, &all, "-STOP")?;
    all_answer_for(SILENCE, connections, "with all agents hanging")?;
    signal_agents(cluster, &all, "-KILL")?;
    all_answer(connections, "with all agents killed")?;
    agents_answer(ns)?;
    all_answer(connections, "with the agents back")?;
    holder_is_well(ns, "with the agents back")
}

/// What is pinned looks as if an older version had left it: the next agents bring another layout.
fn another_layout_comes(cluster: &Cluster, ns: &Namespace, connections: &mut [TcpStream]) -> Result {
    let all = all_nodes(cluster);
    for node in &all {
        let rename = "cd /sys/fs/bpf/xebec && v=$(ls | sed -n 's/^v//p') && mv v$v v$((v - 1))";
        cluster.on_node(node, &["sh", "-c", rename])?.ok("mv")?;
    }
    signal_agents(cluster, &all, "-KILL")?;
    all_answer(connections, "while programs of another layout come")?;
    agents_answer(ns)?;
    all_answer(connections, "with another layout")?;
    holder_is_well(ns, "with another layout")
}

/// As a server whose machine hangs; not dead, for that would be started again at once.
fn the_server_is_silent(
    cluster: &Cluster,
    ns: &Namespace,
    connections: &mut [TcpStream],
    address: SocketAddr,
) -> Result {
    let silence = Duration::from_secs(from_environment(SILENCE_VARIABLE, SERVER_SILENCE_S)?);
    let server = nix::unistd::Pid::from_raw(i32::try_from(cluster.pid("server")?).map_err(|e| e.to_string())?);
    let signal = |signal| nix::sys::signal::kill(server, signal).map_err(|e| format!("the server: {e}"));
    signal(nix::sys::signal::Signal::SIGSTOP)?;
    let meanwhile = all_answer_for(silence, connections, "with the server silent")
        .and_then(|()| connect(address).map_err(|e| format!("a new connection with the server silent: {e}")))
        .and_then(|mut new| all_answer(std::slice::from_mut(&mut new), "a new connection with the server silent"));
    let ip =
        cluster.on_node(&cluster.node(2), &["dig", "+short", "+time=2", "-p", "10053", "@127.0.0.1", &name(&ns.name)]);
    signal(nix::sys::signal::Signal::SIGCONT)?;
    meanwhile?;
    contains(&ip?.ok("dig")?, "10.96.")?;
    wait_until("the server answers again", SOON, || Ok(ns.kubectl(&["get", "pods"]).is_ok()))?;
    all_answer(connections, "with the server back")?;
    holder_is_well(ns, "with the server back")
}

fn all_nodes(cluster: &Cluster) -> Vec<String> {
    (1..=3).map(|number| cluster.node(number)).collect()
}

fn signal_agents(cluster: &Cluster, nodes: &[String], signal: &str) -> Result {
    for node in nodes {
        cluster.on_node(node, &["pkill", signal, "-f", "xebec agent"])?.ok("pkill")?;
    }
    Ok(())
}

fn agents_answer(ns: &Namespace) -> Result {
    wait_until("the agents answer again", SOON, || Ok(ns.shell("client", "echo ok").is_ok_and(|o| o == "ok\n")))
}

fn name(namespace: &str) -> String {
    format!("echo.{namespace}.svc.cluster.local")
}
