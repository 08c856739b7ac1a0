//! One server among several that keep their objects in the same etcd: who it is to the others, whether it is of the same
//! cluster, and when it runs what only one of them may run.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context as _, bail};
use nix::fcntl::{Flock, FlockArg};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use xebec_clock::{Clock, Random};
use xebec_controllers::runtime::api::Api;
use xebec_controllers::runtime::election::{self, Candidate};
use xebec_pki::write_private;
use xebec_store::Store;

/// Where the CA of the cluster's clients is published, for extension API servers.
const PUBLISHED_CA: &str = "/registry/core/configmaps/kube-system/extension-apiserver-authentication";

/// A data directory that no other process uses.
pub struct DataDir {
    /// Who this server is among others, also after a restart.
    pub identity: String,
    _lock: Flock<File>,
}

impl DataDir {
    /// Takes a directory; it is this process's until that ends.
    pub fn take(dir: &Path, random: &Random) -> anyhow::Result<Self> {
        let path = dir.join("lock");
        let file = File::options().create(true).append(true).open(&path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                bail!("another server uses the data directory {}; give this one its own (--data-dir)", dir.display())
            }
            Err((_, error)) => return Err(error).with_context(|| format!("cannot lock {}", path.display())),
        };
        let path = dir.join("server-id");
        let id = match fs::read_to_string(&path) {
            Ok(id) if !id.trim().is_empty() => id.trim().to_owned(),
            _ => {
                let id = random.uuid();
                write_private(&path, id.as_bytes()).context("cannot keep the server's identity")?;
                id
            }
        };
        Ok(Self { identity: format!("{}_{id}", hostname()), _lock: lock })
    }
}

/// The machine's name.
pub fn hostname() -> String {
    nix::unistd::gethostname().map_or_else(|_| "localhost".into(), |name| name.to_string_lossy().into_owned())
}

/// Makes sure that the objects in a store that others use, too, are of the cluster that the data directory is of.
pub async fn check_cluster(store: &dyn Store, ca_pem: &str, dir: &Path) -> anyhow::Result<()> {
    if !store.is_shared() {
        return Ok(());
    }
    let Some(published) = store.get(PUBLISHED_CA).await.context("cannot read etcd")? else { return Ok(()) };
    let published: Value =
        serde_json::from_slice(&published.value).context("etcd holds something that is no object")?;
    match published["data"]["client-ca-file"].as_str() {
        Some(ca) if ca != ca_pem => bail!(
            "the objects in etcd are of a cluster with another CA than {dir}/ca.crt: copy ca.crt, ca.key, \
             service-account*.key and front-proxy/ from the data directory of one of its servers to {dir} (or, if this CA \
             is to replace the other, remove the key {PUBLISHED_CA} from etcd)",
            dir = dir.display()
        ),
        _ => Ok(()),
    }
}

/// What it takes to be the one that acts; `None` where there are no others.
#[derive(Clone)]
pub struct Office {
    /// Who this server is.
    pub identity: String,
    /// The time, for the lease.
    pub clock: Clock,
    /// Chance.
    pub random: Random,
}

/// Runs `act` until `stop`; where there are others, only while this server holds the lease.
pub async fn act<Acting: Future<Output = ()>>(
    office: Option<Office>,
    lease: &'static str,
    client: kube::Client,
    stop: CancellationToken,
    act: impl Fn(CancellationToken) -> Acting,
) {
    match office {
        None => act(stop).await,
        Some(Office { identity, clock, random }) => {
            let candidate = Candidate { lease, identity, api: Api::new(client), clock, random };
            election::stand(candidate, stop, act).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use bytes::Bytes;
    use xebec_store::memory::MemoryStore;
    use xebec_store::shared::Shared;
    use xebec_store::{Operation, Txn};

    use super::*;

    #[test]
    fn a_data_directory_is_one_servers_own() {
        let dir = tempfile::tempdir().unwrap();
        let random = Random::seeded(1);
        let first = DataDir::take(dir.path(), &random).unwrap();
        let second = DataDir::take(dir.path(), &random).err().unwrap().to_string();
        assert!(second.contains("another server uses the data directory"), "{second}");
        let identity = first.identity.clone();
        drop(first);
        assert_eq!(DataDir::take(dir.path(), &random).unwrap().identity, identity, "it is the same after a restart");
    }

    #[tokio::test]
    async fn a_server_of_another_cluster_is_turned_away() {
        let store = Shared::new(Arc::new(MemoryStore::new()), Duration::ZERO);
        let check = async |ca: &str| check_cluster(&store, ca, Path::new("/data")).await;
        check("CA 1").await.unwrap();
        let map = Bytes::from_static(b"{\"metadata\":{},\"data\":{\"client-ca-file\":\"CA 1\"}}");
        let operations = vec![Operation::Put(PUBLISHED_CA.into(), map)];
        store.txn(Txn { conditions: Vec::new(), operations }).await.unwrap();
        check("CA 1").await.unwrap();
        let refused = check("CA 2").await.unwrap_err().to_string();
        assert!(refused.contains("another CA than /data/ca.crt") && refused.contains("service-account"), "{refused}");
    }
}
