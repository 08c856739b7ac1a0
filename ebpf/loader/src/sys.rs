//! The few `bpf(2)` commands that aya does not have: on links of every program type alike, and on many map entries at once.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use aya::Pod;

// enum bpf_cmd, linux/bpf.h.
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_DELETE_ELEM: libc::c_long = 3;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;
const BPF_MAP_DELETE_BATCH: libc::c_long = 27;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;

/// Where a program runs (`enum bpf_attach_type`, linux/bpf.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[expect(missing_docs, reason = "the kernel's names")]
pub enum AttachType {
    CgroupSockOps = 3,
    CgroupInet4Connect = 10,
    CgroupInet6Connect = 11,
    CgroupUdp4Sendmsg = 14,
    CgroupUdp6Sendmsg = 15,
    CgroupUdp4Recvmsg = 19,
    CgroupUdp6Recvmsg = 20,
    CgroupInet4Getpeername = 29,
    CgroupInet6Getpeername = 30,
    CgroupInetSockRelease = 34,
    Xdp = 37,
    TcxIngress = 46,
    TcxEgress = 47,
}

/// What a link holds on to: an interface's index, or a cgroup's id. Zero once that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkTarget(pub u64);

/// `union bpf_attr` for the commands here; the kernel takes zeros for what is behind the fields it knows.
#[repr(C, align(8))]
struct Attr([u8; 64]);

impl Attr {
    fn new(words: &[u32]) -> Self {
        let mut bytes = [0; 64];
        for (chunk, word) in bytes.chunks_exact_mut(4).zip(words) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        Self(bytes)
    }

    fn with_pointer<T>(pointer: *const T, words: &[u32]) -> Self {
        let address = (pointer as u64).to_ne_bytes();
        let mut attr = Self::new(words);
        attr.0.copy_within(..64 - 8, 8);
        attr.0[..8].copy_from_slice(&address);
        attr
    }

    fn call(&mut self, command: libc::c_long) -> io::Result<i32> {
        // SAFETY: the attribute is a live, aligned buffer of the size given; pointers in it are to data that outlives
        // the call.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_mut_ptr(), self.0.len()) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
    }
}

/// Values and keys are plain data of the sizes that the map has: the caller has compared them.
fn element<K, V>(map: BorrowedFd<'_>, key: *const K, value: *const V) -> Attr {
    let mut attr = Attr::new(&[map.as_raw_fd() as u32]);
    attr.0[8..16].copy_from_slice(&(key as u64).to_ne_bytes());
    attr.0[16..24].copy_from_slice(&(value as u64).to_ne_bytes());
    attr
}

/// The value at `key`.
pub(crate) fn lookup<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    let mut value = MaybeUninit::<V>::zeroed();
    match element(map, key, value.as_mut_ptr()).call(BPF_MAP_LOOKUP_ELEM) {
        // SAFETY: the kernel has written it, and every bit pattern is a value.
        Ok(_) => Ok(Some(unsafe { value.assume_init() })),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Adds or replaces.
pub(crate) fn insert<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K, value: &V) -> io::Result<()> {
    element(map, key, value).call(BPF_MAP_UPDATE_ELEM).map(drop)
}

/// Removes; `ENOENT` if it is not there.
pub(crate) fn remove<K: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<()> {
    element(map, key, std::ptr::null::<u8>()).call(BPF_MAP_DELETE_ELEM).map(drop)
}

/// The `batch` form of the attribute: where to go on, where to say so, keys, values, their number, the map.
fn batch<K, V>(map: BorrowedFd<'_>, places: [u64; 2], keys: *const K, values: *const V, count: usize) -> Attr {
    let mut attr = Attr::new(&[]);
    let fields = [places[0], places[1], keys as u64, values as u64];
    for (chunk, field) in attr.0.chunks_exact_mut(8).zip(fields) {
        chunk.copy_from_slice(&field.to_ne_bytes());
    }
    attr.0[32..36].copy_from_slice(&(count as u32).to_ne_bytes());
    attr.0[36..40].copy_from_slice(&(map.as_raw_fd() as u32).to_ne_bytes());
    attr
}

impl Attr {
    /// How many of a batch were done.
    fn done(&self) -> usize {
        u32::from_ne_bytes([self.0[32], self.0[33], self.0[34], self.0[35]]) as usize
    }
}

/// Adds or replaces all of them. The two slices are of one length.
pub(crate) fn insert_all<K: Pod, V: Pod>(map: BorrowedFd<'_>, keys: &[K], values: &[V]) -> io::Result<()> {
    let count = keys.len().min(values.len());
    if count == 0 {
        return Ok(());
    }
    batch(map, [0; 2], keys.as_ptr(), values.as_ptr(), count).call(BPF_MAP_UPDATE_BATCH).map(drop)
}

/// Removes keys from the first on; how many were, before one that was not there.
pub(crate) fn remove_all<K: Pod>(map: BorrowedFd<'_>, keys: &[K]) -> io::Result<usize> {
    if keys.is_empty() {
        return Ok(0);
    }
    let mut attr = batch(map, [0; 2], keys.as_ptr(), std::ptr::null::<u8>(), keys.len());
    match attr.call(BPF_MAP_DELETE_BATCH) {
        Ok(_) => Ok(keys.len()),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(attr.done()),
        Err(error) => Err(error),
    }
}

