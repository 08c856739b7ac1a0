//! `xebec commands`: runs commands in the machine it is started in. One of what `node-init` keeps running.

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::io::ReaderStream;
use xebec_clock::Clock;
use xebec_pki::{ServerTls, server_config};

use super::frames::{self, Frame, Receiver, Request, Sender, Size, Terminal};
use super::{PORT, VALIDITY, authority};

/// Commands at once; more wait.
const MAX_COMMANDS: usize = 64;
/// How long a caller has to say who it is and what it wants.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long to wait for the output of what a command left behind.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Where to take commands, and from whom.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The machine's address
    #[arg(long)]
    address: IpAddr,
    /// Where the authority is that callers have their certificates from
    #[arg(long)]
    authority: PathBuf,
}

/// Runs until it is killed.
pub fn main(args: &Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let address = SocketAddr::new(args.address, PORT);
        let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
        serve(listener, &acceptor(&args.authority, args.address)?).await
    })
}

/// The TLS of a machine that is reached by `address`.
pub(super) fn acceptor(dir: &std::path::Path, address: IpAddr) -> anyhow::Result<TlsAcceptor> {
    let authority = authority(dir)?;
    let certified = authority.server_cert("machine", &[&address.to_string()], VALIDITY)?;
    let tls = ServerTls { certified: &certified, client_ca_pem: authority.certificate_pem() };
    Ok(server_config(&tls, &Clock::system())?.into())
}

/// Serves callers, for good.
pub(super) async fn serve(listener: TcpListener, acceptor: &TlsAcceptor) -> anyhow::Result<()> {
    let room = Arc::new(Semaphore::new(MAX_COMMANDS));
    loop {
        let permit = Arc::clone(&room).acquire_owned().await.context("the room for commands is gone")?;
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(e) => {
                tracing::warn!("accept: {e}");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            if let Err(e) = talk(stream, &acceptor).await {
                tracing::info!(%from, "{e:#}");
            }
            drop(permit);
        });
    }
}

async fn talk(stream: TcpStream, acceptor: &TlsAcceptor) -> anyhow::Result<()> {
    let stream = timeout(PATIENCE, acceptor.accept(stream)).await.context("no TLS")??;
    anyhow::ensure!(stream.get_ref().1.peer_certificates().is_some(), "a caller who does not say who it is");
    let (mut to_caller, mut from_caller) = frames::split(stream);
    let Some(Frame::Request(request)) = timeout(PATIENCE, from_caller.next()).await.context("no request")?? else {
        anyhow::bail!("a caller who asks for nothing");
    };
    let last = match Running::start(&request) {
        Ok(running) => match running.attend(&mut to_caller, &mut from_caller).await? {
            Some(status) => Frame::Ended(exit_code(status)),
            None => return Ok(()),
        },
        Err(e) => Frame::Refused(format!("{e:#}")),
    };
    to_caller.send(&last).await?;
    // Closed with something unread, the connection would be reset, and the last frame lost with it.
    let unread = async { while let Ok(Some(_)) = from_caller.next().await {} };
    let _ = timeout(PATIENCE, unread).await;
    Ok(())
}

fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code & 0xff).unwrap_or(1)
}

/// A command, and where its input and output are.
struct Running {
    child: Child,
    input: Input,
    output: BoxStream<'static, Frame>,
    /// The side of its terminal that is ours.
    terminal: Option<File>,
}

/// A command's process group, which is killed when this is dropped.
struct Leash(Option<Pid>);

impl Drop for Leash {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

impl Running {
    fn start(request: &Request) -> anyhow::Result<Self> {
        let (program, arguments) = request.command.split_first().context("no command")?;
        let mut command = Command::new(program);
        command.args(arguments).current_dir("/");
        match &request.terminal {
            Some(terminal) => Self::on_terminal(command, terminal),
            None => Self::on_pipes(command),
        }
        .with_context(|| format!("cannot run {program}"))
    }

    fn on_pipes(mut command: Command) -> anyhow::Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn()?;
        let missing = "a command without its pipes";
        let (input, output) = (child.stdin.take().context(missing)?, child.stdout.take().context(missing)?);
        let errors = child.stderr.take().context(missing)?;
        let output = stream::select(read(output, Frame::Output), read(errors, Frame::ErrorOutput)).boxed();
        Ok(Self { child, input: Box::new(input), output, terminal: None })
    }

