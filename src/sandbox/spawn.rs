//! Starting a container's process: fork, namespaces, exec.
//!
//! Every `fork` here happens in a process with one thread ([`fork_alone`] checks it), so the child may
//! allocate, open files and do whatever else is not async-signal-safe.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, fork, setsid};

use super::signals::{self, Held};
use super::{Spec, mounts};
use crate::kernel::netns;

/// Exit status for a command that exists but cannot be run, as in a shell.
const NOT_EXECUTABLE: u8 = 126;
/// Exit status for a command that does not exist.
const NOT_FOUND: u8 = 127;
/// First octet of a message on the status channel if it is no failure; those begin with their status.
const READY: u8 = 0;

/// Why a container's process did not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Exit status for the user: 126 or 127 for the command, 128 + number of the signal by which the user
    /// gave up, else 1. Never 0.
    pub status: u8,
    /// One sentence.
    pub message: String,
}

impl Failure {
    /// A failure that is not the command's: status 1.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            status: 1,
            message: message.into(),
        }
    }

    fn system(call: &str, errno: Errno) -> Self {
        let fix = if errno == Errno::EPERM {
            ": run tunbridge as root"
        } else {
            ""
        };
        Self::new(format!("{call}: {}{fix}", errno.desc()))
    }

    fn of_exec(program: &str, env: &[(String, String)], error: &io::Error) -> Self {
        let kind = error.kind();
        let (status, problem) = if kind == io::ErrorKind::NotFound && exists(program, env) {
            let problem =
                "exists, but its interpreter does not: check its #! line, or its dynamic loader";
            (NOT_FOUND, problem.to_owned())
        } else if kind == io::ErrorKind::NotFound {
            (NOT_FOUND, "not found: check the name and PATH".to_owned())
        } else if kind == io::ErrorKind::PermissionDenied {
            (
                NOT_EXECUTABLE,
                "not executable: check its permissions".to_owned(),
            )
        } else {
            (NOT_EXECUTABLE, format!("cannot be executed: {error}"))
        };
        Self {
            status,
            message: format!("command {program:?} {problem}"),
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// A container's process, child of ours. While this lives, signals are held for it.
#[derive(Debug)]
pub struct Running {
    pid: Pid,
    held: Held,
}

impl Running {
    /// Number of the process.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Passes signals on until it ends; its exit code, or 128 plus the signal that ended it.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub fn supervise(&self) -> io::Result<i32> {
        Ok(self.held.supervise(self.pid)?)
    }
}

/// Starts `spec`; returns when its program runs. `announce` gets the process's number before the program
/// begins, in its namespaces; if it fails, or this process dies meanwhile, the program never begins.
///
/// # Errors
/// [`Failure`], with nothing left behind.
pub fn start(
    spec: &Spec,
    announce: impl FnOnce(i32) -> Result<(), Failure>,
) -> Result<Running, Failure> {
    let held = Held::new().map_err(|e| Failure::system("sigprocmask", e))?;
    // Both ends close on exec: std sets CLOEXEC on everything it opens.
    let (mut ours, mut theirs) =
        UnixStream::pair().map_err(|error| Failure::new(error.to_string()))?;
    match fork_alone()? {
        ForkResult::Child => {
            drop(ours);
            let failure = become_container(spec, &held, &mut theirs);
            report(&mut theirs, &failure);
            std::process::exit(failure.status.into());
        }
        ForkResult::Parent { child } => {
            drop(theirs);
            let began = await_ready(&mut ours)
                .and_then(|()| {
                    held.given_up()
                        .map_or(Ok(()), |signal| Err(interrupted(signal)))
                })
                .and_then(|()| announce(child.as_raw()))
                .and_then(|()| let_go(&mut ours));
            match began {
                Ok(()) => Ok(Running { pid: child, held }),
                Err(failure) => {
                    // It is our child and not waited for yet, so the number is still its own.
                    let _ = kill(child, Signal::SIGKILL);
                    let _ = waitpid(child, None);
                    Err(failure)
                }
            }
        }
    }
}

fn await_ready(channel: &mut UnixStream) -> Result<(), Failure> {
    read_report(channel)?.unwrap_or_else(|| {
        Err(Failure::new(
            "the container's process was killed before it could start",
        ))
    })
}

/// Lets the child execute its program; the channel then closes without a word.
fn let_go(channel: &mut UnixStream) -> Result<(), Failure> {
    // If the child is dead, reading tells.
    let _ = channel.write_all(&[READY]);
    read_report(channel)?.unwrap_or(Ok(()))
}

fn interrupted(signal: Signal) -> Failure {
    let status = u8::try_from(128 + signals::number(signal)).unwrap_or(1);
    Failure {
        status,
        message: format!("given up: {signal} came before the program was started"),
    }
}

/// Runs a program in the namespaces of a running container, in place of this one: exit code, signals
/// and terminal need no care then. Returns only on failure. `mounts_of` is the container's process;
/// without it only the network is entered.
pub fn enter(
    network: &Path,
    mounts_of: Option<i32>,
    working_directory: Option<&Path>,
    env: &[(String, String)],
    command: &[String],
) -> Failure {
    let entered = (|| {
        let network = netns::open_path(network).map_err(|error| Failure::new(error.to_string()))?;
        // All opened first: after the mount namespace has changed, /proc is another one.
        let others = mounts_of
            .map(|pid| open_namespaces_of(pid, &network))
            .transpose()?;
        setns(network, CloneFlags::CLONE_NEWNET)
            .map_err(|e| Failure::system("setns (network)", e))?;
        if let Some((uts, mounts)) = others {
            let place = Place::current();
            setns(uts, CloneFlags::CLONE_NEWUTS).map_err(|e| Failure::system("setns (uts)", e))?;
            setns(mounts, CloneFlags::CLONE_NEWNS)
                .map_err(|e| Failure::system("setns (mount)", e))?;
            if let Some(place) = place {
                place.go_back();
            }
        }
        match working_directory {
            None => Ok(()),
            Some(directory) => std::env::set_current_dir(directory).map_err(|error| {
                Failure::new(format!(
                    "--workdir {}: {error}: name a directory in the container",
                    directory.display()
                ))
            }),
        }
    })();
    match entered {
        Err(failure) => failure,
        Ok(()) => exec(env, command),
    }
}

/// UTS and mount namespace of process `pid`, which must be in `network`: otherwise its number has been
/// reused since the daemon told it.
fn open_namespaces_of(pid: i32, network: &OwnedFd) -> Result<(OwnedFd, OwnedFd), Failure> {
    let ended = || Failure::new(format!("the container's process {pid} has just ended"));
    let open = |kind: &str| {
        File::open(format!("/proc/{pid}/ns/{kind}"))
            .map(OwnedFd::from)
            .map_err(|error| {
                if error.kind() == io::ErrorKind::PermissionDenied {
                    Failure::system("open namespaces", Errno::EPERM)
                } else {
                    ended()
                }
            })
    };
    let same = netns::id(open("net")?)
        .and_then(|its| netns::id(network).map(|wanted| its == wanted))
        .map_err(|error| Failure::new(error.to_string()))?;
    if same {
        Ok((open("uts")?, open("mnt")?))
    } else {
        Err(ended())
    }
}

/// A directory by path and identity.
struct Place {
    path: std::path::PathBuf,
    device: u64,
    inode: u64,
}

impl Place {
    fn current() -> Option<Self> {
        let path = std::env::current_dir().ok()?;
        let found = std::fs::metadata(&path).ok()?;
        Some(Self {
            path,
            device: found.dev(),
            inode: found.ino(),
        })
    }

    /// setns(2) into a mount namespace moves to its root. If our directory is there as well (no
    /// `--rootfs`), returns to it.
    fn go_back(self) {
        let same = std::fs::metadata(&self.path)
            .is_ok_and(|found| found.dev() == self.device && found.ino() == self.inode);
        if same {
            // Otherwise the root it is.
            let _ = std::env::set_current_dir(self.path);
        }
    }
}

/// Goes into the background. The calling process returns once `begin` has succeeded or failed in a new
/// process, which has no terminal, writes its output to `log`, and goes on with `rest`.
///
/// # Errors
/// If the processes cannot be made, or `begin` failed.
pub fn detach(
    log: &Path,
    begin: impl FnOnce() -> Result<Running, Failure>,
    rest: impl FnOnce(Running),
) -> Result<(), Failure> {
    let (mut ours, mut theirs) =
        UnixStream::pair().map_err(|error| Failure::new(error.to_string()))?;
    match fork_alone()? {
        ForkResult::Parent { child } => {
            drop(theirs);
            let _ = waitpid(child, None);
            read_report(&mut ours)?.unwrap_or_else(|| {
                Err(Failure::new(
                    "the background process ended before the container was started",
                ))
            })
        }
        ForkResult::Child => {
            drop(ours);
            // A second fork, so that the shim is no session leader and init's child.
            let begun = setsid()
                .map_err(|e| Failure::system("setsid", e))
                .and_then(|_| fork_alone())
                .and_then(|forked| match forked {
                    ForkResult::Parent { .. } => std::process::exit(0),
                    ForkResult::Child => redirect(log).map_err(|error| {
                        Failure::new(format!("cannot write {}: {error}", log.display()))
                    }),
                })
                .and_then(|()| begin());
            match begun {
                Ok(running) => {
                    // If nobody listens any more, the container runs all the same.
                    let _ = theirs.write_all(&[READY]);
                    drop(theirs);
                    rest(running);
                    std::process::exit(0);
                }
                Err(failure) => {
                    report(&mut theirs, &failure);
                    std::process::exit(failure.status.into());
                }
            }
        }
    }
}

/// fork(2) from a process with one thread; an error if there are more.
fn fork_alone() -> Result<ForkResult, Failure> {
    let threads = std::fs::read_dir("/proc/self/task")
        .map_err(|error| Failure::new(format!("/proc/self/task: {error}")))?
        .count();
    if threads != 1 {
        return Err(Failure::new(format!("cannot fork with {threads} threads")));
    }
    // SAFETY: this is the only thread, so no lock can be held by another one in the child.
    unsafe { fork() }.map_err(|e| Failure::system("fork", e))
}

/// Everything up to and including the program; returns if that fails.
fn become_container(spec: &Spec, held: &Held, channel: &mut UnixStream) -> Failure {
    let prepared = (|| {
        let network = netns::open_path(&spec.netns).map_err(|e| Failure::new(e.to_string()))?;
        setns(network, CloneFlags::CLONE_NEWNET)
            .map_err(|e| Failure::system("setns (network)", e))?;
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS)
            .map_err(|e| Failure::system("unshare", e))?;
        nix::unistd::sethostname(&spec.hostname).map_err(|e| Failure::system("sethostname", e))?;
        for warning in mounts::make(spec).map_err(Failure::new)? {
            let _ = writeln!(io::stderr(), "tunbridge: warning: {warning}");
        }
        let gone = |_| Failure::new("the starter has died");
        channel.write_all(&[READY]).map_err(gone)?;
        channel.read_exact(&mut [0]).map_err(gone)
    })();
    match prepared {
        Err(failure) => failure,
        Ok(()) => {
            held.let_through();
            exec(&spec.env, &spec.command)
        }
    }
}

