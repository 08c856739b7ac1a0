//! Names outside the cluster: what nodes ask at their gateway's port 53 goes to the host's own resolvers, as it is.
//!
//! A relay and not a resolver: it neither parses nor caches, so it can't be wrong about a name.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use ipnet::IpNet;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Questions under way at once; more are dropped, and asked again by who asked.
const MAX_PENDING: usize = 512;
/// How long one of the host's resolvers has for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);
/// How long a TCP client may be silent.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
const HEADER_BYTES: usize = 12;

/// Serves UDP and TCP on port 53 of `own` for the addresses of its network, until dropped.
pub async fn serve(own: IpNet) -> anyhow::Result<()> {
    let address = own.addr();
    let what = || format!("cannot listen on {address}:53 for the nodes' names (another DNS server on all addresses?)");
    let udp = Arc::new(UdpSocket::bind((address, 53)).await.with_context(what)?);
    let tcp = TcpListener::bind((address, 53)).await.with_context(what)?;
    let pending = Arc::new(Semaphore::new(MAX_PENDING));
    tokio::join!(serve_udp(udp, own, Arc::clone(&pending)), serve_tcp(tcp, own, pending));
    Ok(())
}

/// The host's resolvers: the `nameserver` lines of its resolv.conf.
fn resolvers() -> Vec<SocketAddr> {
    parse_resolvers(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
}

fn parse_resolvers(text: &str) -> Vec<SocketAddr> {
    let server = |line: &str| -> Option<SocketAddr> {
        let address: IpAddr = line.trim().strip_prefix("nameserver")?.trim().parse().ok()?;
        Some(SocketAddr::new(address, 53))
    };
    text.lines().filter_map(server).take(3).collect()
}

async fn serve_udp(socket: Arc<UdpSocket>, subnet: IpNet, pending: Arc<Semaphore>) {
    let mut buffer = vec![0; 65_535];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(e) => {
                // An ICMP error about an earlier answer, as a rule.
                tracing::debug!("receive: {e}");
                continue;
            }
        };
        if !known(from, subnet) || length < HEADER_BYTES {
            continue;
        }
        let Ok(permit) = Arc::clone(&pending).try_acquire_owned() else { continue };
        let (question, socket) = (buffer[..length].to_vec(), Arc::clone(&socket));
        tokio::spawn(async move {
            let answer = ask_udp(&question).await.unwrap_or_else(|| failure(question));
            let _ = socket.send_to(&answer, from).await;
            drop(permit);
        });
    }
}

fn known(from: SocketAddr, subnet: IpNet) -> bool {
    subnet.contains(&from.ip())
}

async fn ask_udp(question: &[u8]) -> Option<Vec<u8>> {
    for server in resolvers() {
        let asked = async {
            let local = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(local).await?;
            socket.connect(server).await?;
            socket.send(question).await?;
            let mut answer = vec![0; 65_535];
            loop {
                let length = socket.recv(&mut answer).await?;
                if length >= HEADER_BYTES && answer[..2] == question[..2] {
                    answer.truncate(length);
                    return std::io::Result::Ok(answer);
                }
            }
        };
        match timeout(ANSWER_TIMEOUT, asked).await {
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(e)) => tracing::debug!(%server, "{e}"),
            Err(_) => tracing::debug!(%server, "no answer in {ANSWER_TIMEOUT:?}"),
        }
    }
    None
}

/// SERVFAIL (RFC 1035, 4.1.1) to a question.
fn failure(mut question: Vec<u8>) -> Vec<u8> {
    question[2] |= 0x80;
    question[3] = (question[3] & 0xf0) | 2;
    question
}

async fn serve_tcp(listener: TcpListener, subnet: IpNet, pending: Arc<Semaphore>) {
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(e) => {
                tracing::warn!("accept: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&pending).try_acquire_owned() else { continue };
        if known(from, subnet) {
            tokio::spawn(async move {
                let _ = relay_tcp(stream).await;
                drop(permit);
            });
        }
    }
}

/// Questions one after the other, each with its length in front (RFC 7766).
async fn relay_tcp(mut client: TcpStream) -> std::io::Result<()> {
    let mut server = None;
    loop {
        let question = timeout(IDLE_TIMEOUT, read_message(&mut client)).await??;
        let mut answer = ask_tcp(&mut server, &question).await;
        if answer.is_none() {
            // Some resolvers speak no TCP: better what fits a datagram than nothing.
            answer = ask_udp(&question).await;
        }
        let answer = answer.unwrap_or_else(|| failure(question));
        let length = u16::try_from(answer.len()).unwrap_or(u16::MAX).to_be_bytes();
        client.write_all(&[&length[..], &answer].concat()).await?;
    }
}

/// How long one of the host's resolvers has to accept a connection: one that speaks no TCP may say nothing at all.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(800);

async fn ask_tcp(kept: &mut Option<TcpStream>, question: &[u8]) -> Option<Vec<u8>> {
    let message = [&u16::try_from(question.len()).ok()?.to_be_bytes()[..], question].concat();
    let exchange = async |mut stream: TcpStream| {
        stream.write_all(&message).await?;
        let answer = read_message(&mut stream).await?;
        std::io::Result::Ok((stream, answer))
    };
    if let Some(stream) = kept.take()
        && let Ok(Ok((stream, answer))) = timeout(ANSWER_TIMEOUT, exchange(stream)).await
    {
        *kept = Some(stream);
        return Some(answer);
    }
    for server in resolvers() {
        let asked = async { exchange(timeout(CONNECT_TIMEOUT, TcpStream::connect(server)).await??).await };
        if let Ok(Ok((stream, answer))) = timeout(ANSWER_TIMEOUT, asked).await {
            *kept = Some(stream);
            return Some(answer);
        }
    }
    None
}

async fn read_message(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length < HEADER_BYTES {
        return Err(std::io::Error::other("a message shorter than its header"));
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_read_as_the_host_reads_them() {
        let text = "# a\nnameserver 10.0.0.1\nsearch x\nnameserver\t::1\nnameserver fe80::1%eth0\nnameserver 1.2.3.4\n";
        let found: Vec<_> = parse_resolvers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.0.0.1:53", "[::1]:53", "1.2.3.4:53"]);
    }

    #[test]
    fn a_failure_answers_the_question() {
        let answer = failure(vec![1, 2, 0x01, 0x20, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(answer[..4], [1, 2, 0x81, 0x22]);
    }
}
