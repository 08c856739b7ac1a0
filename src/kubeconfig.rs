//! Kubeconfig files: making one, and adding a cluster to the user's own and taking it out again.

use std::env;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::{Map, Value, json};

use crate::cluster::{Cluster, Name, Paths, cgroups, write_atomically};

/// Prints the path of a cluster's kubeconfig.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The cluster's name
    #[arg(long, default_value = "xebec")]
    name: Name,
}

/// `xebec kubeconfig`.
pub fn main(args: &Args) -> anyhow::Result<()> {
    let paths = Paths::of(&args.name);
    if Cluster::load(&paths)?.is_none() || !paths.kubeconfig().exists() {
        bail!("there is no cluster {0} (xebec up --name {0} makes one)", args.name);
    }
    println!("{}", paths.kubeconfig().display());
    Ok(())
}

/// Writes a kubeconfig, readable by its owner only. Left alone if it says the same already; true if it was written.
pub fn write(path: &Path, config: &Value) -> anyhow::Result<bool> {
    if fs::read_to_string(path).is_ok_and(|t| serde_saphyr::from_str::<Value>(&t).is_ok_and(|now| now == *config)) {
        return Ok(false);
    }
    let text = serde_saphyr::to_string(config).context("cannot write YAML")?;
    write_atomically(path, text.as_bytes(), 0o600)?;
    Ok(true)
}

/// Renames the one cluster, user and context of a kubeconfig.
pub fn rename(mut config: Value, name: &str) -> Value {
    for list in ["clusters", "users", "contexts"] {
        config[list][0]["name"] = name.into();
    }
    config["contexts"][0]["context"] = json!({"cluster": name, "user": name});
    config["current-context"] = name.into();
    config
}

/// The user's own kubeconfig: the first file of `KUBECONFIG`, or `~/.kube/config`.
pub fn users_own() -> anyhow::Result<PathBuf> {
    if let Some(list) = env::var_os("KUBECONFIG")
        && let Some(first) = env::split_paths(&list).find(|p| !p.as_os_str().is_empty())
    {
        return Ok(first);
    }
    let home = env::home_dir().filter(|h| !h.as_os_str().is_empty()).context("HOME is not set")?;
    Ok(home.join(".kube/config"))
}

/// Adds the entries of `ours` (one cluster, user and context) to the file at `path` and makes its context current.
/// Returns the context that was current before, if it was another one.
pub fn merge(path: &Path, ours: &Value) -> anyhow::Result<Option<String>> {
    change(path, |config| {
        let before = config.get("current-context").and_then(Value::as_str).unwrap_or_default().to_owned();
        merge_into(config, ours);
        let name = ours["current-context"].as_str().unwrap_or_default();
        (!before.is_empty() && before != name).then_some(before)
    })
}

/// Takes the entries called `name` out of the file at `path`; `previous` becomes current if `name` was and `previous`
/// still exists. True if there were any.
pub fn unmerge(path: &Path, name: &str, previous: Option<&str>) -> anyhow::Result<bool> {
    if !path.exists() {
        return Ok(false);
    }
    change(path, |config| unmerge_from(config, name, previous))
}

fn merge_into(config: &mut Map<String, Value>, ours: &Value) {
    config.entry("apiVersion").or_insert_with(|| "v1".into());
    config.entry("kind").or_insert_with(|| "Config".into());
    for list in ["clusters", "users", "contexts"] {
        let entry = ours[list][0].clone();
        let entries = config.entry(list).or_insert_with(|| json!([]));
        if !entries.is_array() {
            *entries = json!([]);
        }
        if let Value::Array(entries) = entries {
            match entries.iter_mut().find(|e| e["name"] == entry["name"]) {
                Some(old) => *old = entry,
                None => entries.push(entry),
            }
        }
    }
    config.insert("current-context".into(), ours["current-context"].clone());
}

