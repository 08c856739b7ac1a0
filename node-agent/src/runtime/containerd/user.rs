//! Who a container's process is: the image's or the pod's user, looked up in the image's own files.

use std::fs;
use std::path::{Path, PathBuf};

use crate::runtime::{RuntimeError, Security};

/// A process's user and groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Further groups, sorted.
    pub groups: Vec<u32>,
}

/// The size up to which the image's user files are read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Finds out who the process is. `image_user` is `user`, `uid`, `user:group`, ... or empty; `layers` are the folders of
/// the root file system, the upper ones first.
pub fn resolve(image_user: &str, security: &Security, layers: &[PathBuf]) -> Result<User, RuntimeError> {
    let (image_name, image_group) = match image_user.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (image_user, None),
    };
    let asked = security.user.map(|u| u.to_string());
    let name = asked.as_deref().unwrap_or(if image_name.is_empty() { "0" } else { image_name });
    let numeric: Option<u32> = name.parse().ok();
    if security.non_root && security.user.is_none() && numeric.is_none() {
        return Err(RuntimeError::Invalid(format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root"
        )));
    }
    let passwd = if numeric == Some(0) && image_group.is_none() { None } else { read(layers, "etc/passwd") };
    let entry = passwd
        .iter()
        .flat_map(|text| text.lines())
        .map(|l| l.split(':').collect::<Vec<_>>())
        .find(|f| f.len() >= 4 && (f[0] == name || numeric.is_some_and(|n| f[2].parse() == Ok(n))));
    let entry: Option<(String, u32, u32)> =
        entry.and_then(|f| Some((f[0].to_owned(), f[2].parse().ok()?, f[3].parse().ok()?)));
    let uid = match (numeric, &entry) {
        (Some(uid), _) => uid,
        (None, Some((_, uid, _))) => *uid,
        (None, None) => {
            return Err(RuntimeError::Invalid(format!(
                "unable to find user {name}: no matching entries in passwd file"
            )));
        }
    };
    if security.non_root && uid == 0 {
        return Err(RuntimeError::Invalid("container has runAsNonRoot and image will run as root".to_owned()));
    }
    let group_file = if uid == 0 && image_group.is_none() { None } else { read(layers, "etc/group") };
    let group_file = group_file.unwrap_or_default();
    // The image's group belongs to the image's user.
    let image_group = image_group.filter(|_| security.user.is_none());
    let gid = match (security.group, image_group) {
        (Some(group), _) => {
            u32::try_from(group).map_err(|_| RuntimeError::Invalid(format!("group {group} is none")))?
        }
        (None, Some(group)) => match group.parse() {
            Ok(gid) => gid,
            Err(_) => group_id(&group_file, group).ok_or_else(|| {
                RuntimeError::Invalid(format!("unable to find group {group}: no matching entries in group file"))
            })?,
        },
        (None, None) => entry.as_ref().map_or(0, |(_, _, gid)| *gid),
    };
    let mut groups: Vec<u32> = security.groups.iter().filter_map(|g| u32::try_from(*g).ok()).collect();
    if let Some((user, ..)) = entry.as_ref().filter(|_| !security.only_these_groups) {
        groups.extend(member_of(&group_file, user));
    }
    groups.push(gid);
    groups.sort_unstable();
    groups.dedup();
    Ok(User { uid, gid, groups })
}

fn group_id(file: &str, name: &str) -> Option<u32> {
    file.lines().map(|l| l.split(':').collect::<Vec<_>>()).find(|f| f.len() >= 3 && f[0] == name)?[2].parse().ok()
}

fn member_of(file: &str, user: &str) -> Vec<u32> {
    let fields = file.lines().map(|l| l.split(':').collect::<Vec<_>>());
    let member = fields.filter(|f| f.len() >= 4 && f[3].split(',').any(|m| m == user));
    member.filter_map(|f| f[2].parse().ok()).collect()
}

/// Reads a file of the root file system from its layers. A link could lead anywhere on the node: it is not followed.
fn read(layers: &[PathBuf], file: &str) -> Option<String> {
    let path = layers.iter().map(|l| l.join(file)).find(|p| p.symlink_metadata().is_ok())?;
    let inside = path.parent().is_some_and(|p: &Path| p.symlink_metadata().is_ok_and(|m| m.is_dir()));
    let meta = path.symlink_metadata().ok()?;
    if !inside || !meta.is_file() || meta.len() > FILE_BYTES_MAX {
        return None;
    }
    fs::read(&path).ok().map(|b| String::from_utf8_lossy(&b).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers() -> (tempfile::TempDir, Vec<PathBuf>) {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("etc")).unwrap();
        fs::write(folder.path().join("etc/passwd"), "root:x:0:0::/:/bin/sh\nweb:x:101:102::/:/bin/sh\n").unwrap();
        fs::write(folder.path().join("etc/group"), "root:x:0:\nweb:x:102:\nextra:x:7:web,other\n").unwrap();
        let path = folder.path().to_owned();
        (folder, vec![path])
    }

    #[test]
    fn names_are_looked_up_in_the_image() {
        let (_folder, layers) = layers();
        let user = |u: &str| resolve(u, &Security::default(), &layers);
        assert_eq!(user("").unwrap(), User { uid: 0, gid: 0, groups: vec![0] });
        assert_eq!(user("web").unwrap(), User { uid: 101, gid: 102, groups: vec![7, 102] });
        assert_eq!(user("101:extra").unwrap(), User { uid: 101, gid: 7, groups: vec![7] });
        assert_eq!(user("55").unwrap(), User { uid: 55, gid: 0, groups: vec![0] });
        assert!(user("nobody").is_err());
    }

    #[test]
    fn the_pods_user_wins_and_root_can_be_refused() {
        let (_folder, layers) = layers();
        let security = Security { user: Some(1000), groups: vec![2000], ..Security::default() };
        assert_eq!(resolve("web:web", &security, &layers).unwrap(), User { uid: 1000, gid: 0, groups: vec![0, 2000] });
        let strict = Security { user: Some(101), only_these_groups: true, ..Security::default() };
        assert_eq!(resolve("", &strict, &layers).unwrap().groups, [102]);
        let non_root = Security { non_root: true, ..Security::default() };
        assert!(resolve("", &non_root, &layers).is_err());
        assert!(resolve("web", &non_root, &layers).is_err(), "a name proves nothing");
        assert!(resolve("101", &non_root, &layers).is_ok());
    }
}
