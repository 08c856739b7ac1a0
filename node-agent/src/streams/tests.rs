use std::net::Ipv4Addr;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use xebec_clock::Clock;

use super::*;

/// Runs commands on this machine; connects to this machine's loopback.
struct Local {
    log: PathBuf,
    running: watch::Sender<bool>,
}

#[async_trait]
impl Backend for Local {
    async fn exec(&self, _: &ContainerRef, command: Vec<String>, _: bool, io: ProcessIo) -> Result<i32, StreamError> {
        let failed = |e: std::io::Error| StreamError::Internal(e.to_string());
        let mut child = Command::new(&command[0])
            .args(&command[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let mut stdin = child.stdin.take();
        let input = async {
            if let (Some(mut from), Some(mut to)) = (io.stdin, stdin.take()) {
                let _ = tokio::io::copy(&mut from, &mut to).await;
            }
        };
        let copy = |from: Option<Input>, to: Option<Output>| async {
            if let (Some(mut from), Some(mut to)) = (from, to) {
                // Dropped, not shut down: that must be enough.
                let _ = tokio::io::copy(&mut from, &mut to).await;
            }
        };
        let stdout = child.stdout.take().map(|s| Box::new(s) as Input);
        let stderr = child.stderr.take().map(|s| Box::new(s) as Input);
        let ends = async { tokio::join!(copy(stdout, io.stdout), copy(stderr, io.stderr), child.wait()).2 };
        tokio::select! {
            status = ends => Ok(status.map_err(failed)?.code().unwrap_or(-1)),
            () = async { input.await; std::future::pending().await } => Ok(-1),
        }
    }

    async fn attach(&self, _: &ContainerRef, _: bool, io: ProcessIo) -> Result<(), StreamError> {
        if let Some(mut stdout) = io.stdout {
            let _ = stdout.write_all(b"attached\n").await;
        }
        Ok(())
    }

    async fn connect(&self, _: &str, _: &str, port: u16) -> Result<Box<dyn Duplex>, StreamError> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await;
        stream.map(|s| Box::new(s) as _).map_err(|e| StreamError::Internal(e.to_string()))
    }

    async fn log(&self, target: &ContainerRef, _: bool) -> Result<LogSource, StreamError> {
        if target.container != "main" {
            return Err(StreamError::NotFound(format!("container {} not found", target.container)));
        }
        Ok(LogSource { path: self.log.clone(), running: self.running.subscribe() })
    }
}

/// A pretend API server: just enough for kubectl to find the pod, and the streams at the API's paths.
async fn serve(backend: Local) -> (String, watch::Sender<bool>) {
    let running = backend.running.clone();
    let streams = router(Arc::new(backend), Clock::system());
    let pod = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"pod","namespace":"default"},
        "spec":{"containers":[{"name":"main","image":"x"}]},"status":{"phase":"Running"}}"#;
    let json =
        move |text: &'static str| move || async move { ([(http::header::CONTENT_TYPE, "application/json")], text) };
    let rewrite = |from: &'static str, to: &'static str| {
        let streams = streams.clone();
        (
            from,
            any(move |mut request: Request| async move {
                let query = request.uri().query().map(|q| format!("?{q}")).unwrap_or_default();
                *request.uri_mut() = format!("{to}{query}").parse().unwrap();
                tower::ServiceExt::oneshot(streams, request).await.unwrap()
            }),
        )
    };
    let base = "/api/v1/namespaces/default/pods/pod";
    let mut app = Router::new()
        .route(base, get(json(pod)))
        .route("/api", get(json(r#"{"kind":"APIVersions","versions":["v1"]}"#)))
        .route("/apis", get(json(r#"{"kind":"APIGroupList","apiVersion":"v1","groups":[]}"#)))
        .route(
            "/api/v1",
            get(json(
                r#"{"kind":"APIResourceList","groupVersion":"v1","resources":[{"name":"pods","singularName":"pod",
                "namespaced":true,"kind":"Pod","verbs":["get","list"]}]}"#,
            )),
        );
    for (from, handler) in [
        rewrite("/api/v1/namespaces/default/pods/pod/exec", "/exec/default/pod/main"),
        rewrite("/api/v1/namespaces/default/pods/pod/portforward", "/portForward/default/pod"),
        rewrite("/api/v1/namespaces/default/pods/pod/log", "/containerLogs/default/pod/main"),
    ] {
        app = app.route(from, handler);
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (url, running)
}

async fn local() -> (String, watch::Sender<bool>, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let (running, _) = watch::channel(true);
    let (url, running) = serve(Local { log: dir.path().join("0.log"), running }).await;
    (url, running, dir)
}

/// The kubectl that `scripts/setup.sh` installs.
fn kubectl(server: &str) -> Command {
    let tools = std::env::var_os("XEBEC_TOOLS").map(PathBuf::from).or_else(|| {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        Some(cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?.join("xebec/tools"))
    });
    let path = tools.expect("XEBEC_TOOLS or HOME").join("bin/kubectl");
    assert!(path.exists(), "{} is missing: run scripts/setup.sh test", path.display());
    let mut command = Command::new(path);
    // No proxy and no configuration of the machine's.
    command.env("KUBECONFIG", "/dev/null").env_remove("HTTP_PROXY").env_remove("http_proxy").kill_on_drop(true);
    command.args(["--server", server, "--cache-dir"]).arg(std::env::temp_dir().join("xebec-kubectl-cache"));
    command
}

const EXEC: &str = "KUBECTL_REMOTE_COMMAND_WEBSOCKETS";
const FORWARD: &str = "KUBECTL_PORT_FORWARD_WEBSOCKETS";

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_runs_commands() {
    let (url, ..) = local().await;
    for websockets in ["true", "false"] {
        let run = |args: &'static [&'static str]| {
            let mut command = kubectl(&url);
            command.env(EXEC, websockets).args(["exec", "pod", "--"]).args(args);
            async move { command.output().await.unwrap() }
        };
        let output = run(&["sh", "-c", "echo out; echo err >&2; exit 3"]).await;
        assert_eq!(String::from_utf8_lossy(&output.stdout), "out\n", "websockets={websockets} {output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).starts_with("err\n"), "{output:?}");
        assert_eq!(output.status.code(), Some(3), "websockets={websockets} {output:?}");
        let output = run(&["seq", "200000"]).await;
        assert_eq!(output.stdout.len(), 1_288_895, "a megabyte of output, websockets={websockets}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_sends_input_to_its_end() {
    let (url, ..) = local().await;
    for websockets in ["true", "false"] {
        let mut command = kubectl(&url);
        command.env(EXEC, websockets).args(["exec", "-i", "pod", "--", "sha256sum"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(&vec![b'x'; 1 << 20]).await.unwrap();
        drop(stdin);
        let output = child.wait_with_output().await.unwrap();
        let sum = String::from_utf8_lossy(&output.stdout).into_owned();
        // sha256 of a megabyte of `x`.
        assert_eq!(
            sum, "8f990ba0b577b51cf009ea049368c16bbda1b21e1b93be07a824758bb253c39b  -\n",
            "websockets={websockets}"
        );
        assert!(output.status.success(), "websockets={websockets}: {output:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_forwards_ports() {
    let (url, ..) = local().await;
    let echo = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = echo.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = echo.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    for websockets in ["true", "false"] {
        let mut command = kubectl(&url);
        command.env(FORWARD, websockets).args(["port-forward", "--address", "127.0.0.1", "pod/pod"]);
        let mut child = command.arg(format!(":{port}")).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.next_line().await.unwrap().expect("a line");
        let local = line.split("127.0.0.1:").nth(1).and_then(|s| s.split(' ').next()).unwrap().to_owned();
        let mut connections = Vec::new();
        for number in 0..5 {
            let mut stream = TcpStream::connect(format!("127.0.0.1:{local}")).await.unwrap();
            stream.write_all(format!("hello {number}").as_bytes()).await.unwrap();
            connections.push(stream);
        }
        for (number, mut stream) in connections.into_iter().enumerate() {
            stream.shutdown().await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            assert_eq!(text, format!("hello {number}"), "websockets={websockets}");
        }
    }
}

fn lines(numbers: std::ops::Range<u32>) -> String {
    numbers.map(|n| format!("2026-01-01T00:00:{:02}Z stdout F line {n}\n", n % 60)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_read_and_followed() {
    let (url, running, dir) = local().await;
    let path = dir.path().join("0.log");
    std::fs::write(&path, lines(0..20_000)).unwrap();
    let run = |args: &'static [&'static str]| {
        let mut command = kubectl(&url);
        command.args(["logs", "pod"]).args(args);
        async move { String::from_utf8(command.output().await.unwrap().stdout).unwrap() }
    };
    assert_eq!(run(&[]).await.lines().count(), 20_000);
    assert_eq!(run(&["--tail=2"]).await, "line 19998\nline 19999\n");
    assert_eq!(run(&["--tail=0"]).await, "");
    assert_eq!(run(&["--tail=5000"]).await.lines().count(), 5000);
    assert_eq!(run(&["--limit-bytes=10"]).await, "line 0\nlin");
    assert!(run(&["--tail=1", "--timestamps"]).await.starts_with("2026-01-01T00:00:19Z line"));

    let mut command = kubectl(&url);
    let mut child = command.args(["logs", "-f", "--tail=1", "pod"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut followed = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(followed.next_line().await.unwrap().as_deref(), Some("line 19999"));
    let append = |text: String| {
        use std::io::Write as _;
        std::fs::OpenOptions::new().create(true).append(true).open(&path).unwrap().write_all(text.as_bytes()).unwrap();
    };
    append(lines(1..2));
    assert_eq!(followed.next_line().await.unwrap().as_deref(), Some("line 1"));
    // Rotation: what was written before it is read before what comes after.
    append(lines(2..3));
    std::fs::rename(&path, dir.path().join("0.log.1")).unwrap();
    append(lines(3..4));
    assert_eq!(followed.next_line().await.unwrap().as_deref(), Some("line 2"));
    assert_eq!(followed.next_line().await.unwrap().as_deref(), Some("line 3"));
    append(lines(4..5));
    running.send_replace(false);
    assert_eq!(followed.next_line().await.unwrap().as_deref(), Some("line 4"));
    assert_eq!(followed.next_line().await.unwrap(), None, "the log ends with the container");
}

#[test]
fn queries_are_decoded() {
    assert_eq!(
        query(Some("command=a%20b&command=%2Fc&x=1+2&y")),
        [
            ("command".into(), "a b".into()),
            ("command".into(), "/c".into()),
            ("x".into(), "1 2".into()),
            ("y".into(), String::new()),
        ]
    );
}
