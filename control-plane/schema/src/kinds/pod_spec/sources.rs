//! What the kinds of volume must say of where they are, beyond what is checked in detail elsewhere.

use serde_json::Value;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::json::at;

/// For each kind, the fields that may not be empty.
const REQUIRED: [(&str, &[&str]); 20] = [
    ("awsElasticBlockStore", &["volumeID"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("azureFile", &["secretName", "shareName"]),
    ("cephfs", &["monitors"]),
    ("cinder", &["volumeID"]),
    ("csi", &["driver"]),
    ("flexVolume", &["driver"]),
    ("gcePersistentDisk", &["pdName"]),
    ("gitRepo", &["repository"]),
    ("glusterfs", &["endpoints", "path"]),
    ("iscsi", &["targetPortal", "iqn"]),
    ("nfs", &["server", "path"]),
    ("persistentVolumeClaim", &["claimName"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("quobyte", &["registry", "volume"]),
    ("rbd", &["monitors", "image"]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("secret", &["secretName"]),
    ("vsphereVolume", &["volumePath"]),
];

/// Checks that a volume's source of a kind names what it must.
pub(crate) fn check_required(errors: &mut ErrorList, kind: &str, source: &Value, path: &Path) {
    let fields = REQUIRED.iter().find(|(name, _)| *name == kind).map_or(&[][..], |(_, fields)| fields);
    for field in fields {
        let value = at(source, field);
        if value.is_null() || value == "" || value.as_array().is_some_and(Vec::is_empty) {
            errors.push(Error::required(path.child(field), ""));
        }
    }
}