/// Executes `command`, looked for in the `PATH` of `env`.
fn exec(env: &[(String, String)], command: &[String]) -> Failure {
    let Some((program, arguments)) = command.split_first() else {
        return Failure::new("no command given: put one after --");
    };
    let mut process = Command::new(program);
    process.args(arguments);
    process
        .env_clear()
        .envs(env.iter().map(|(name, value)| (name, value)));
    Failure::of_exec(program, env, &process.exec())
}

/// True if execvp(3) would have found a file for `program`.
fn exists(program: &str, env: &[(String, String)]) -> bool {
    if program.is_empty() || program.contains('/') {
        return Path::new(program).is_file();
    }
    let path = env.iter().rev().find(|(name, _)| name == "PATH");
    path.is_some_and(|(_, path)| {
        path.split(':')
            .any(|directory| Path::new(directory).join(program).is_file())
    })
}

fn redirect(log: &Path) -> io::Result<()> {
    let null = OpenOptions::new().read(true).open("/dev/null")?;
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o640)
        .open(log)?;
    dup2_stdin(&null)?;
    dup2_stdout(&log)?;
    dup2_stderr(&log)?;
    Ok(())
}

/// The status, then the message.
fn report(channel: &mut UnixStream, failure: &Failure) {
    let text = [&[failure.status.max(1)], failure.message.as_bytes()].concat();
    // If nobody listens any more, nobody can be told.
    let _ = channel.write_all(&text);
}

