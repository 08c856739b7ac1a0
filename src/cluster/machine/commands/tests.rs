use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::client::{Streams, Target};
use super::frames::{Frame, Request, Size, Terminal};
use super::{frames, server};

/// A server on the loopback, and its authority's directory.
struct Place {
    dir: tempfile::TempDir,
    target: Target,
}

async fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    super::make_authority(dir.path()).unwrap();
    let own = Ipv4Addr::LOCALHOST.into();
    let listener = TcpListener::bind((own, 0)).await.unwrap();
    let target = Target::at("x-1".into(), listener.local_addr().unwrap(), dir.path());
    let acceptor = server::acceptor(dir.path(), own).unwrap();
    tokio::spawn(async move { server::serve(listener, &acceptor).await });
    Place { dir, target }
}

fn shell(script: &str) -> Vec<String> {
    ["sh", "-c", script].map(str::to_owned).to_vec()
}

/// Runs a command; its code, what it said, and its errors.
async fn run(target: &Target, request: Request, input: Vec<u8>) -> (u8, Vec<u8>, Vec<u8>) {
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let streams = Streams {
        input: Box::new(std::io::Cursor::new(input)),
        output: Box::new(&mut output),
        errors: Box::new(&mut errors),
        sizes: stream::pending().boxed(),
    };
    let code = timeout(Duration::from_secs(20), target.run(&request, streams)).await.unwrap().unwrap();
    (code, output, errors)
}

fn plain(script: &str) -> Request {
    Request { command: shell(script), terminal: None }
}

#[tokio::test]
async fn a_command_has_its_streams_and_its_code() {
    let place = place().await;
    let (code, output, errors) = run(&place.target, plain("cat; echo bad >&2; exit 7"), b"good".to_vec()).await;
    assert_eq!((code, output.as_slice(), errors.as_slice()), (7, &b"good"[..], &b"bad\n"[..]));
    let (code, ..) = run(&place.target, plain("kill -TERM $$"), Vec::new()).await;
    assert_eq!(code, 128 + 15);
}

/// More than pipes, frames and windows hold, in both directions at once.
#[tokio::test]
async fn much_goes_both_ways_at_once() {
    let place = place().await;
    let much: Vec<u8> = (0..8_000_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let (code, output, _) = run(&place.target, plain("cat"), much.clone()).await;
    assert_eq!(code, 0);
    assert!(output == much, "{} bytes came back of {}", output.len(), much.len());
    // Nobody reads it, and the last frame comes all the same.
    assert_eq!(run(&place.target, plain("exit 3"), much).await.0, 3);
}

#[tokio::test]
async fn what_a_command_leaves_running_keeps_nobody_waiting() {
    let place = place().await;
    let (code, output, _) = run(&place.target, plain("sleep 30 & echo $!"), Vec::new()).await;
    assert_eq!(code, 0);
    let left: i32 = String::from_utf8(output).unwrap().trim().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(left), nix::sys::signal::Signal::SIGKILL).expect("it runs on");
}

#[tokio::test]
async fn a_command_may_have_a_terminal() {
    let place = place().await;
    let size = Size { rows: 33, columns: 101 };
    let request = Request {
        command: shell("test -t 0 && stty size && echo $TERM && read line && echo got $line"),
        terminal: Some(Terminal { kind: "vt100".into(), size }),
    };
    let (code, output, _) = run(&place.target, request, b"word\n".to_vec()).await;
    let output = String::from_utf8(output).unwrap();
    assert_eq!(code, 0, "{output}");
    for said in ["33 101", "vt100", "got word"] {
        assert!(output.contains(said), "{output}");
    }
}

#[tokio::test]
async fn what_cannot_be_run_is_said() {
    let place = place().await;
    let error = place.target.output(&["/no/such/program".into()]).await.unwrap_err();
    assert!(format!("{error:#}").contains("cannot run /no/such/program"), "{error:#}");
    let error = place.target.output(&shell("echo why >&2; exit 4")).await.unwrap_err();
    assert!(format!("{error:#}").ends_with("ends with 4: why"), "{error:#}");
    assert_eq!(place.target.output(&shell("echo yes")).await.unwrap(), "yes\n");
}

#[tokio::test]
async fn a_command_dies_with_its_caller() {
    let place = place().await;
    let mark = place.dir.path().join("alive");
    let script = format!("trap '' HUP; mkfifo {0}; exec sleep 60 <>{0}", mark.display());
    let calling = tokio::spawn({
        let target = place.target.clone();
        async move { target.output(&shell(&script)).await }
    });
    let waiting = async |is_held: bool| {
        // A pipe without readers can't be opened to write without waiting.
        let held = || {
            let flags = nix::fcntl::OFlag::O_WRONLY | nix::fcntl::OFlag::O_NONBLOCK;
            nix::fcntl::open(&mark, flags, nix::sys::stat::Mode::empty()).is_ok()
        };
        timeout(Duration::from_secs(10), async {
            while held() != is_held {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .unwrap();
    };
    waiting(true).await;
    calling.abort();
    waiting(false).await;
}

#[tokio::test]
async fn strangers_are_turned_away() {
    let place = place().await;
    let other = tempfile::tempdir().unwrap();
    super::make_authority(other.path()).unwrap();
    let stranger = Target::at("x-1".into(), place.target.address, other.path());
    let error = stranger.output(&shell("true")).await.unwrap_err();
    assert!(format!("{error:#}").contains("takes no commands"), "{error:#}");
    // One that trusts the machine, and shows nothing.
    let authority = super::authority(place.dir.path()).unwrap();
    let config = xebec_pki::client_config(authority.certificate_pem(), None, &xebec_clock::Clock::system()).unwrap();
    let SocketAddr::V4(address) = place.target.address else { panic!("{:?}", place.target) };
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let name = rustls::pki_types::ServerName::IpAddress(std::net::IpAddr::from(*address.ip()).into());
    let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await.unwrap();
    let (mut to_machine, mut from_machine) = frames::split(stream);
    let _ = to_machine.send(&Frame::Request(plain("echo secret"))).await;
    assert!(!matches!(from_machine.next().await, Ok(Some(_))), "it was answered");
}

/// Two machines that start at once would each make one, and one of them would be nobody's.
#[test]
fn machines_and_callers_make_no_authority() {
    let dir = tempfile::tempdir().unwrap();
    let error = server::acceptor(dir.path(), Ipv4Addr::LOCALHOST.into()).err().unwrap();
    assert!(error.to_string().starts_with("the machines have no authority yet"), "{error:#}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn nonsense_is_no_frame() {
    for nonsense in [&[0, 0, 0, 0][..], &[0, 0, 0, 1, b'?'], &[0, 0, 0, 2, b'r', b'{'], &[0xff; 8]] {
        let (mut one, two) = tokio::io::duplex(64);
        one.write_all(nonsense).await.unwrap();
        assert!(frames::split(two).1.next().await.is_err(), "{nonsense:?}");
    }
}
