//! Which daemon serves the host that the plugin runs in.
//!
//! A plugin may be run in a network namespace that is host to some containers but not the one in which the daemon was
//! started. Who asks gets a daemon whose host is its own namespace, told by the namespace's identity and never by a
//! path:
//!
//! ```text
//!  DIR/ns-INODE/tunbridge.sock  answers, and is of this namespace ──► that one
//!  DIR/tunbridge.sock           answers, and is of this namespace ──► that one
//!                               answers, and is of another        ──► started now, at the first path
//!                               does not: the machine's own namespace ──► an error that says how to start it
//!                                         another one             ──► started now, at the first path
//! ```
//!
//! A socket that somebody has named (variable or configuration) is the only one that is looked at: nothing is started for
//! it, and a daemon there that is of another namespace is refused.
//!
//! A daemon that was started this way ends, and takes everything with it, when it has had no containers for a while. Starting
//! is done under a lock, so that of plugins that run at the same time one starts and the others wait.
//!
//! Taking endpoints away works without a daemon, too: a file in [`DETACHED`] tells the next one. It is beside the socket at
//! which a daemon of this very namespace would listen, and reads it before it answers anybody.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

use super::environment::{ARGS, COMMAND, CONTAINERID, IFNAME, NETNS, PATH};
use super::error::{CniError, code};
use crate::api::client::{Client, ClientError};
use crate::api::types::{EndpointReference, HostIdentity};
use crate::failpoint;
use crate::kernel::netns::{self, NamespaceId};

/// For a daemon to come up. It compiles nothing, but verifying the eBPF programs takes its time.
const STARTING: Duration = Duration::from_secs(30);

/// For its answers: what takes longer will not come.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often a daemon is started that ends at once, and the time between.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);

/// Seconds without containers after which a daemon that we started ends.
const IDLE: &str = "60";

pub(crate) const DETACH: &str = "/tunbridge/endpoints/detach";

/// Directory, beside a daemon's socket, of what was detached while it did not run.
pub(crate) const DETACHED: &str = "detached";

/// Where to look.
#[derive(Clone, Debug)]
pub(crate) struct Sockets {
    socket: PathBuf,
    /// Somebody named it: then that daemon must be there.
    named: bool,
    own: NamespaceId,
}

/// What there is.
#[derive(Debug)]
pub(crate) enum Found {
    Daemon(Client),
    /// None; with what to say about it.
    Absent(CniError),
}

/// What came of taking endpoints away.
#[derive(Debug)]
pub(crate) enum Detached {
    ByDaemon,
    /// The next one will: there is none now.
    Left,
    /// There is none, and this is why it cannot be told.
    Untold(CniError),
}

impl Sockets {
    /// `variable`: `TUNBRIDGE_SOCKET`; `key`: the configuration's.
    pub(crate) fn new(
        variable: Option<PathBuf>,
        key: Option<PathBuf>,
        default: &Path,
    ) -> Result<Self, CniError> {
        let own = netns::open_current().and_then(netns::id);
        let own = own.map_err(|error| CniError::new(code::IO, error.to_string()))?;
        let named = variable.or(key);
        Ok(Self {
            named: named.is_some(),
            socket: named.unwrap_or_else(|| default.to_owned()),
            own,
        })
    }

    pub(super) fn own(&self) -> NamespaceId {
        self.own
    }

    /// The daemon of this host, if it runs.
    pub(crate) fn look(&self) -> Result<Found, CniError> {
        let found = self.search()?;
        Ok(self.running(found))
    }

    fn running(&self, found: Search) -> Found {
        match found {
            Search::Found(client) => Found::Daemon(client),
            Search::Absent(error) | Search::Foreign(error) => Found::Absent(error),
            Search::Startable => {
                let socket = self.local().join(SOCKET);
                Found::Absent(ClientError::NotRunning(socket).into())
            }
        }
    }

    /// Whether an `ADD` would find one, or start one.
    pub(super) fn reachable(&self) -> Result<(), CniError> {
        match self.search()? {
            Search::Found(_) | Search::Startable => Ok(()),
            Search::Absent(error) | Search::Foreign(error) => Err(error),
        }
    }

