//! Network namespaces: named ones as iproute2 makes them, so that `ip netns exec NAME` works, and
//! code that runs inside one.
//!
//! A namespace lives while a thread is in it, a file descriptor of it is open, a socket made in it is
//! open, or its file is bind-mounted somewhere. A *named* namespace is an empty file
//! `/run/netns/NAME` with `/proc/thread-self/ns/net` bind-mounted over it.
//!
//! The namespace of a thread that somebody else uses is never changed: [`run_in`] starts a thread,
//! enters there, and lets the thread end. (Pooled threads would have to be switched back, and a
//! failed switch would leave a worker in a container's namespace.)
//!
//! The few raw calls that `nix` lacks are at the end of this file.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::statfs::{FsType, NSFS_MAGIC, fstatfs, statfs};
use nix::unistd::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Where named namespaces live, shared with iproute2.
pub const DIRECTORY: &str = "/run/netns";

const THREAD_NAMESPACE: &str = "/proc/thread-self/ns/net";

/// Mounts that may lie over each other on one name: nobody makes as many.
const MOST_MOUNTS: usize = 64;

/// Why a namespace operation failed; the text names the namespace.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The name cannot be a file name below [`DIRECTORY`].
    #[error(
        "invalid network namespace name {0:?}: use 1 to 255 characters without '/', not '.' or '..'"
    )]
    InvalidName(String),
    /// There already is a namespace of this name.
    #[error("network namespace {0} already exists")]
    Exists(String),
    /// The path exists but is something else.
    #[error("{0}: not a network namespace")]
    NotANamespace(String),
    /// No such process, or it has exited.
    #[error("process {0} does not exist")]
    NoProcess(u32),
    /// The closure given to [`run_in`] panicked.
    #[error("work inside a network namespace panicked: {0}")]
    Panicked(String),
    /// A system call failed.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done, naming the object.
        doing: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Which namespace a descriptor refers to: equal for two descriptors of one namespace, and stable
/// while the namespace lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamespaceId {
    /// Device of the nsfs file.
    pub device: u64,
    /// Inode of the nsfs file, the number in `net:[4026531840]`.
    pub inode: u64,
}

/// Creates an empty namespace (its `lo` is down) visible as `/run/netns/NAME`.
///
/// # Errors
/// [`NetnsError::InvalidName`], [`NetnsError::Exists`], or a failed system call; nothing is left then.
pub fn create_named(name: &str) -> Result<OwnedFd, NetnsError> {
    let path = create_mount_point(name)?;
    let made = on_fresh_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|e| io_error("unshare network namespace", e))?;
        let fd = File::open(THREAD_NAMESPACE)
            .map_err(|e| io_error(format!("open {THREAD_NAMESPACE}"), e))?;
        bind(Path::new(THREAD_NAMESPACE), &path)?;
        Ok(OwnedFd::from(fd))
    });
    match made {
        Ok(Ok(fd)) => Ok(fd),
        Ok(Err(error)) | Err(error) => {
            remove_named(name).ok();
            Err(error)
        }
    }
}

/// Makes an existing namespace visible as `/run/netns/NAME`.
///
/// # Errors
/// As [`create_named`], and [`NetnsError::NotANamespace`] if `namespace` is something else.
pub fn bind_named(name: &str, namespace: BorrowedFd<'_>) -> Result<(), NetnsError> {
    require_network_namespace(namespace, name)?;
    let path = create_mount_point(name)?;
    // Not the descriptor itself: its mount may be one that the caller's end unmounts, or has unmounted already, and a copy
    // of such a one is not unmounted everywhere together with the name.
    let bound = run_in(namespace, || bind(Path::new(THREAD_NAMESPACE), &path));
    bound.and_then(|bound| bound).inspect_err(|_| {
        remove_named(name).ok();
    })
}

