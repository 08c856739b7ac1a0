//! The files of a volume made of objects: pure.

use super::VolumeError;
use super::atomic::{FileEntry, Files};
use crate::api::pod::{DownwardVolume, KeyToPath};
use crate::api::{ConfigMap, Pod, Secret};
use crate::pods::env::{Facts, field_value, resource_value};

/// Permission bits unless the volume says otherwise.
pub const DEFAULT_MODE: u32 = 0o644;

/// Which keys of an object become files, and how.
pub struct Selection<'a> {
    /// `configmap`, `secret`.
    pub kind: &'a str,
    /// The object's name.
    pub name: &'a str,
    /// Only these keys; none: all.
    pub items: &'a [KeyToPath],
    /// Permission bits of those that have none of their own.
    pub mode: u32,
    /// Whether the object or keys may be missing.
    pub optional: bool,
}

/// Adds a ConfigMap's files.
pub fn config_map(files: &mut Files, with: &Selection<'_>, object: Option<&ConfigMap>) -> Result<(), VolumeError> {
    let data = object.map(|map| {
        let text = map.data.iter().map(|(k, v)| (k.clone(), v.as_bytes().to_vec()));
        text.chain(map.binary_data.iter().map(|(k, v)| (k.clone(), v.clone()))).collect::<Vec<_>>()
    });
    select(files, with, data)
}

/// Adds a Secret's files.
pub fn secret(files: &mut Files, with: &Selection<'_>, object: Option<&Secret>) -> Result<(), VolumeError> {
    let data = object.map(|secret| secret.data.iter().map(|(k, v)| (k.clone(), v.clone())).collect::<Vec<_>>());
    select(files, with, data)
}

fn select(files: &mut Files, with: &Selection<'_>, data: Option<Vec<(String, Vec<u8>)>>) -> Result<(), VolumeError> {
    let Some(data) = data else {
        if with.optional {
            return Ok(());
        }
        return Err(VolumeError(format!("{} \"{}\" not found", with.kind, with.name)));
    };
    if with.items.is_empty() {
        files.extend(data.into_iter().map(|(key, bytes)| (key, FileEntry { bytes, mode: with.mode })));
        return Ok(());
    }
    for item in with.items {
        match data.iter().find(|(key, _)| *key == item.key) {
            Some((_, bytes)) => {
                let entry = FileEntry { bytes: bytes.clone(), mode: item.mode.unwrap_or(with.mode) };
                files.insert(item.path.clone(), entry);
            }
            None if with.optional => {}
            None => {
                return Err(VolumeError(format!(
                    "{} references non-existent {} key: {}",
                    with.kind, with.kind, item.key
                )));
            }
        }
    }
    Ok(())
}

/// Adds the files that tell about the pod itself.
pub fn downward(
    files: &mut Files,
    pod: &Pod,
    volume: &DownwardVolume,
    mode: u32,
    facts: &Facts,
) -> Result<(), VolumeError> {
    for item in &volume.items {
        let value = if let Some(field) = &item.field_ref {
            field_value(pod, &field.field_path, facts)
        } else if let Some(resource) = &item.resource_field_ref {
            let container = pod.spec.containers.first();
            match container {
                Some(container) => resource_value(pod, container, resource, facts),
                None => continue,
            }
        } else {
            continue;
        };
        let value = value.map_err(|e| VolumeError(e.to_string()))?;
        files.insert(item.path.clone(), FileEntry { bytes: value.into_bytes(), mode: item.mode.unwrap_or(mode) });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> ConfigMap {
        ConfigMap {
            data: [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())].into(),
            ..ConfigMap::default()
        }
    }

    #[test]
    fn items_choose_keys_paths_and_modes() {
        let items = [KeyToPath { key: "b".to_owned(), path: "x/y".to_owned(), mode: Some(0o400) }];
        let mut with = Selection { kind: "configmap", name: "m", items: &items, mode: 0o644, optional: false };
        let mut files = Files::new();
        config_map(&mut files, &with, Some(&map())).unwrap();
        assert_eq!(
            files.into_iter().collect::<Vec<_>>(),
            [("x/y".to_owned(), FileEntry { bytes: b"2".to_vec(), mode: 0o400 })]
        );
        with.items = &[];
        let mut files = Files::new();
        config_map(&mut files, &with, Some(&map())).unwrap();
        assert_eq!(files.keys().collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn what_is_missing_is_an_error_unless_optional() {
        let mut with = Selection { kind: "secret", name: "s", items: &[], mode: 0o644, optional: false };
        let error = secret(&mut Files::new(), &with, None).unwrap_err();
        assert_eq!(error.to_string(), "secret \"s\" not found");
        with.optional = true;
        assert!(secret(&mut Files::new(), &with, None).is_ok());
    }
}
