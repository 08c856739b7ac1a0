//! Images that nobody uses: which go, and in what order (image_gc_manager.go upstream), and making them go.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::reference::ImageName;
use crate::disk::FileSystem;
use crate::events::{About, Recorder};
use crate::pods::manager::Pods;
use crate::runtime::{Images, Runtime, RuntimeError};

/// How often the disk and the images are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5 * 60);

/// When images go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImagePolicy {
    /// When this much of the disk is used, in percent. 100: never.
    pub high_percent: u8,
    /// Until no more than this is.
    pub low_percent: u8,
    /// None that is here for less: it may just have been pulled for a container that is about to start.
    pub age_min: Duration,
}

impl Default for ImagePolicy {
    fn default() -> Self {
        Self { high_percent: 85, low_percent: 80, age_min: Duration::from_secs(120) }
    }
}

impl ImagePolicy {
    /// How many bytes are too many on a disk.
    fn excess(&self, disk: &FileSystem) -> Option<i64> {
        let available = disk.bytes_available.clamp(0, disk.bytes);
        let share = |percent: i64| i128::from(disk.bytes) * i128::from(percent) / 100;
        let used_percent = 100 - i128::from(available) * 100 / i128::from(disk.bytes.max(1));
        let wanted = share(100 - i64::from(self.low_percent)) - i128::from(available);
        let full = self.high_percent < 100 && used_percent >= i128::from(self.high_percent);
        full.then(|| i64::try_from(wanted).unwrap_or(i64::MAX))
    }
}

/// What is known of an image.
#[derive(Clone, Copy, Debug, Default)]
struct Record {
    /// None: it was there at the start.
    first_seen: Option<Instant>,
    last_used: Option<Instant>,
    bytes: u64,
}

/// What is known of the images, by digest: pure.
#[derive(Debug, Default)]
struct Records {
    images: BTreeMap<String, Record>,
    started: bool,
}

impl Records {
    /// These are there now, and these digests are used.
    fn observe(&mut self, there: &BTreeMap<String, u64>, used: &BTreeSet<String>, now: Instant) {
        let first_seen = self.started.then_some(now);
        self.started = true;
        self.images.retain(|digest, _| there.contains_key(digest));
        for (digest, bytes) in there {
            let record = self.images.entry(digest.clone()).or_insert(Record { first_seen, ..Record::default() });
            record.bytes = *bytes;
            if used.contains(digest) {
                record.last_used = Some(now);
            }
        }
    }

    /// Those that may go, the longest unused first.
    fn unused(&self, used: &BTreeSet<String>, age_min: Duration, now: Instant) -> Vec<(String, u64)> {
        let old = |record: &Record| record.first_seen.is_none_or(|at| now.duration_since(at) >= age_min);
        let mut found: Vec<_> =
            self.images.iter().filter(|(digest, record)| !used.contains(*digest) && old(record)).collect();
        found.sort_by_key(|(digest, record)| (record.last_used, record.first_seen, (*digest).clone()));
        found.into_iter().map(|(digest, record)| (digest.clone(), record.bytes)).collect()
    }
}

/// Removes images that nobody uses.
pub struct Unused {
    images: Arc<dyn Images>,
    runtime: Arc<dyn Runtime>,
    pods: Pods,
    policy: ImagePolicy,
    /// On the disk of the images.
    place: PathBuf,
    records: Mutex<Records>,
    events: Recorder,
    node: String,
}

impl Unused {
    /// Of `images`, which are on the disk of `place`; those of `pods` are used.
    pub fn new(
        images: Arc<dyn Images>,
        runtime: Arc<dyn Runtime>,
        pods: Pods,
        policy: ImagePolicy,
        place: PathBuf,
        events: Recorder,
        node: &str,
    ) -> Self {
        let node = node.to_owned();
        Self { images, runtime, pods, policy, place, records: Mutex::default(), events, node }
    }

    /// Keeps the disk from filling up, until `cancel`.
    pub async fn run(&self, cancel: CancellationToken) {
        let mut failed_before = false;
        loop {
            let failed = match self.collect().await {
                Ok(()) => false,
                Err(error) => {
                    tracing::warn!(%error, "images cannot be collected");
                    // Once may be for what is over the next time.
                    if failed_before {
                        self.events.warning(About::node(&self.node), "ImageGCFailed", error);
                    }
                    true
                }
            };
            failed_before = failed;
            if cancel.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_none() {
                return;
            }
        }
    }

