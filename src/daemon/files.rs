//! The files of containers: written when one is made, kept current while it runs.
//!
//! They are mounted over /etc/hosts, /etc/hostname and /etc/resolv.conf, so they are written in place. What somebody in the
//! container wrote there stays: of the hosts file only our own lines change, and a resolv.conf that was edited is left
//! alone. Whether it was, a fingerprint beside each file tells, which outlives the daemon.
//!
//! A resolv.conf follows the host's, so that containers do not ask the servers of a network that the host has left. Who
//! moves a new file over one of the host's takes the mounts over it away from containers; they are made again.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::core::Core;
use super::process;
use crate::control::files::{self, Fingerprint, HostsLine, RESOLV_CONF, SYSTEMD_RESOLV_CONF};
use crate::control::records::{Container, ContainerState, Kind};
use crate::control::{FileFacts, FileTexts, State};
use crate::sandbox;

/// Octets of a file that we look at. Nobody's own file is that long; one that is, is left alone.
const MOST: u64 = 1 << 20;

/// How often the host's files are looked at; they may be links to files anywhere, so there is no notification for all.
const HOST_FILES_INTERVAL: Duration = Duration::from_secs(1);

/// The files that containers' own are mounted over.
const COVERED: [&str; 3] = ["/etc/hosts", "/etc/hostname", RESOLV_CONF];

/// Which files those are at the moment: device and inode. Mounts are on the files themselves, not on what links lead to.
type Covered = [Option<(u64, u64)>; COVERED.len()];

/// The host's own files that those of containers are made of; empty where there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct HostFiles {
    pub(super) resolv_conf: String,
    systemd_resolv_conf: String,
}

impl HostFiles {
    pub(super) fn read() -> Self {
        let text = |path: &str| {
            let text = read(Path::new(path)).unwrap_or_default();
            String::from_utf8_lossy(&text).into_owned()
        };
        Self {
            resolv_conf: text(RESOLV_CONF),
            systemd_resolv_conf: text(SYSTEMD_RESOLV_CONF),
        }
    }
}

/// What a container's files were made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Written {
    lines: Vec<HostsLine>,
    resolver: bool,
    host: Arc<HostFiles>,
}

impl Written {
    fn of(state: &State, container: &Container, host: &Arc<HostFiles>) -> Self {
        Self {
            lines: state.hosts_lines(container),
            resolver: state.has_resolver(container),
            host: Arc::clone(host),
        }
    }
}

impl Core {
    /// Writes the files of a container that is being made.
    pub(super) fn write_files(&self, state: &State, container: &Container) -> io::Result<()> {
        fs::create_dir_all(&container.files)?;
        let host = self.host_files();
        let texts = texts(state, container, &host);
        write_noted(&container.files.join("hosts"), texts.hosts.as_bytes())?;
        fs::write(container.files.join("hostname"), texts.hostname)?;
        write_noted(
            &container.files.join("resolv.conf"),
            texts.resolv_conf.as_bytes(),
        )?;
        let written = Written::of(state, container, &host);
        let mut projected = self.projected.lock();
        projected.files.insert(container.id.clone(), written);
        Ok(())
    }

    /// What the host's files say now.
    pub(super) fn host_files(&self) -> Arc<HostFiles> {
        let now = HostFiles::read();
        let mut projected = self.projected.lock();
        if *projected.host_files != now {
            projected.host_files = Arc::new(now);
        }
        Arc::clone(&projected.host_files)
    }

    /// Makes containers follow the host's files, until the daemon stops.
    pub(super) async fn follow_host_files(self: Arc<Self>) {
        let (mut last, mut last_covered) = (HostFiles::default(), Covered::default());
        loop {
            let look = || (HostFiles::read(), covered());
            let Ok((now, covered)) = tokio::task::spawn_blocking(look).await else {
                return;
            };
            if covered != last_covered {
                let state = self.lock().await;
                tokio::task::block_in_place(|| cover_again(&state));
            }
            let known = Arc::clone(&self.projected.lock().host_files);
            // Twice the same: nobody is in the middle of writing.
            if now == last && now != *known {
                tracing::info!("the host's resolv.conf has changed");
                let state = self.lock().await;
                if let Err(error) = self.settle(&state).await {
                    tracing::warn!(error = %error.message, "cannot follow the host's resolv.conf");
                }
            }
            (last, last_covered) = (now, covered);
            tokio::time::sleep(HOST_FILES_INTERVAL).await;
        }
    }

    /// Makes the files of all containers that run say what is true now; failures are logged.
    pub(super) fn follow_files(&self, state: &State, host: &Arc<HostFiles>) {
        let mut projected = self.projected.lock();
        projected.files.retain(|id, _| {
            state
                .container_by_id(id)
                .is_some_and(|container| !container.has_exited())
        });
        let with_files = |c: &&Container| !c.has_exited() && !c.files.as_os_str().is_empty();
        for container in state.containers().filter(with_files) {
            let wanted = Written::of(state, container, host);
            let former = projected.files.get(&container.id);
            if former == Some(&wanted) {
                continue;
            }
            let followed = match former {
                Some(former) => follow(state, container, former, &wanted),
                // Of a daemon that is gone, which may have been killed before it had written.
                None => renew(state, container, host),
            };
            if let Err(error) = followed {
                tracing::warn!(container = %container.name, %error, "cannot write its files");
                // The disk is full, say: again at the next change.
                continue;
            }
            projected.files.insert(container.id.clone(), wanted);
        }
    }
}

