//! What a stranger's code can do in the sandbox, and what it can't. Every test but the ones on namespaces themselves
//! runs with namespaces and without them, as far as the kernel goes along.

#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
#![allow(clippy::unwrap_used, reason = "tests may")]

use proptest::prelude::*;
use puna_interpreter::{Error, Interpreter, Limits, MAX_CODE, Output, SCRATCH, Status};
use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The system's own, which every user may read; else whatever is in `PATH`.
fn python() -> &'static Path {
    let system = Path::new("/usr/bin/python3");
    if system.exists() { system } else { Path::new("python3") }
}

/// The sandboxes that this machine gives: with namespaces, and without.
fn interpreters(limits: &Limits) -> Vec<Interpreter> {
    let worker = Path::new(env!("CARGO_BIN_EXE_interpreter-worker"));
    let starts = [Interpreter::start, Interpreter::start_without_namespaces];
    let started = starts.map(|start| start(worker, python(), limits.clone()));
    let usable = started.into_iter().filter_map(|interpreter| match interpreter {
        Err(error @ (Error::Python { .. } | Error::Unprotected { .. } | Error::Worker(_))) => {
            println!("SKIPPED: {error}");
            None
        }
        interpreter => Some(interpreter.unwrap()),
    });
    usable.collect()
}

fn run(interpreter: &Interpreter, code: &str) -> Output {
    interpreter.run(code, &AtomicBool::new(false)).unwrap()
}

/// Runs code in each sandbox.
fn outputs(code: &str) -> Vec<Output> {
    // What they do is asked, not how fast this machine is today.
    let limits = Limits { wall: Duration::from_secs(200), ..Limits::default() };
    interpreters(&limits).iter().map(|interpreter| run(interpreter, code)).collect()
}

/// Runs code that prints what it finds wrong.
fn finds_nothing(code: &str) {
    for output in outputs(code) {
        let found = (output.stdout.text.as_str(), output.stderr.text.as_str(), output.status);
        assert_eq!(found, ("", "", Status::Exited(0)));
    }
}

/// Runs expressions, each of which must raise an `OSError`.
fn refused(preparation: &str, expressions: &[String]) {
    let lines = expressions.iter().map(|expression| {
        format!("try:\n    print({expression:?}, 'gives', {expression})\nexcept OSError as error:\n    pass\n")
    });
    finds_nothing(&format!("{preparation}\n{}", lines.collect::<String>()));
}

#[test]
fn what_is_printed_comes_back() {
    for output in outputs("print('Grüße', '𝄞')\nimport math\nprint(math.factorial(20))") {
        assert_eq!(output.stdout.text, "Grüße 𝄞\n2432902008176640000\n");
        assert_eq!((output.stderr.text.as_str(), output.status), ("", Status::Exited(0)));
        assert!(output.wall > Duration::ZERO);
    }
}

#[test]
fn an_exception_is_reported() {
    for output in outputs("print('before')\n1 / 0") {
        assert_eq!((output.stdout.text.as_str(), output.status), ("before\n", Status::Exited(1)));
        assert!(output.stderr.text.ends_with("ZeroDivisionError: division by zero\n"), "{}", output.stderr.text);
    }
    for output in outputs("raise SystemExit(7)") {
        assert_eq!(output.status, Status::Exited(7));
    }
    for output in outputs("def") {
        assert_eq!(output.status, Status::Exited(1));
        assert!(output.stderr.text.contains("SyntaxError"));
    }
}

#[test]
fn ordinary_programs_work() {
    finds_nothing(
        "
import asyncio, collections, csv, datetime, decimal, fractions, hashlib, heapq, io, itertools, json, math, random, re
import sqlite3, statistics, string, struct, textwrap, uuid, zlib, zoneinfo, ctypes, os, sys, time
async def one():
    await asyncio.sleep(0.001)
    return 1
assert asyncio.run(one()) == 1
assert sqlite3.connect(':memory:').execute('select 6 * 7').fetchone() == (42,)
assert len(os.urandom(8)) == 8 and uuid.uuid4() and random.random() < 1
assert zoneinfo.ZoneInfo('Europe/Vienna').utcoffset(datetime.datetime(2024, 7, 1)).seconds == 7200
open(os.devnull, 'w').write('x')
exit()
",
    );
}