    /// Looks at the disk, and makes room if it is too full.
    async fn collect(&self) -> Result<(), String> {
        let used = self.look().await.map_err(|e| e.to_string())?;
        let disk = FileSystem::of(&self.place).filter(|disk| disk.bytes > 0);
        let Some(disk) = disk else {
            let error = format!("invalid capacity 0 on image filesystem {}", self.place.display());
            self.events.warning(About::node(&self.node), "InvalidDiskCapacity", error.clone());
            return Err(error);
        };
        let Some(excess) = self.policy.excess(&disk) else { return Ok(()) };
        tracing::info!(excess, disk = %self.place.display(), "the disk of the images is too full");
        let freed = self.free(excess, &used).await?;
        if freed < excess {
            let error = format!(
                "Failed to garbage collect required amount of images. Attempted to free {excess} bytes, but only found \
                 {freed} bytes eligible to free."
            );
            self.events.warning(About::node(&self.node), "FreeDiskSpaceFailed", error.clone());
            return Err(error);
        }
        Ok(())
    }

    /// Removes all that nobody uses.
    pub async fn remove_all(&self) {
        let result = match self.look().await {
            Ok(used) => self.free(i64::MAX, &used).await,
            Err(error) => Err(error.to_string()),
        };
        match result {
            Ok(freed) => tracing::info!(freed, "unused images were removed"),
            Err(error) => tracing::warn!(%error, "unused images cannot be removed"),
        }
    }

    /// Brings the records up to date; gives the digests of those that are used.
    async fn look(&self) -> Result<BTreeSet<String>, RuntimeError> {
        let mut used: BTreeSet<String> = self.runtime.list().await?.into_iter().map(|r| r.image.digest).collect();
        let volumes: BTreeSet<String> = self.pods.all().iter().flat_map(|pod| of_volumes(pod)).collect();
        let mut there = BTreeMap::new();
        for (names, bytes) in self.images.images().await? {
            let Some((_, digest)) = names.iter().find_map(|name| name.split_once('@')) else { continue };
            if names.iter().any(|name| volumes.contains(name)) {
                used.insert(digest.to_owned());
            }
            there.insert(digest.to_owned(), bytes);
        }
        self.records.lock().observe(&there, &used, Instant::now());
        Ok(used)
    }

    /// Removes unused images until so many bytes are free; gives how many are.
    async fn free(&self, wanted: i64, used: &BTreeSet<String>) -> Result<i64, String> {
        let candidates = self.records.lock().unused(used, self.policy.age_min, Instant::now());
        let mut freed = 0_i64;
        let mut errors = Vec::new();
        for (digest, bytes) in candidates {
            if freed >= wanted {
                break;
            }
            tracing::info!(%digest, bytes, "removing an image that nobody uses");
            match self.images.remove(&digest).await {
                Ok(()) => freed = freed.saturating_add(i64::try_from(bytes).unwrap_or(i64::MAX)),
                Err(error) => errors.push(error.to_string()),
            }
        }
        if errors.is_empty() {
            return Ok(freed);
        }
        let all = errors.join(", ");
        Err(format!(
            "wanted to free {wanted} bytes, but freed {freed} bytes space with errors in image deletion: [{all}]"
        ))
    }
}

/// The full names of the images that a pod's volumes are.
fn of_volumes(pod: &crate::api::Pod) -> Vec<String> {
    let references = pod.spec.volumes.iter().filter_map(|volume| Some(&volume.image.as_ref()?.reference));
    references.filter_map(|name| ImageName::parse(name).ok()).map(|name| name.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[(String, u64)]) -> Vec<&str> {
        list.iter().map(|(digest, _)| digest.as_str()).collect()
    }

    #[test]
    fn the_longest_unused_go_first_and_new_ones_stay() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let there = |list: &[&str]| list.iter().map(|d| ((*d).to_owned(), 10)).collect::<BTreeMap<_, _>>();
        let used = |list: &[&str]| list.iter().map(|d| (*d).to_owned()).collect::<BTreeSet<_>>();
        let mut records = Records::default();
        records.observe(&there(&["a", "b", "c"]), &used(&["a", "c"]), at(0));
        records.observe(&there(&["a", "b", "c", "d"]), &used(&["a"]), at(100));
        let minutes = Duration::from_secs(120);
        assert_eq!(names(&records.unused(&used(&["a"]), minutes, at(100))), ["b", "c"], "never, then last used at 0");
        assert_eq!(names(&records.unused(&used(&[]), minutes, at(220))), ["b", "d", "c", "a"]);
        records.observe(&there(&["a"]), &used(&[]), at(300));
        assert_eq!(names(&records.unused(&used(&[]), minutes, at(300))), ["a"], "what is gone is forgotten");
    }

    #[test]
    fn a_full_disk_is_brought_down_to_the_lower_mark() {
        let disk = |available| FileSystem { bytes: 1000, bytes_available: available, ..FileSystem::default() };
        let policy = ImagePolicy::default();
        assert_eq!(policy.excess(&disk(160)), None);
        assert_eq!(policy.excess(&disk(150)), Some(50));
        assert_eq!(policy.excess(&disk(0)), Some(200));
        assert_eq!(ImagePolicy { high_percent: 100, ..policy }.excess(&disk(0)), None);
    }
}
