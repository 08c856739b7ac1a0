//! The Container Device Interface: files in which drivers say what a container needs to have a device (CDI 1.0).

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

/// Where the files are; what is in a later one counts more.
pub const DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
/// No file is larger.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// What is done to a container's specification.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerEdits {
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Devices in `/dev`.
    pub device_nodes: Vec<DeviceNode>,
    /// Files of the node.
    pub mounts: Vec<EditMount>,
    /// Programs that are run as it starts and ends.
    pub hooks: Vec<Hook>,
    /// Further groups of its process.
    #[serde(rename = "additionalGids")]
    pub additional_gids: Vec<u32>,
}

/// A device in `/dev`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceNode {
    /// In the container.
    pub path: String,
    /// On the node, if elsewhere.
    pub host_path: Option<String>,
    /// `b`, `c`, `u`, `p`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Its major number.
    pub major: Option<i64>,
    /// Its minor number.
    pub minor: Option<i64>,
    /// Who may do what with it.
    pub file_mode: Option<u32>,
    /// What the container may do: `rwm`.
    pub permissions: Option<String>,
    /// Whose it is.
    pub uid: Option<u32>,
    /// Which group's.
    pub gid: Option<u32>,
}

/// A file of the node.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EditMount {
    /// On the node.
    pub host_path: String,
    /// In the container.
    pub container_path: String,
    /// `ro`, `bind`...
    pub options: Vec<String>,
    /// The file system, if it is no bind mount.
    #[serde(rename = "type")]
    pub kind: Option<String>,
}

/// A program of the node.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hook {
    /// When: `createRuntime`, `prestart`...
    pub hook_name: String,
    /// Which.
    pub path: String,
    /// Its arguments, its name first.
    pub args: Vec<String>,
    /// Its environment.
    pub env: Vec<String>,
    /// How long it may take, in seconds.
    pub timeout: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    kind: String,
    devices: Vec<SpecDevice>,
    container_edits: ContainerEdits,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SpecDevice {
    name: String,
    container_edits: ContainerEdits,
}

/// What containers need that are to have these devices (`vendor.com/class=name`): what their files say in general, each
/// once, and of each device.
///
/// # Errors
/// If a device is in no file.
pub fn resolve(directories: &[PathBuf], devices: &[String]) -> Result<Vec<ContainerEdits>, String> {
    if devices.is_empty() {
        return Ok(Vec::new());
    }
    let specs: Vec<Spec> = directories.iter().rev().flat_map(|directory| read(directory)).collect();
    let mut edits = Vec::new();
    let mut general: Vec<usize> = Vec::new();
    let mut missing = Vec::new();
    for id in devices {
        let found = id.split_once('=').and_then(|(kind, name)| {
            let of_kind = specs.iter().enumerate().filter(|(_, spec)| spec.kind == kind);
            of_kind.flat_map(|(at, spec)| spec.devices.iter().map(move |d| (at, d))).find(|(_, d)| d.name == name)
        });
        let Some((at, device)) = found else {
            missing.push(id.as_str());
            continue;
        };
        if !general.contains(&at) {
            general.push(at);
            edits.push(specs[at].container_edits.clone());
        }
        edits.push(device.container_edits.clone());
    }
    if missing.is_empty() {
        return Ok(edits);
    }
    Err(format!("failed to inject CDI devices: unresolvable CDI devices {}", missing.join(", ")))
}

/// The files of a directory, by name. Those that cannot be read are as if they were not there.
fn read(directory: &Path) -> Vec<Spec> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| matches!(path.extension().and_then(|e| e.to_str()), Some("json" | "yaml")));
    paths.sort();
    let one = |path: &PathBuf| -> Result<Spec, String> {
        let meta = fs::metadata(path).map_err(|e| e.to_string())?;
        if meta.len() > MAX_FILE_BYTES {
            return Err(format!("larger than {MAX_FILE_BYTES} bytes"));
        }
        let text = fs::read_to_string(path).map_err(|e| e.to_string())?;
        // JSON is YAML, too.
        serde_saphyr::from_str(&text).map_err(|e| e.to_string())
    };
    let spec = |path: &PathBuf| match one(path) {
        Ok(spec) => Some(spec),
        Err(error) => {
            tracing::warn!(file = %path.display(), %error, "a CDI file is left out");
            None
        }
    };
    paths.iter().filter_map(spec).collect()
}

