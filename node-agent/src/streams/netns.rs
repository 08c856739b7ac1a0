//! Connections into a pod's network namespace: what [`super::Backend::connect`] needs on a real node.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// Loopback answers at once, or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects to a port on the loopback of a network namespace: IPv4 first, then IPv6, as upstream's runtimes do. `None`
/// is the namespace that this process is in.
///
/// The socket is made on a thread of its own, which ends with it: a thread that has entered a namespace is not used for
/// anything else. A socket belongs to the namespace it was made in, whoever uses it.
///
/// # Errors
/// If the namespace is gone, or nothing listens there: the error of the last address tried.
pub async fn connect(netns: Option<PathBuf>, port: u16) -> io::Result<TcpStream> {
    let (done, connected) = oneshot::channel();
    std::thread::Builder::new().name("pod-connect".into()).spawn(move || {
        // The request may be gone by now; then so is the socket.
        let _ = done.send(connect_on_this_thread(netns.as_deref(), port));
    })?;
    let stream = connected.await.map_err(|_| io::Error::other("the thread that connects into the pod died"))??;
    stream.set_nonblocking(true)?;
    TcpStream::from_std(stream)
}

fn connect_on_this_thread(netns: Option<&Path>, port: u16) -> io::Result<std::net::TcpStream> {
    if let Some(path) = netns {
        setns(File::open(path)?, CloneFlags::CLONE_NEWNET)?;
    }
    let connect = |ip: IpAddr| std::net::TcpStream::connect_timeout(&SocketAddr::from((ip, port)), CONNECT_TIMEOUT);
    connect(Ipv4Addr::LOCALHOST.into()).or_else(|_| connect(Ipv6Addr::LOCALHOST.into()))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::sync::mpsc;

    use super::*;

    /// A listener on the loopback of a new network namespace, which lives as long as the thread does. It answers one
    /// connection. Returns its namespace and port.
    fn listen(address: &'static str) -> (PathBuf, u16) {
        let (ready, listening) = mpsc::channel();
        std::thread::spawn(move || {
            nix::sched::unshare(CloneFlags::CLONE_NEWNET).expect("tests of namespaces run as root");
            assert!(std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
            let listener = TcpListener::bind(address).unwrap();
            let path = PathBuf::from(format!("/proc/self/task/{}/ns/net", nix::unistd::gettid()));
            ready.send((path, listener.local_addr().unwrap().port())).unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"from inside").unwrap();
            drop(stream);
            // Keeps the namespace for as long as the test looks at it.
            let _ = listener.accept();
        });
        listening.recv().unwrap()
    }

    #[tokio::test]
    async fn reaches_what_listens_in_the_namespace_only() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (netns, port) = listen(address);
            assert!(connect(None, port).await.is_err(), "nothing listens out here");
            let stream = connect(Some(netns.clone()), port).await.unwrap().into_std().unwrap();
            stream.set_nonblocking(false).unwrap();
            let mut text = String::new();
            (&stream).read_to_string(&mut text).unwrap();
            assert_eq!(text, "from inside", "{address}");
            assert!(connect(Some(netns), 1).await.is_err(), "nothing listens on that port");
        }
    }

    #[tokio::test]
    async fn says_when_the_namespace_is_gone() {
        let error = connect(Some("/nowhere/net".into()), 80).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
