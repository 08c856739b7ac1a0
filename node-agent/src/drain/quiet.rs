//! Whether clients still wait for a pod: the TCP connections to ports that it listens on, as its network namespace's
//! `/proc/net/tcp` shows them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::Path;

/// States of a socket, as the kernel numbers them (`include/net/tcp_states.h`).
const ESTABLISHED: &str = "01";
const SYN_RECEIVED: &str = "03";
const CLOSE_WAIT: &str = "08";
const LISTEN: &str = "0A";

/// A line of the table, as far as it matters.
struct Socket<'a> {
    local_port: &'a str,
    remote: &'a str,
    state: &'a str,
    /// Of a listening one: connections that the program has not accepted yet.
    waiting: &'a str,
}

fn parse(line: &str) -> Option<Socket<'_>> {
    let mut fields = line.split_whitespace().skip(1);
    let (local, remote, state, queues) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    Some(Socket {
        local_port: local.rsplit_once(':')?.1,
        remote: remote.rsplit_once(':')?.0,
        state,
        waiting: queues.split_once(':')?.1,
    })
}

/// 127.0.0.0/8, ::1 and the former inside of IPv6, each as the kernel prints it: words of its own byte order.
fn is_loopback(address: &str) -> bool {
    let last_word = &address[address.len().saturating_sub(8)..];
    match address.len() {
        8 => last_word.ends_with("7F"),
        _ => address == "00000000000000000000000001000000" || address.contains("FFFF0000") && last_word.ends_with("7F"),
    }
}

/// How many connections from elsewhere there are to ports that are listened on. `tables` are `/proc/net/tcp` and `tcp6`.
pub fn connections(tables: &[String]) -> usize {
    let sockets = || tables.iter().flat_map(|table| table.lines().skip(1).filter_map(parse));
    let ports: BTreeSet<&str> = sockets().filter(|s| s.state == LISTEN).map(|s| s.local_port).collect();
    let is_open = |socket: &Socket<'_>| match socket.state {
        LISTEN => socket.waiting.bytes().any(|digit| digit != b'0'),
        ESTABLISHED | SYN_RECEIVED | CLOSE_WAIT => ports.contains(socket.local_port) && !is_loopback(socket.remote),
        _ => false,
    };
    sockets().filter(is_open).count()
}

/// Counts them in a network namespace. Blocks for some tens of microseconds.
pub fn connections_in(netns: &Path) -> io::Result<usize> {
    let netns = File::open(netns)?;
    // A thread of its own: there is no certain way back for this one.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, || {
            nix::sched::setns(&netns, nix::sched::CloneFlags::CLONE_NEWNET)?;
            let tables: io::Result<Vec<String>> = ["tcp", "tcp6"]
                .iter()
                .map(|name| fs::read_to_string(format!("/proc/thread-self/net/{name}")))
                .collect();
            Ok(connections(&tables?))
        })?;
        thread.join().map_err(|_| io::Error::other("the thread died"))?
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    const HEADER: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

    fn table(lines: &[&str]) -> Vec<String> {
        vec![HEADER.to_owned() + &lines.join("\n"), HEADER.to_owned()]
    }

    #[test]
    fn only_clients_from_elsewhere_count() {
        let listening = "   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000";
        assert_eq!(connections(&table(&[listening])), 0);
        let one = |local: &str, remote: &str, state: &str| {
            let line = format!("   1: {local} {remote} {state} 00000000:00000000 00:00000000 00000000");
            connections(&table(&[listening, &line]))
        };
        assert_eq!(one("0501F40A:1F90", "0701F40A:D2F0", ESTABLISHED), 1);
        assert_eq!(one("0501F40A:1F90", "0701F40A:D2F0", CLOSE_WAIT), 1, "the answer is still to come");
        assert_eq!(one("0501F40A:1F90", "0701F40A:D2F0", "06"), 0, "TIME_WAIT: it is over");
        assert_eq!(one("0501F40A:D2F0", "0701F40A:1F90", ESTABLISHED), 0, "the pod is the client");
        assert_eq!(one("0100007F:1F90", "0100007F:D2F0", ESTABLISHED), 0, "its own");
        let six = "0000000000000000FFFF00000501F40A:1F90 0000000000000000FFFF00000701F40A:D2F0";
        let (local, remote) = six.split_once(' ').unwrap();
        assert_eq!(one(local, remote, ESTABLISHED), 1);
        let backlog = "   0: 00000000:1F90 00000000:0000 0A 00000000:00000003 00:00000000 00000000";
        assert_eq!(connections(&table(&[backlog])), 1, "not accepted yet");
    }

    #[test]
    fn a_namespace_is_looked_into() {
        std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            for line in ["link set lo up", "address add 192.0.2.1/32 dev lo"] {
                assert!(std::process::Command::new("ip").args(line.split(' ')).status().unwrap().success());
            }
            let listener = TcpListener::bind("192.0.2.1:0").unwrap();
            let own = format!("/proc/{}/task/{}/ns/net", std::process::id(), nix::unistd::gettid());
            assert_eq!(connections_in(Path::new(&own)).unwrap(), 0);
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            assert!(connections_in(Path::new(&own)).unwrap() >= 1, "in the queue");
            let (mut server, _) = listener.accept().unwrap();
            assert_eq!(connections_in(Path::new(&own)).unwrap(), 1);
            drop(client);
            assert_eq!(server.read(&mut [0; 1]).unwrap(), 0);
            drop(server);
            assert_eq!(connections_in(Path::new(&own)).unwrap(), 0);
        })
        .join()
        .unwrap();
    }
}