impl DeviceNode {
    /// Looks up on the node what the file does not say.
    fn complete(&self) -> Result<Self, String> {
        let mut node = self.clone();
        if node.kind.is_some() && (node.major.is_some() || node.kind.as_deref() == Some("p")) {
            return Ok(node);
        }
        let path = self.host_path.as_ref().unwrap_or(&self.path);
        let meta = fs::metadata(path).map_err(|e| format!("failed to stat CDI host device {path:?}: {e}"))?;
        let kind = match meta.file_type() {
            kind if kind.is_block_device() => "b",
            kind if kind.is_char_device() => "c",
            kind if kind.is_fifo() => "p",
            _ => return Err(format!("failed to stat CDI host device {path:?}: not a device")),
        };
        node.kind.get_or_insert_with(|| kind.to_owned());
        let (major, minor) = (nix::sys::stat::major(meta.rdev()), nix::sys::stat::minor(meta.rdev()));
        node.major = node.major.or(i64::try_from(major).ok());
        node.minor = node.minor.or(i64::try_from(minor).ok());
        node.file_mode = node.file_mode.or(Some(meta.mode() & 0o777));
        Ok(node)
    }

    /// Adds it to the Linux part of a specification, and the right to use it.
    fn apply(&self, linux: &mut Value) {
        let (kind, major, minor) = (&self.kind, self.major, self.minor);
        let devices = &mut linux["devices"];
        retain(devices, |known| known["path"] != self.path.as_str());
        push(
            devices,
            json!({"path": self.path, "type": kind, "major": major, "minor": minor,
            "fileMode": self.file_mode, "uid": self.uid.unwrap_or(0), "gid": self.gid.unwrap_or(0)}),
        );
        if kind.as_deref() != Some("p") {
            let access = self.permissions.as_deref().unwrap_or("rwm");
            let rule = json!({"allow": true, "type": kind, "major": major, "minor": minor, "access": access});
            push(&mut linux["resources"]["devices"], rule);
        }
    }
}

impl ContainerEdits {
    /// With what the node has to say of the devices.
    ///
    /// # Errors
    /// If one of them is not there.
    pub fn complete(mut self) -> Result<Self, String> {
        self.device_nodes = self.device_nodes.iter().map(DeviceNode::complete).collect::<Result<_, _>>()?;
        Ok(self)
    }

    /// Changes an OCI runtime specification.
    pub fn apply(&self, spec: &mut Value) {
        for variable in &self.env {
            let name = variable.split('=').next();
            let env = &mut spec["process"]["env"];
            retain(env, |known| known.as_str().is_none_or(|known| known.split('=').next() != name));
            push(env, json!(variable));
        }
        for node in &self.device_nodes {
            node.apply(&mut spec["linux"]);
        }
        for mount in &self.mounts {
            let mounts = &mut spec["mounts"];
            retain(mounts, |known| known["destination"] != mount.container_path.as_str());
            let kind = mount.kind.as_deref().unwrap_or("bind");
            push(
                mounts,
                json!({"destination": mount.container_path, "source": mount.host_path,
                "type": kind, "options": mount.options}),
            );
        }
        for hook in &self.hooks {
            let mut said = json!({"path": hook.path, "args": hook.args, "env": hook.env});
            if let Some(timeout) = hook.timeout {
                said["timeout"] = timeout.into();
            }
            push(&mut spec["hooks"][&hook.hook_name], said);
        }
        for gid in self.additional_gids.iter().filter(|gid| **gid != 0) {
            let groups = &mut spec["process"]["user"]["additionalGids"];
            retain(groups, |known| *known != json!(gid));
            push(groups, json!(gid));
        }
    }
}

