//! Pods' files on this node: directories below one root, tmpfs mounts for what must not reach the disk, and a task per
//! pod that keeps the files made of objects up to date.

mod images;
mod log_tail;
mod mounts;
mod refresh;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use xebec_clock::{Clock, Random};

use self::mounts::{bind_beneath, mount_tmpfs, unmount_below};
use self::refresh::Refresh;
use super::certificate::Certificate;
use super::files::{self, ClusterDns};
use super::objects::Objects;
use super::persistent::{self, Found};
use super::{Ended, PodVolumes, VolumeError, Volumes};
use crate::api::pod::{Container, EmptyDir, HostPath, Volume, VolumeMount};
use crate::api::{Pod, Rest};
use crate::eviction::measure::of_folder;
use crate::network::PodIdentity;
use crate::pods::env::{Facts, expand};
use crate::pods::spec::own_hostname;
use crate::runtime::{DiskUsage, Images, LocalImage, Mount};
use xebec_schema::quantity::Quantity;

/// Where pods' files are.
#[derive(Clone, Debug)]
pub struct LocalVolumesConfig {
    /// Pods' directories: `<this>/<uid>`.
    pub pod_root: PathBuf,
    /// The directories of volumes that outlive pods: `<this>/<volume>_<namespace>_<claim>`.
    pub persistent_root: PathBuf,
    /// Pods' logs.
    pub log_root: PathBuf,
    /// The node's resolver: `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// The cluster's.
    pub cluster_dns: Option<ClusterDns>,
    /// What pods may be told about the node; the addresses are those of each pod.
    pub facts: Facts,
}

/// Makes pods' files on this node.
pub struct LocalVolumes {
    inner: Arc<Inner>,
}

struct Inner {
    config: LocalVolumesConfig,
    rest: Rest,
    objects: Objects,
    clock: Clock,
    random: Random,
    images: Arc<dyn Images>,
    /// The pods that have volumes, by uid.
    pods: Mutex<BTreeMap<String, Kept>>,
    certificates: Mutex<Certificates>,
}

/// Pods' certificates, by pod, volume and the place of the projection in that.
type Certificates = BTreeMap<(String, String, usize), Arc<tokio::sync::Mutex<Certificate>>>;

struct Kept {
    volumes: PodVolumes,
    pod: watch::Sender<Arc<Pod>>,
    task: Option<AbortHandle>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// What a termination message may be, in bytes.
const MESSAGE_BYTES_MAX: usize = 4096;
/// The size of a pod's shared memory.
const SHM_BYTES: i64 = 64 << 20;

impl LocalVolumes {
    /// Below `config.pod_root`. Volumes may be images of `images`.
    pub fn new(config: LocalVolumesConfig, rest: Rest, images: Arc<dyn Images>, clock: Clock, random: Random) -> Self {
        let objects = Objects::new(rest.clone(), random.clone());
        let (pods, certificates) = (Mutex::default(), Mutex::default());
        Self { inner: Arc::new(Inner { config, rest, objects, clock, random, images, pods, certificates }) }
    }
}

impl Inner {
    fn pod_dir(&self, uid: &str) -> PathBuf {
        self.config.pod_root.join(uid)
    }

    fn volume_dir(&self, uid: &str, kind: &str, name: &str) -> PathBuf {
        self.pod_dir(uid).join("volumes").join(format!("kubernetes.io~{kind}")).join(name)
    }