/// Removes the name; the namespace itself goes when its last user does. A name that is not there is
/// no error.
///
/// # Errors
/// [`NetnsError::InvalidName`] or a failed system call.
pub fn remove_named(name: &str) -> Result<(), NetnsError> {
    let path = named_path(name)?;
    for _ in 0..MOST_MOUNTS {
        match umount2(&path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            // EINVAL: not a mount point any more; or never one, a file that an interrupted creation left.
            Err(Errno::ENOENT | Errno::EINVAL) => break,
            Err(error) => return Err(io_error(format!("unmount {}", path.display()), error)),
        }
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error(format!("remove {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

/// The names below [`DIRECTORY`] that are namespaces, sorted.
///
/// # Errors
/// The directory cannot be read.
pub fn list_named() -> Result<Vec<String>, NetnsError> {
    let entries = match fs::read_dir(DIRECTORY) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_error(format!("read {DIRECTORY}"), error)),
    };
    let mut names: Vec<String> = entries
        .filter_map(Result::ok)
        .filter(|entry| is_nsfs(&entry.path()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    Ok(names)
}

/// The file of a named namespace; checks the name, not that it exists.
///
/// # Errors
/// [`NetnsError::InvalidName`].
pub fn named_path(name: &str) -> Result<PathBuf, NetnsError> {
    let valid = !name.is_empty()
        && name.len() <= 255
        && name != "."
        && name != ".."
        && !name.chars().any(|c| c == '/' || c.is_control());
    if valid {
        Ok(Path::new(DIRECTORY).join(OsStr::new(name)))
    } else {
        Err(NetnsError::InvalidName(name.to_owned()))
    }
}

/// Opens a namespace by the path of its file.
///
/// # Errors
/// [`NetnsError::NotANamespace`] for any other kind of file, or the open failed.
pub fn open_path(path: &Path) -> Result<OwnedFd, NetnsError> {
    // O_NONBLOCK: the path may name a FIFO, whose open would wait for a writer.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(path)
        .map_err(|e| io_error(format!("open network namespace {}", path.display()), e))?;
    let fd = OwnedFd::from(file);
    require_network_namespace(fd.as_fd(), &path.display().to_string())?;
    Ok(fd)
}

/// Opens the namespace a process is in.
///
/// # Errors
/// [`NetnsError::NoProcess`] if there is none (or only a zombie), or no permission
/// (`CAP_SYS_PTRACE` is needed for other users' processes).
pub fn open_pid(pid: u32) -> Result<OwnedFd, NetnsError> {
    let path = format!("/proc/{pid}/ns/net");
    match File::open(&path) {
        Ok(file) => Ok(OwnedFd::from(file)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => {
            Err(NetnsError::NoProcess(pid))
        }
        Err(error) => Err(io_error(
            format!("open network namespace of process {pid}"),
            error,
        )),
    }
}

/// Opens the namespace of the calling thread.
///
/// # Errors
/// `/proc` is not mounted.
pub fn open_current() -> Result<OwnedFd, NetnsError> {
    File::open(THREAD_NAMESPACE)
        .map(OwnedFd::from)
        .map_err(|e| io_error(format!("open {THREAD_NAMESPACE}"), e))
}

/// The identity of the namespace behind a descriptor.
///
/// # Errors
/// `fstat` failed.
pub fn id(namespace: impl AsFd) -> Result<NamespaceId, NetnsError> {
    let stat = nix::sys::stat::fstat(namespace).map_err(|e| io_error("stat namespace", e))?;
    Ok(NamespaceId {
        device: stat.st_dev,
        inode: stat.st_ino,
    })
}

/// Whether any process but this one is in one of these. Looks at every process; where none can be seen, there may be some.
pub fn have_processes(namespaces: &[NamespaceId]) -> bool {
    of_processes().is_none_or(|mut all| all.any(|id| namespaces.contains(&id)))
}

/// Each process's but this one's; `None`: none can be seen.
pub fn of_processes() -> Option<impl Iterator<Item = NamespaceId>> {
    let entries = fs::read_dir("/proc").ok()?;
    Some(entries.flatten().filter_map(|entry| {
        let number = entry.file_name().to_str()?.parse::<u32>().ok()?;
        let is_other = number != std::process::id();
        let namespace = is_other.then(|| open_pid(number).and_then(id).ok());
        namespace.flatten()
    }))
}

/// Runs `work` inside `namespace` on a thread of its own, and waits for it. Blocks the caller: for
/// async code there is [`run_in_async`].
///
/// # Errors
/// The namespace cannot be entered, or `work` panicked.
pub fn run_in<T: Send>(
    namespace: BorrowedFd<'_>,
    work: impl FnOnce() -> T + Send,
) -> Result<T, NetnsError> {
    on_fresh_thread(|| {
        setns(namespace, CloneFlags::CLONE_NEWNET)
            .map_err(|e| io_error("enter network namespace", e))?;
        Ok(work())
    })?
}

/// [`run_in`] for async code: does not block the runtime. `namespace` is closed afterwards.
///
/// # Errors
/// As [`run_in`].
pub async fn run_in_async<T: Send + 'static>(
    namespace: OwnedFd,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NetnsError> {
    // The pool's thread only waits; the switch happens on the thread that run_in makes.
    tokio::task::spawn_blocking(move || run_in(namespace.as_fd(), work))
        .await
        .unwrap_or_else(|error| Err(NetnsError::Panicked(error.to_string())))
}

fn on_fresh_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, work)
            .map_err(|e| io_error("start a thread", e))?
            .join()
            .map_err(|panic| {
                let text = panic
                    .downcast_ref::<&str>()
                    .map(|text| (*text).to_owned())
                    .or_else(|| panic.downcast_ref::<String>().cloned());
                NetnsError::Panicked(text.unwrap_or_else(|| "no message".into()))
            })
    })
}

/// Makes the directory a shared mount (so that other mount namespaces see later names) and an empty
/// file in it.
fn create_mount_point(name: &str) -> Result<PathBuf, NetnsError> {
    let path = named_path(name)?;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(DIRECTORY)
        .map_err(|e| io_error(format!("create {DIRECTORY}"), e))?;
    share_directory()?;
    for attempt in 0..2 {
        let created = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o444)
            .open(&path);
        match created {
            Ok(_) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if attempt > 0 || is_nsfs(&path) {
                    break;
                }
                // An interrupted creation left a file with nothing mounted on it.
                fs::remove_file(&path)
                    .map_err(|e| io_error(format!("remove {}", path.display()), e))?;
            }
            Err(error) => return Err(io_error(format!("create {}", path.display()), error)),
        }
    }
    Err(NetnsError::Exists(name.to_owned()))
}

