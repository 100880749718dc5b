//! The mounts of a container's mount namespace. Runs in the child, in its own mount namespace.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
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

/// Makes the mounts of `spec`. The caller has a mount namespace of its own and is in the container's
/// network namespace.
pub(super) fn make(spec: &Spec) -> Result<(), String> {
    let fail = |what: &str| {
        let what = what.to_owned();
        move |errno: nix::errno::Errno| format!("{what}: {}", errno.desc())
    };
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_SLAVE, NONE)
        .map_err(fail("cannot make mounts slave"))?;
    // Opened before the root changes; reached through /proc/self/fd afterwards.
    let sources = FILES
        .iter()
        .map(|(name, target)| {
            let path = spec.files.join(name);
            open_path(&path)
                .map(|source| (source, Path::new(target)))
                .map_err(|error| format!("{}: {error}", path.display()))
        })
        .collect::<Result<Vec<_>, String>>()?;
    match &spec.rootfs {
        Some(root) => {
            change_root(root).map_err(|error| format!("--rootfs {}: {error}", root.display()))?
        }
        // A new instance shows the interfaces of the namespace it is mounted from.
        None => mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), NONE)
            .map_err(fail("cannot mount /sys"))?,
    }
    for (source, target) in &sources {
        if spec.rootfs.is_some() {
            create_if_missing(target).map_err(|error| format!("{}: {error}", target.display()))?;
        }
        let from = PathBuf::from(format!("/proc/self/fd/{}", source.as_raw_fd()));
        mount(Some(&from), *target, NONE, MsFlags::MS_BIND, NONE)
            .map_err(fail(&format!("cannot mount over {}", target.display())))?;
    }
    Ok(())
}

fn open_path(path: &Path) -> io::Result<OwnedFd> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_CLOEXEC)
        .open(path)?;
    Ok(file.into())
}

/// Makes `root` the root directory and lets go of the old one.
fn change_root(root: &Path) -> io::Result<()> {
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
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")?;
    Ok(())
}

fn make_dev(dev: &Path) -> io::Result<()> {
    mount(
        Some("tmpfs"),
        dev,
        Some("tmpfs"),
        MsFlags::MS_NOSUID,
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
    mount(
        Some("tmpfs"),
        &dev.join("shm"),
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
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

/// After the root has changed, so links are followed inside it.
fn create_if_missing(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map(drop)
}
