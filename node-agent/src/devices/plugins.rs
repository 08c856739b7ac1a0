//! The drivers of the node's devices: who makes itself known by a socket in the registry's directory, and for how long
//! (upstream `pkg/kubelet/pluginmanager`, `cm/dra/plugin`).

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::rpc::{Connection, Service};
use crate::api::Rest;

/// How often the directory is looked at.
const PERIOD: Duration = Duration::from_millis(500);
/// How long a driver may be away before its devices are withdrawn.
const WIPE_AFTER: Duration = Duration::from_secs(30);
/// How long what failed waits until it is tried again, doubled each time, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(120));
/// Directories in directories that are looked into.
const MAX_DEPTH: usize = 4;

/// A driver that can be called.
#[derive(Clone, Debug)]
pub struct Plugin {
    /// Its name.
    pub driver: String,
    /// Where it listens.
    pub endpoint: PathBuf,
    pub(super) service: Service,
    pub(super) connection: Connection,
}

/// What a socket's file is: another one of the same name is another plugin.
type FileId = (u64, i64, i64);

#[derive(Debug)]
enum Entry {
    /// Who made itself known by it.
    Registered(Plugin),
    /// It could not be asked, or was refused.
    Failed { failures: u32, retry_at: Instant },
}

/// The drivers that have made themselves known. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Plugins(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    sockets: BTreeMap<PathBuf, (FileId, Entry)>,
    /// In the order in which they came.
    plugins: Vec<Plugin>,
    /// Drivers that are away, and since when; `None` once their devices have been withdrawn.
    away: BTreeMap<String, Option<Instant>>,
}

impl Plugins {
    /// A driver: the one of its plugins that came last of those that answer.
    pub async fn get(&self, driver: &str) -> Result<Plugin, String> {
        if driver.is_empty() {
            return Err("DRA driver name is empty".to_owned());
        }
        let candidates: Vec<Plugin> = {
            let known = self.0.lock();
            known.plugins.iter().filter(|plugin| plugin.driver == driver).rev().cloned().collect()
        };
        for plugin in &candidates {
            if is_connected(plugin).await {
                return Ok(plugin.clone());
            }
        }
        candidates.into_iter().next().ok_or_else(|| format!("DRA driver {driver} is not registered"))
    }

    /// Follows the directory until `cancel`. Devices of drivers that stay away are withdrawn, and at first all of the
    /// node's: none of its drivers has made itself known yet, and some may never again.
    pub async fn follow(&self, directory: PathBuf, rest: Rest, node: String, cancel: CancellationToken) {
        let work = async {
            if let Err(error) = fs::create_dir_all(&directory) {
                tracing::warn!(directory = %directory.display(), %error, "drivers of devices cannot make themselves known");
            }
            let wipe = Wiper { rest, node };
            let mut wiped_at_start = false;
            let mut ticks = tokio::time::interval(PERIOD);
            loop {
                ticks.tick().await;
                if !wiped_at_start {
                    let is_known = !self.0.lock().plugins.is_empty();
                    wiped_at_start = is_known || wipe.slices(None).await;
                }
                self.look(&directory).await;
                self.withdraw(&wipe).await;
            }
        };
        let _: Option<()> = cancel.run_until_cancelled(work).await;
    }

    /// Compares the directory with what is known of it.
    async fn look(&self, directory: &Path) {
        let mut there = BTreeMap::new();
        sockets(directory, MAX_DEPTH, &mut there);
        let gone: Vec<PathBuf> = {
            let known = self.0.lock();
            let gone = known.sockets.iter().filter(|(path, (id, _))| there.get(*path) != Some(id));
            gone.map(|(path, _)| path.clone()).collect()
        };
        gone.iter().for_each(|path| self.forget(path));
        for (path, id) in there {
            let failures = match self.0.lock().sockets.get(&path) {
                Some((_, Entry::Registered(_))) => continue,
                Some((_, Entry::Failed { retry_at, .. })) if *retry_at > Instant::now() => continue,
                Some((_, Entry::Failed { failures, .. })) => *failures,
                None => 0,
            };
            self.register(path, id, failures).await;
        }
    }

    async fn register(&self, path: PathBuf, id: FileId, failures: u32) {
        let connection = Connection::new(&path);
        let outcome = match connection.info().await {
            Ok(info) => self.admit(&path, &info),
            Err(error) => {
                Err(format!("failed to get plugin info using RPC GetInfo at socket {}: {error}", path.display()))
            }
        };
        let told = outcome.as_ref().map(drop).map_err(Clone::clone);
        if let Err(error) = connection.notify(&told).await {
            tracing::debug!(socket = %path.display(), %error, "a plugin does not listen to what came of its registration");
        }
        let mut known = self.0.lock();
        let entry = match outcome {
            Ok(plugin) => {
                tracing::info!(driver = %plugin.driver, endpoint = %plugin.endpoint.display(), "a driver of devices is there");
                known.away.remove(&plugin.driver);
                known.plugins.push(plugin.clone());
                Entry::Registered(plugin)
            }
            Err(error) => {
                tracing::warn!(%error, "a plugin is not registered");
                let wait = RETRY.0.saturating_mul(1 << failures.min(16)).min(RETRY.1);
                Entry::Failed { failures: failures + 1, retry_at: Instant::now() + wait }
            }
        };
        known.sockets.insert(path, (id, entry));
    }

