//! Addresses leased from the node's range.
//!
//! A lease is an empty file named `<address>@<owner>`: the folder's listing is the whole state, creating or removing a
//! lease is one system call, so a crash leaves either the lease or none. A lock on the folder's lock file, which the
//! kernel releases if the holder dies, keeps two processes from choosing the same address.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use ipnet::{Ipv4Net, Ipv6Net};
use nix::fcntl::{Flock, FlockArg};

/// Why no address was leased or released.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error("address leases: {}: {source}", path.display())]
    Io {
        /// On which file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// No address is left.
    #[error("all {count} addresses of {range} are leased: delete pods, or give the node a larger podCIDR")]
    Exhausted {
        /// The range.
        range: Ipv4Net,
        /// How many it has.
        count: usize,
    },
    /// The owner's name cannot be part of a file name.
    #[error("invalid owner {0:?} of an address: want 1 to 200 letters, digits, '.', '_', ':' or '-'")]
    Owner(String),
}

/// An address and who has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lease {
    /// The address.
    pub address: Ipv4Addr,
    /// A pod's uid, or a container's id and interface.
    pub owner: String,
}

/// A range of addresses with its leases.
#[derive(Clone, Debug)]
pub struct Pool {
    dir: PathBuf,
    range: Ipv4Net,
}

/// Holds the address after which the search goes on, so that a released address is used again as late as possible.
const LAST: &str = "last";
const LOCK: &str = "lock";

impl Pool {
    /// The range's leases, kept in the folder `dir`.
    pub fn new(dir: impl Into<PathBuf>, range: Ipv4Net) -> Self {
        Self { dir: dir.into(), range: range.trunc() }
    }

    /// The range.
    pub fn range(&self) -> Ipv4Net {
        self.range
    }

    /// The owner's address: the one it has, or else a free one.
    pub fn lease(&self, owner: &str) -> Result<Ipv4Addr, Error> {
        check_owner(owner)?;
        let _lock = self.lock()?;
        let leases = self.leases()?;
        if let Some(lease) = leases.iter().find(|l| l.owner == owner && self.range.contains(&l.address)) {
            return Ok(lease.address);
        }
        let taken: BTreeSet<Ipv4Addr> = leases.iter().map(|l| l.address).collect();
        let address = self.free(&taken)?;
        let path = self.path(address, owner);
        OpenOptions::new().write(true).create_new(true).open(&path).map_err(|source| Error::Io { path, source })?;
        // Only a hint: losing it costs nothing.
        let _ = fs::write(self.dir.join(LAST), address.to_string());
        Ok(address)
    }

    /// The IPv6 address that goes with a leased one, in `range`: as far from its beginning. So one lease stands for both.
    pub fn paired(&self, address: Ipv4Addr, range: Ipv6Net) -> Ipv6Addr {
        let offset = u32::from(address).wrapping_sub(u32::from(self.range.network()));
        let kept = u128::MAX.checked_shr(range.prefix_len().into()).unwrap_or(0);
        Ipv6Addr::from(u128::from(range.network()) | (u128::from(offset) & kept))
    }

    /// Fails if [`Pool::lease`] would: nothing is left, or the folder cannot be written.
    pub fn probe(&self) -> Result<(), Error> {
        let _lock = self.lock()?;
        self.free(&self.leases()?.iter().map(|l| l.address).collect()).map(drop)
    }

    /// Takes the owner's addresses back; having none is no error.
    pub fn release(&self, owner: &str) -> Result<Vec<Ipv4Addr>, Error> {
        check_owner(owner)?;
        let _lock = self.lock()?;
        self.remove(|lease| lease.owner == owner).map(|leases| leases.into_iter().map(|l| l.address).collect())
    }

    /// Takes back every address whose owner `keep` does not know.
    pub fn retain(&self, keep: impl Fn(&Lease) -> bool) -> Result<Vec<Lease>, Error> {
        let _lock = self.lock()?;
        self.remove(|lease| !keep(lease))
    }

    /// The owner's address, if it has one.
    pub fn find(&self, owner: &str) -> Result<Option<Ipv4Addr>, Error> {
        Ok(self.leases()?.into_iter().find(|l| l.owner == owner).map(|l| l.address))
    }