    async fn mount(self: &Arc<Self>, pod: Arc<Pod>) -> Result<PodVolumes, VolumeError> {
        let uid = pod.metadata.uid.clone();
        if let Some(kept) = self.pods.lock().get(&uid) {
            return Ok(kept.volumes.clone());
        }
        let dir = self.pod_dir(&uid);
        make_dir(&dir, 0o750)?;
        if !pod.spec.host_ipc {
            mount_tmpfs(&dir.join("shm"), Some(SHM_BYTES), 0o1777)?;
        }
        let mut volumes = PodVolumes::default();
        let mut refresh = Refresh::default();
        // Images come with the containers that want them.
        for volume in pod.spec.volumes.iter().filter(|volume| volume.image.is_none()) {
            let path = self
                .mount_one(&pod, volume, &mut refresh)
                .await
                .map_err(|e| VolumeError(format!("MountVolume.SetUp failed for volume \"{}\" : {e}", volume.name)))?;
            volumes.paths.insert(volume.name.clone(), path);
        }
        let (pod_tx, pod_rx) = watch::channel(Arc::clone(&pod));
        let task = if refresh.is_empty() {
            None
        } else {
            Some(tokio::spawn(refresh::keep(Arc::clone(self), refresh, pod_rx)).abort_handle())
        };
        self.pods.lock().insert(uid, Kept { volumes: volumes.clone(), pod: pod_tx, task });
        Ok(volumes)
    }

    async fn mount_one(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        volume: &Volume,
        refresh: &mut Refresh,
    ) -> Result<PathBuf, VolumeError> {
        let group = fs_group(pod);
        let at = |kind: &str| self.volume_dir(&pod.metadata.uid, kind, &volume.name);
        if let Some(empty) = &volume.empty_dir {
            let path = at("empty-dir");
            make_empty_dir(&path, empty, group)?;
            return Ok(path);
        }
        if let Some(host) = &volume.host_path {
            return host_path(host);
        }
        if let Some(claim) = &volume.persistent_volume_claim {
            return self.persistent(pod, &claim.claim_name, false).await;
        }
        if volume.ephemeral.is_some() {
            return self.persistent(pod, &format!("{}-{}", pod.metadata.name, volume.name), true).await;
        }
        let (kind, in_memory) = match volume {
            Volume { config_map: Some(_), .. } => ("configmap", false),
            Volume { secret: Some(_), .. } => ("secret", true),
            Volume { projected: Some(_), .. } => ("projected", true),
            Volume { downward_api: Some(_), .. } => ("downward-api", false),
            _ => {
                let kinds: Vec<&str> = volume.other.keys().map(String::as_str).collect();
                return Err(VolumeError(format!("no volume plugin matched: this node has no {}", kinds.join(", "))));
            }
        };
        let path = at(kind);
        if in_memory {
            mount_tmpfs(&path, None, 0o755)?;
        } else {
            make_dir(&path, 0o755)?;
        }
        refresh.add(self, pod, volume, &path).await?;
        Ok(path)
    }

    async fn persistent(&self, pod: &Pod, claim: &str, ephemeral: bool) -> Result<PathBuf, VolumeError> {
        let path = match persistent::find(&self.rest, pod, claim, ephemeral).await? {
            Found::HostPath(path) => return host_path(&path),
            Found::Local(path) => path,
        };
        persistent::prepare(&path, &self.config.persistent_root)?;
        if let Some(group) = fs_group(pod) {
            persistent::give_to(&path, group, &pod.spec.security_context.fs_group_change_policy)?;
        }
        Ok(path)
    }

    async fn container_mounts(
        &self,
        pod: &Pod,
        container: &Container,
        id: &str,
        volumes: &PodVolumes,
        env: &[(String, String)],
        facts: &Facts,
    ) -> Result<Vec<Mount>, VolumeError> {
        let dir = self.pod_dir(&pod.metadata.uid);
        let mut mounts = Vec::new();
        for (index, wanted) in container.volume_mounts.iter().enumerate() {
            let volume = pod.spec.volumes.iter().find(|v| v.name == wanted.name);
            if volume.is_some_and(|volume| volume.image.is_some()) {
                continue;
            }
            let (Some(volume), Some(path)) = (volume, volumes.paths.get(&wanted.name)) else {
                return Err(VolumeError(format!("volume \"{}\" is not mounted", wanted.name)));
            };
            let inside = sub_path(wanted, env);
            let host = if inside.is_empty() {
                path.clone()
            } else {
                bind_beneath(path, &inside, &self.sub_path_dir(pod, container, index))?
            };
            let made_of_objects = volume.config_map.is_some()
                || volume.secret.is_some()
                || volume.projected.is_some()
                || volume.downward_api.is_some();
            let claimed_read_only = volume.persistent_volume_claim.as_ref().is_some_and(|claim| claim.read_only);
            mounts.push(Mount {
                host,
                container: clean(&wanted.mount_path),
                read_only: wanted.read_only || made_of_objects || claimed_read_only,
                no_exec: false,
                propagation: match wanted.mount_propagation.as_str() {
                    "HostToContainer" => "rslave",
                    "Bidirectional" => "rshared",
                    _ => "rprivate",
                },
            });
        }
        self.usual_mounts(pod, container, id, &dir, facts, &mut mounts)?;
        Ok(mounts)
    }