fn share_directory() -> Result<(), NetnsError> {
    let change = |source, flags| {
        let none = None::<&str>;
        mount(source, DIRECTORY, none, flags | MsFlags::MS_REC, none)
    };
    let share = || change(None, MsFlags::MS_SHARED);
    let fail = |e| io_error(format!("make {DIRECTORY} a shared mount"), e);
    // EINVAL: not a mount point yet.
    match share() {
        Err(Errno::EINVAL) => {}
        result => return result.map_err(fail),
    }
    let _lock = lock_directory()?;
    match share() {
        Err(Errno::EINVAL) => {
            change(Some(DIRECTORY), MsFlags::MS_BIND).map_err(fail)?;
            share().map_err(fail)
        }
        result => result.map_err(fail),
    }
}

/// The lock that iproute2 takes, too, so that two processes do not mount the directory over itself twice. Any user can take
/// it, and keep it: after a while we go on without, and the worst is that second mount.
fn lock_directory() -> Result<Option<Flock<File>>, NetnsError> {
    let mut directory =
        File::open(DIRECTORY).map_err(|e| io_error(format!("open {DIRECTORY}"), e))?;
    for _ in 0..100 {
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(Some(lock)),
            Err((again, Errno::EWOULDBLOCK)) => directory = again,
            Err((_, error)) => return Err(io_error(format!("lock {DIRECTORY}"), error)),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(None)
}

fn bind(source: &Path, target: &Path) -> Result<(), NetnsError> {
    mount(
        Some(source),
        target,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .map_err(|e| {
        io_error(
            format!("mount a network namespace on {}", target.display()),
            e,
        )
    })
}

fn is_nsfs(path: &Path) -> bool {
    statfs(path).is_ok_and(|stat| is_nsfs_magic(stat.filesystem_type()))
}

fn is_nsfs_magic(kind: FsType) -> bool {
    kind == NSFS_MAGIC
}

/// Checks that a descriptor is a network namespace's; `name` is for the error.
///
/// # Errors
/// [`NetnsError::NotANamespace`].
pub fn require(namespace: BorrowedFd<'_>, name: &str) -> Result<(), NetnsError> {
    require_network_namespace(namespace, name)
}

fn require_network_namespace(fd: BorrowedFd<'_>, name: &str) -> Result<(), NetnsError> {
    let on_nsfs = fstatfs(fd).is_ok_and(|stat| is_nsfs_magic(stat.filesystem_type()));
    if on_nsfs && namespace_type(fd).is_ok_and(|kind| kind == libc::CLONE_NEWNET) {
        Ok(())
    } else {
        Err(NetnsError::NotANamespace(name.to_owned()))
    }
}

fn io_error(doing: impl Into<String>, source: impl Into<io::Error>) -> NetnsError {
    NetnsError::Io {
        doing: doing.into(),
        source: source.into(),
    }
}

/// Magic and number of `NS_GET_NSTYPE`, `linux/nsfs.h`.
const NSIO: u8 = 0xb7;
const NS_GET_NSTYPE: u8 = 0x3;

/// The `CLONE_NEW*` constant of the kind of namespace behind `fd`.
fn namespace_type(fd: BorrowedFd<'_>) -> io::Result<libc::c_int> {
    let request = nix::request_code_none!(NSIO, NS_GET_NSTYPE);
    // SAFETY: the descriptor is open for the duration of the call, and this request neither reads
    // nor writes user memory.
    let kind = unsafe { libc::ioctl(fd.as_raw_fd(), request) };
    Ok(Errno::result(kind)?)
}

/// A descriptor that refers to process `pid` and no later process with that number.
pub(super) fn open_pidfd(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and touches no user memory.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let fd = Errno::result(fd)?;
    let fd = i32::try_from(fd).map_err(|_| io::Error::from(Errno::EBADF))?;
    // SAFETY: the kernel just returned this descriptor (close-on-exec) to us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A socket of the calling thread's namespace that sends whole Ethernet frames from one interface and
/// receives nothing.
pub(super) fn open_frame_socket(if_index: u32) -> io::Result<OwnedFd> {
    let socket = frame_socket()?;
    bind_frame_socket(&socket, if_index, 0)?;
    Ok(socket)
}

/// A socket for whole Ethernet frames, which receives none before it is bound.
pub(super) fn frame_socket() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket(AddressFamily::Packet, SockType::Raw, flags, None)?)
}

/// Binds such a socket to an interface, and to the frames of a protocol (0: none).
pub(super) fn bind_frame_socket(socket: &OwnedFd, if_index: u32, protocol: u16) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?,
        sll_protocol: protocol.to_be(),
        sll_ifindex: i32::try_from(if_index).map_err(io::Error::other)?,
        ..EMPTY_ADDRESS
    };
    let length = libc::socklen_t::try_from(size_of_val(&address)).map_err(io::Error::other)?;
    // SAFETY: `address` is a whole sockaddr_ll, `length` is its size, and the kernel only reads it.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    Errno::result(bound)?;
    Ok(())
}

