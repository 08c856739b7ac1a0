//! The kernels that machines can have: packages of Debian's, unpacked or installed.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// The first with tcx, without which there is no datapath.
const OLDEST: [u32; 2] = [6, 6];

/// A kernel's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Its release, as `uname -r` says it.
    pub release: String,
    /// The kernel itself.
    pub image: PathBuf,
    /// Its modules.
    pub modules: PathBuf,
}

impl Kernel {
    /// The newest in a directory that has `boot/vmlinuz-RELEASE` and `lib/modules/RELEASE`.
    pub fn newest_in(dir: &Path) -> anyhow::Result<Self> {
        let found = fs::read_dir(dir.join("lib/modules")).into_iter().flatten().flatten();
        let kernels = found.filter_map(|entry| {
            let release = entry.file_name().into_string().ok()?;
            let image = dir.join("boot").join(format!("vmlinuz-{release}"));
            image.exists().then(|| Self { release, image, modules: entry.path() })
        });
        kernels.max_by_key(|kernel| numbers(&kernel.release)).with_context(|| {
            format!(
                "there is no kernel in {0}, that is {0}/boot/vmlinuz-RELEASE with {0}/lib/modules/RELEASE: \
                 `scripts/setup.sh vm` fetches Debian's, --vm-kernel names another",
                dir.display()
            )
        })
    }

    /// An error if it can't be a node's.
    pub fn check(&self) -> anyhow::Result<()> {
        if numbers(&self.release).as_slice() < OLDEST.as_slice() {
            let [major, minor] = OLDEST;
            bail!("the kernel {} is too old for a node, which needs {major}.{minor} (tcx)", self.release);
        }
        Ok(())
    }
}

/// Where `scripts/setup.sh vm` puts Debian's kernel.
pub fn default_dir() -> anyhow::Result<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = || set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    let tools = set("XEBEC_TOOLS").or_else(|| Some(cache()?.join("xebec/tools")));
    Ok(tools.context("there is no $HOME to look for a kernel in: give --vm-kernel")?.join("kernel-backports"))
}

/// The numbers that a release begins with, to compare by.
fn numbers(release: &str) -> Vec<u32> {
    let text = release.split(['-', '+']).next().unwrap_or(release);
    text.split('.').map_while(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(releases: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for release in releases {
            fs::create_dir_all(dir.path().join("lib/modules").join(release)).unwrap();
        }
        fs::create_dir(dir.path().join("boot")).unwrap();
        dir
    }

    #[test]
    fn the_newest_that_is_whole_is_taken() {
        let dir = place(&["6.9.1-cloud", "6.12.95+deb12-cloud", "6.13.0"]);
        for release in ["6.9.1-cloud", "6.12.95+deb12-cloud"] {
            fs::write(dir.path().join(format!("boot/vmlinuz-{release}")), "").unwrap();
        }
        let kernel = Kernel::newest_in(dir.path()).unwrap();
        assert_eq!(kernel.release, "6.12.95+deb12-cloud");
        assert!(kernel.image.exists() && kernel.modules.is_dir());
        kernel.check().unwrap();
    }

    #[test]
    fn what_to_do_without_one_is_said() {
        let error = Kernel::newest_in(place(&["6.13.0"]).path()).unwrap_err().to_string();
        assert!(error.contains("scripts/setup.sh vm"), "{error}");
    }

    #[test]
    fn an_old_one_is_refused() {
        let dir = place(&["6.1.0-56-cloud-amd64"]);
        fs::write(dir.path().join("boot/vmlinuz-6.1.0-56-cloud-amd64"), "").unwrap();
        let error = Kernel::newest_in(dir.path()).unwrap().check().unwrap_err().to_string();
        assert!(error.contains("6.1.0-56-cloud-amd64") && error.contains("6.6"), "{error}");
    }
}