    /// All leases, by address.
    pub fn leases(&self) -> Result<Vec<Lease>, Error> {
        let failed = |source| Error::Io { path: self.dir.clone(), source };
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(failed)?,
        };
        let mut leases = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            let Some((address, owner)) = name.to_str().and_then(|name| name.split_once('@')) else { continue };
            let Ok(address) = address.parse() else { continue };
            leases.push(Lease { address, owner: owner.to_owned() });
        }
        leases.sort();
        Ok(leases)
    }

    fn remove(&self, which: impl Fn(&Lease) -> bool) -> Result<Vec<Lease>, Error> {
        let mut removed = Vec::new();
        for lease in self.leases()? {
            if !which(&lease) {
                continue;
            }
            let path = self.path(lease.address, &lease.owner);
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(Error::Io { path, source }),
                _ => removed.push(lease),
            }
        }
        Ok(removed)
    }

    /// The first free address after the one given last. The first of the range is its network address; the second is
    /// left for a gateway, the last is the broadcast address.
    fn free(&self, taken: &BTreeSet<Ipv4Addr>) -> Result<Ipv4Addr, Error> {
        let first = u32::from(self.range.network()).saturating_add(2);
        let end = u32::from(self.range.broadcast());
        let count = end.saturating_sub(first);
        let last: Option<Ipv4Addr> = fs::read_to_string(self.dir.join(LAST)).ok().and_then(|s| s.parse().ok());
        let start = match last.map(u32::from) {
            Some(last) if last >= first && last < end => last - first + 1,
            _ => 0,
        };
        (0..count)
            .map(|i| Ipv4Addr::from(first + (start + i) % count))
            .find(|address| !taken.contains(address))
            .ok_or(Error::Exhausted { range: self.range, count: count as usize })
    }

    fn path(&self, address: Ipv4Addr, owner: &str) -> PathBuf {
        self.dir.join(format!("{address}@{owner}"))
    }

    /// Waits for, and takes, the lock; it is released when the value is dropped.
    fn lock(&self) -> Result<Flock<File>, Error> {
        let failed = |path: &Path, source| Error::Io { path: path.to_owned(), source };
        fs::create_dir_all(&self.dir).map_err(|e| failed(&self.dir, e))?;
        let path = self.dir.join(LOCK);
        let file =
            OpenOptions::new().create(true).write(true).truncate(false).open(&path).map_err(|e| failed(&path, e))?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| failed(&path, e.into()))
    }
}

fn check_owner(owner: &str) -> Result<(), Error> {
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '-');
    if owner.is_empty() || owner.len() > 200 || !owner.chars().all(valid) {
        return Err(Error::Owner(owner.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn pool(range: &str) -> (tempfile::TempDir, Pool) {
        let dir = tempfile::tempdir().unwrap();
        let pool = Pool::new(dir.path().join("leases"), range.parse().unwrap());
        (dir, pool)
    }

    #[test]
    fn a_lease_is_stable_and_unique_and_survives_a_restart() {
        let (_dir, pool) = pool("10.244.1.0/24");
        let a = pool.lease("uid-a").unwrap();
        let b = pool.lease("uid-b").unwrap();
        assert_ne!(a, b);
        let again = Pool::new(pool.dir.clone(), pool.range());
        assert_eq!(again.lease("uid-a").unwrap(), a);
        assert_eq!(again.release("uid-a").unwrap(), [a]);
        assert!(again.release("uid-a").unwrap().is_empty());
        assert_ne!(pool.lease("uid-c").unwrap(), a, "used again as late as possible");
    }

    #[test]
    fn all_addresses_but_three_are_leased_and_then_none() {
        let (_dir, pool) = pool("10.244.1.0/29");
        let leased: BTreeSet<_> = (0..5).map(|i| pool.lease(&format!("pod-{i}")).unwrap()).collect();
        assert_eq!(leased, (2..7).map(|i| Ipv4Addr::new(10, 244, 1, i)).collect());
        assert!(matches!(pool.lease("pod-6"), Err(Error::Exhausted { count: 5, .. })));
        pool.release("pod-3").unwrap();
        pool.lease("pod-6").unwrap();
    }

    #[test]
    fn a_lease_stands_for_an_address_of_each_family() {
        let (_dir, pool) = pool("10.244.3.0/24");
        let of =
            |last: u8, range: &str| pool.paired(Ipv4Addr::new(10, 244, 3, last), range.parse().unwrap()).to_string();
        assert_eq!(of(2, "fd00:10:244:3::/64"), "fd00:10:244:3::2");
        assert_eq!(of(254, "fd00::300/120"), "fd00::3fe");
        assert_eq!(of(7, "fd00::9/128"), "fd00::9");
    }

    #[test]
    fn owners_that_could_leave_the_folder_are_refused() {
        let (_dir, pool) = pool("10.244.1.0/24");
        for owner in ["", "../x", "a/b", "a@b", &"x".repeat(201)] {
            assert!(matches!(pool.lease(owner), Err(Error::Owner(_))), "{owner}");
        }
    }

    #[test]
    fn a_hundred_at_once_get_different_addresses() {
        let (_dir, pool) = pool("10.244.1.0/24");
        let addresses: BTreeSet<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..100)
                .map(|i| {
                    let pool = pool.clone();
                    scope.spawn(move || pool.lease(&format!("pod-{i}")).unwrap())
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(addresses.len(), 100);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        /// Whatever is leased and released: no address has two owners, and each owner keeps its own.
        #[test]
        fn addresses_have_one_owner(steps in prop::collection::vec((any::<bool>(), 0_u8..20), 0..60)) {
            let (_dir, pool) = pool("10.244.1.0/28");
            let mut model = BTreeMap::<String, Ipv4Addr>::new();
            for (add, owner) in steps {
                let owner = format!("pod-{owner}");
                if add {
                    match pool.lease(&owner) {
                        Ok(address) => {
                            prop_assert!(model.iter().all(|(o, a)| *a != address || *o == owner));
                            prop_assert!(model.get(&owner).is_none_or(|a| *a == address));
                            model.insert(owner, address);
                        }
                        Err(Error::Exhausted { .. }) => prop_assert_eq!(model.len(), 13),
                        Err(error) => return Err(TestCaseError::fail(error.to_string())),
                    }
                } else {
                    prop_assert_eq!(pool.release(&owner).unwrap().first().copied(), model.remove(&owner));
                }
                let leases: BTreeMap<_, _> = pool.leases().unwrap().into_iter().map(|l| (l.owner, l.address)).collect();
                prop_assert_eq!(&leases, &model);
            }
        }
    }
}