/// Up to `count` entries of a hash map from `place` on (`None`: from the start); whether there are more, and then `place`
/// says where.
pub(crate) fn read<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    place: &mut Option<u32>,
    count: usize,
) -> io::Result<(Vec<(K, V)>, bool)> {
    let mut keys = Vec::<K>::with_capacity(count);
    let mut values = Vec::<V>::with_capacity(count);
    let from = *place;
    let mut next = 0_u32;
    let places = [from.as_ref().map_or(0, |from| std::ptr::from_ref(from) as u64), (&raw mut next) as u64];
    let mut attr = batch(map, places, keys.as_mut_ptr(), values.as_mut_ptr(), count);
    let more = match attr.call(BPF_MAP_LOOKUP_BATCH) {
        Ok(_) => true,
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => false,
        Err(error) => return Err(error),
    };
    let done = attr.done().min(count);
    // SAFETY: the kernel has written so many of each, and every bit pattern is a key and a value.
    unsafe {
        keys.set_len(done);
        values.set_len(done);
    }
    *place = Some(next);
    Ok((keys.into_iter().zip(values).collect(), more))
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: the kernel has just given us this descriptor.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

/// Attaches `program` to an interface.
pub fn attach_interface(program: BorrowedFd<'_>, ifindex: u32, kind: AttachType) -> io::Result<OwnedFd> {
    // In the driver or not at all: after it, the other hooks are faster.
    const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
    let flags = if kind == AttachType::Xdp { XDP_FLAGS_DRV_MODE } else { 0 };
    Attr::new(&[program.as_raw_fd() as u32, ifindex, kind as u32, flags]).call(BPF_LINK_CREATE).map(owned)
}

/// Attaches `program` to a cgroup.
pub fn attach_cgroup(program: BorrowedFd<'_>, cgroup: impl AsFd, kind: AttachType) -> io::Result<OwnedFd> {
    let cgroup = cgroup.as_fd().as_raw_fd() as u32;
    Attr::new(&[program.as_raw_fd() as u32, cgroup, kind as u32, 0]).call(BPF_LINK_CREATE).map(owned)
}

/// Replaces the program behind a link, between one packet and the next.
pub fn update(link: impl AsFd, program: BorrowedFd<'_>) -> io::Result<()> {
    Attr::new(&[link.as_fd().as_raw_fd() as u32, program.as_raw_fd() as u32, 0]).call(BPF_LINK_UPDATE).map(drop)
}

/// Pins an object.
pub fn pin(object: impl AsFd, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    Attr::with_pointer(path.as_ptr(), &[object.as_fd().as_raw_fd() as u32]).call(BPF_OBJ_PIN).map(drop)
}

/// Opens a pinned object.
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    Attr::with_pointer(path.as_ptr(), &[]).call(BPF_OBJ_GET).map(owned)
}

/// Opens a pinned object, if there is one.
pub fn open_if_there(path: &Path) -> io::Result<Option<OwnedFd>> {
    match open(path) {
        Ok(fd) => Ok(Some(fd)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// `struct bpf_link_info`: type, id, prog_id, then at 16 a union; tcx and XDP: ifindex; cgroup: cgroup_id.
fn link_info(link: impl AsFd) -> io::Result<[u64; 32]> {
    let mut info = [0_u64; 32];
    let mut attr = Attr::new(&[link.as_fd().as_raw_fd() as u32, size_of_val(&info) as u32]);
    attr.0[8..16].copy_from_slice(&(info.as_mut_ptr() as u64).to_ne_bytes());
    attr.call(BPF_OBJ_GET_INFO_BY_FD)?;
    Ok(info)
}

/// The kernel's number of the program behind a link.
pub fn program_id(link: impl AsFd) -> io::Result<u32> {
    let [a, b, c, d, ..] = link_info(link)?[1].to_ne_bytes();
    Ok(u32::from_ne_bytes([a, b, c, d]))
}

/// What a link is attached to.
pub fn target(link: impl AsFd, kind: AttachType) -> io::Result<LinkTarget> {
    let word = link_info(link)?[2];
    Ok(LinkTarget(match kind {
        AttachType::TcxIngress | AttachType::TcxEgress | AttachType::Xdp => u64::from(word as u32),
        _ => word,
    }))
}

/// What programs are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgramType {
    /// Sockets' addresses, in a cgroup.
    CgroupSockAddr,
    /// TCP's steps, in a cgroup.
    SockOps,
    /// Packets before the kernel sees them.
    Xdp,
}

/// Whether the kernel loads programs of this type: it is given one that does nothing.
pub fn knows_program_type(kind: ProgramType) -> io::Result<()> {
    use aya::programs::ProgramType as Kind;
    let known = aya::sys::is_program_supported(match kind {
        ProgramType::CgroupSockAddr => Kind::CgroupSockAddr,
        ProgramType::SockOps => Kind::SockOps,
        ProgramType::Xdp => Kind::Xdp,
    });
    match known {
        Ok(true) => Ok(()),
        Ok(false) => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        Err(error) => Err(io::Error::other(error)),
    }
}

/// Whether the kernel knows an attach type for interfaces: it lists what is attached to the loopback interface.
pub fn knows_interface_type(kind: AttachType) -> io::Result<()> {
    const LOOPBACK: u32 = 1;
    Attr::new(&[LOOPBACK, kind as u32]).call(BPF_PROG_QUERY).map(drop)
}
