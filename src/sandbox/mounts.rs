//! The mounts of a container's mount namespace. Made by the child, in its own mount namespace; the daemon makes those of the
//! files again that are lost ([`cover_again`]).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::{Mode, mkdirat};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{chdir, pivot_root};

use super::Spec;

/// The files that are the container's own, and where they belong: in [`ETC`].
const FILES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];
const ETC: &str = "etc";

/// Device nodes that programs expect; taken from the host's /dev.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

const NONE: Option<&str> = None;

/// Makes the mounts of `spec`; gives what the user should know. The caller has a mount namespace of its
/// own and is in the container's network namespace.
///
/// # Errors
/// One sentence that names what could not be mounted.
pub(super) fn make(spec: &Spec) -> Result<Vec<String>, String> {
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_SLAVE, NONE)
        .map_err(|errno| format!("cannot make the mounts slave: {}", errno.desc()))?;
    let of_root = |root: &Path, error: io::Error| format!("--rootfs {}: {error}", root.display());
    let root = match &spec.rootfs {
        Some(root) => furnish(root).map_err(|error| of_root(root, error))?,
        None => {
            renew_sys().map_err(|error| format!("cannot mount /sys: {error}"))?;
            open_path(Path::new("/"), 0).map_err(|error| format!("cannot open /: {error}"))?
        }
    };
    let mut warnings = Vec::new();
    for name in FILES {
        let path = spec.files.join(name);
        let source = open_path(&path, 0).map_err(|error| format!("{}: {error}", path.display()))?;
        let covered = cover(&root, name, &source, spec.rootfs.is_some())
            .map_err(|error| format!("cannot mount over /{ETC}/{name}: {error}"))?;
        if !covered {
            warnings.push(format!(
                "the host has no /{ETC}/{name}, so the container has none: make the file, or use --rootfs",
            ));
        }
    }
    if let Some(root) = &spec.rootfs {
        change_root(root).map_err(|error| of_root(root, error))?;
    }
    Ok(warnings)
}

/// Mounts the files again of which something on the host has taken the mount away from a running container that shares
/// the host's files: its mount namespace, and the directory that they are in. Gives those that were missing.
///
/// # Errors
/// If its mount namespace cannot be entered, or a file not be mounted.
pub fn cover_again(namespace: &OwnedFd, files: &Path) -> io::Result<Vec<String>> {
    // A thread of its own, which ends in there: its root and working directory are the container's.
    std::thread::scope(|scope| {
        let inside = std::thread::Builder::new().name("mounts".into());
        let inside = inside.spawn_scoped(scope, || {
            unshare(CloneFlags::CLONE_FS)?;
            setns(namespace, CloneFlags::CLONE_NEWNS)?;
            let root = open_path(Path::new("/"), 0)?;
            let mut missing = Vec::new();
            for name in FILES {
                let (path, target) = (files.join(name), format!("/{ETC}/{name}"));
                let wanted = fs::metadata(&path)?;
                let found = fs::symlink_metadata(&target);
                let same = |found: fs::Metadata| {
                    (found.dev(), found.ino()) == (wanted.dev(), wanted.ino())
                };
                if !found.is_ok_and(same) && cover(&root, name, &open_path(&path, 0)?, false)? {
                    missing.push(target);
                }
            }
            Ok(missing)
        })?;
        let panicked = |_| Err(io::Error::other("a thread panicked"));
        inside.join().unwrap_or_else(panicked)
    })
}

fn open_path(path: &Path, flags: i32) -> io::Result<OwnedFd> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_CLOEXEC | flags)
        .open(path)?;
    Ok(file.into())
}

