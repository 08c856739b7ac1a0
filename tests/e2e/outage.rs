//! What is in the kernel goes on without those who put it there: agents that are killed, a server that is silent.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use crate::harness::{Cluster, Result, SOON, TOOLS, contains, wait_until};

/// How many connections are open, if not [`CONNECTIONS`].
const CONNECTIONS_VARIABLE: &str = "XEBEC_OUTAGE_CONNECTIONS";
const CONNECTIONS: usize = 200;

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
          import asyncio
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
spec: {{type: NodePort, selector: {{app: echo}}, ports: [{{port: 7000, targetPort: echo}}]}}
---
"
    )
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

pub fn connections_outlive_agents_and_the_server(cluster: &Arc<Cluster>) -> Result {
    let count = match std::env::var(CONNECTIONS_VARIABLE) {
        Ok(text) => text.parse().map_err(|e| format!("{CONNECTIONS_VARIABLE}={text}: {e}"))?,
        Err(_) => CONNECTIONS,
    };
    let ns = cluster.namespace("outage")?;
    ns.apply(&echo())?;
    ns.client("client", Some(&cluster.node(2)))?;
    ns.rolled_out("echo")?;
    // By one node's port: a load balancer address may move to another node while the agents are away.
    let ip = ns.field(&format!("node/{}", cluster.node(1)), "{.status.addresses[?(@.type=='InternalIP')].address}")?;
    let port = ns.field("service/echo", "{.spec.ports[0].nodePort}")?;
    let address: SocketAddr = format!("{ip}:{port}").parse().map_err(|e| format!("{ip}:{port}: {e}"))?;
    wait_until("the service answers from outside", SOON, || Ok(connect(address).is_ok()))?;
    let mut connections = (0..count).map(|_| connect(address)).collect::<Result<Vec<_>>>()?;
    all_answer(&mut connections, "at first")?;

    for number in 1..=3 {
        cluster.on_node(&cluster.node(number), &["pkill", "-KILL", "-f", "xebec agent"])?.ok("pkill")?;
    }
    all_answer(&mut connections, "with all agents killed")?;
    wait_until("the agents answer again", SOON, || Ok(ns.shell("client", "echo ok").is_ok_and(|o| o == "ok\n")))?;
    all_answer(&mut connections, "with the agents back")?;

    // Silent, as a server whose machine hangs; not dead, for that would be started again at once.
    let server = nix::unistd::Pid::from_raw(i32::try_from(cluster.pid("server")?).map_err(|e| e.to_string())?);
    let signal = |signal| nix::sys::signal::kill(server, signal).map_err(|e| format!("the server: {e}"));
    signal(nix::sys::signal::Signal::SIGSTOP)?;
    let meanwhile = all_answer(&mut connections, "with the server silent")
        .and_then(|()| connect(address).map_err(|e| format!("a new connection with the server silent: {e}")))
        .and_then(|mut new| all_answer(std::slice::from_mut(&mut new), "a new connection with the server silent"));
    let ip =
        cluster.on_node(&cluster.node(2), &["dig", "+short", "+time=2", "-p", "10053", "@127.0.0.1", &name(&ns.name)]);
    signal(nix::sys::signal::Signal::SIGCONT)?;
    meanwhile?;
    contains(&ip?.ok("dig")?, "10.96.")?;
    wait_until("the server answers again", SOON, || Ok(ns.kubectl(&["get", "pods"]).is_ok()))?;
    all_answer(&mut connections, "with the server back")
}

fn name(namespace: &str) -> String {
    format!("echo.{namespace}.svc.cluster.local")
}