/// Adds to a list in a document; it is made if it is not there.
fn push(list: &mut Value, item: Value) {
    match list {
        Value::Array(items) => items.push(item),
        other => *other = Value::Array(vec![item]),
    }
}

/// Keeps of a list in a document, if it is there, what it is asked to.
fn retain(list: &mut Value, keep: impl FnMut(&Value) -> bool) {
    if let Value::Array(items) = list {
        items.retain(keep);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_say_what_a_container_gets() {
        let (low, high) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let json = json!({"cdiVersion": "0.6.0", "kind": "example.com/gpu", "containerEdits": {"env": ["ALL=1"]},
            "devices": [{"name": "a", "containerEdits": {"env": ["GPU=a"]}}, {"name": "b", "containerEdits": {}}]});
        fs::write(low.path().join("gpu.json"), json.to_string()).unwrap();
        let yaml =
            "cdiVersion: 0.6.0\nkind: example.com/gpu\ndevices:\n- name: b\n  containerEdits:\n    env: [GPU=new]\n";
        fs::write(high.path().join("gpu.yaml"), yaml).unwrap();
        fs::write(high.path().join("broken.json"), "{").unwrap();
        let directories = [low.path().to_owned(), high.path().to_owned()];
        let env = |ids: &[&str]| -> Vec<String> {
            let ids: Vec<String> = ids.iter().map(|id| (*id).to_owned()).collect();
            resolve(&directories, &ids).unwrap().into_iter().flat_map(|edits| edits.env).collect()
        };
        assert_eq!(env(&["example.com/gpu=a"]), ["ALL=1", "GPU=a"]);
        assert_eq!(env(&["example.com/gpu=b"]), ["GPU=new"], "the later directory counts");
        let missing = resolve(&directories, &["example.com/gpu=z".to_owned()]).unwrap_err();
        assert_eq!(missing, "failed to inject CDI devices: unresolvable CDI devices example.com/gpu=z");
    }

    #[test]
    fn edits_change_the_specification() {
        let edits: ContainerEdits = serde_json::from_value(json!({
            "env": ["A=2"],
            "deviceNodes": [{"path": "/dev/x", "hostPath": "/dev/null"}],
            "mounts": [{"hostPath": "/lib/x", "containerPath": "/lib/y", "options": ["ro", "bind"]}],
            "hooks": [{"hookName": "createContainer", "path": "/bin/true", "args": ["true"]}],
            "additionalGids": [7]}))
        .unwrap();
        let mut spec = json!({"process": {"env": ["A=1", "B=1"], "user": {}}, "mounts": [{"destination": "/lib/y"}],
            "linux": {"resources": {"devices": [{"allow": false, "access": "rwm"}]}}});
        edits.complete().unwrap().apply(&mut spec);
        assert_eq!(spec["process"]["env"], json!(["B=1", "A=2"]));
        assert_eq!(spec["process"]["user"]["additionalGids"], json!([7]));
        let device = &spec["linux"]["devices"][0];
        assert_eq!(
            (&device["path"], &device["type"], &device["major"], &device["minor"]),
            (&json!("/dev/x"), &json!("c"), &json!(1), &json!(3))
        );
        let rule = json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"});
        assert_eq!(spec["linux"]["resources"]["devices"][1], rule);
        assert_eq!(spec["mounts"].as_array().unwrap().len(), 1);
        assert_eq!(spec["mounts"][0]["source"], "/lib/x");
        assert_eq!(spec["hooks"]["createContainer"][0]["path"], "/bin/true");
        let absent = ContainerEdits {
            device_nodes: vec![DeviceNode { path: "/dev/not-there".into(), ..DeviceNode::default() }],
            ..ContainerEdits::default()
        };
        assert!(absent.complete().is_err());
    }
}
