//! Volumes that outlive pods: directories of this node, found by way of the pod's claim. Those that were made for a claim
//! are below one directory, which the node tells in an annotation; the agent makes them when they are first mounted, and
//! removes them when the control plane says so.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Router, routing};
use serde::Deserialize;
use serde_json::Value;

use super::VolumeError;
use crate::api::pod::HostPath;
use crate::api::{ApiError, Meta, Pod, Rest};

/// The node's annotation that tells where its volumes are; the controllers' `persistent_volume::provision::DIRECTORY`.
pub const DIRECTORY_ANNOTATION: &str = "xebec.io/local-volumes";
/// The directory, below the agent's own.
pub const DIRECTORY: &str = "local-volumes";

/// A volume on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A directory (or whatever there is) that belongs to the pods that mount it.
    Local(PathBuf),
    /// A path of the node.
    HostPath(HostPath),
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Claim {
    metadata: ClaimMeta,
    spec: ClaimSpec,
    status: Phase,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ClaimMeta {
    uid: String,
    deletion_timestamp: Option<String>,
    owner_references: Vec<Owner>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Owner {
    uid: String,
    controller: Option<bool>,
}

impl ClaimMeta {
    fn belongs_to(&self, pod: &Pod) -> bool {
        self.owner_references.iter().any(|owner| owner.controller == Some(true) && owner.uid == pod.metadata.uid)
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ClaimSpec {
    volume_name: String,
    volume_mode: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Phase {
    phase: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Volume {
    metadata: Meta,
    spec: VolumeSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct VolumeSpec {
    claim_ref: ClaimRef,
    local: Option<Local>,
    host_path: Option<HostPath>,
    #[serde(flatten)]
    other: BTreeMap<String, Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ClaimRef {
    uid: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Local {
    path: String,
}

/// What a volume's spec has that says nothing of where it is.
const NO_SOURCES: [&str; 8] = [
    "accessModes",
    "capacity",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

/// Finds the volume of a pod's claim; in the kubelet's words if there is none.
pub(super) async fn find(rest: &Rest, pod: &Pod, claim: &str, ephemeral: bool) -> Result<Found, VolumeError> {
    let namespace = &pod.metadata.namespace;
    let wrong = |why: String| VolumeError(format!("error processing PVC {namespace}/{claim}: {why}"));
    let path = format!("/api/v1/namespaces/{namespace}/persistentvolumeclaims/{claim}");
    let fetch = |what: &str, error: ApiError| wrong(format!("failed to fetch {what} from API server: {error}"));
    let found: Claim = rest.get(&path).await.map_err(|error| fetch("PVC", error))?;
    if ephemeral && !found.metadata.belongs_to(pod) {
        return Err(wrong(format!("PVC was not created for pod {namespace}/{} (pod is not owner)", pod.metadata.name)));
    }
    if found.metadata.deletion_timestamp.is_some() {
        return Err(wrong("PVC is being deleted".into()));
    }
    if found.status.phase != "Bound" || found.spec.volume_name.is_empty() {
        return Err(wrong("PVC is not bound".into()));
    }
    if found.spec.volume_mode.as_deref() == Some("Block") {
        return Err(wrong("volumeMode Block is not supported by this node".into()));
    }
    let name = &found.spec.volume_name;
    let volume: Volume = rest
        .get(&format!("/api/v1/persistentvolumes/{name}"))
        .await
        .map_err(|error| fetch(&format!("PV {name}"), error))?;
    if volume.spec.claim_ref.uid != found.metadata.uid {
        return Err(wrong(format!("PV {name} is bound to another claim")));
    }
    place(volume).map_err(wrong)
}

fn place(volume: Volume) -> Result<Found, String> {
    let VolumeSpec { local, host_path, other, .. } = volume.spec;
    match (local, host_path) {
        (Some(local), _) => Ok(Found::Local(local.path.into())),
        (None, Some(path)) => Ok(Found::HostPath(path)),
        (None, None) => {
            let kinds: Vec<&str> = other.keys().map(String::as_str).filter(|key| !NO_SOURCES.contains(key)).collect();
            let (name, kinds) = (volume.metadata.name, kinds.join(", "));
            Err(format!("no volume plugin matched: this node has no {kinds} (of PV {name})"))
        }
    }
}

/// Makes the directory of a volume that was made for a claim; checks that any other is there.
pub(super) fn prepare(path: &Path, own: &Path) -> Result<(), VolumeError> {
    if !is_directly_below(path, own) {
        return match path.exists() {
            true => Ok(()),
            false => Err(VolumeError(format!("path {:?} does not exist", path.display().to_string()))),
        };
    }
    if path.is_dir() {
        return Ok(());
    }
    let failed = |e: std::io::Error| VolumeError(format!("mkdir {}: {e}", path.display()));
    fs::create_dir_all(own).map_err(failed)?;
    // Whoever has the volume may be any user; the directory above keeps everybody else out.
    fs::set_permissions(own, fs::Permissions::from_mode(0o700)).map_err(failed)?;
    fs::create_dir(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).map_err(failed)
}

fn is_directly_below(path: &Path, own: &Path) -> bool {
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    plain && path.parent() == Some(own)
}

/// Gives what is in a volume to a group (`fsGroup`); with the policy `OnRootMismatch`, only if its root is not the group's.
pub(super) fn give_to(path: &Path, group: u32, policy: &str) -> Result<(), VolumeError> {
    let failed =
        |path: &Path, e: &std::io::Error| VolumeError(format!("applyFSGroup failed for {}: {e}", path.display()));
    let root = fs::symlink_metadata(path).map_err(|e| failed(path, &e))?;
    if policy == "OnRootMismatch" && root.gid() == group && root.mode() & 0o2070 == 0o2070 {
        return Ok(());
    }
    let mut open = vec![path.to_owned()];
    while let Some(path) = open.pop() {
        let meta = match fs::symlink_metadata(&path) {
            // What runs in another pod may remove files meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            meta => meta.map_err(|e| failed(&path, &e))?,
        };
        std::os::unix::fs::lchown(&path, None, Some(group)).map_err(|e| failed(&path, &e))?;
        if meta.is_symlink() {
            continue;
        }
        let more = if meta.is_dir() { 0o2770 } else { 0o660 };
        fs::set_permissions(&path, fs::Permissions::from_mode(meta.mode() & 0o7777 | more))
            .map_err(|e| failed(&path, &e))?;
        if meta.is_dir() {
            for entry in fs::read_dir(&path).map_err(|e| failed(&path, &e))? {
                open.push(entry.map_err(|e| failed(&path, &e))?.path());
            }
        }
    }
    Ok(())
}

/// What is asked of a removal.
#[derive(Debug, Deserialize)]
struct Removal {
    /// The volume.
    name: String,
    /// Its directory.
    path: PathBuf,
}

/// The paths that the control plane removes volumes by. `own` is the directory of this node's volumes.
pub fn router(own: PathBuf) -> Router {
    Router::new().route("/localVolumes/remove", routing::post(remove)).with_state(Arc::new(own))
}

async fn remove(State(own): State<Arc<PathBuf>>, body: Bytes) -> Response {
    let removal = match serde_json::from_slice(&body) {
        Ok(removal) => removal,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("this is no removal: {error}")).into_response(),
    };
    match remove_directory(&own, &removal) {
        Ok(()) => "{}".into_response(),
        Err((code, why)) => (code, why).into_response(),
    }
}

fn remove_directory(own: &Path, removal: &Removal) -> Result<(), (StatusCode, String)> {
    let path = &removal.path;
    let named = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix(&removal.name));
    if removal.name.is_empty() || !named.is_some_and(|rest| rest.starts_with('_')) || !is_directly_below(path, own) {
        let why = format!("{} is no directory of the volume {:?} on this node", path.display(), removal.name);
        return Err((StatusCode::BAD_REQUEST, why));
    }
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err((StatusCode::INTERNAL_SERVER_ERROR, format!("cannot remove {}: {error}", path.display())))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn directories_of_claims_are_made_and_removed_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("volumes");
        let path = own.join("pvc-1_ns_data");
        prepare(&path, &own).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o777);
        fs::write(path.join("file"), "x").unwrap();
        prepare(&path, &own).unwrap();
        let elsewhere = folder.path().join("elsewhere");
        let missing = prepare(&elsewhere, &own).unwrap_err().0;
        assert!(missing.ends_with("does not exist"), "{missing}");
        assert!(!elsewhere.exists());
        let remove = |name: &str, path: PathBuf| {
            remove_directory(&own, &Removal { name: name.into(), path }).map_err(|(code, _)| code.as_u16())
        };
        assert_eq!(remove("pvc-1", own.join("../elsewhere")), Err(400));
        assert_eq!(remove("pvc-1", own.clone()), Err(400));
        assert_eq!(remove("pvc-2", path.clone()), Err(400));
        assert_eq!(remove("pvc-1", own.join("pvc-1_x/../pvc-1_ns_data")), Err(400));
        assert_eq!(remove("", path.clone()), Err(400));
        assert!(path.join("file").exists());
        assert_eq!(remove("pvc-1", path.clone()), Ok(()));
        assert_eq!((remove("pvc-1", path.clone()), path.exists()), (Ok(()), false), "what is gone is gone");
    }

    #[test]
    fn a_volume_is_given_to_a_group() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("sub")).unwrap();
        fs::write(folder.path().join("sub/file"), "x").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("link")).unwrap();
        let before = fs::metadata("/etc/passwd").unwrap().gid();
        give_to(folder.path(), 4242, "Always").unwrap();
        let meta = |name: &str| fs::symlink_metadata(folder.path().join(name)).unwrap();
        assert_eq!((meta("").gid(), meta("sub").gid(), meta("sub/file").gid()), (4242, 4242, 4242));
        assert_eq!((meta("sub").mode() & 0o2070, meta("sub/file").mode() & 0o060), (0o2070, 0o060));
        assert_eq!(fs::metadata("/etc/passwd").unwrap().gid(), before, "what a link leads to is not touched");
        fs::write(folder.path().join("late"), "x").unwrap();
        give_to(folder.path(), 4242, "OnRootMismatch").unwrap();
        assert_eq!(meta("late").mode() & 0o020, 0, "the root is right, so nothing is looked at");
    }

    #[test]
    fn what_a_node_does_not_have_is_told() {
        let volume =
            |spec: Value| place(serde_json::from_value(json!({"metadata": {"name": "v"}, "spec": spec})).unwrap());
        let wrong = volume(json!({"nfs": {"server": "s", "path": "/"}, "capacity": {}})).unwrap_err();
        assert_eq!(wrong, "no volume plugin matched: this node has no nfs (of PV v)");
        assert_eq!(volume(json!({"local": {"path": "/a"}})), Ok(Found::Local("/a".into())));
    }
}
