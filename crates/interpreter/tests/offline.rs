//! A process that went offline: nothing goes out, and whoever comes in is served. A file of its own, because it holds for all
//! threads of the test's process.

#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
#![allow(clippy::unwrap_used, reason = "tests may")]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::sync::mpsc;

/// Waits for an address on its standard input, and asks there.
const CLIENT: &str = r#"read -r port; exec 3<>"/dev/tcp/127.0.0.1/$port"; printf ping >&3; cat <&3"#;

#[test]
fn nothing_goes_out_and_whoever_comes_in_is_served() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let _local = UnixListener::bind(&path).unwrap();
    let local_datagrams = UnixDatagram::unbound().unwrap();
    // All of it works before: each refusal below is the filter's.
    TcpStream::connect(address).unwrap();
    drop(listener.accept().unwrap());
    datagrams.send_to(b"x", datagrams.local_addr().unwrap()).unwrap();
    UnixStream::connect(&path).unwrap();
    let mut client = Command::new("bash");
    client.args(["-c", CLIENT]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    // Started before, it can still connect.
    let mut outside = client.spawn().unwrap();
    // A thread that is there already is bound as well.
    let (send, receive) = mpsc::channel::<()>();
    let early = std::thread::spawn(move || {
        receive.recv().unwrap();
        TcpStream::connect(address).map(drop).map_err(|error| error.kind())
    });

    puna_interpreter::go_offline().unwrap();

    let refused = Some(ErrorKind::PermissionDenied);
    let kind = |result: std::io::Result<()>| result.err().map(|error| error.kind());
    assert_eq!(kind(TcpStream::connect(address).map(drop)), refused);
    assert_eq!(kind(TcpStream::connect("[::1]:9").map(drop)), refused);
    assert_eq!(kind(datagrams.send_to(b"x", datagrams.local_addr().unwrap()).map(drop)), refused);
    assert_eq!(kind(UdpSocket::bind("127.0.0.1:0").map(drop)), refused);
    assert_eq!(kind(UnixStream::connect(&path).map(drop)), refused);
    assert_eq!(kind(local_datagrams.send_to(b"x", &path).map(drop)), refused);
    send.send(()).unwrap();
    assert_eq!(early.join().unwrap(), Err(ErrorKind::PermissionDenied));
    // A program that is started has the same fate.
    let mut inside = client.spawn().unwrap();
    writeln!(inside.stdin.take().unwrap(), "{}", address.port()).unwrap();
    assert!(!inside.wait().unwrap().success());

    // New listeners and connections that come in are as before.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    writeln!(outside.stdin.take().unwrap(), "{}", listener.local_addr().unwrap().port()).unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    let mut ping = [0; 4];
    stream.read_exact(&mut ping).unwrap();
    stream.write_all(b"pong").unwrap();
    drop(stream);
    assert_eq!((&ping, outside.wait_with_output().unwrap().stdout.as_slice()), (b"ping", b"pong".as_slice()));
}
