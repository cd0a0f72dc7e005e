//! A whole process that opens no connection.

use super::system_calls;
use crate::Error;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpStream, UdpSocket};

/// From now on this process, all its threads and those that it starts can open no connection, and send to no address, not
/// even on this machine. Others can still connect to it. There is no way back.
///
/// # Errors
///
/// [`Error::Offline`] if the kernel can't promise it, or does not keep the promise when it is tried.
pub fn go_offline() -> Result<(), Error> {
    system_calls::refuse_connections().map_err(Error::Offline)?;
    // Nobody listens at port 9 as a rule; if somebody did, the kernel would not even ask.
    let connection = TcpStream::connect((Ipv4Addr::LOCALHOST, 9)).map(drop);
    let datagram = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map(drop);
    for (what, attempt) in [("a connection", connection), ("a socket of datagrams", datagram)] {
        match attempt {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
            Err(error) => return Err(Error::Offline(format!("expected {what} to be refused, found: {error}"))),
            Ok(()) => return Err(Error::Offline(format!("expected {what} to be refused, found it permitted"))),
        }
    }
    Ok(())
}
