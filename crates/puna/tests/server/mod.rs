//! A server with the model that is in the program, and requests to it, byte by byte.

#![allow(dead_code, clippy::unwrap_used, reason = "each test binary uses a part; tests may unwrap")]

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

pub struct Server {
    child: Child,
    pub address: String,
    /// Where it keeps what it keeps, if nobody else said where.
    home: Option<TempDir>,
}

impl Server {
    /// A server with a new home.
    pub fn start(options: &[&str]) -> Server {
        let home = tempfile::tempdir().unwrap();
        let mut server = Server::start_in(home.path(), options);
        server.home = Some(home);
        server
    }

    /// A server with this home.
    pub fn start_in(home: &Path, options: &[&str]) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_puna"));
        command.env("PUNA_HOME", home);
        command.args(["serve", "--port", "0", "--threads", "2", "--context", "1024"]).args(options);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let line = lines.find(|line| line.starts_with("serving ")).expect("it serves");
        let (_, rest) = line.split_once("http://").unwrap();
        let address = rest.split_whitespace().next().unwrap().to_owned();
        // What it says later is taken too, so that it never waits for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Server { child, address, home: None }
    }

    /// Status, head and body of a request.
    pub fn ask(&self, method: &str, path: &str, headers: &[&str], body: &str) -> (u16, String, String) {
        ask(&self.address, method, path, headers, body)
    }

    pub fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let (status, _, body) = self.ask("POST", path, &[], &body.to_string());
        (status, serde_json::from_str(&body).unwrap_or_else(|_| panic!("{path}: {body}")))
    }

    pub fn get(&self, path: &str) -> (u16, Value) {
        let (status, _, body) = self.ask("GET", path, &[], "");
        (status, serde_json::from_str(&body).unwrap_or_else(|_| panic!("{path}: {body}")))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Status, head and body of a request.
pub fn ask(address: &str, method: &str, path: &str, headers: &[&str], body: &str) -> (u16, String, String) {
    let mut stream = send(address, method, path, headers, body);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split_whitespace().nth(1).unwrap().parse().unwrap();
    (status, head.to_owned(), body.to_owned())
}

/// A connection on which a request was sent.
pub fn send(address: &str, method: &str, path: &str, headers: &[&str], body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    let mut request = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    if !headers.iter().any(|header| header.starts_with("host:")) {
        request += &format!("host: {address}\r\n");
    }
    headers.iter().for_each(|header| request += &format!("{header}\r\n"));
    stream.write_all(format!("{request}\r\n{body}").as_bytes()).unwrap();
    stream
}

/// The events of a stream's body.
pub fn events(body: &str) -> Vec<Value> {
    body.lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .filter(|data| *data != "[DONE]")
        .map(|data| serde_json::from_str(data).unwrap())
        .collect()
}