    /// `/etc/hosts` and the like, unless the pod mounts its own there.
    fn usual_mounts(
        &self,
        pod: &Pod,
        container: &Container,
        id: &str,
        dir: &Path,
        facts: &Facts,
        mounts: &mut Vec<Mount>,
    ) -> Result<(), VolumeError> {
        let mut add = |host: PathBuf, at: &str| {
            if !mounts.iter().any(|m| m.container == at) {
                let (container, propagation) = (at.to_owned(), "rprivate");
                mounts.push(Mount { host, container, read_only: false, no_exec: false, propagation });
            }
        };
        let node_file = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        let domain = self.config.cluster_dns.as_ref().map_or("cluster.local", |d| d.domain.as_str());
        let hosts = if pod.spec.host_network {
            files::host_network_hosts(pod, &node_file(Path::new("/etc/hosts")))
        } else {
            files::hosts(pod, &facts.addresses, domain)
        };
        let resolver = node_file(&self.config.resolv_conf);
        let resolver = files::resolv_conf(pod, &resolver, self.config.cluster_dns.as_ref());
        for (name, text, at) in [("etc-hosts", hosts, "/etc/hosts"), ("resolv.conf", resolver, "/etc/resolv.conf")] {
            let path = dir.join(name);
            write_file(&path, text.as_bytes(), 0o644)?;
            add(path, at);
        }
        if !pod.spec.host_network {
            let path = dir.join("hostname");
            let name = own_hostname(pod, domain).map_err(VolumeError)?;
            write_file(&path, format!("{name}\n").as_bytes(), 0o644)?;
            add(path, "/etc/hostname");
        }
        let shm = if pod.spec.host_ipc { PathBuf::from("/dev/shm") } else { dir.join("shm") };
        add(shm, "/dev/shm");
        let message_at = match container.termination_message_path.as_str() {
            "" => "/dev/termination-log",
            path => path,
        };
        let message = message_path(dir, &container.name, id);
        if let Some(folder) = message.parent() {
            make_dir(folder, 0o750)?;
        }
        write_file(&message, b"", 0o666)?;
        add(message, &clean(message_at));
        Ok(())
    }

    fn certificate(&self, uid: &str, volume: &str, index: usize) -> Arc<tokio::sync::Mutex<Certificate>> {
        let key = (uid.to_owned(), volume.to_owned(), index);
        Arc::clone(self.certificates.lock().entry(key).or_default())
    }

    /// Where part of a volume is bound to for the mount `index` of a container.
    fn sub_path_dir(&self, pod: &Pod, container: &Container, index: usize) -> PathBuf {
        let volume = container.volume_mounts.get(index).map(|m| m.name.as_str()).unwrap_or_default();
        let dir = self.pod_dir(&pod.metadata.uid).join("volume-subpaths");
        dir.join(volume).join(&container.name).join(index.to_string())
    }

    async fn unmount(&self, uid: &str) -> Result<(), VolumeError> {
        drop(self.pods.lock().remove(uid));
        self.certificates.lock().retain(|(pod, ..), _| pod != uid);
        let dir = self.pod_dir(uid);
        // Whatever is still mounted must not be deleted with the directory: it may be the node's own.
        unmount_below(&dir)?;
        self.release_images(uid).await?;
        for name in ["volumes", "volume-subpaths", "shm"] {
            remove_all(&dir.join(name))?;
        }
        Ok(())
    }

