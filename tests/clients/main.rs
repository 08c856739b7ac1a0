//! Clients as people use them, unmodified, against a real server: Python's, JavaScript's, an operator in Python,
//! kube-rs, and schemathesis. No node is needed: pods stay pending.
//!
//! What is installed where is `scripts/setup.sh test`'s business.

mod rust;
mod wire;

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// Ample, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server of its own, gone when dropped.
pub struct Server {
    process: Child,
    directory: tempfile::TempDir,
}

impl Server {
    /// Starts one, and waits until it answers.
    pub fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let process = Command::new(env!("CARGO_BIN_EXE_xebec"))
            .args(["server", "--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1", "--port"])
            .arg(port.to_string())
            .arg("--data-dir")
            .arg(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("start the server");
        let server = Self { process, directory };
        let kubeconfig = server.kubeconfig();
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let ready = async {
                loop {
                    if let Some(client) = rust::client(&kubeconfig).await
                        && rust::has_namespace(&client).await
                    {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::time::timeout(PATIENCE, ready).await.expect("the server answers");
        });
        server
    }

    /// An administrator's.
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("admin.kubeconfig")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What `scripts/setup.sh test` installed.
fn tools() -> PathBuf {
    let home = || PathBuf::from(std::env::var("HOME").unwrap_or_default()).join(".cache/xebec/tools");
    std::env::var("XEBEC_TOOLS").map_or_else(|_| home(), PathBuf::from)
}

/// Runs a client's cases against a server; they say themselves what is wrong.
fn run(mut command: Command, case: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(case);
    let server = Server::start();
    command.arg(script).env("KUBECONFIG", server.kubeconfig()).stdin(Stdio::null());
    let program = command.get_program().to_owned();
    let Output { status, stdout, stderr } =
        command.output().unwrap_or_else(|e| panic!("{}: {e}; scripts/setup.sh test installs it", program.display()));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(status.success(), "{case}: {status}\n{}{}", text(&stdout), text(&stderr));
}

#[test]
fn python() {
    run(Command::new(tools().join("python/bin/python")), "client.py");
}

#[test]
fn an_operator_in_python() {
    run(Command::new(tools().join("python/bin/python")), "kopf_operator.py");
}

#[test]
fn requests_made_up_from_the_openapi_documents() {
    run(Command::new(tools().join("python/bin/python")), "openapi_fuzz.py");
}

#[test]
fn javascript() {
    let mut node = Command::new("node");
    node.env("NODE_PATH", tools().join("node/node_modules"));
    run(node, "client.cjs");
}