#[test]
fn standard_input_is_empty() {
    for output in outputs("import sys\nprint(repr(sys.stdin.read()))\ninput()") {
        assert_eq!((output.stdout.text.as_str(), output.status), ("''\n", Status::Exited(1)));
        assert!(output.stderr.text.contains("EOFError"));
    }
}

#[test]
fn bytes_that_are_no_text_are_made_text() {
    for output in outputs("import sys\nsys.stdout.buffer.write(b'a\\xff\\xfe\\x00\\xc3')") {
        assert_eq!(output.stdout.text, "a\u{FFFD}\u{FFFD}\0\u{FFFD}");
    }
}

#[test]
fn endless_loops_end() {
    for interpreter in interpreters(&Limits { cpu: Duration::from_secs(1), ..Limits::default() }) {
        let output = run(&interpreter, "print('on my way', flush=True)\nwhile True: pass");
        assert_eq!((output.stdout.text.as_str(), output.status), ("on my way\n", Status::TimedOut));
        assert!(output.cpu > Duration::ZERO);
    }
    for interpreter in interpreters(&Limits { wall: Duration::from_secs(2), ..Limits::default() }) {
        for code in ["import time\ntime.sleep(1000)", "import os, time\nos.close(1)\nos.close(2)\ntime.sleep(1000)"] {
            let output = run(&interpreter, code);
            assert_eq!(output.status, Status::TimedOut);
            assert!(output.wall >= Duration::from_secs(2));
        }
        let deaf = "
import signal, time
for it in range(1, 65):
    try:
        signal.signal(it, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
time.sleep(1000)
";
        assert_eq!(run(&interpreter, deaf).status, Status::TimedOut);
    }
}

#[test]
fn endless_output_ends() {
    for interpreter in interpreters(&Limits { output: 1000, ..Limits::default() }) {
        for code in ["while True: print('x')", "import sys\nwhile True: print('x', file=sys.stderr)"] {
            let Output { stdout, stderr, status, .. } = run(&interpreter, code);
            assert_eq!(status, Status::OutputExceeded);
            let (flood, other) = if code.contains("stderr") { (stderr, stdout) } else { (stdout, stderr) };
            assert_eq!((other.text.as_str(), other.dropped), ("", 0));
            assert!(flood.dropped >= 15_000 && flood.text.len() < 1100);
            assert!(flood.text.starts_with("x\nx\n") && flood.text.contains("bytes are left out here]"));
        }
        let output = run(&interpreter, "print('first')\nprint('.' * 5000)\nprint('last')");
        assert_eq!((output.status, output.stdout.dropped), (Status::Exited(0), 4012));
        assert!(output.stdout.text.starts_with("first\n...") && output.stdout.text.ends_with("...\nlast\n"));
    }
}

#[test]
fn memory_is_limited() {
    for output in outputs("bytearray(10 * 1024 ** 3)") {
        assert_eq!(output.status, Status::Exited(1));
        assert!(output.stderr.text.contains("MemoryError"));
    }
    for output in outputs("everything = []\nwhile True: everything.append(bytes(1 << 20))") {
        assert_eq!(output.status, Status::Exited(1));
        assert!(output.stderr.text.contains("MemoryError"));
    }
    refused(
        "import os, mmap",
        &["os.memfd_create('more')".into(), "os.open('/dev/shm/more', os.O_CREAT | os.O_RDWR)".into()],
    );
}

#[test]
fn there_is_one_process() {
    refused(
        "import os, subprocess, multiprocessing",
        &[
            "os.fork()".into(),
            "os.forkpty()".into(),
            "os.posix_spawn('/bin/sh', ['sh'], {})".into(),
            "subprocess.run(['sh', '-c', 'echo hello'])".into(),
            "os.popen('echo hello').read()".into(),
            "multiprocessing.Process(target=print).start()".into(),
            "os.setsid()".into(),
            "os.execv('/bin/sh', ['sh', '-c', 'echo hello'])".into(),
        ],
    );
    finds_nothing("import os\nif os.system('true') == 0: print('a shell')");
    // Another program in place of Python is as confined.
    let linker = "import glob, os\nlinker = [it for it in glob.glob('/lib*/ld-linux*')][0]\n";
    for output in outputs(&format!("{linker}os.execv(linker, [linker, '/bin/cat', '/etc/passwd'])")) {
        assert_ne!(output.status, Status::Exited(0));
        assert_eq!(output.stdout.text, "");
    }
    for output in outputs("import os\nwhile True:\n    try: os.fork()\n    except OSError: break\nprint('one')") {
        assert_eq!(output.stdout.text, "one\n");
    }
}

#[test]
fn threads_are_limited() {
    let code = "
import threading
gate, started = threading.Event(), 0
threading.stack_size(32768)
try:
    for _ in range(10_000):
        threading.Thread(target=gate.wait, daemon=True).start()
        started += 1
except RuntimeError:
    print(started)
gate.set()
";
    for interpreter in interpreters(&Limits { threads: 5, ..Limits::default() }) {
        let threads = if interpreter.protections().namespaces.is_ok() { "4\n" } else { "0\n" };
        assert_eq!(run(&interpreter, code).stdout.text, threads);
    }
}

#[test]
fn files_of_others_cannot_be_read() {
    let secret = tempfile::Builder::new().prefix("puna-secret").tempdir().unwrap();
    let file = secret.path().join("key");
    std::fs::write(&file, "of the server").unwrap();
    let server = std::process::id();
    let mut paths: Vec<String> = [
        "/etc/passwd",
        "/etc/shadow",
        "/etc/hostname",
        "/etc/resolv.conf",
        "/proc/1/environ",
        "/proc/self/environ",
        "/proc/self/maps",
        "/proc/version",
        "/root/.profile",
        "/dev/kmsg",
        "/dev/mem",
        "/sys/kernel/uevent_seqnum",
        "/var/log/dpkg.log",
        env!("CARGO_BIN_EXE_interpreter-worker"),
        concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
    ]
    .map(String::from)
    .into();
    paths.push(file.display().to_string());
    paths.push(format!("/proc/{server}/environ"));
    paths.push(format!("/proc/{server}/root/etc/passwd"));
    // Around the corner.
    paths.push("/usr/lib/../../etc/passwd".into());
    let reads = paths.iter().map(|path| format!("open({path:?}).read(100)"));
    // Not `/etc`, whose stand-in has one file, for the loader of libraries.
    let folders = ["/root", "/home", "/tmp", "/proc", "/var", "/sys"];
    refused("import os", &reads.chain(folders.map(|path| format!("os.listdir({path:?})"))).collect::<Vec<_>>());
}

#[test]
fn nothing_outside_can_be_changed() {
    let folder = tempfile::Builder::new().prefix("puna-target").tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "untouched").unwrap();
    // Everybody may, but for the sandbox.
    let everybody = |path: &Path, mode| {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    everybody(folder.path(), 0o777);
    everybody(&file, 0o666);
    let name = file.display();
    let expressions = [
        "open('/new', 'w')".into(),
        "open('/tmp/new', 'w')".into(),
        "open('/var/tmp/new', 'w')".into(),
        "open('/dev/shm/new', 'w')".into(),
        "open('/usr/lib/new', 'w')".into(),
        "os.mkdir('/new')".into(),
        "os.mkdir('/tmp/new')".into(),
        "os.symlink('/etc', '/new')".into(),
        "os.mknod('/new')".into(),
        "os.mkfifo('/new')".into(),
        "os.unlink('/etc/ld.so.cache')".into(),
        "os.truncate('/etc/ld.so.cache', 0)".into(),
        "os.chmod('/', 0o777)".into(),
        "os.utime('/')".into(),
        "os.setxattr('/', 'user.new', b'')".into(),
        "os.chown('/', 0, 0)".into(),
        "os.chroot('/usr')".into(),
        format!("open('{name}', 'w')"),
        format!("open('{name}', 'a')"),
        format!("os.open('{name}', os.O_RDONLY | os.O_TRUNC)"),
        format!("os.truncate('{name}', 0)"),
        format!("os.chmod('{name}', 0)"),
        format!("os.utime('{name}', (1, 1))"),
        format!("os.unlink('{name}')"),
        format!("os.rename('{name}', '{name}2')"),
        format!("os.link('{name}', '{name}2')"),
        format!("os.setxattr('{name}', 'user.new', b'')"),
    ];
    let before = std::fs::metadata(&file).unwrap();
    refused("import os", &expressions);
    let after = std::fs::metadata(&file).unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "untouched");
    assert_eq!(before.permissions(), after.permissions());
    assert_eq!(before.modified().unwrap(), after.modified().unwrap());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn the_scratch_folder_is_of_the_run() {
    for interpreter in interpreters(&Limits { scratch: 4 << 20, ..Limits::default() }) {
        if interpreter.protections().namespaces.is_err() {
            continue;
        }
        let code = format!(
            "
import os, tempfile
assert os.getcwd() == os.environ['HOME'] == tempfile.gettempdir() == {SCRATCH:?}
assert os.listdir() == []
open('file', 'w').write('kept')
os.rename('file', 'other')
os.mkdir('folder')
with tempfile.TemporaryDirectory() as folder:
    open(folder + '/file', 'w').write('x')
print(open('other').read(), sorted(os.listdir()))
total = 0
try:
    for i in range(100):
        total += os.write(os.open(f'large{{i}}', os.O_CREAT | os.O_WRONLY), bytes(1 << 20))
except OSError as error:
    print(total < 4 << 20, error.strerror)
"
        );
        // The second finds nothing of the first.
        for _ in 0..2 {
            let output = run(&interpreter, &code);
            assert_eq!((output.stderr.text.as_str(), output.status), ("", Status::Exited(0)));
            let lines: Vec<_> = output.stdout.text.lines().collect();
            assert_eq!(lines[0], "kept ['folder', 'other']");
            assert_eq!(lines[1], "True No space left on device");
        }
        assert!(!Path::new(SCRATCH).exists());
        // Nor can code be brought along.
        let code = "
import ctypes, glob, shutil
shutil.copy(glob.glob('/lib/*/libc.so.6')[0], 'own.so')
ctypes.CDLL('./own.so')
";
        let output = run(&interpreter, code);
        assert!(output.stderr.text.contains("failed to map"), "{}", output.stderr.text);
        // Files without end, and one that is too long.
        let many =
            "try:\n    for i in range(100_000): open(str(i), 'w')\nexcept OSError as error: print(error.strerror)";
        assert_eq!(run(&interpreter, many).stdout.text, "No space left on device\n");
        let sparse = "try: open('file', 'wb').truncate(1 << 40)\nexcept OSError as error: print(error.strerror)";
        assert_eq!(run(&interpreter, sparse).stdout.text, "File too large\n");
    }
}

#[test]
fn there_is_no_network() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let socket = |family: &str, kind: &str| format!("socket.socket(socket.{family}, socket.{kind})");
    let pair = "socket.socketpair()[0]";
    refused(
        "import socket, urllib.request",
        &[
            format!("socket.create_connection(('127.0.0.1', {port}), 1)"),
            socket("AF_INET", "SOCK_STREAM"),
            socket("AF_INET", "SOCK_DGRAM"),
            socket("AF_INET6", "SOCK_STREAM"),
            socket("AF_UNIX", "SOCK_STREAM"),
            socket("AF_UNIX", "SOCK_DGRAM"),
            socket("AF_NETLINK", "SOCK_RAW"),
            socket("AF_PACKET", "SOCK_RAW"),
            socket("AF_ALG", "SOCK_SEQPACKET"),
            "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)".into(),
            format!("{pair}.connect('/run/systemd/notify')"),
            format!("{pair}.bind('\\0name')"),
            format!("{pair}.listen()"),
            format!("{pair}.sendto(b'x', '/run/systemd/notify')"),
            format!("{pair}.sendmsg([b'x'])"),
            format!("urllib.request.urlopen('http://127.0.0.1:{port}')"),
            "socket.getaddrinfo('example.org', 80)".into(),
        ],
    );
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err());
}

