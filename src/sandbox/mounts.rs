//! The mounts of a container's mount namespace. Made by the child, in its own mount namespace; the daemon makes those of the
//! files again that are lost ([`cover_again`]).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{chdir, pivot_root};

use super::Spec;

/// The files that are the container's own, and where they belong.
const FILES: [(&str, &str); 3] = [
    ("hosts", "/etc/hosts"),
    ("hostname", "/etc/hostname"),
    ("resolv.conf", "/etc/resolv.conf"),
];

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
    // Opened before the root changes; reached through /proc/self/fd afterwards.
    let mut sources = Vec::with_capacity(FILES.len());
    for (name, target) in FILES {
        let path = spec.files.join(name);
        let source = open_path(&path, 0).map_err(|error| format!("{}: {error}", path.display()))?;
        sources.push((source, Path::new(target)));
    }
    let of_root = |root: &Path, error: io::Error| format!("--rootfs {}: {error}", root.display());
    match &spec.rootfs {
        Some(root) => enter_root(root).map_err(|error| of_root(root, error))?,
        None => renew_sys().map_err(|error| format!("cannot mount /sys: {error}"))?,
    }
    let mut warnings = Vec::new();
    for (source, target) in &sources {
        let covered = cover(target, source, spec.rootfs.is_some())
            .map_err(|error| format!("cannot mount over {}: {error}", target.display()))?;
        if !covered {
            warnings.push(format!(
                "the host has no {0}, so the container has none: make the file, or use --rootfs",
                target.display()
            ));
        }
    }
    if let Some(root) = &spec.rootfs {
        leave_old_root().map_err(|error| of_root(root, error))?;
    }
    Ok(warnings)
}

/// Mounts the files again of which something on the host has taken the mount away from a running container that shares
/// the host's files: its mount namespace, and the directory that they are in. Gives those that were missing.
///
/// # Errors
/// If its mount namespace cannot be entered, or a file not be mounted.
pub fn cover_again(namespace: &OwnedFd, files: &Path) -> io::Result<Vec<&'static str>> {
    // A thread of its own, which ends in there: its root and working directory are the container's.
    std::thread::scope(|scope| {
        let inside = std::thread::Builder::new().name("mounts".into());
        let inside = inside.spawn_scoped(scope, || {
            unshare(CloneFlags::CLONE_FS)?;
            setns(namespace, CloneFlags::CLONE_NEWNS)?;
            let mut missing = Vec::new();
            for (name, target) in FILES {
                let path = files.join(name);
                let wanted = fs::metadata(&path)?;
                let found = fs::symlink_metadata(target);
                let same = |found: fs::Metadata| {
                    (found.dev(), found.ino()) == (wanted.dev(), wanted.ino())
                };
                if !found.is_ok_and(same) && cover(Path::new(target), &open_path(&path, 0)?, false)?
                {
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

/// Mounts `source` over `target`. A symbolic link there is itself covered, not followed:
/// /etc/resolv.conf often is one, absolute, and its target may be missing or somebody else's. False if there
/// is nothing to cover and `create` is not set.
fn cover(target: &Path, source: &OwnedFd, create: bool) -> io::Result<bool> {
    let place = match open_path(target, libc::O_NOFOLLOW) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if !create {
                return Ok(false);
            }
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent)?;
            }
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o644)
                .open(target)?;
            open_path(target, libc::O_NOFOLLOW)?
        }
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

/// Makes `root` the root directory; the old one lies on top of it until [`leave_old_root`], because a
/// mount that has been detached cannot be bound any more.
fn enter_root(root: &Path) -> io::Result<()> {
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
    // pivot_root(2): the old root can be put on top of the new one and unmounted from there.
    chdir(root)?;
    pivot_root(".", ".")?;
    Ok(())
}

fn leave_old_root() -> io::Result<()> {
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