    /// What a plugin is, if it can be called.
    fn admit(&self, path: &Path, info: &super::rpc::PluginInfo) -> Result<Plugin, String> {
        if info.kind != "DRAPlugin" {
            let (kind, path) = (&info.kind, path.display());
            return Err(format!("no handler registered for plugin type: {kind} at socket {path}"));
        }
        let driver = info.name.clone();
        let endpoint = if info.endpoint.is_empty() { path.to_owned() } else { PathBuf::from(&info.endpoint) };
        let at = endpoint.display().to_string();
        if driver.is_empty() {
            return Err(format!("DRA driver name is empty at socket {}", path.display()));
        }
        let service = Service::choose(&info.supported_versions).ok_or_else(|| {
            format!(
                "invalid supported gRPC versions of DRA driver plugin {driver} at endpoint {at}: none of the DRA gRPC \
                 services supported by kubelet is provided"
            )
        })?;
        if self.0.lock().plugins.iter().any(|known| known.driver == driver && known.endpoint == endpoint) {
            return Err(format!("endpoint {at} already registered for DRA driver plugin {driver}"));
        }
        let connection = Connection::new(&endpoint);
        Ok(Plugin { driver, endpoint, service, connection })
    }

    /// A socket is gone, and with it the plugin.
    fn forget(&self, path: &Path) {
        let mut known = self.0.lock();
        let Some((_, Entry::Registered(gone))) = known.sockets.remove(path) else { return };
        tracing::info!(driver = %gone.driver, endpoint = %gone.endpoint.display(), "a driver of devices is gone");
        known.plugins.retain(|plugin| !(plugin.driver == gone.driver && plugin.endpoint == gone.endpoint));
        known.away.entry(gone.driver).or_insert_with(|| Some(Instant::now()));
    }

    /// Withdraws the devices of drivers that have been away for long.
    async fn withdraw(&self, wipe: &Wiper) {
        let plugins = self.0.lock().plugins.clone();
        let mut connected: BTreeMap<&str, bool> = BTreeMap::new();
        for plugin in &plugins {
            let is_connected = is_connected(plugin).await;
            *connected.entry(&plugin.driver).or_default() |= is_connected;
        }
        let due: Vec<String> = {
            let mut known = self.0.lock();
            for (driver, connected) in connected {
                if connected {
                    known.away.remove(driver);
                } else {
                    known.away.entry(driver.to_owned()).or_insert_with(|| Some(Instant::now()));
                }
            }
            let is_due = |since: &Option<Instant>| since.is_some_and(|since| since.elapsed() >= WIPE_AFTER);
            known.away.iter().filter(|(_, since)| is_due(since)).map(|(driver, _)| driver.clone()).collect()
        };
        for driver in due {
            if wipe.slices(Some(&driver)).await
                && let Some(since) = self.0.lock().away.get_mut(&driver)
            {
                *since = None;
            }
        }
    }
}

async fn is_connected(plugin: &Plugin) -> bool {
    tokio::net::UnixStream::connect(&plugin.endpoint).await.is_ok()
}

/// The sockets in a directory and those in it.
fn sockets(directory: &Path, depth: usize, out: &mut BTreeMap<PathBuf, FileId>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if meta.is_dir() && depth > 0 {
            sockets(&path, depth - 1, out);
        } else if meta.file_type().is_socket() && !hidden {
            out.insert(path, (meta.ino(), meta.ctime(), meta.ctime_nsec()));
        }
    }
}

/// Withdraws the node's devices.
struct Wiper {
    rest: Rest,
    node: String,
}

impl Wiper {
    /// All, or those of a driver; whether that was done.
    async fn slices(&self, driver: Option<&str>) -> bool {
        let mut path = format!("/apis/resource.k8s.io/v1/resourceslices?fieldSelector=spec.nodeName%3D{}", self.node);
        if let Some(driver) = driver {
            path.push_str(&format!("%2Cspec.driver%3D{driver}"));
        }
        match self.rest.delete_all(&path).await {
            Ok(()) => true,
            Err(error) if error.is_not_found() => true,
            Err(error) => {
                tracing::debug!(?driver, %error, "devices could not be withdrawn yet");
                false
            }
        }
    }
}