/// Calls of the kernel, by name, that must be refused whatever their arguments.
#[test]
fn system_calls_are_refused() {
    let calls = [
        ("socket", libc::SYS_socket),
        ("connect", libc::SYS_connect),
        ("bind", libc::SYS_bind),
        ("ptrace", libc::SYS_ptrace),
        ("mount", libc::SYS_mount),
        ("umount2", libc::SYS_umount2),
        ("pivot_root", libc::SYS_pivot_root),
        ("open_tree", libc::SYS_open_tree),
        ("fsopen", libc::SYS_fsopen),
        ("move_mount", libc::SYS_move_mount),
        ("mount_setattr", libc::SYS_mount_setattr),
        ("chroot", libc::SYS_chroot),
        ("unshare", libc::SYS_unshare),
        ("setns", libc::SYS_setns),
        ("clone", libc::SYS_clone),
        ("keyctl", libc::SYS_keyctl),
        ("add_key", libc::SYS_add_key),
        ("request_key", libc::SYS_request_key),
        ("bpf", libc::SYS_bpf),
        ("perf_event_open", libc::SYS_perf_event_open),
        ("userfaultfd", libc::SYS_userfaultfd),
        ("io_uring_setup", libc::SYS_io_uring_setup),
        ("io_uring_enter", libc::SYS_io_uring_enter),
        ("io_uring_register", libc::SYS_io_uring_register),
        ("io_setup", libc::SYS_io_setup),
        ("process_vm_readv", libc::SYS_process_vm_readv),
        ("process_vm_writev", libc::SYS_process_vm_writev),
        ("pidfd_open", libc::SYS_pidfd_open),
        ("pidfd_getfd", libc::SYS_pidfd_getfd),
        ("kcmp", libc::SYS_kcmp),
        ("pidfd_send_signal", libc::SYS_pidfd_send_signal),
        ("tkill", libc::SYS_tkill),
        ("rt_sigqueueinfo", libc::SYS_rt_sigqueueinfo),
        ("memfd_create", libc::SYS_memfd_create),
        ("shmget", libc::SYS_shmget),
        ("msgget", libc::SYS_msgget),
        ("semget", libc::SYS_semget),
        ("mq_open", libc::SYS_mq_open),
        ("execveat", libc::SYS_execveat),
        ("init_module", libc::SYS_init_module),
        ("kexec_load", libc::SYS_kexec_load),
        ("reboot", libc::SYS_reboot),
        ("personality", libc::SYS_personality),
        ("setuid", libc::SYS_setuid),
        ("setgroups", libc::SYS_setgroups),
        ("capset", libc::SYS_capset),
        ("sethostname", libc::SYS_sethostname),
        ("setpriority", libc::SYS_setpriority),
        ("setpgid", libc::SYS_setpgid),
        ("sched_setaffinity", libc::SYS_sched_setaffinity),
        ("sched_setscheduler", libc::SYS_sched_setscheduler),
        ("name_to_handle_at", libc::SYS_name_to_handle_at),
        ("open_by_handle_at", libc::SYS_open_by_handle_at),
        ("inotify_init1", libc::SYS_inotify_init1),
        ("fanotify_init", libc::SYS_fanotify_init),
        ("mknodat", libc::SYS_mknodat),
        ("fchownat", libc::SYS_fchownat),
        ("quotactl", libc::SYS_quotactl),
        ("landlock_create_ruleset", libc::SYS_landlock_create_ruleset),
        ("syslog", libc::SYS_syslog),
        ("a call of the future", 9999),
    ];
    let calls: String = calls.iter().map(|(name, number)| format!("({name:?}, {number}), ")).collect();
    finds_nothing(&format!(
        "
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
for name, number in [{calls}]:
    for argument in (0, 1, 17, 0x10000000):
        ctypes.set_errno(0)
        if libc.syscall(number, argument, 0, 0, 0, 0, 0) != -1 or ctypes.get_errno() != errno.EPERM:
            print(name, argument, ctypes.get_errno())
"
    ));
    // With arguments that matter.
    finds_nothing(&format!(
        "
import ctypes, errno, os, resource
libc = ctypes.CDLL(None, use_errno=True)
def refused(what, error, *arguments):
    ctypes.set_errno(0)
    if libc.syscall(*map(ctypes.c_long, arguments)) != -1 or ctypes.get_errno() != error:
        print(what, ctypes.get_errno())
THREAD, USER = {thread:#x}, {user:#x}
refused('a process', errno.EPERM, {clone}, 17, 0, 0, 0, 0)
refused('a thread in a user namespace', errno.EPERM, {clone}, THREAD | USER, 0, 0, 0, 0)
refused('clone3', errno.ENOSYS, {clone3}, 0, 0)
refused('the death signal', errno.EPERM, {prctl}, 1, 0, 0, 0, 0)
refused('seccomp with a listener', errno.EPERM, {seccomp}, 1, 8, 0)
refused('a signal to all', errno.EPERM, {kill}, -1, 0)
refused('a signal to the server', errno.EPERM, {kill}, {server}, 0)
refused('limits of the server', errno.EPERM, {prlimit}, {server}, 0, 0, 0)
refused('the owner of a file', errno.EPERM, {fcntl}, 1, 8, {server})
refused('the size of a pipe', errno.EPERM, {fcntl}, 1, 1031, 1 << 20)
refused('typing into a terminal', errno.EPERM, {ioctl}, 0, 0x5412, 0)
for name in ('AS', 'CPU', 'NOFILE', 'FSIZE', 'CORE'):
    limit = getattr(resource, 'RLIMIT_' + name)
    soft, hard = resource.getrlimit(limit)
    try:
        resource.setrlimit(limit, (soft, hard + 1))
        print(name, 'raised')
    except (ValueError, OSError):
        pass
",
        thread = libc::CLONE_THREAD,
        user = libc::CLONE_NEWUSER,
        clone = libc::SYS_clone,
        clone3 = libc::SYS_clone3,
        prctl = libc::SYS_prctl,
        seccomp = libc::SYS_seccomp,
        kill = libc::SYS_kill,
        prlimit = libc::SYS_prlimit64,
        fcntl = libc::SYS_fcntl,
        ioctl = libc::SYS_ioctl,
        server = std::process::id(),
    ));
}

/// 32-bit calls have other numbers, which a list of 64-bit ones would mistake.
#[test]
#[cfg(target_arch = "x86_64")]
fn calls_of_another_architecture_kill() {
    let code = "
import ctypes, mmap
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(bytes([0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0xC3]))  # getpid by `int 0x80`
print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))())
";
    for output in outputs(code) {
        assert!(matches!(output.status, Status::Signal(31 | 11)), "{:?}", output.status);
        assert_eq!(output.stdout.text, "");
    }
}