    /// Takes down a pod's volumes and what else is in its folder.
    async fn remove(&self, uid: &str) -> Result<(), VolumeError> {
        self.unmount(uid).await?;
        remove_all(&self.pod_dir(uid))
    }

    async fn forget(&self, pod: &PodIdentity) -> Result<(), VolumeError> {
        self.remove(&pod.uid).await?;
        remove_all(&self.config.log_root.join(format!("{}_{}_{}", pod.namespace, pod.name, pod.uid)))
    }
}

/// The names of what is in a directory; one that is not there has nothing in it.
fn entries(dir: &Path) -> Result<Vec<String>, VolumeError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("list", dir, &error)),
    };
    let mut names: Vec<String> = entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

fn fs_group(pod: &Pod) -> Option<u32> {
    pod.spec.security_context.fs_group.and_then(|g| u32::try_from(g).ok())
}

fn make_empty_dir(path: &Path, empty: &EmptyDir, group: Option<u32>) -> Result<(), VolumeError> {
    if empty.medium == "Memory" {
        mount_tmpfs(path, empty.size_limit.as_ref().and_then(Quantity::of_json).map(|q| q.value()), 0o1777)?;
    } else {
        make_dir(path, 0o777)?;
    }
    let mut mode = 0o777;
    if let Some(group) = group {
        std::os::unix::fs::chown(path, None, Some(group)).map_err(|e| failed("chown", path, &e))?;
        // What is made in it belongs to the group, too.
        mode |= 0o2000;
    }
    set_mode(path, mode)
}

/// Checks (or makes) what a hostPath volume stands for.
fn host_path(host: &HostPath) -> Result<PathBuf, VolumeError> {
    use std::os::unix::fs::FileTypeExt;
    let path = PathBuf::from(&host.path);
    let kind = host.kind.as_deref().unwrap_or_default();
    match kind {
        "DirectoryOrCreate" => make_dir(&path, 0o755)?,
        "FileOrCreate" if !path.exists() => write_file(&path, b"", 0o644)?,
        // As with a plain bind mount by other runtimes: what is missing becomes a directory.
        "" if !path.exists() => make_dir(&path, 0o755)?,
        _ => {}
    }
    let found = path.metadata().map(|m| m.file_type());
    let fits = found.as_ref().is_ok_and(|t| match kind {
        "Directory" | "DirectoryOrCreate" => t.is_dir(),
        "File" | "FileOrCreate" => t.is_file(),
        "Socket" => t.is_socket(),
        "CharDevice" => t.is_char_device(),
        "BlockDevice" => t.is_block_device(),
        _ => true,
    });
    if fits {
        Ok(path)
    } else {
        let what = match kind {
            "Directory" | "DirectoryOrCreate" => "directory",
            "File" | "FileOrCreate" => "file",
            "Socket" => "socket file",
            "CharDevice" => "character device",
            "BlockDevice" => "block device",
            _ => "path",
        };
        Err(VolumeError(format!("hostPath type check failed: {} is not a {what}", host.path)))
    }
}

/// The part of a volume that a container wants; empty for all of it.
fn sub_path(wanted: &VolumeMount, env: &[(String, String)]) -> String {
    if wanted.sub_path_expr.is_empty() {
        return wanted.sub_path.clone();
    }
    expand(&wanted.sub_path_expr, |name| env.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone()))
}

fn message_path(dir: &Path, container: &str, id: &str) -> PathBuf {
    dir.join("containers").join(container).join(&id[..id.len().min(8)])
}

/// Without a slash at the end, so that paths can be compared.
fn clean(path: &str) -> String {
    match path.trim_end_matches('/') {
        "" => "/".to_owned(),
        path if path.starts_with('/') => path.to_owned(),
        path => format!("/{path}"),
    }
}

