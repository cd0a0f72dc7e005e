//! The second step: a process takes from itself all that Python does not need.

use super::protocol::Sandbox;
use super::{failed, files, kernel, root, system_calls};
use crate::{Limits, Protections, SCRATCH};
use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit, setsid};
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};
use std::path::Path;

/// Files open at once.
const FILES: u64 = 128;
const STACK: u64 = 8 << 20;

/// Confines this process for good. Nothing but becoming Python works afterwards.
pub fn confine(sandbox: &Sandbox) -> Result<Protections, String> {
    kernel::close_on_exec().map_err(failed("open files"))?;
    setsid().map_err(failed("a session"))?;
    if sandbox.namespaces {
        kernel::unshare(UnshareFlags::NEWNS).map_err(failed("a mount namespace"))?;
        root::enter(&sandbox.readable, sandbox.limits.scratch)?;
        rustix::system::sethostname(b"sandbox").map_err(failed("a host name"))?;
        drop_capabilities()?;
    }
    limit(&sandbox.limits, sandbox.namespaces)?;
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(failed("the end of the supervisor as a signal"))?;
    let scratch = sandbox.namespaces.then_some(Path::new(SCRATCH));
    let landlock = files::restrict(&sandbox.readable, scratch)?;
    let system_calls = system_calls::restrict(sandbox.namespaces)?;
    Ok(Protections { namespaces: Ok(()), landlock, system_calls, readable: sandbox.readable.clone() })
}

/// Those in the own user namespace; there are no others.
fn drop_capabilities() -> Result<(), String> {
    // The set knows all names; kernels that lack the last ones say so.
    for capability in CapabilitySet::all().iter() {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(format!("capabilities: {error}")),
        }
    }
    let none = CapabilitySet::empty();
    rustix::thread::set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
        .map_err(failed("capabilities"))
}

fn limit(limits: &Limits, namespaces: bool) -> Result<(), String> {
    let mut all = vec![
        ("memory", Resource::As, limits.memory),
        ("processor time", Resource::Cpu, limits.cpu_seconds()),
        ("file size", Resource::Fsize, limits.scratch),
        ("core dumps", Resource::Core, 0),
        ("open files", Resource::Nofile, FILES),
        ("stack", Resource::Stack, STACK),
        ("locked memory", Resource::Memlock, 0),
        ("message queues", Resource::Msgqueue, 0),
    ];
    if namespaces {
        // Counted in the user namespace, with the supervisor. Elsewhere it would count all of the user's.
        all.push(("threads", Resource::Nproc, u64::from(limits.threads).saturating_add(1)));
    }
    for (what, resource, limit) in all {
        // A lower limit of the server's holds as well.
        let limit = rustix::process::getrlimit(resource).maximum.map_or(limit, |old| old.min(limit));
        setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) })
            .map_err(failed(format!("the limit on {what}")))?;
    }
    Ok(())
}