#[test]
fn the_server_is_out_of_sight() {
    let code = "
import os, sys
if set(os.environ) - {'HOME', 'TMPDIR', 'LANG', 'TZ', 'OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS', \
                'LC_CTYPE'}:
    print(os.environ)
for number in range(3, 200):
    try:
        print(number, os.fstat(number))
    except OSError:
        pass
if os.isatty(0) or os.isatty(1) or sys.flags.isolated != 1:
    print('a terminal')
try:
    print(open('/dev/tty'))
except OSError:
    pass
";
    // There is something to be seen: a variable, and a file that is left open for children.
    assert!(std::env::var_os("PATH").is_some());
    let open = std::fs::File::open("/etc/passwd").unwrap();
    rustix::io::fcntl_setfd(&open, rustix::io::FdFlags::empty()).unwrap();
    finds_nothing(code);
}

#[test]
fn with_namespaces_there_is_nothing_around() {
    for interpreter in interpreters(&Limits::default()) {
        if interpreter.protections().namespaces.is_err() {
            continue;
        }
        let code = "
import os
print(os.getpid(), os.getppid(), os.uname().nodename, os.path.exists('/etc/passwd'), os.path.exists('/proc/self'))
";
        assert_eq!(run(&interpreter, code).stdout.text, "1 0 sandbox False False\n");
    }
}

