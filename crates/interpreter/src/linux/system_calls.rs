//! seccomp: which calls a process may make. All others are refused with *Operation not permitted*.

use super::failed;
use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter, apply_filter_all_threads,
};
use std::collections::BTreeMap;

/// Harmless with any arguments: they concern the process itself, its own memory and threads, files that the other walls
/// let it open, and clocks.
const HARMLESS: &[c_long] = &[
    // Files. Landlock, or the root directory, says which can be opened.
    libc::SYS_openat,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_sendfile,
    libc::SYS_copy_file_range,
    libc::SYS_lseek,
    libc::SYS_ftruncate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fadvise64,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_chdir,
    libc::SYS_fchdir,
    libc::SYS_umask,
    // Pipes and waiting.
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    // Memory.
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_msync,
    // Threads, as the C library runs them.
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_rseq,
    libc::SYS_membarrier,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getcpu,
    // Signals of its own.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    // Time.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_setitimer,
    libc::SYS_getitimer,
    libc::SYS_times,
    libc::SYS_getrusage,
    // Who and where it is.
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getppid,
    libc::SYS_getpgid,
    libc::SYS_getsid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getgroups,
    libc::SYS_getresuid,
    libc::SYS_getresgid,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_getrandom,
    // A pair of sockets can be asked what it is, read and shut.
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_recvfrom,
    libc::SYS_shutdown,
    // Becoming Python. Becoming something else would only be another program within the same walls.
    libc::SYS_execve,
    // There are no children to wait for.
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// The same under older names, which ARM64 never had.
#[cfg(target_arch = "x86_64")]
const HARMLESS_OF_ARCHITECTURE: &[c_long] = &[
    libc::SYS_arch_prctl,
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_dup2,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_epoll_wait,
    libc::SYS_time,
    libc::SYS_alarm,
    libc::SYS_getpgrp,
];
#[cfg(target_arch = "aarch64")]
const HARMLESS_OF_ARCHITECTURE: &[c_long] = &[];

/// Calls that change folders and what is known of files. Not all of them are Landlock's business, so they need a root
/// directory in which nothing but the scratch folder can be changed.
const CHANGES: &[c_long] = &[
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_truncate,
    libc::SYS_fallocate,
    libc::SYS_utimensat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_renameat,
];
#[cfg(target_arch = "x86_64")]
const CHANGES_OF_ARCHITECTURE: &[c_long] = &[
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_link,
    libc::SYS_symlink,
    libc::SYS_chmod,
    libc::SYS_creat,
];
#[cfg(target_arch = "aarch64")]
const CHANGES_OF_ARCHITECTURE: &[c_long] = &[];

/// Operations on open files that neither make them someone else's nor send signals.
const FILE_CONTROL: &[i32] = &[
    libc::F_DUPFD,
    libc::F_DUPFD_CLOEXEC,
    libc::F_GETFD,
    libc::F_SETFD,
    libc::F_GETFL,
    libc::F_SETFL,
    libc::F_GETLK,
    libc::F_SETLK,
    libc::F_SETLKW,
];
/// Whether it is a terminal, how much can be read, and what `fcntl` does, too.
const DEVICE_CONTROL: &[libc::Ioctl] =
    &[libc::TCGETS, libc::TIOCGWINSZ, libc::FIONREAD, libc::FIONBIO, libc::FIOCLEX, libc::FIONCLEX];

/// The namespaces that a thread could start in.
const NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Refuses all but the allowed calls, for good. Returns how many those are.
pub fn restrict(namespaces: bool) -> Result<usize, String> {
    let allowed = allowed(namespaces).map_err(failed("system calls"))?;
    let count = allowed.len();
    // The C library tries this call for a thread, and an older one if there is none. Its arguments are in memory, where
    // a filter can't look, so there is none.
    let absent = Rules::from([(libc::SYS_clone3, Vec::new())]);
    let absent = filter(absent, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32))?;
    let allowed = filter(allowed, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow)?;
    // Of two filters that refuse, the kernel takes the answer of the later one. So the narrow one is the later, and the
    // call that adds it is allowed by the first, being of no use.
    apply_filter(&allowed).and_then(|()| apply_filter(&absent)).map_err(failed("system calls"))?;
    Ok(count)
}

/// How a connection is opened, or data sent without one. Those of messages have the address in memory, where a filter can't
/// look; and the ring of requests does anything without a call.
const OUTBOUND: &[c_long] = &[
    libc::SYS_connect,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
];

/// The kernel may take the same calls under numbers of another interface, with 32-bit addresses.
#[cfg(target_arch = "x86_64")]
const X32: &[c_long] = &{
    const BIT: c_long = 0x4000_0000;
    // Calls with structures in memory have numbers of their own.
    const SENDMSG: c_long = 518;
    const SENDMMSG: c_long = 538;
    [
        BIT | libc::SYS_socket,
        BIT | libc::SYS_connect,
        BIT | libc::SYS_sendto,
        BIT | SENDMSG,
        BIT | SENDMMSG,
        BIT | libc::SYS_io_uring_setup,
        BIT | libc::SYS_io_uring_enter,
        BIT | libc::SYS_io_uring_register,
    ]
};
#[cfg(target_arch = "aarch64")]
const X32: &[c_long] = &[];

