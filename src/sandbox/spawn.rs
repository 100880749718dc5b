//! Starting a container's process: fork, namespaces, exec.
//!
//! Every `fork` here happens in a process with one thread (`api::client` explains), so the child may do
//! anything, not only what is async-signal-safe.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, fork, pipe2, setsid};

use super::{Spec, mounts, signals};

/// Exit status for a command that exists but cannot be run, as in a shell.
const NOT_EXECUTABLE: i32 = 126;
/// Exit status for a command that does not exist.
const NOT_FOUND: i32 = 127;

/// Why a container's process did not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Exit status for the user: 126, 127, or 1.
    pub status: i32,
    /// One sentence.
    pub message: String,
}

impl Failure {
    fn new(message: impl Into<String>) -> Self {
        Self {
            status: 1,
            message: message.into(),
        }
    }

    fn of_exec(program: &str, error: &io::Error) -> Self {
        let (status, problem) = match error.raw_os_error() {
            Some(libc::ENOENT) => (NOT_FOUND, "not found: check the name and PATH".to_owned()),
            Some(libc::EACCES) => (
                NOT_EXECUTABLE,
                "not executable: check its permissions".to_owned(),
            ),
            _ => (NOT_EXECUTABLE, format!("cannot be executed: {error}")),
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

/// A container's process, child of ours.
#[derive(Debug)]
pub struct Running {
    pid: Pid,
}

impl Running {
    /// Its process id.
    pub const fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Ends it at once.
    pub fn kill(self) {
        // It is our child and not waited for yet, so the number is its own.
        let _ = nix::sys::signal::kill(self.pid, nix::sys::signal::Signal::SIGKILL);
        let _ = nix::sys::wait::waitpid(self.pid, None);
    }

    /// Passes signals on until it ends; its exit code, or 128 plus the signal that ended it.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub fn supervise(self) -> io::Result<i32> {
        Ok(signals::supervise(self.pid)?)
    }
}

/// Starts `spec`; returns when its program runs. From then on signals are held for
/// [`Running::supervise`].
///
/// `announce` is told the process id before the program may run, so no program runs that nobody knows
/// of: if this process is killed earlier, its child sees the end of a pipe and ends, too.
///
/// # Errors
/// [`Failure`], that of `announce` included, with nothing left behind.
pub fn start(
    spec: &Spec,
    announce: impl FnOnce(i32) -> Result<(), Failure>,
) -> Result<Running, Failure> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).map_err(|e| system("pipe", e))?;
    let (permission, permit) = pipe2(OFlag::O_CLOEXEC).map_err(|e| system("pipe", e))?;
    let mask = signals::block().map_err(|e| system("sigprocmask", e))?;
    // SAFETY: this process has one thread.
    match unsafe { fork() }.map_err(|e| system("fork", e))? {
        ForkResult::Child => {
            drop((reader, permit));
            let failure = signals::unblock(&mask)
                .map_err(|e| system("sigprocmask", e))
                .and_then(|()| become_container(spec))
                .and_then(|()| await_permission(&writer, permission))
                .map_or_else(|failure| failure, |()| exec(&spec.env, &spec.command, None));
            report(&writer, &failure);
            std::process::exit(failure.status);
        }
        ForkResult::Parent { child } => {
            drop((writer, permission));
            let running = Running { pid: child };
            match permit_to_run(&reader, permit, || announce(running.pid())) {
                Ok(()) => Ok(running),
                Err(failure) => {
                    running.kill();
                    Err(failure)
                }
            }
        }
    }
}

/// What a child says when all is well. No failure has this status.
const READY: u8 = 0;

fn await_permission(status: &OwnedFd, permission: OwnedFd) -> Result<(), Failure> {
    nix::unistd::write(status, &[READY]).map_err(|e| system("write", e))?;
    File::from(permission)
        .read_exact(&mut [0])
        .map_err(|_| Failure::new("whoever started this is gone"))
}

/// The parent's side of [`await_permission`]; returns when the program runs.
fn permit_to_run(
    status: &OwnedFd,
    permit: OwnedFd,
    announce: impl FnOnce() -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut first = [READY];
    let length = loop {
        match nix::unistd::read(status, &mut first) {
            Ok(length) => break length,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(system("read", errno)),
        }
    };
    if length == 0 {
        return Err(Failure::new(
            "the container's process was killed before its program ran",
        ));
    }
    if first != [READY] {
        return Err(Failure {
            status: i32::from(first[0]),
            message: String::from_utf8_lossy(&rest_of(status)?).into_owned(),
        });
    }
    announce()?;
    // It may have been killed meanwhile: whoever waits for it will see that.
    let _ = File::from(permit).write_all(&[READY]);
    read_report(status)?.map_or(Ok(()), Err)
}