#[test]
fn several_run_at_once() {
    for interpreter in &interpreters(&Limits::default()) {
        let barrier = std::sync::Barrier::new(4);
        std::thread::scope(|scope| {
            let runs: Vec<_> = (0..4)
                .map(|i| {
                    let barrier = &barrier;
                    scope.spawn(move || {
                        barrier.wait();
                        run(interpreter, &format!("print({i} * 'x')"))
                    })
                })
                .collect();
            for (i, output) in runs.into_iter().enumerate() {
                assert_eq!(output.join().unwrap().stdout.text, "x".repeat(i) + "\n");
            }
        });
    }
}

#[test]
fn a_run_can_be_stopped() {
    // Much longer than the test may take.
    let limits = Limits { wall: Duration::from_secs(3600), cpu: Duration::from_secs(3600), ..Limits::default() };
    for interpreter in interpreters(&limits) {
        for code in ["while True: pass", "import time\ntime.sleep(3600)"] {
            let stop = AtomicBool::new(false);
            let result = std::thread::scope(|scope| {
                let run = scope.spawn(|| interpreter.run(code, &stop));
                std::thread::sleep(Duration::from_millis(300));
                stop.store(true, Ordering::Relaxed);
                let asked = Instant::now();
                let result = run.join().unwrap();
                println!("stopped after {:?}", asked.elapsed());
                result
            });
            assert!(matches!(result, Err(Error::Stopped)));
        }
        assert!(matches!(interpreter.run("print()", &AtomicBool::new(true)), Err(Error::Stopped)));
        assert_eq!(run(&interpreter, "print('still there')").stdout.text, "still there\n");
    }
}

