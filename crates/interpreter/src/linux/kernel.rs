//! All of this crate's `unsafe`: two calls of the kernel that Rust can't know to be harmless.

use rustix::io::FdFlags;
use rustix::thread::UnshareFlags;
use std::io;
use std::os::fd::BorrowedFd;

/// Leaves namespaces for new ones.
pub fn unshare(namespaces: UnshareFlags) -> rustix::io::Result<()> {
    // SAFETY: what could harm is a file table that some threads share and others don't. These flags leave it alone, and
    // there is one thread.
    unsafe { rustix::thread::unshare_unsafe(namespaces - UnshareFlags::FILES) }
}

/// Whatever the server was started with, Python gets standard input, output and error only.
pub fn close_on_exec() -> io::Result<()> {
    let names = std::fs::read_dir("/proc/self/fd")?.map(|entry| entry.map(|entry| entry.file_name()));
    for name in names.collect::<io::Result<Vec<_>>>()? {
        let number = name.to_str().and_then(|name| name.parse().ok());
        let number = number.ok_or_else(|| io::Error::other(format!("expected a number, found {name:?}")))?;
        if number > 2 {
            // SAFETY: the number is not negative, and borrowed for this call only. If nothing is open under it (the
            // listing itself was), the kernel says so.
            let file = unsafe { BorrowedFd::borrow_raw(number) };
            match rustix::io::fcntl_setfd(file, FdFlags::CLOEXEC) {
                Ok(()) | Err(rustix::io::Errno::BADF) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}