    fn on_terminal(mut command: Command, terminal: &Terminal) -> anyhow::Result<Self> {
        let pair = openpty(&window(terminal.size), None).context("cannot make a terminal")?;
        let ours = File::from(pair.master);
        let theirs = || -> io::Result<Stdio> { Ok(OwnedFd::try_clone(&pair.slave)?.into()) };
        command.env("TERM", &terminal.kind).stdin(theirs()?).stdout(theirs()?).stderr(theirs()?);
        // SAFETY: async-signal-safe system calls only. Standard input is the terminal by then.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                match libc::ioctl(0, libc::TIOCSCTTY, 0) {
                    0 => Ok(()),
                    _ => Err(io::Error::last_os_error()),
                }
            });
        }
        let child = command.spawn()?;
        let input = tokio::fs::File::from_std(ours.try_clone()?);
        let output = read(tokio::fs::File::from_std(ours.try_clone()?), Frame::Output).boxed();
        Ok(Self { child, input: Box::new(input), output, terminal: Some(ours) })
    }

    /// Carries input and output until the command ends, or the caller goes: that ends it, and there is no status.
    async fn attend<S: AsyncRead + AsyncWrite>(
        mut self,
        to_caller: &mut Sender<WriteHalf<S>>,
        from_caller: &mut Receiver<ReadHalf<S>>,
    ) -> anyhow::Result<Option<ExitStatus>> {
        let group = self.child.id().map(i32::try_from).transpose()?;
        let mut leash = Leash(group.map(Pid::from_raw));
        let status = tokio::select! {
            biased;
            status = carry_out(&mut self.child, self.output, to_caller) => status?,
            gone = carry_in(from_caller, self.input, self.terminal) => return gone.map(|()| None),
        };
        // What it started and left running may stay.
        leash.0 = None;
        Ok(Some(status))
    }
}

/// Carries output until the command has ended and said all it had to.
async fn carry_out<W: AsyncWrite + Unpin>(
    child: &mut Child,
    mut output: BoxStream<'static, Frame>,
    to_caller: &mut Sender<W>,
) -> anyhow::Result<ExitStatus> {
    let carrying = async {
        while let Some(frame) = output.next().await {
            to_caller.send(&frame).await?;
        }
        anyhow::Ok(())
    };
    tokio::pin!(carrying);
    let status = tokio::select! {
        biased;
        done = &mut carrying => {
            done?;
            return Ok(child.wait().await?);
        }
        status = child.wait() => status?,
    };
    // What it started may go on, and hold its output open.
    if let Ok(done) = timeout(LAST_WORDS, carrying).await {
        done?;
    }
    Ok(status)
}

/// A command's standard input.
type Input = Box<dyn AsyncWrite + Send + Unpin>;

/// Carries what the caller says until it goes.
async fn carry_in<R: AsyncRead + Unpin>(
    from_caller: &mut Receiver<R>,
    input: Input,
    terminal: Option<File>,
) -> anyhow::Result<()> {
    let mut input = Some(input);
    while let Some(frame) = from_caller.next().await? {
        match frame {
            Frame::Input(bytes) => input = hand_on(input, &bytes).await,
            Frame::Resized(size) => resize(terminal.as_ref(), size),
            // Not a caller's to say.
            Frame::Request(_) | Frame::Output(_) | Frame::ErrorOutput(_) | Frame::Ended(_) | Frame::Refused(_) => {}
        }
    }
    Ok(())
}

/// Writes to a command's input; closes it at its end, and if the command reads no more: it may still have something to say.
async fn hand_on(input: Option<Input>, bytes: &[u8]) -> Option<Input> {
    let mut open = input.filter(|_| !bytes.is_empty())?;
    open.write_all(bytes).await.ok()?;
    open.flush().await.ok()?;
    Some(open)
}

fn resize(terminal: Option<&File>, size: Size) {
    if let Some(terminal) = terminal {
        let now = window(size);
        // SAFETY: an open descriptor, and a structure that the kernel reads.
        unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const now) };
    }
}

/// What is read from a stream, as frames, until its end. That of a terminal is an error.
fn read(
    from: impl AsyncRead + Send + 'static,
    frame: fn(bytes::Bytes) -> Frame,
) -> impl futures::Stream<Item = Frame> + Send {
    ReaderStream::with_capacity(from, 64 << 10).scan((), move |(), read| std::future::ready(read.ok().map(frame)))
}

fn window(size: Size) -> Winsize {
    Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 }
}