/// A limit on processor time that no other process has.
fn mark(number: u64) -> Duration {
    Duration::from_secs(1_000_000 * number + u64::from(std::process::id()))
}

/// How many processes have that limit.
fn marked(mark: Duration) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let limits = processes.filter_map(|it| std::fs::read_to_string(it.path().join("limits")).ok());
    let line = format!("Max cpu time              {} ", mark.as_secs());
    limits.filter(|limits| limits.contains(&line)).count()
}

#[test]
fn nothing_outlives_a_run() {
    let limits = Limits { wall: Duration::from_secs(3600), cpu: mark(1), ..Limits::default() };
    for interpreter in interpreters(&limits) {
        let daemon = "
import os, time
try:
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(3600)
except OSError as error:
    print(error.strerror)
";
        assert_eq!(run(&interpreter, daemon).stdout.text, "Operation not permitted\n");
        assert_eq!(marked(limits.cpu), 0);

        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let run = scope.spawn(|| interpreter.run("while True: pass", &stop));
            while marked(limits.cpu) == 0 {
                std::thread::yield_now();
            }
            stop.store(true, Ordering::Relaxed);
            assert!(matches!(run.join().unwrap(), Err(Error::Stopped)));
        });
        assert_eq!(marked(limits.cpu), 0);
    }
}