fn failed(what: &str, path: &Path, error: &std::io::Error) -> VolumeError {
    VolumeError(format!("{what} {}: {error}", path.display()))
}

fn make_dir(path: &Path, mode: u32) -> Result<(), VolumeError> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path).map_err(|e| failed("mkdir", path, &e))?;
    set_mode(path, mode)
}

fn set_mode(path: &Path, mode: u32) -> Result<(), VolumeError> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(|e| failed("chmod", path, &e))
}

/// Writes in place: the file may be mounted in a container.
fn write_file(path: &Path, bytes: &[u8], mode: u32) -> Result<(), VolumeError> {
    fs::write(path, bytes).map_err(|e| failed("write", path, &e))?;
    set_mode(path, mode)
}

fn remove_all(path: &Path) -> Result<(), VolumeError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed("remove", path, &error)),
        _ => Ok(()),
    }
}

#[async_trait]
impl Volumes for LocalVolumes {
    async fn mount(&self, pod: Arc<Pod>) -> Result<PodVolumes, VolumeError> {
        self.inner.mount(pod).await
    }

    async fn update(&self, pod: Arc<Pod>) {
        if let Some(kept) = self.inner.pods.lock().get(&pod.metadata.uid) {
            kept.pod.send_replace(pod);
        }
    }

    async fn unmount(&self, pod: &PodIdentity) -> Result<(), VolumeError> {
        self.inner.unmount(&pod.uid).await
    }

    async fn forget(&self, pod: &PodIdentity) -> Result<(), VolumeError> {
        self.inner.forget(pod).await
    }

    async fn collect(&self, live: &[PodIdentity]) -> Result<(), VolumeError> {
        let mut all_gone = Ok(());
        for uid in entries(&self.inner.config.pod_root)? {
            if !live.iter().any(|pod| pod.uid == uid) {
                // What is left of one pod does not keep that of others.
                all_gone = all_gone.and(self.inner.remove(&uid).await);
            }
        }
        all_gone
    }

    async fn image_mount(
        &self,
        pod: &Pod,
        container: &Container,
        index: usize,
        image: &LocalImage,
        env: &[(String, String)],
    ) -> Result<Mount, VolumeError> {
        self.inner.image_mount(pod, container, index, image, env).await
    }

    async fn container_mounts(
        &self,
        pod: &Pod,
        container: &Container,
        id: &str,
        volumes: &PodVolumes,
        env: &[(String, String)],
        facts: &Facts,
    ) -> Result<Vec<Mount>, VolumeError> {
        self.inner.container_mounts(pod, container, id, volumes, env, facts).await
    }

    async fn local_usage(&self, pod: &Pod) -> BTreeMap<String, DiskUsage> {
        let mut usage = BTreeMap::new();
        for volume in &pod.spec.volumes {
            let kind = match volume {
                Volume { empty_dir: Some(empty), .. } if empty.medium.is_empty() => "empty-dir",
                Volume { config_map: Some(_), .. } => "configmap",
                _ => continue,
            };
            let path = self.inner.volume_dir(&pod.metadata.uid, kind, &volume.name);
            usage.insert(volume.name.clone(), of_folder(path).await);
        }
        usage
    }

    async fn termination_message(&self, pod: &PodIdentity, ended: Ended<'_>) -> Option<String> {
        let path = message_path(&self.inner.pod_dir(&pod.uid), &ended.container.name, ended.id);
        let mut bytes = fs::read(&path).unwrap_or_default();
        bytes.truncate(MESSAGE_BYTES_MAX);
        // The container has ended: nothing writes to it any more.
        drop(fs::remove_file(&path));
        let mut message = String::from_utf8_lossy(&bytes).into_owned();
        if message.is_empty() && ended.failed && ended.container.termination_message_policy == "FallbackToLogsOnError" {
            message = log_tail::read(&ended.log_path).await;
        }
        (!message.is_empty()).then_some(message)
    }
}

#[cfg(test)]
mod tests;
