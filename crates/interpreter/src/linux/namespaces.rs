//! Away from root and into namespaces, in the supervisor.

use super::{failed, kernel};
use rustix::process::{DumpableBehavior, getgid, getuid, set_dumpable_behavior};
use rustix::process::{Gid, Uid};
use rustix::thread::{UnshareFlags, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// The user and group that own nothing.
const NOBODY: u32 = 65534;

/// A server that runs as root runs code as nobody.
pub fn give_up_root() -> Result<(), String> {
    if getuid().is_root() || rustix::process::geteuid().is_root() {
        let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        set_thread_groups(&[])
            .and_then(|()| set_thread_res_gid(group, group, group))
            .and_then(|()| set_thread_res_uid(user, user, user))
            .map_err(failed(format!("from root to user {NOBODY} (a server may run as an ordinary user instead)")))?;
    }
    // A process that has changed its user may not write its own files in /proc, unless it says so.
    set_dumpable_behavior(DumpableBehavior::Dumpable).map_err(failed("own files in /proc"))
}

/// Enters namespaces of every kind but for mounts; the process namespace holds for children only. The user becomes root
/// in there, without power outside.
pub fn enter() -> Result<(), String> {
    let (user, group) = (getuid().as_raw(), getgid().as_raw());
    let kinds = [
        UnshareFlags::NEWUSER,
        UnshareFlags::NEWPID,
        UnshareFlags::NEWNET,
        UnshareFlags::NEWIPC,
        UnshareFlags::NEWUTS,
        UnshareFlags::NEWCGROUP,
    ];
    kernel::unshare(kinds.into_iter().fold(UnshareFlags::empty(), |all, kind| all | kind))
        .map_err(failed("new namespaces"))?;
    let write = |file: &str, text: &str| std::fs::write(file, text).map_err(failed(file));
    write("/proc/self/setgroups", "deny")?;
    write("/proc/self/uid_map", &format!("0 {user} 1"))?;
    write("/proc/self/gid_map", &format!("0 {group} 1"))
}
