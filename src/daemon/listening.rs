//! The API's socket: our own, or one that the service manager has opened and listens on while we are not there.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener as StdListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::sys::socket::{SockType, getsockopt, sockopt};
use tokio::net::UnixListener;

use crate::kernel::inherited;

/// A socket that listens.
#[derive(Debug)]
pub(super) struct Listening {
    listener: StdListener,
    path: PathBuf,
    inherited: bool,
}

impl Listening {
    /// Takes the socket that was handed over, else opens one at `path`: mode 0660, so that a group can be given access
    /// with `chgrp`.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let mut handed_over =
            inherited::sockets().context("cannot take the service manager's socket")?;
        let count = handed_over.len();
        let inherited = handed_over.pop();
        let listener = match (inherited, count) {
            (None, _) => bind(path)?,
            (Some(socket), 1) => {
                let listens = getsockopt(&socket, sockopt::AcceptConn).unwrap_or(false);
                let is_stream =
                    getsockopt(&socket, sockopt::SockType).ok() == Some(SockType::Stream);
                let listener = StdListener::from(socket);
                if !listens || !is_stream || listener.local_addr().is_err() {
                    bail!(
                        "the service manager has handed over a descriptor that is no listening unix socket: give ListenStream= a path"
                    );
                }
                listener
            }
            (Some(_), count) => bail!(
                "the service manager has handed over {count} sockets, and the daemon listens on one: leave one ListenStream="
            ),
        };
        listener.set_nonblocking(true)?;
        let inherited = count == 1;
        Ok(Self {
            listener,
            path: path.to_owned(),
            inherited,
        })
    }

    /// For a server, which closes it at its end; this one goes on to listen.
    pub(super) fn listener(&self) -> anyhow::Result<UnixListener> {
        Ok(UnixListener::from_std(self.listener.try_clone()?)?)
    }

    /// Removes the socket's file, unless the service manager goes on to listen there.
    pub(super) fn remove(&self, purge: bool) {
        if self.inherited {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, "the socket is gone already");
        }
        // Ours if it is empty; /run/tunbridge comes back with the next start.
        if let Some(directory) = self.path.parent().filter(|_| purge) {
            let _ = fs::remove_dir(directory);
        }
    }
}

fn bind(path: &Path) -> anyhow::Result<StdListener> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)
            .with_context(|| format!("--socket {}: cannot make its directory", path.display()))?;
    }
    if UnixStream::connect(path).is_ok() {
        bail!(
            "--socket {}: another daemon answers there: stop it, or give --socket another path",
            path.display()
        );
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("--socket {}", path.display()));
        }
        _ => {}
    }
    let listener = StdListener::bind(path)
        .with_context(|| format!("--socket {}: cannot listen", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}