fn unmerge_from(config: &mut Map<String, Value>, name: &str, previous: Option<&str>) -> bool {
    let mut found = false;
    for list in ["clusters", "users", "contexts"] {
        if let Some(Value::Array(entries)) = config.get_mut(list) {
            let before = entries.len();
            entries.retain(|e| e["name"] != name);
            found |= entries.len() != before;
        }
    }
    if config.get("current-context").is_some_and(|c| c == name) {
        let exists = |wanted: &&str| {
            config.get("contexts").and_then(Value::as_array).is_some_and(|c| c.iter().any(|e| e["name"] == **wanted))
        };
        let next = previous.filter(exists).unwrap_or_default().to_owned();
        config.insert("current-context".into(), next.into());
        found = true;
    }
    found
}

/// Changes a kubeconfig under the lock that kubectl takes; one that can't be read is left alone.
fn change<T>(path: &Path, f: impl FnOnce(&mut Map<String, Value>) -> T) -> anyhow::Result<T> {
    // A link stays a link.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let _lock = FileLock::take(&path)?;
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound => String::new(),
        Err(e) => return Err(e).context(format!("cannot read {}", path.display())),
    };
    let before: Value = if text.trim().is_empty() {
        json!({})
    } else {
        serde_saphyr::from_str(&text).with_context(|| format!("{} is not YAML; left alone", path.display()))?
    };
    let Value::Object(mut config) = before.clone() else { bail!("{} is no kubeconfig; left alone", path.display()) };
    let result = f(&mut config);
    let after = Value::Object(config);
    if after != before {
        let text = serde_saphyr::to_string(&after).context("cannot write YAML")?;
        write_atomically(&path, text.as_bytes(), 0o600)?;
    }
    Ok(result)
}

/// `FILE.lock`, as client-go has it.
struct FileLock(PathBuf);

impl FileLock {
    fn take(path: &Path) -> anyhow::Result<Self> {
        let mut name = path.as_os_str().to_owned();
        name.push(".lock");
        let lock = PathBuf::from(name);
        // 5 s: others hold it for milliseconds.
        for _ in 0..500 {
            match fs::OpenOptions::new().write(true).create_new(true).open(&lock) {
                Ok(_) => return Ok(Self(lock)),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => cgroups::pause(Duration::from_millis(10)),
                Err(e) => return Err(e).context(format!("cannot make {}", lock.display())),
            }
        }
        bail!("{} is held by another program; if none runs, remove it", lock.display())
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours(name: &str) -> Value {
        json!({
            "clusters": [{"name": name, "cluster": {"server": "https://1.2.3.4:6443"}}],
            "users": [{"name": name, "user": {"token": "t"}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
            "current-context": name,
        })
    }

    #[test]
    fn others_entries_survive_coming_and_going() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kube/config");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let theirs = "apiVersion: v1\nkind: Config\npreferences: {}\ncurrent-context: prod\nclusters:\n- name: prod\n  \
                      cluster: {server: https://p}\nusers: null\ncontexts:\n- {name: prod, context: {cluster: prod}}\n";
        fs::write(&path, theirs).unwrap();
        assert_eq!(merge(&path, &ours("xebec")).unwrap(), Some("prod".into()));
        assert_eq!(merge(&path, &ours("xebec")).unwrap(), None);
        let merged: Value = serde_saphyr::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(merged["clusters"].as_array().unwrap().len(), 2);
        assert_eq!(merged["current-context"], "xebec");
        assert!(unmerge(&path, "xebec", Some("prod")).unwrap());
        assert!(!unmerge(&path, "xebec", Some("prod")).unwrap());
        let left: Value = serde_saphyr::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(left["current-context"], "prod");
        assert_eq!(left["clusters"], json!([{"name": "prod", "cluster": {"server": "https://p"}}]));
        assert!(!path.with_extension("lock").exists());
    }

    #[test]
    fn what_is_not_a_kubeconfig_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        fs::write(&path, "[1, 2").unwrap();
        assert!(merge(&path, &ours("xebec")).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "[1, 2");
    }

    #[test]
    fn a_new_file_is_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".kube/config");
        assert_eq!(merge(&path, &ours("xebec-dev")).unwrap(), None);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(write(&dir.path().join("own"), &ours("a")).unwrap());
        assert!(!write(&dir.path().join("own"), &ours("a")).unwrap());
    }
}