/// What the other side says: [`READY`], a failure, or nothing (it has executed a program, or died).
fn read_report(channel: &mut UnixStream) -> Result<Option<Result<(), Failure>>, Failure> {
    let failed = |error: io::Error| {
        Failure::new(format!("cannot hear from the container's process: {error}"))
    };
    let mut status = [0];
    match channel.read_exact(&mut status) {
        // A child that died with our octet unread resets the connection.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
            ) =>
        {
            return Ok(None);
        }
        other => other.map_err(failed)?,
    }
    let [status] = status;
    if status == READY {
        return Ok(Some(Ok(())));
    }
    let mut message = Vec::new();
    channel.read_to_end(&mut message).map_err(failed)?;
    let message = String::from_utf8_lossy(&message).into_owned();
    Ok(Some(Err(Failure { status, message })))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reported(send: impl FnOnce(&mut UnixStream)) -> Option<Result<(), Failure>> {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        send(&mut theirs);
        drop(theirs);
        read_report(&mut ours).unwrap()
    }

    #[test]
    fn reports_arrive_as_they_were_sent() {
        assert_eq!(reported(|_| ()), None);
        assert_eq!(
            reported(|channel| channel.write_all(&[READY]).unwrap()),
            Some(Ok(()))
        );
        let failure = Failure {
            status: 127,
            message: "no: ä".to_owned(),
        };
        assert_eq!(
            reported(|channel| report(channel, &failure)),
            Some(Err(failure.clone()))
        );
    }

    #[test]
    fn a_failure_never_looks_like_success() {
        let failure = Failure {
            status: 0,
            message: String::new(),
        };
        let told = reported(|channel| report(channel, &failure))
            .unwrap()
            .unwrap_err();
        assert_eq!(told.status, 1);
    }

    #[test]
    fn a_test_process_with_threads_is_not_forked() {
        let error =
            std::thread::scope(|scope| scope.spawn(fork_alone).join().unwrap()).unwrap_err();
        assert!(error.message.contains("threads"), "{error}");
    }

    #[test]
    fn a_missing_interpreter_is_not_called_a_missing_command() {
        let env = [("PATH".to_owned(), "/nonexistent:/bin".to_owned())];
        assert!(exists("sh", &env) && exists("/bin/sh", &[]));
        assert!(!exists("sh", &[]) && !exists("", &env) && !exists("no-such-program", &env));
        let missing = io::Error::from(io::ErrorKind::NotFound);
        assert!(
            Failure::of_exec("sh", &env, &missing)
                .message
                .contains("interpreter")
        );
        assert_eq!(Failure::of_exec("nosuch", &env, &missing).status, 127);
    }
}