    /// The daemon of this host; where there is none and should be, it is started.
    pub(crate) fn find(&self) -> Result<Client, CniError> {
        match self.search()? {
            Search::Found(client) => Ok(client),
            Search::Absent(error) | Search::Foreign(error) => Err(error),
            Search::Startable => self.start(),
        }
    }

    fn search(&self) -> Result<Search, CniError> {
        let local = self.local().join(SOCKET);
        if !self.named
            && local.exists()
            && let Some(client) = self.ours(&local)?
        {
            return Ok(Search::Found(client));
        }
        let client = Client::new(&self.socket);
        match identity(&client) {
            Ok(host) if self.is_own(&host) => Ok(Search::Found(client.with_limit(PATIENCE))),
            Ok(_) if self.named => Ok(Search::Foreign(self.foreign())),
            Ok(_) => Ok(Search::Startable),
            Err(error @ ClientError::NotRunning(_)) => {
                if self.named || self.is_machines() {
                    Ok(Search::Absent(error.into()))
                } else {
                    Ok(Search::Startable)
                }
            }
            Err(error @ ClientError::Broken { .. }) => Ok(Search::Absent(error.into())),
            Err(error) => Err(error.into()),
        }
    }

    fn foreign(&self) -> CniError {
        CniError::configuration(format!(
            "the tunbridge daemon at {} serves another network namespace than this one: name the socket of one that was started here, or none",
            self.socket.display()
        ))
    }

