//! Pulls from a real registry on loopback, started by the test itself.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::{IMAGE, Node, image_archive};
use xebec_node_agent::runtime::{Credentials, Images};

struct Registry {
    process: Child,
    port: u16,
}

impl Registry {
    /// A registry with its storage below `node`'s folder.
    async fn start(node: &Node) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n",
            node.path("registry").display()
        );
        std::fs::write(node.path("registry.yml"), config).unwrap();
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(node.path("registry.yml"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry is missing: run scripts/setup.sh test");
        let registry = Self { process, port };
        for _ in 0..200 {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return registry;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("docker-registry did not come up");
    }

    fn push(&self, node: &Node, name: &str) {
        let archive = node.path("push.tar");
        image_archive(&archive, IMAGE);
        let output = Command::new("skopeo")
            .args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"])
            .arg(format!("oci-archive:{}", archive.display()))
            .arg(format!("docker://127.0.0.1:{}/{name}", self.port))
            .output()
            .expect("skopeo is missing: run scripts/setup.sh test");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_once_by_name_and_by_digest() {
    let node = Node::start().await;
    let registry = Registry::start(&node).await;
    registry.push(&node, "team/busybox:1");
    let images = node.images();
    let name = format!("127.0.0.1:{}/team/busybox:1", registry.port);
    assert_eq!(images.find(&name).await.unwrap(), None);
    let (first, second) = tokio::join!(images.pull(&name, &[]), images.pull(&name, &[]));
    let image = first.unwrap();
    assert_eq!(image, second.unwrap());
    assert_eq!(images.find(&name).await.unwrap(), Some(image.clone()));
    assert!(image.id.starts_with(&format!("127.0.0.1:{}/team/busybox@sha256:", registry.port)), "{}", image.id);
    assert!(image.size_bytes > 500_000);
    let by_digest = images.pull(&image.id, &[]).await.unwrap();
    assert_eq!(by_digest.digest, image.digest);
    // What a pull brought is kept after its lease is gone: a new agent finds it whole.
    let info = node.images().config(&name).await.unwrap();
    assert_eq!(info.config.cmd, Some(vec!["sh".to_owned()]));
    assert!(!info.chain_id.is_empty());
    let listed = images.images().await.unwrap();
    assert!(listed.iter().any(|(names, size)| names.contains(&name) && *size > 0), "{listed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_pulled_says_why() {
    let node = Node::start().await;
    let registry = Registry::start(&node).await;
    registry.push(&node, "team/busybox:1");
    let images = node.images();
    let missing = format!("127.0.0.1:{}/team/busybox:2", registry.port);
    let wrong = Credentials { username: "u".to_owned(), password: "p".to_owned() };
    let error = images.pull(&missing, &[wrong]).await.unwrap_err().to_string();
    assert!(error.contains("failed to pull and unpack image") && error.contains("busybox:2"), "{error}");
    // Nobody listens there.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = images.pull(&format!("127.0.0.1:{port}/x:1"), &[]).await.unwrap_err().to_string();
    assert!(error.contains("failed to resolve reference"), "{error}");
    assert!(images.pull("Not A Name", &[]).await.is_err());
}
