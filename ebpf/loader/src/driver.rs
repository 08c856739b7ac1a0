//! What drives an interface.

use std::ffi::CStr;
use std::io;
use std::os::fd::AsRawFd as _;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// linux/ethtool.h.
const ETHTOOL_GDRVINFO: u32 = 3;

/// `struct ethtool_drvinfo`, linux/ethtool.h.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [libc::c_char; 32],
    rest: [u32; 40],
}

/// The name of the driver of an interface of this network namespace: `veth`, `virtio_net`, `ixgbe`.
pub fn name(interface: &str) -> io::Result<String> {
    // SAFETY: all zeros is a valid value of the request and of the answer.
    let (mut request, mut info) = unsafe { (std::mem::zeroed::<libc::ifreq>(), std::mem::zeroed::<DriverInfo>()) };
    if interface.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (place, byte) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *place = byte as libc::c_char;
    }
    info.command = ETHTOOL_GDRVINFO;
    request.ifr_ifru.ifru_data = (&raw mut info).cast();
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: the request names a buffer of the size that this command writes, and both outlive the call.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel ends the name with a zero, for which the buffer has room.
    let name = unsafe { CStr::from_ptr(info.driver.as_ptr()) };
    Ok(name.to_string_lossy().into_owned())
}
