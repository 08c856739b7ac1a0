//! Volumes that are images (KEP-4639): what is in them is kept by the runtime, mounted once for the pod below its
//! directory, and bound into its containers. The directories are the record of what is kept for whom: they are made first
//! and go last.

use std::path::PathBuf;

use super::mounts::{bind_within, mount_layers};
use super::{Inner, VolumeError, clean, entries, make_dir, sub_path};
use crate::api::Pod;
use crate::api::pod::Container;
use crate::runtime::{LocalImage, Mount};

/// The images' directories below a pod's `volumes`: `<volume>/<digest>`. What a name stands for may change while the pod
/// runs; containers that start after a pull have the new one.
const KIND: &str = "kubernetes.io~image";
/// How much of a digest's hexadecimal digits tells a pod's images apart.
const DIGITS: usize = 16;

impl Inner {
    pub(super) async fn image_mount(
        &self,
        pod: &Pod,
        container: &Container,
        index: usize,
        image: &LocalImage,
        env: &[(String, String)],
    ) -> Result<Mount, VolumeError> {
        let Some(wanted) = container.volume_mounts.get(index) else {
            return Err(VolumeError(format!("container {} has no mount {index}", container.name)));
        };
        // As the runtimes say it that are told to mount images.
        let told = |error: VolumeError| VolumeError(format!("ImageVolumeMountFailed: {error}"));
        let root = self.mounted_image(&pod.metadata.uid, &wanted.name, image).await.map_err(told)?;
        let inside = sub_path(wanted, env);
        let host = if inside.is_empty() {
            root
        } else {
            let at = self.sub_path_dir(pod, container, index);
            bind_within(&root, &inside, &at).map_err(told)?
        };
        let container = clean(&wanted.mount_path);
        Ok(Mount { host, container, read_only: true, no_exec: true, propagation: "rprivate" })
    }

    async fn mounted_image(&self, uid: &str, volume: &str, image: &LocalImage) -> Result<PathBuf, VolumeError> {
        let digest = image.digest.rsplit(':').next().unwrap_or_default();
        let digest = digest.get(..DIGITS).unwrap_or(digest);
        let at = self.images_dir(uid).join(volume).join(digest);
        make_dir(&at, 0o750)?;
        let layers = self.images.hold(&key(uid, volume, digest), image).await;
        mount_layers(&layers.map_err(|e| VolumeError(e.to_string()))?, &at)?;
        Ok(at)
    }

    fn images_dir(&self, uid: &str) -> PathBuf {
        self.pod_dir(uid).join("volumes").join(KIND)
    }

    /// Lets the images of a pod go. Nothing may be mounted of them any more.
    pub(super) async fn release_images(&self, uid: &str) -> Result<(), VolumeError> {
        for volume in entries(&self.images_dir(uid))? {
            for digest in entries(&self.images_dir(uid).join(&volume))? {
                let released = self.images.release(&key(uid, &volume, &digest)).await;
                released.map_err(|e| VolumeError(format!("cannot release the image of volume \"{volume}\": {e}")))?;
            }
        }
        Ok(())
    }
}

/// What the runtime keeps an image by.
fn key(uid: &str, volume: &str, digest: &str) -> String {
    format!("xebec-volume-{uid}-{volume}-{digest}")
}
