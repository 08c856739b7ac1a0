//! What runs in the namespaces: servers and clients, in Python.

/// Answers each connection and each datagram with "<name> <the asker's address>"; and on port 8081, with how many bytes
/// came; what follows the first line on a connection is sent back.
pub const SERVER: &str = r#"
import socket, sys, threading
name = sys.argv[1]
def bind(family, kind, port):
    s = socket.socket(family, kind); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.bind(("", port)); return s
def stream(s, port):
    while True:
        c, peer = s.accept()
        threading.Thread(target=talk, args=(c, peer, port), daemon=True).start()
def talk(c, peer, port):
    try:
        if port == 8081:
            n = 0
            while (d := c.recv(1 << 16)): n += len(d)
            c.sendall(str(n).encode())
        else:
            c.sendall(f"{name} {peer[0]}\n".encode())
            while (d := c.recv(1 << 16)): c.sendall(d)
    except OSError: pass
    c.close()
def datagrams(s):
    while True:
        d, peer = s.recvfrom(65536)
        s.sendto(f"{name} {peer[0]}\n".encode(), peer)
for family in (socket.AF_INET, socket.AF_INET6):
    for port in (8080, 8081):
        s = bind(family, socket.SOCK_STREAM, port); s.listen(64)
        threading.Thread(target=stream, args=(s, port), daemon=True).start()
    threading.Thread(target=datagrams, args=(bind(family, socket.SOCK_DGRAM, 8080),), daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
"#;

/// Asks a server, and prints its answer and the address that it seems to be at.
pub const CLIENT: &str = r#"
import socket, sys
protocol, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
# Java's and many others' sockets are IPv6 ones, with mapped addresses.
mapped = protocol.endswith("6") and ":" not in host
family = socket.AF_INET6 if protocol.endswith("6") or ":" in host else socket.AF_INET
to = ("::ffff:" + host if mapped else host, port)
try:
    if protocol.startswith("tcp"):
        s = socket.socket(family); s.settimeout(2); s.connect(to)
        peer = s.getpeername(); answer = s.makefile().readline()
    else:
        s = socket.socket(family, socket.SOCK_DGRAM); s.settimeout(1)
        # Unconnected, as resolvers of some C libraries do, to see whose address the answer bears;
        # then connected, to be told of a refusal.
        s.sendto(b"?", to)
        try: answer, peer = s.recvfrom(4096); answer = answer.decode()
        except TimeoutError:
            s = socket.socket(family, socket.SOCK_DGRAM); s.settimeout(1)
            s.connect(to); s.send(b"?"); answer = s.recv(4096).decode(); peer = s.getpeername()
    print(answer.strip(), f"{peer[0].removeprefix('::ffff:')}:{peer[1]}")
except OSError as e:
    print("error:", str(e) or type(e).__name__)
"#;

pub const TRANSFER: &str = r#"
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10)
s.sendall(b"x" * int(sys.argv[3])); s.shutdown(socket.SHUT_WR)
print(s.recv(100).decode())
"#;

pub const STREAM: &str = r#"
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5)
f = s.makefile("rw"); f.readline()
print("open", flush=True)
for line in sys.stdin:
    f.write(line); f.flush(); print(f.readline().strip(), flush=True)
"#;

/// Asks over UDP with one socket, connected or not, whenever it reads a line; a socket that is ended is made anew, as
/// programs do. Prints who answered.
pub const DATAGRAMS: &str = r#"
import errno, socket, sys
connected, host, port = sys.argv[1] == "connected", sys.argv[2], int(sys.argv[3])
def make():
    s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(0.5)
    if connected: s.connect((host, port))
    return s
s = make()
print("open", flush=True)
for line in sys.stdin:
    try:
        if connected: s.send(b"?")
        else: s.sendto(b"?", (host, port))
        print(s.recv(4096).decode().split()[0], flush=True)
    except OSError as e:
        print("error:", errno.errorcode.get(e.errno, e), flush=True)
        if e.errno in (errno.ECONNABORTED, errno.EDESTADDRREQ): s = make()
"#;

/// Asks a server over UDP with so many bytes.
pub const LARGE: &str = r#"
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(2)
s.sendto(b"x" * int(sys.argv[3]), (sys.argv[1], int(sys.argv[2])))
try: print(s.recv(4096).decode())
except OSError as e: print("error:", e)
"#;

/// The status and the body of an HTTP answer.
pub const HTTP: &str = r#"
import sys, urllib.error, urllib.request
try: r = urllib.request.urlopen(sys.argv[1], timeout=2)
except urllib.error.HTTPError as e: r = e
except OSError as e: print("error:", e); sys.exit()
print(r.status, r.headers["X-Load-Balancing-Endpoint-Weight"], r.read().decode().replace("\n", ""))
"#;
