//! What drivers have prepared, as it is on disk: a claim is in before its driver is asked, and out after its driver has
//! undone what it did, so that nothing is forgotten when the agent dies between.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::rpc;

/// A device that was prepared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Device {
    /// For which requests; all, if there are none.
    pub requests: Vec<String>,
    /// The pool.
    pub pool: String,
    /// Its name in the pool.
    pub device: String,
    /// How CDI calls it.
    pub cdi: Vec<String>,
}

impl From<rpc::Device> for Device {
    fn from(device: rpc::Device) -> Self {
        Self {
            requests: device.request_names,
            pool: device.pool_name,
            device: device.device_name,
            cdi: device.cdi_device_ids,
        }
    }
}

/// A claim of which something may be prepared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Claim {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The pods that use it, by uid, and what they call it.
    pub pods: BTreeMap<String, BTreeSet<String>>,
    /// Its drivers, and what they have prepared.
    pub drivers: BTreeMap<String, Vec<Device>>,
    /// Whether all is prepared.
    pub prepared: bool,
}

impl Claim {
    /// How drivers are told of it.
    pub fn message(&self) -> rpc::Claim {
        rpc::Claim { namespace: self.namespace.clone(), uid: self.uid.clone(), name: self.name.clone() }
    }

    /// How CDI calls the devices of a request; of all, if it is empty.
    pub fn cdi(&self, request: &str) -> impl Iterator<Item = &String> {
        let concerned = move |device: &&Device| {
            request.is_empty() || device.requests.is_empty() || device.requests.iter().any(|name| name == request)
        };
        self.drivers.values().flatten().filter(concerned).flat_map(|device| &device.cdi)
    }
}

/// Why what is prepared could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file.
    #[error("{0}: {1}")]
    File(PathBuf, std::io::Error),
    /// What is in it.
    #[error("{0}: {1}")]
    Content(PathBuf, serde_json::Error),
}

/// All claims of which something may be prepared, by namespace and name.
#[derive(Debug, Default)]
pub struct State {
    path: PathBuf,
    /// The claims.
    pub claims: BTreeMap<(String, String), Claim>,
}

impl State {
    /// What the file says; nothing, if there is none.
    pub fn load(path: PathBuf) -> Result<Self, StateError> {
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self { path, claims: BTreeMap::new() }),
            Err(error) => return Err(StateError::File(path, error)),
        };
        let claims: Vec<Claim> = serde_json::from_slice(&text).map_err(|e| StateError::Content(path.clone(), e))?;
        let claims = claims.into_iter().map(|claim| ((claim.namespace.clone(), claim.name.clone()), claim)).collect();
        Ok(Self { path, claims })
    }

    /// Writes it to the file, whole or not at all.
    pub fn save(&self) -> Result<(), StateError> {
        let claims: Vec<&Claim> = self.claims.values().collect();
        let text = serde_json::to_vec(&claims).map_err(|e| StateError::Content(self.path.clone(), e))?;
        let written = || -> std::io::Result<()> {
            let directory = self.path.parent().unwrap_or(Path::new("/"));
            fs::create_dir_all(directory)?;
            let mut file = tempfile::NamedTempFile::new_in(directory)?;
            file.write_all(&text)?;
            file.as_file().sync_all()?;
            file.persist(&self.path).map_err(|e| e.error)?;
            Ok(())
        };
        written().map_err(|e| StateError::File(self.path.clone(), e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let mut state = State::load(path.clone()).unwrap();
        assert!(state.claims.is_empty());
        let device = Device { requests: vec!["r".into()], cdi: vec!["v/c=d".into()], ..Device::default() };
        let claim = Claim {
            namespace: "n".into(),
            name: "c".into(),
            uid: "u".into(),
            pods: BTreeMap::from([("p".into(), BTreeSet::from(["own".into()]))]),
            drivers: BTreeMap::from([("d".into(), vec![device])]),
            prepared: true,
        };
        state.claims.insert(("n".into(), "c".into()), claim.clone());
        state.save().unwrap();
        let state = State::load(path.clone()).unwrap();
        assert_eq!(state.claims.values().collect::<Vec<_>>(), [&claim]);
        assert_eq!(claim.cdi("r").collect::<Vec<_>>(), ["v/c=d"]);
        assert_eq!(claim.cdi("").count(), 1);
        assert_eq!(claim.cdi("other").count(), 0);
        fs::write(&path, "{").unwrap();
        assert!(State::load(path).is_err());
    }
}
