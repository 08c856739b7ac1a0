//! The host's side: has a machine run a command, and is its standard streams.

use std::io::IsTerminal as _;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use jiff::SignedDuration;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use xebec_clock::Clock;
use xebec_pki::client_config;

use super::frames::{self, Frame, Request, Size, Terminal};
use super::{PORT, authority};
use crate::cluster::{Cluster, Paths};

/// How long a machine has to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a caller may take to connect.
const VALIDITY: SignedDuration = SignedDuration::from_hours(1);

/// A machine that commands can be run in.
#[derive(Clone, Debug)]
pub struct Target {
    node: String,
    pub(super) address: SocketAddr,
    pub(super) authority: PathBuf,
}

/// A caller's standard streams.
pub(super) struct Streams<'a> {
    pub(super) input: Box<dyn AsyncRead + Send + Unpin + 'a>,
    pub(super) output: Box<dyn AsyncWrite + Send + Unpin + 'a>,
    pub(super) errors: Box<dyn AsyncWrite + Send + Unpin + 'a>,
    /// The sizes that the terminal takes on.
    pub(super) sizes: BoxStream<'a, Size>,
}

impl Target {
    /// The node of this name.
    pub fn of(cluster: &Cluster, node: &str) -> anyhow::Result<Self> {
        let found = cluster.node_list().into_iter().find(|(name, _)| name == node);
        let (node, address) = found.with_context(|| format!("cluster {} has no node {node}", cluster.name))?;
        Ok(Self::at(node, SocketAddr::new(address, PORT), &Paths::of(&cluster.name).machines()))
    }

    pub(super) fn at(node: String, address: SocketAddr, authority: &Path) -> Self {
        Self { node, address, authority: authority.to_owned() }
    }

    /// Runs a command with this process's standard streams as its own. Returns its exit code, or 128 and the number of
    /// the signal that ended it.
    pub async fn attached(&self, command: &[String]) -> anyhow::Result<u8> {
        let screen = Screen::open()?;
        let terminal = screen
            .as_ref()
            .map(|_| Terminal { kind: std::env::var("TERM").unwrap_or_else(|_| "linux".into()), size: screen_size() });
        let changes = signal(SignalKind::window_change()).context("cannot watch the terminal's size")?;
        let sizes = stream::unfold(changes, |mut changes| async {
            changes.recv().await?;
            Some((screen_size(), changes))
        });
        let streams = Streams {
            input: Box::new(tokio::io::stdin()),
            output: Box::new(tokio::io::stdout()),
            errors: Box::new(tokio::io::stderr()),
            sizes: sizes.boxed(),
        };
        self.run(&Request { command: command.to_vec(), terminal }, streams).await
    }

    /// Runs a command that reads nothing; what it says, if it succeeds.
    pub async fn output(&self, command: &[String]) -> anyhow::Result<String> {
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        let streams = Streams {
            input: Box::new(tokio::io::empty()),
            output: Box::new(&mut output),
            errors: Box::new(&mut errors),
            sizes: stream::pending().boxed(),
        };
        let code = self.run(&Request { command: command.to_vec(), terminal: None }, streams).await?;
        if code != 0 {
            bail!("{} ends with {code}: {}", command.join(" "), String::from_utf8_lossy(&errors).trim());
        }
        Ok(String::from_utf8_lossy(&output).into_owned())
    }

    pub(super) async fn run(&self, request: &Request, streams: Streams<'_>) -> anyhow::Result<u8> {
        let connected = timeout(PATIENCE, self.connect()).await.unwrap_or_else(|_| bail!("no answer in {PATIENCE:?}"));
        let stream = connected.with_context(|| {
            format!("node {} takes no commands at {}; is it still starting?", self.node, self.address)
        })?;
        let (mut to_machine, mut from_machine) = frames::split(stream);
        to_machine.send(&Frame::Request(request.clone())).await?;
        let Streams { input, mut output, mut errors, sizes } = streams;
        let hearing = async {
            loop {
                match from_machine.next().await? {
                    Some(Frame::Output(bytes)) => write(&mut output, &bytes).await?,
                    Some(Frame::ErrorOutput(bytes)) => write(&mut errors, &bytes).await?,
                    Some(Frame::Ended(code)) => return Ok(code),
                    Some(Frame::Refused(why)) => bail!("{why}"),
                    Some(Frame::Request(_) | Frame::Input(_) | Frame::Resized(_)) => {}
                    None => bail!("node {} died, or what runs its commands", self.node),
                }
            }
        };
        tokio::select! {
            biased;
            code = hearing => code,
            never = saying(&mut to_machine, input, sizes) => match never {},
        }
    }

    async fn connect(&self) -> anyhow::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let authority = authority(&self.authority)?;
        let certified = authority.client_cert("caller", &[], VALIDITY)?;
        let config = client_config(authority.certificate_pem(), Some(&certified), &Clock::system())?;
        let stream = TcpStream::connect(self.address).await?;
        let name: IpAddr = self.address.ip();
        Ok(TlsConnector::from(config).connect(ServerName::IpAddress(name.into()), stream).await?)
    }
}

async fn write(to: &mut (impl AsyncWrite + Unpin), bytes: &Bytes) -> anyhow::Result<()> {
    to.write_all(bytes).await?;
    Ok(to.flush().await?)
}

/// Says what the caller types until its input ends, and how large its terminal is. If that can't be said any more, the
/// other direction says why.
async fn saying<W: AsyncWrite + Unpin>(
    to_machine: &mut frames::Sender<W>,
    mut input: Box<dyn AsyncRead + Send + Unpin + '_>,
    mut sizes: BoxStream<'_, Size>,
) -> std::convert::Infallible {
    let mut buffer = vec![0; 64 << 10];
    let mut is_open = true;
    loop {
        let frame = tokio::select! {
            biased;
            Some(size) = sizes.next() => Frame::Resized(size),
            read = input.read(&mut buffer), if is_open => {
                let length = read.unwrap_or(0);
                is_open = length > 0;
                Frame::Input(Bytes::copy_from_slice(&buffer[..length]))
            }
            else => return std::future::pending().await,
        };
        if to_machine.send(&frame).await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// This process's terminal, which hands on each key until this is dropped.
struct Screen(Termios);

impl Screen {
    /// `None` unless both input and output are one.
    fn open() -> anyhow::Result<Option<Self>> {
        let (input, output) = (std::io::stdin(), std::io::stdout());
        if !input.is_terminal() || !output.is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(input.as_fd()).context("cannot read the terminal's settings")?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(input.as_fd(), SetArg::TCSANOW, &raw).context("cannot change the terminal's settings")?;
        Ok(Some(Self(before)))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin().as_fd(), SetArg::TCSANOW, &self.0);
    }
}

/// The terminal's size, or the usual one if it has none.
fn screen_size() -> Size {
    let mut window = nix::pty::Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: an open descriptor, and a structure that the kernel fills if there is a terminal.
    unsafe { libc::ioctl(std::io::stdout().as_raw_fd(), libc::TIOCGWINSZ, &raw mut window) };
    Size { rows: window.ws_row, columns: window.ws_col }
}
