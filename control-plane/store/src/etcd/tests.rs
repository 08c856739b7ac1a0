use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use futures::StreamExt;

use super::*;
use crate::conformance::{commit, matches_the_model, put};

/// An etcd of its own, gone when dropped.
struct Etcd {
    process: Child,
    directory: tempfile::TempDir,
    ports: [u16; 2],
}

fn run(directory: &Path, [client, peer]: [u16; 2]) -> Child {
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let (client, peer) = (url(client), url(peer));
    Command::new("etcd")
        .args(["--name", "a", "--log-level", "error", "--unsafe-no-fsync", "--data-dir"])
        .arg(directory)
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("a={peer}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("etcd; Debian's etcd-server has it (scripts/setup.sh test)")
}

impl Etcd {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let ports = [free(), free()].map(|listener| listener.local_addr().expect("an address").port());
        Self { process: run(directory.path(), ports), directory, ports }
    }

    fn kill(&mut self) {
        self.process.kill().expect("kill");
        self.process.wait().expect("wait");
    }

    fn again(&mut self) {
        self.process = run(self.directory.path(), self.ports);
    }

    async fn store(&self) -> EtcdStore {
        let config = EtcdConfig { servers: vec![format!("http://127.0.0.1:{}", self.ports[0])], ..Default::default() };
        for _ in 0..600 {
            if let Ok(store) = EtcdStore::connect(&config).await {
                return store;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("etcd does not answer");
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // It may have been killed already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn fresh() -> (Arc<EtcdStore>, Etcd) {
    let etcd = Etcd::start();
    (Arc::new(etcd.store().await), etcd)
}

crate::conformance_tests!(async fresh);

#[tokio::test]
async fn it_is_what_the_model_is() {
    let (store, _etcd) = fresh().await;
    let delete = |key: &str| Operation::Delete(key.into());
    let transactions = vec![
        vec![put("/a", "1"), put("/b", "1")],
        vec![put("/a", "2"), delete("/b")],
        vec![put("/b", "2"), put("/c/d", "1")],
        vec![delete("/a"), put("/c/d", "2"), put("/e", "")],
        vec![put("/a", "3")],
    ];
    matches_the_model(store, transactions).await;
}

#[tokio::test]
async fn long_lists_are_one_snapshot() {
    let (store, _etcd) = fresh().await;
    for hundred in 0..12 {
        commit(&*store, (0..100).map(|n| put(&format!("/x/{hundred:02}{n:02}"), "v")).collect()).await;
    }
    let all = store.list("/x/", ListOptions::default()).await.expect("list");
    assert_eq!((all.items.len(), all.remaining, all.revision), (1200, 0, 12));
    let options = ListOptions { limit: Some(700), after: Some("/x/0099".into()), revision: Some(10) };
    let some = store.list("/x/", options).await.expect("list");
    assert_eq!((some.items.len(), some.remaining, some.revision), (700, 200, 10));
    assert_eq!(some.items[0].key, "/x/0100");
}

#[tokio::test]
async fn a_watch_outlives_its_server() {
    let (store, mut etcd) = fresh().await;
    let mut watch = store.watch("/a", 0).await.expect("watch");
    commit(&*store, vec![put("/a", "1")]).await;
    assert_eq!(watch.next().await.expect("more").expect("an event").revision, 1);
    etcd.kill();
    etcd.again();
    let again = etcd.store().await;
    commit(&again, vec![put("/b", "1")]).await;
    commit(&again, vec![put("/a", "2")]).await;
    let progress = watch.next().await.expect("more").expect("progress");
    assert_eq!((progress.revision, progress.events.len()), (2, 0));
    let event = watch.next().await.expect("more").expect("an event");
    assert_eq!(event.events[0].previous.as_ref().map(|kv| (kv.create_revision, kv.mod_revision)), Some((1, 1)));
    assert_eq!(store.get("/a").await.expect("get").map(|kv| kv.mod_revision), Some(3));
}

#[tokio::test]
async fn an_etcd_that_is_not_there_is_an_error() {
    let config = EtcdConfig { servers: vec!["http://127.0.0.1:1".into()], ..Default::default() };
    assert!(matches!(EtcdStore::connect(&config).await, Err(StoreError::Engine(why)) if why.starts_with("etcd: ")));
}
