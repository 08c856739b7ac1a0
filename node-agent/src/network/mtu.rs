//! How large a packet may be on the way to each other node.
//!
//! Between two nodes there may be links that are smaller than their own, and routers that say nothing when a packet is too
//! large for one. So packets of every node's full size are sent now and then, not to be fragmented, to the others'
//! datapaths, which send them back; where they do not come back, the size that does is sought.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use xebec_ebpf_loader::layout::{ALIVE_PORT, ALIVE_QUESTION};

use super::setup::vxlan_overhead;

/// How often a path is measured.
const EVERY: Duration = Duration::from_secs(60);
/// How long an answer may take, and how often it is asked for.
const PATIENCE: Duration = Duration::from_millis(250);
const TRIES: u32 = 3;
/// What every path has to carry (RFC 8200 section 5, and no IPv4 path of today carries less).
const LEAST: u32 = 1_280;

/// Length of the IP and UDP headers of packets to this address.
fn headers(to: IpAddr) -> u32 {
    if to.is_ipv4() { 28 } else { 48 }
}

/// The paths that are smaller than the link, by the other node's address, with the largest packet that fits.
pub type Paths = BTreeMap<IpAddr, u32>;

/// What is wrong, for people.
pub fn problem(paths: &Paths, link: u32) -> Option<String> {
    const LISTED: usize = 5;
    if paths.is_empty() {
        return None;
    }
    let listed: Vec<String> = paths.iter().take(LISTED).map(|(node, mtu)| format!("{mtu} bytes to {node}")).collect();
    let more = paths.len().saturating_sub(LISTED);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    Some(format!("the link carries {link} bytes, but only {}{more} get through", listed.join(", ")))
}

/// What the datapath is to know of a way to a node; 0 if the link's size gets through.
pub fn limit(paths: &Paths, node: IpAddr, by_tunnel: bool) -> u16 {
    let Some(mtu) = paths.get(&node) else { return 0 };
    let overhead = if by_tunnel { vxlan_overhead(node) } else { 0 };
    u16::try_from(mtu.saturating_sub(overhead)).unwrap_or(0)
}

/// Measures the paths from `own` to `others` for ever.
pub async fn watch_over(
    own: IpAddr,
    link: u32,
    mut others: watch::Receiver<BTreeSet<IpAddr>>,
    found: watch::Sender<Paths>,
) {
    let socket = match open(own).await {
        Ok(socket) => socket,
        Err(error) => {
            tracing::warn!(%error, "cannot measure the paths to other nodes: they are taken to be as large as the link");
            return std::future::pending().await;
        }
    };
    loop {
        let nodes = others.borrow_and_update().clone();
        found.send_if_modified(|paths| {
            let before = paths.len();
            paths.retain(|node, _| nodes.contains(node));
            paths.len() != before
        });
        for node in &nodes {
            let result = measure(&socket, *node, link).await;
            note(*node, result, link, &found);
        }
        tokio::select! {
            biased;
            changed = others.changed() => if changed.is_err() { return std::future::pending().await },
            () = sleep(EVERY) => {}
        }
    }
}

fn note(node: IpAddr, result: io::Result<Option<u32>>, link: u32, found: &watch::Sender<Paths>) {
    let mtu = match result {
        Ok(Some(mtu)) => mtu,
        // A node that does not answer at all: nothing new is known.
        Ok(None) => return,
        Err(error) => {
            tracing::debug!(%error, %node, "cannot measure a path");
            return;
        }
    };
    found.send_if_modified(|paths| {
        let smaller = (mtu < link).then_some(mtu);
        let changed = paths.get(&node).copied() != smaller;
        match smaller {
            Some(mtu) => drop(paths.insert(node, mtu)),
            None => drop(paths.remove(&node)),
        }
        if changed {
            tracing::info!(%node, mtu, link, "the largest packet that gets through to a node has another size");
        }
        changed
    });
}

/// A socket whose packets are neither fragmented nor held to what the kernel believes of a path.
async fn open(own: IpAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((own, 0)).await?;
    let (level, option, probe) = match own {
        IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE),
        IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE),
    };
    // SAFETY: the pointer and the length are of a live local.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const probe).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if set == 0 { Ok(socket) } else { Err(io::Error::last_os_error()) }
}