/// The test is its own server, in another process, which is killed.
#[test]
fn nothing_outlives_the_server() {
    const SERVER: &str = "PUNA_TEST_SERVER";
    if let Ok(seconds) = std::env::var(SERVER) {
        let cpu = Duration::from_secs(seconds.parse().unwrap());
        let limits = Limits { wall: Duration::from_secs(3600), cpu, ..Limits::default() };
        let interpreters = interpreters(&limits);
        std::thread::scope(|scope| {
            for interpreter in &interpreters {
                scope.spawn(|| run(interpreter, "import time\nopen('/dev/null').read()\nwhile True: time.sleep(1)"));
            }
        });
        return;
    }
    let expected = interpreters(&Limits::default()).len();
    let mut server = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "nothing_outlives_the_server", "--nocapture"])
        .env(SERVER, mark(2).as_secs().to_string())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while marked(mark(2)) < expected && server.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    server.kill().unwrap();
    server.wait().unwrap();
    // The kernel may take a moment.
    for _ in 0..1000 {
        if marked(mark(2)) > 0 {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    assert_eq!(marked(mark(2)), 0);
}

#[test]
fn code_may_be_long_but_not_endless() {
    for interpreter in interpreters(&Limits::default()) {
        let long = format!("{}print('end')", "x = 'äöü' # ...............................\n".repeat(20_000));
        assert_eq!(run(&interpreter, &long).stdout.text, "end\n");
        let error = interpreter.run(&" ".repeat(MAX_CODE + 1), &AtomicBool::new(false)).unwrap_err();
        assert_eq!(error.to_string(), "the code interpreter: expected at most 1048576 bytes of code, found 1048577");
        // Longer than a pipe, and never read.
        let output = run(&interpreter, &format!("\0{}", "#".repeat(500_000)));
        assert!(matches!(output.status, Status::Exited(_)));
    }
}

#[test]
fn a_python_that_is_none_is_refused() {
    let worker = Path::new(env!("CARGO_BIN_EXE_interpreter-worker"));
    for python in ["/nowhere/python3", "/bin/false", "/bin/cat"] {
        let Err(error) = Interpreter::start(worker, Path::new(python), Limits::default()) else { panic!("{python}") };
        assert!(matches!(error, Error::Python { .. }), "{error}");
        assert!(error.to_string().starts_with(&format!("{python}: expected a Python 3 for the code interpreter: ")));
    }
}

#[test]
fn the_protections_are_told() {
    for interpreter in interpreters(&Limits::default()) {
        let told = interpreter.protections().to_string();
        println!("{told}\n");
        assert!(told.contains("system calls: ") && told.contains("/usr/lib"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the bytes of the code, there is an output.
    #[test]
    fn any_code_has_an_output(code in any::<String>()) {
        static INTERPRETERS: LazyLock<Vec<Interpreter>> = LazyLock::new(|| interpreters(&Limits::default()));
        for interpreter in INTERPRETERS.iter() {
            run(interpreter, &code);
        }
    }
}