/// The present Ethernet address of the interface that a frame socket sends from; zeros if the interface
/// is gone. (nix takes the kernel's answer for too short.)
pub(super) fn frame_socket_mac(socket: BorrowedFd<'_>) -> io::Result<[u8; 6]> {
    let mut address = EMPTY_ADDRESS;
    let mut length = libc::socklen_t::try_from(size_of_val(&address)).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `length` octets, the size of `address`, and what it writes is
    // integers, for which every bit pattern is a value.
    let named = unsafe {
        libc::getsockname(
            socket.as_raw_fd(),
            (&raw mut address).cast(),
            &raw mut length,
        )
    };
    Errno::result(named)?;
    let [a, b, c, d, e, f, _, _] = address.sll_addr;
    Ok([a, b, c, d, e, f])
}

const EMPTY_ADDRESS: libc::sockaddr_ll = libc::sockaddr_ll {
    sll_family: 0,
    sll_protocol: 0,
    sll_ifindex: 0,
    sll_hatype: 0,
    sll_pkttype: 0,
    sll_halen: 0,
    sll_addr: [0; 8],
};

/// Registers a descriptor with the runtime, to wait until it is readable.
pub(super) fn watch_readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` returns the same descriptor each time and keeps it open until it is
    // dropped, which `AsyncFd` does after deregistering it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_the_directory() {
        let long = "a".repeat(256);
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "../x",
            "/etc/passwd",
            "a\0b",
            "a\nb",
            long.as_str(),
        ] {
            assert!(
                matches!(named_path(bad), Err(NetnsError::InvalidName(_))),
                "{bad:?}"
            );
        }
        for good in ["web", "web.1", "...", "a-b_c", "ü"] {
            let path = named_path(good).unwrap();
            assert_eq!(path.parent(), Some(Path::new(DIRECTORY)), "{good:?}");
        }
    }

    #[test]
    fn other_files_are_not_namespaces() {
        for path in ["/dev/null", "/", "/proc/self/status", "/proc/self/ns/mnt"] {
            let error = open_path(Path::new(path)).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("{path}: not a network namespace")
            );
        }
        let error = open_path(Path::new("/nonexistent")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent"), "{error}");
    }

    #[test]
    fn a_fifo_does_not_hang_the_open() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(matches!(
            open_path(&path),
            Err(NetnsError::NotANamespace(_))
        ));
    }

    #[test]
    fn dead_processes_are_named() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        let error = open_pid(pid).unwrap_err();
        assert_eq!(error.to_string(), format!("process {pid} does not exist"));
    }

    #[test]
    fn own_namespace_has_one_identity() {
        let by_pid = open_pid(std::process::id()).unwrap();
        let by_path = open_path(Path::new("/proc/self/ns/net")).unwrap();
        assert_eq!(id(&by_pid).unwrap(), id(&by_path).unwrap());
    }
}