fn by_number(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// Mounts `source` over `name` in `root`'s /etc. A symbolic link there is itself covered, not followed:
/// /etc/resolv.conf often is one, absolute, and its target may be missing or somebody else's. False if there
/// is nothing to cover and `create` is not set.
fn cover(root: &OwnedFd, name: &str, source: &OwnedFd, create: bool) -> io::Result<bool> {
    let place = OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let etc = match directory_in(root, ETC) {
        Err(Errno::ENOENT) if create => {
            // Not there at all; what is a link to nowhere is there.
            mkdirat(root, ETC, Mode::from_bits_truncate(0o755))?;
            directory_in(root, ETC)?
        }
        Err(Errno::ENOENT) => return Ok(false),
        found => found?,
    };
    let place = match openat(&etc, name, place, Mode::empty()) {
        Err(Errno::ENOENT) if create => {
            let new = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
            openat(&etc, name, new, Mode::from_bits_truncate(0o644))?;
            openat(&etc, name, place, Mode::empty())?
        }
        Err(Errno::ENOENT) => return Ok(false),
        found => found?,
    };
    mount(
        Some(&by_number(source)),
        &by_number(&place),
        NONE,
        MsFlags::MS_BIND,
        NONE,
    )?;
    Ok(true)
}

/// A directory as a process whose root is `root` would find it: links may lead anywhere in there, and nowhere else.
fn directory_in(root: &OwnedFd, path: &str) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_DIRECTORY)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT);
    // EAGAIN: something was renamed meanwhile, and a ".." may have led out.
    let attempts = std::iter::repeat_with(|| openat2(root, path, how));
    let done = |found: &nix::Result<OwnedFd>| !matches!(found, Err(Errno::EAGAIN));
    attempts.take(16).find(done).unwrap_or(Err(Errno::EAGAIN))
}

/// A new instance of sysfs shows the interfaces of the namespace it is mounted from. The control groups
/// below the old one are put back.
fn renew_sys() -> io::Result<()> {
    const CGROUPS: &str = "/sys/fs/cgroup";
    let cgroups = open_path(Path::new(CGROUPS), 0).ok();
    let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    if statvfs("/sys")?.flags().contains(FsFlags::ST_RDONLY) {
        flags |= MsFlags::MS_RDONLY;
    }
    mount(Some("sysfs"), "/sys", Some("sysfs"), flags, NONE)?;
    if let Some(cgroups) = cgroups {
        let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(&by_number(&cgroups)), CGROUPS, NONE, bind, NONE)?;
    }
    Ok(())
}

/// Makes `root` a mount with what a root file system needs, and gives it.
fn furnish(root: &Path) -> io::Result<OwnedFd> {
    let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(root), root, NONE, bind, NONE)?;
    let inside = |name: &str| root.join(name);
    for directory in ["proc", "sys", "dev"] {
        create_directory(&inside(directory))?;
    }
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), &inside("proc"), Some("proc"), quiet, NONE)?;
    mount(Some("sysfs"), &inside("sys"), Some("sysfs"), quiet, NONE)?;
    make_dev(&inside("dev"))?;
    open_path(root, libc::O_DIRECTORY)
}

/// Makes `root` the root directory. After this nothing may be looked up before the old one is gone: pivot_root(2) puts
/// it on top of the new one, where even a `..` that stays within the root leads into it.
fn change_root(root: &Path) -> io::Result<()> {
    chdir(root)?;
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")?;
    Ok(())
}

fn make_dev(dev: &Path) -> io::Result<()> {
    let no_suid = MsFlags::MS_NOSUID;
    mount(
        Some("tmpfs"),
        dev,
        Some("tmpfs"),
        no_suid,
        Some("mode=755,size=64k"),
    )?;
    for name in DEVICES {
        let target = dev.join(name);
        File::create(&target)?;
        mount(
            Some(&Path::new("/dev").join(name)),
            &target,
            NONE,
            MsFlags::MS_BIND,
            NONE,
        )?;
    }
    for directory in ["pts", "shm"] {
        fs::create_dir(dev.join(directory))?;
    }
    mount(
        Some("/dev/pts"),
        &dev.join("pts"),
        NONE,
        MsFlags::MS_BIND,
        NONE,
    )?;
    let shm = no_suid | MsFlags::MS_NODEV;
    mount(
        Some("tmpfs"),
        &dev.join("shm"),
        Some("tmpfs"),
        shm,
        Some("mode=1777"),
    )?;
    symlink("pts/ptmx", dev.join("ptmx"))?;
    for (link, target) in [
        ("fd", ""),
        ("stdin", "/0"),
        ("stdout", "/1"),
        ("stderr", "/2"),
    ] {
        symlink(format!("/proc/self/fd{target}"), dev.join(link))?;
    }
    Ok(())
}

/// A symbolic link here could lead out of the new root.
fn create_directory(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(io::Error::other(format!(
            "{} is not a directory",
            path.display()
        ))),
        Err(_) => fs::create_dir(path),
    }
}