/// The largest packet up to `link` that comes back from a node; `None` if none does.
async fn measure(socket: &UdpSocket, node: IpAddr, link: u32) -> io::Result<Option<u32>> {
    if comes_back(socket, node, link).await? {
        return Ok(Some(link));
    }
    if !comes_back(socket, node, LEAST.min(link)).await? {
        return Ok(None);
    }
    let (mut fits, mut too_large) = (LEAST.min(link), link);
    while too_large - fits > 1 {
        let size = fits.midpoint(too_large);
        if comes_back(socket, node, size).await? {
            fits = size;
        } else {
            too_large = size;
        }
    }
    // Packets get lost for other reasons too.
    Ok(Some(if comes_back(socket, node, link).await? { link } else { fits }))
}

/// Whether a packet of `size` bytes gets to a node and back.
async fn comes_back(socket: &UdpSocket, node: IpAddr, size: u32) -> io::Result<bool> {
    let length = (size - headers(node)) as usize;
    let mut question = vec![0; length];
    question[..ALIVE_QUESTION.len()].copy_from_slice(&ALIVE_QUESTION);
    let to = SocketAddr::from((node, ALIVE_PORT));
    let mut answer = vec![0; length + 1];
    for _ in 0..TRIES {
        match socket.send_to(&question, to).await {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => return Ok(false),
            Err(error) => return Err(error),
        }
        let until = Instant::now() + PATIENCE;
        while let Ok(received) = timeout_at(until, socket.recv_from(&mut answer)).await {
            if received? == (length, to) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node's datapath that sends back what is not larger than `mtu`.
    async fn peer(own: IpAddr, mtu: u32) {
        let socket = UdpSocket::bind((own, ALIVE_PORT)).await.unwrap();
        tokio::spawn(async move {
            let mut buffer = vec![0; 65_536];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                if length <= (mtu - headers(own)) as usize {
                    socket.send_to(&buffer[..length], from).await.unwrap();
                }
            }
        });
    }

    #[tokio::test]
    async fn the_largest_size_that_comes_back_is_found() {
        let own = IpAddr::from([127, 0, 0, 1]);
        let socket = open(own).await.unwrap();
        for (last, mtu) in [(11, 1_500), (12, 1_400), (13, 1_281), (14, 1_280), (15, 9_000)] {
            let node = IpAddr::from([127, 7, 0, last]);
            peer(node, mtu).await;
            assert_eq!(measure(&socket, node, 1_500).await.unwrap(), Some(mtu.min(1_500)));
        }
        assert_eq!(measure(&socket, [127, 7, 0, 99].into(), 1_500).await.unwrap(), None);
    }

    #[tokio::test]
    async fn it_is_measured_by_ipv6_too() {
        // The loopback network has one address of IPv6, whose port IPv4's tests leave alone.
        let own = IpAddr::from(std::net::Ipv6Addr::LOCALHOST);
        let socket = open(own).await.unwrap();
        peer(own, 1_400).await;
        assert_eq!(measure(&socket, own, 1_500).await.unwrap(), Some(1_400));
    }

    #[test]
    fn the_tunnel_takes_its_share() {
        let six: IpAddr = "fd00::1".parse().unwrap();
        let paths = Paths::from([([10, 0, 0, 1].into(), 1_400), (six, 1_400)]);
        let node = |last| IpAddr::from([10, 0, 0, last]);
        assert_eq!(limit(&paths, node(1), false), 1_400);
        assert_eq!(limit(&paths, node(1), true), 1_350);
        assert_eq!((limit(&paths, six, false), limit(&paths, six, true)), (1_400, 1_330));
        assert_eq!(limit(&paths, node(2), false), 0);
    }

    #[test]
    fn only_smaller_paths_are_a_problem() {
        let (found, _) = watch::channel(Paths::new());
        let node = |last| IpAddr::from([10, 0, 0, last]);
        note(node(1), Ok(Some(1_500)), 1_500, &found);
        note(node(2), Ok(None), 1_500, &found);
        assert_eq!(problem(&found.borrow(), 1_500), None);
        note(node(1), Ok(Some(1_400)), 1_500, &found);
        let text = problem(&found.borrow(), 1_500).unwrap();
        assert_eq!(text, "the link carries 1500 bytes, but only 1400 bytes to 10.0.0.1 get through");
        note(node(1), Ok(None), 1_500, &found);
        assert_eq!(found.borrow().len(), 1, "silence says nothing");
        note(node(1), Ok(Some(1_500)), 1_500, &found);
        assert!(found.borrow().is_empty());
    }
}