/// Runs a program in the namespaces of a running container, in place of this one. Returns only
/// on failure. `mounts_of` is the container's process; without it only the network is entered.
pub fn enter(
    netns: &Path,
    mounts_of: Option<i32>,
    working_directory: Option<&Path>,
    env: &[(String, String)],
    command: &[String],
) -> Failure {
    let outcome = (|| {
        // All opened first: after the mount namespace has changed, /proc is another one.
        let network = open_namespace(netns)?;
        let others = mounts_of
            .map(|pid| {
                let open = |kind| open_namespace(Path::new(&format!("/proc/{pid}/ns/{kind}")));
                Ok::<_, Failure>((open("uts")?, open("mnt")?))
            })
            .transpose()?;
        setns(network, CloneFlags::CLONE_NEWNET).map_err(|e| system("setns (network)", e))?;
        if let Some((uts, mounts)) = others {
            setns(uts, CloneFlags::CLONE_NEWUTS).map_err(|e| system("setns (uts)", e))?;
            setns(mounts, CloneFlags::CLONE_NEWNS).map_err(|e| system("setns (mount)", e))?;
        }
        Ok(())
    })();
    match outcome {
        Err(failure) => failure,
        Ok(()) => exec(env, command, working_directory),
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
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).map_err(|e| system("pipe", e))?;
    // SAFETY: this process has one thread.
    match unsafe { fork() }.map_err(|e| system("fork", e))? {
        ForkResult::Parent { child } => {
            drop(writer);
            let said = read_report(&reader)?;
            let _ = nix::sys::wait::waitpid(child, None);
            match said {
                Some(ready) if ready.status == i32::from(READY) => Ok(()),
                Some(failure) => Err(failure),
                None => Err(Failure::new(
                    "the process that looks after the container was killed",
                )),
            }
        }
        ForkResult::Child => {
            drop(reader);
            // A second fork, so that the shim is nobody's group leader and init's child.
            // SAFETY: this process has one thread.
            match setsid().and_then(|_| unsafe { fork() }) {
                Ok(ForkResult::Parent { .. }) => std::process::exit(0),
                Ok(ForkResult::Child) => {}
                Err(errno) => {
                    report(&writer, &system("setsid", errno));
                    std::process::exit(1);
                }
            }
            let started = redirect(log)
                .map_err(|error| Failure::new(format!("{}: {error}", log.display())))
                .and_then(|()| begin());
            match started {
                Ok(running) => {
                    // If nobody reads it, the caller is gone; the container is not concerned.
                    let _ = nix::unistd::write(&writer, &[READY]);
                    drop(writer);
                    rest(running);
                    std::process::exit(0);
                }
                Err(failure) => {
                    report(&writer, &failure);
                    std::process::exit(failure.status);
                }
            }
        }
    }
}

fn become_container(spec: &Spec) -> Result<(), Failure> {
    let network = open_namespace(&spec.netns)?;
    setns(network, CloneFlags::CLONE_NEWNET).map_err(|e| system("setns (network)", e))?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS)
        .map_err(|e| system("unshare", e))?;
    nix::unistd::sethostname(&spec.hostname).map_err(|e| system("sethostname", e))?;
    mounts::make(spec).map_err(Failure::new)
}

fn exec(env: &[(String, String)], command: &[String], directory: Option<&Path>) -> Failure {
    let Some((program, arguments)) = command.split_first() else {
        return Failure::new("no command given: put one after --");
    };
    let mut process = Command::new(program);
    process
        .args(arguments)
        .env_clear()
        .envs(env.iter().map(|(name, value)| (name, value)));
    if let Some(directory) = directory
        && let Err(error) = std::env::set_current_dir(directory)
    {
        return Failure::new(format!("--workdir {}: {error}", directory.display()));
    }
    Failure::of_exec(program, &process.exec())
}

fn open_namespace(path: &Path) -> Result<OwnedFd, Failure> {
    File::open(path).map(OwnedFd::from).map_err(|error| {
        Failure::new(format!(
            "cannot open the namespace {}: {error}",
            path.display()
        ))
    })
}

fn redirect(log: &Path) -> io::Result<()> {
    let null = OpenOptions::new().read(true).open("/dev/null")?;
    let log = OpenOptions::new().create(true).append(true).open(log)?;
    dup2_stdin(&null)?;
    dup2_stdout(&log)?;
    dup2_stderr(&log)?;
    Ok(())
}

fn system(call: &str, errno: Errno) -> Failure {
    Failure::new(format!("{call}: {}: run tunbridge as root", errno.desc()))
}

/// One octet of status, then the message.
fn report(pipe: &OwnedFd, failure: &Failure) {
    let status = u8::try_from(failure.status).unwrap_or(1);
    let text = [&[status], failure.message.as_bytes()].concat();
    if let Ok(pipe) = pipe.try_clone() {
        let _ = File::from(pipe).write_all(&text);
    }
}

/// Nothing but the end of the pipe means success.
fn read_report(pipe: &OwnedFd) -> Result<Option<Failure>, Failure> {
    let text = rest_of(pipe)?;
    Ok(text.split_first().map(|(status, message)| Failure {
        status: i32::from(*status),
        message: String::from_utf8_lossy(message).into_owned(),
    }))
}

fn rest_of(pipe: &OwnedFd) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    pipe.try_clone()
        .and_then(|pipe| File::from(pipe).read_to_end(&mut text))
        .map_err(|error| {
            Failure::new(format!("cannot hear from the container's process: {error}"))
        })?;
    Ok(text)
}