fn covered() -> Covered {
    COVERED.map(|path| {
        let found = fs::symlink_metadata(path).ok()?;
        Some(identity(found))
    })
}

fn identity(file: fs::Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// Looks after the mounts of containers that share the host's files; failures are logged.
fn cover_again(state: &State) {
    let hosts =
        ["/proc/self/ns/mnt", "/proc/1/ns/mnt"].map(|path| fs::metadata(path).ok().map(identity));
    for container in state.containers() {
        let ContainerState::Running {
            process: Some(process),
            ..
        } = &container.state
        else {
            continue;
        };
        if container.kind != Kind::Run || container.rootfs.is_some() {
            continue;
        }
        let namespace = fs::File::open(format!("/proc/{}/ns/mnt", process.pid));
        // Opened first: the number may have become another's before.
        let Ok(namespace) = namespace else {
            continue;
        };
        // Whoever starts processes without a mount namespace of their own would have us cover the host's files.
        let shared = hosts.contains(&namespace.metadata().ok().map(identity));
        if shared || !process::is_alive(*process) {
            continue;
        }
        let namespace = OwnedFd::from(namespace);
        match sandbox::cover_again(&namespace, &container.files) {
            Ok(missing) if missing.is_empty() => {}
            Ok(missing) => {
                let files = missing.join(" ");
                tracing::info!(container = %container.name, files, "lost its mounts, mounted again");
            }
            Err(error) => {
                tracing::warn!(container = %container.name, %error, "cannot mount its files again");
            }
        }
    }
}

fn follow(
    state: &State,
    container: &Container,
    former: &Written,
    wanted: &Written,
) -> io::Result<()> {
    if former.lines != wanted.lines {
        let path = container.files.join("hosts");
        let current = read(&path)?;
        let edited = Fingerprint::was_edited(Some(&current), noted(&path));
        let text = files::edit_hosts(&current, &former.lines, &wanted.lines);
        if edited {
            write_in_place(&path, &text)?;
        } else {
            write_noted(&path, &text)?;
        }
    }
    if (former.resolver, &former.host) != (wanted.resolver, &wanted.host) {
        let text = texts(state, container, &wanted.host).resolv_conf;
        renew_one(&container.files.join("resolv.conf"), &text)?;
    }
    Ok(())
}

/// Writes what nobody has edited.
fn renew(state: &State, container: &Container, host: &HostFiles) -> io::Result<()> {
    let texts = texts(state, container, host);
    renew_one(&container.files.join("hosts"), &texts.hosts)?;
    renew_one(&container.files.join("resolv.conf"), &texts.resolv_conf)
}

fn renew_one(path: &Path, text: &str) -> io::Result<()> {
    let current = read(path)?;
    if current == text.as_bytes() || Fingerprint::was_edited(Some(&current), noted(path)) {
        return Ok(());
    }
    write_noted(path, text.as_bytes())
}

pub(super) fn texts(state: &State, container: &Container, host: &HostFiles) -> FileTexts {
    state.files(
        container,
        &FileFacts {
            resolv_conf: &host.resolv_conf,
            systemd_resolv_conf: &host.systemd_resolv_conf,
            // Every new namespace's lo has ::1, if the kernel has IPv6.
            ipv6_loopback: Path::new("/proc/net/if_inet6").exists(),
        },
    )
}

/// A program in the container may have a lease on its file (fcntl(2), F_SETLEASE): opening would wait for
/// /proc/sys/fs/lease-break-time, 45 s, every time. Who reads it so gets its new text at the next change.
const AT_ONCE: i32 = libc::O_NONBLOCK | libc::O_NOFOLLOW;

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let mut reading = fs::File::options();
    let file = reading.read(true).custom_flags(AT_ONCE).open(path)?;
    file.take(MOST + 1).read_to_end(&mut text)?;
    if u64::try_from(text.len()).is_ok_and(|length| length > MOST) {
        return Err(io::Error::other(format!(
            "{} has become longer than {MOST} octets: left as it is",
            path.display()
        )));
    }
    Ok(text)
}

fn fingerprint_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".hash");
    name.into()
}

fn noted(path: &Path) -> Option<Fingerprint> {
    fs::read_to_string(fingerprint_path(path))
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// Writes a file in place and notes what was written.
fn write_noted(path: &Path, text: &[u8]) -> io::Result<()> {
    write_in_place(path, text)?;
    let fingerprint = Fingerprint::of(text).to_string();
    write_in_place(&fingerprint_path(path), fingerprint.as_bytes())
}

/// Overwrites a file, and cuts it afterwards: it is never empty, not even on a disk that is full.
fn write_in_place(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = fs::File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(AT_ONCE)
        .open(path)?;
    file.write_all(text)?;
    file.set_len(u64::try_from(text.len()).unwrap_or(u64::MAX))
}