/// Refuses, for good and to all threads, whatever would open a connection. Others may still connect to this process.
pub fn refuse_connections() -> Result<(), String> {
    let refused = outbound().map_err(failed("system calls"))?;
    let refused = filter(refused, SeccompAction::Allow, SeccompAction::Errno(libc::EPERM as u32))?;
    apply_filter_all_threads(&refused).map_err(failed("system calls"))
}

fn outbound() -> Result<Rules, seccompiler::BackendError> {
    let mut rules: Rules = OUTBOUND.iter().chain(X32).map(|&call| (call, Vec::new())).collect();
    // Sending on a connection has no address.
    let address = SeccompCondition::new(4, SeccompCmpArgLen::Qword, SeccompCmpOp::Ne, 0)?;
    rules.insert(libc::SYS_sendto, vec![all([address])?]);
    // What is left are sockets that can do nothing without these calls: TCP, and pairs' kind. Others send whole frames
    // by `write`, or connect by options.
    let mut sockets = vec![
        all([isnt(0, libc::AF_UNIX as u64)?, isnt(0, libc::AF_INET as u64)?, isnt(0, libc::AF_INET6 as u64)?])?,
        all([isnt(2, 0)?, isnt(2, libc::IPPROTO_TCP as u64)?])?,
    ];
    for kind in (0..16).filter(|&kind| kind != libc::SOCK_STREAM as u64) {
        sockets.push(all([masked(1, 0xF, kind)?])?);
    }
    rules.insert(libc::SYS_socket, sockets);
    Ok(rules)
}

fn filter(rules: Rules, others: SeccompAction, these: SeccompAction) -> Result<BpfProgram, String> {
    let architecture = std::env::consts::ARCH.try_into().map_err(failed("system calls"))?;
    let filter = SeccompFilter::new(rules, others, these, architecture).map_err(failed("system calls"))?;
    filter.try_into().map_err(failed("system calls"))
}

fn allowed(namespaces: bool) -> Result<Rules, seccompiler::BackendError> {
    let changes: [&[c_long]; 2] = if namespaces { [CHANGES, CHANGES_OF_ARCHITECTURE] } else { [&[], &[]] };
    let always = [HARMLESS, HARMLESS_OF_ARCHITECTURE].into_iter().chain(changes).flatten();
    let mut rules: Rules = always.map(|&call| (call, Vec::new())).collect();

    let itself = u64::from(std::process::id());
    rules.insert(libc::SYS_kill, vec![all([is(0, itself)?])?]);
    rules.insert(libc::SYS_tgkill, vec![all([is(0, itself)?])?]);
    rules.insert(libc::SYS_prlimit64, vec![all([is(0, 0)?])?, all([is(0, itself)?])?]);
    rules.insert(libc::SYS_fcntl, one_of(1, FILE_CONTROL.iter().map(|&it| it as u64))?);
    rules.insert(libc::SYS_ioctl, one_of(1, DEVICE_CONTROL.iter().map(|&it| u64::from(it as u32)))?);
    // `asyncio` wakes itself by a pair of sockets. An address would make it more than a pair.
    let pair = [is(0, libc::AF_UNIX as u64)?, masked(1, 0xF, libc::SOCK_STREAM as u64)?, is(2, 0)?];
    rules.insert(libc::SYS_socketpair, vec![all(pair)?]);
    let no_address = SeccompCondition::new(4, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?;
    rules.insert(libc::SYS_sendto, vec![all([no_address])?]);
    // Adding filters can only refuse more.
    rules.insert(libc::SYS_seccomp, vec![all([is(0, libc::SECCOMP_SET_MODE_FILTER.into())?, is(1, 0)?])?]);
    rules.insert(libc::SYS_prctl, vec![all([is(0, libc::PR_SET_NO_NEW_PRIVS as u64)?])?]);
    if namespaces {
        // A thread, never a process. How many there may be is limited in a user namespace only.
        let thread = libc::CLONE_THREAD as u64;
        rules.insert(libc::SYS_clone, vec![all([masked(0, NAMESPACES as u64 | thread, thread)?])?]);
    }
    Ok(rules)
}

fn is(argument: u8, value: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

fn isnt(argument: u8, value: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, value)
}

fn masked(argument: u8, mask: u64, value: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask), value)
}

fn all<const N: usize>(conditions: [SeccompCondition; N]) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(conditions.into())
}

fn one_of(argument: u8, values: impl Iterator<Item = u64>) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    values.map(|value| all([is(argument, value)?])).collect()
}