    /// The daemon at `socket`, if it runs and its host is ours.
    fn ours(&self, socket: &Path) -> Result<Option<Client>, CniError> {
        let client = Client::new(socket);
        match identity(&client) {
            Ok(host) => Ok(Some(client.with_limit(PATIENCE)).filter(|_| self.is_own(&host))),
            Err(ClientError::NotRunning(_) | ClientError::Broken { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn is_own(&self, host: &HostIdentity) -> bool {
        host.netns == (self.own.device, self.own.inode)
    }

    /// Whether we are where the machine's first process is. Who cannot tell is.
    fn is_machines(&self) -> bool {
        let first = netns::open_pid(1).and_then(netns::id);
        first.map_or(true, |first| first == self.own)
    }

    fn directory(&self) -> &Path {
        self.socket.parent().unwrap_or_else(|| Path::new("/"))
    }

    /// Directory of a daemon for this namespace alone.
    fn local(&self) -> PathBuf {
        self.directory().join(format!("ns-{}", self.own.inode))
    }

    fn start(&self) -> Result<Client, CniError> {
        let directory = self.local();
        let failed = |problem: String| {
            let message = format!(
                "cannot start a tunbridge daemon for this network namespace ({}): {problem}",
                self.own.inode
            );
            CniError::new(code::TRY_AGAIN, message)
        };
        let io = |error: std::io::Error| failed(format!("{}: {error}", directory.display()));
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(&directory)
            .map_err(io)?;
        let deadline = Instant::now() + STARTING;
        let _lock = lock(&directory, deadline).map_err(|error| {
            if error.kind() != std::io::ErrorKind::WouldBlock {
                return io(error);
            }
            let seconds = STARTING.as_secs();
            failed(format!(
                "another plugin has been at it for {seconds} seconds"
            ))
        })?;
        let socket = directory.join(SOCKET);
        if let Some(client) = self.ours(&socket)? {
            return Ok(client);
        }
        let log = directory.join("log");
        let deadline = Instant::now() + STARTING;
        let mut attempts = 0..ATTEMPTS;
        let mut daemon = self.spawn(&directory, &log).map_err(io)?;
        failpoint::reached("cni.starting");
        while Instant::now() < deadline {
            if socket.exists()
                && let Some(client) = self.ours(&socket)?
            {
                return Ok(client);
            }
            if let Some(status) = daemon.try_wait().map_err(io)? {
                // One that has just ended, for want of containers, may still be cleaning up.
                if attempts.next().is_none() {
                    let said = last_line(&log).unwrap_or_else(|| status.to_string());
                    return Err(failed(said));
                }
                std::thread::sleep(PAUSE);
                daemon = self.spawn(&directory, &log).map_err(io)?;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(failed(format!(
            "it does not answer within {} seconds, see {}",
            STARTING.as_secs(),
            log.display()
        )))
    }

    fn spawn(&self, directory: &Path, log: &Path) -> std::io::Result<Child> {
        let log = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(log)?;
        let mut command = Command::new(std::env::current_exe()?);
        for variable in [COMMAND, CONTAINERID, NETNS, IFNAME, ARGS, PATH] {
            command.env_remove(variable);
        }
        for variable in [
            "TUNBRIDGE_SOCKET",
            "NOTIFY_SOCKET",
            "LISTEN_FDS",
            "LISTEN_PID",
        ] {
            command.env_remove(variable);
        }
        command
            // We may be a copy that is named as a plugin.
            .arg0("tunbridge")
            .arg("--socket")
            .arg(directory.join(SOCKET))
            .args(["daemon", "--purge", "--exit-when-idle", IDLE, "--state-dir"])
            .arg(directory.join("state"))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // Not in the process group that a runtime may end.
            .process_group(0)
            .spawn()
    }

    /// Has endpoints taken away, by the daemon or by the next one.
    pub(crate) fn detach(&self, reference: &EndpointReference) -> Result<Detached, CniError> {
        let found = self.search()?;
        let home = match found {
            Search::Startable => self.local(),
            Search::Found(_) | Search::Absent(_) => self.home(),
            // Its next one would be of another namespace, too.
            Search::Foreign(why) => return Ok(Detached::Untold(why)),
        };
        let Err(why) = detach_by(self.running(found), reference)? else {
            return Ok(Detached::ByDaemon);
        };
        let left = leave(&home, reference);
        // One that has started meanwhile may not have read it.
        if detach_by(self.look()?, reference)?.is_ok() {
            self.withdraw(reference);
            return Ok(Detached::ByDaemon);
        }
        Ok(match left {
            Ok(()) => Detached::Left,
            Err(error) => {
                let message = format!("{}; and no word can be left for it: {error}", why.message);
                Detached::Untold(CniError { message, ..why })
            }
        })
    }

    /// Takes the word back.
    pub(crate) fn withdraw(&self, reference: &EndpointReference) {
        // It is rarely there.
        let _ = fs::remove_file(self.home().join(DETACHED).join(word(reference)));
    }

    /// Directory of the daemon that serves this namespace, or will.
    fn home(&self) -> PathBuf {
        let local = self.local();
        if !self.named && (local.is_dir() || !self.is_machines()) {
            return local;
        }
        self.directory().to_owned()
    }
}

/// Of those who would start a daemon one does. The file is root's alone: any user could take a lock of one that he can read.
fn lock(directory: &Path, deadline: Instant) -> std::io::Result<Flock<File>> {
    let mut file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .mode(0o600)
        .open(directory.join("lock"))?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((again, Errno::EWOULDBLOCK)) if Instant::now() < deadline => file = again,
            Err((_, error)) => return Err(error.into()),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The inner error: there is no daemon.
fn detach_by(
    found: Found,
    reference: &EndpointReference,
) -> Result<Result<(), CniError>, CniError> {
    let client = match found {
        Found::Absent(why) => return Ok(Err(why)),
        Found::Daemon(client) => client,
    };
    match client.tell(DETACH, reference) {
        Ok(()) | Err(ClientError::Refused { status: 404, .. }) => Ok(Ok(())),
        Err(error @ (ClientError::NotRunning(_) | ClientError::Broken { .. })) => {
            Ok(Err(error.into()))
        }
        Err(error) => Err(error.into()),
    }
}

/// Leaves word for the next daemon that endpoints are to go.
fn leave(home: &Path, reference: &EndpointReference) -> std::io::Result<()> {
    let make = |directory: &Path, mode: u32| {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(mode).create(directory)
    };
    // Others than root may be let in to the socket there.
    make(home, 0o755)?;
    let directory = home.join(DETACHED);
    make(&directory, 0o700)?;
    let name = word(reference);
    let temporary = directory.join(format!(".{name}.{}", std::process::id()));
    fs::write(&temporary, serde_json::to_vec(reference)?)?;
    fs::rename(temporary, directory.join(name))
}

/// Needs nothing of a daemon but that it runs: one that is just starting answers as soon as it does.
fn identity(client: &Client) -> Result<HostIdentity, ClientError> {
    let client = client.clone().with_limit(STARTING);
    client.get("/tunbridge/host")
}

/// Name of a file for what may be longer than a name, and have slashes.
fn word(reference: &EndpointReference) -> String {
    let mut hash = Sha256::new();
    for part in [
        Some(&reference.container),
        reference.owner.as_ref(),
        reference.network.as_ref(),
        reference.interface.as_ref(),
    ] {
        hash.update(part.map_or("", String::as_str));
        hash.update([0]);
    }
    let octets: [u8; 32] = hash.finalize().into();
    octets.map(|octet| format!("{octet:02x}")).concat()
}

const SOCKET: &str = "tunbridge.sock";

#[derive(Debug)]
enum Search {
    Found(Client),
    Absent(CniError),
    /// The one that was named is of another namespace.
    Foreign(CniError),
    /// There is none, and there should be.
    Startable,
}

fn last_line(path: &Path) -> Option<String> {
    let lines = BufReader::new(File::open(path).ok()?).lines();
    lines
        .map_while(Result::ok)
        .filter(|line| !line.is_empty())
        .last()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::api::types::Runtime;

    fn reference(container: &str, owner: &str) -> EndpointReference {
        EndpointReference {
            runtime: Runtime::Oci,
            container: container.to_owned(),
            owner: Some(owner.to_owned()),
            network: None,
            interface: None,
        }
    }

    /// What is left below a directory for a daemon that starts there.
    fn left(directory: &Path) -> Vec<EndpointReference> {
        let Ok(files) = fs::read_dir(directory.join(DETACHED)) else {
            return Vec::new();
        };
        let read = |file: fs::DirEntry| {
            let text = fs::read(file.path()).unwrap();
            serde_json::from_slice(&text).unwrap()
        };
        files.map(|file| read(file.unwrap())).collect()
    }

    #[test]
    fn word_is_left_for_the_daemon_of_this_namespace() {
        let directory = tempfile::tempdir().unwrap();
        let run = directory.path().join("run");
        let sockets = |named: bool| Sockets {
            socket: run.join("tunbridge.sock"),
            named,
            // Nobody is in it.
            own: NamespaceId {
                device: 0,
                inode: 7,
            },
        };
        let (one, other) = (reference("web", "/a"), reference("web", "/b"));
        // Where the first process cannot be seen, every namespace may be the machine's: then it has a directory of its own.
        if sockets(false).is_machines() {
            fs::create_dir_all(run.join("ns-7")).unwrap();
        }
        let nested = sockets(false);
        assert!(matches!(nested.detach(&one), Ok(Detached::Left)));
        assert!(left(&run).is_empty(), "that is the machine's");
        assert_eq!(left(&run.join("ns-7")), std::slice::from_ref(&one));
        let mode = fs::metadata(&run).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755, "the socket's group may enter");
        nested.withdraw(&other);
        assert_eq!(left(&run.join("ns-7")).len(), 1);
        nested.withdraw(&one);
        assert!(left(&run.join("ns-7")).is_empty());

        fs::remove_dir_all(&run).unwrap();
        let named = sockets(true);
        let long = reference(&"x".repeat(1024), "/a");
        for reference in [&one, &other, &long, &one] {
            assert!(matches!(named.detach(reference), Ok(Detached::Left)));
        }
        assert_eq!(left(&run).len(), 3);
    }

    #[test]
    fn a_lock_is_roots_alone_and_not_waited_for_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        let held = lock(directory.path(), Instant::now()).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let soon = Instant::now() + Duration::from_millis(20);
        let error = lock(directory.path(), soon).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
        drop(held);
        lock(directory.path(), Instant::now()).unwrap();
    }

    #[test]
    fn who_cannot_leave_word_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let sockets = Sockets::new(Some(file.join("sock")), None, Path::new("/")).unwrap();
        match sockets.detach(&reference("web", "/a")) {
            Ok(Detached::Untold(error)) | Err(error) => assert!(!error.message.is_empty()),
            other => panic!("{other:?}"),
        }
    }
}
