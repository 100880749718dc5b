//! The hook for runtimes of the OCI specification: runc, crun, youki.
//!
//! One program for two points of a container's life; the state on standard input tells which. *createRuntime* (or the
//! older *prestart*): the container's namespaces are there and its program is not, the hook runs in the host's
//! namespaces, `pid` is a process in the container's. The namespace goes to the daemon as a descriptor, once per network;
//! if one network fails, those before it are taken back, and the runtime gives the container up, because the hook's
//! status is not 0. *poststop*: the namespace is gone, runc tells no `pid` and crun 0; the daemon knows the container by
//! its id. Taking away what is not there succeeds.
//!
//! Ids are unique below one `--root` of a runtime only, and a runtime calls poststop also if createRuntime has failed: when
//! two containers with one id met, the second is refused, and its poststop must not take the first one's network. So
//! endpoints are owned by their bundle, and the hook names its own whenever it speaks of them.
//!
//! A runtime that is killed calls no poststop. The next container of that id meets the endpoints of the dead one in the
//! daemon: they go if no process is left in their namespace, else the ids collide and the new container is refused.
//!
//! As with CNI ([`crate::cni`]), the daemon is that of the hook's own network namespace, and is started for it if that is not
//! the machine's. Where none runs, createRuntime fails, and poststop leaves word for the next one.
//!
//! What is wanted stands in annotations ([`settings`]). Nothing is written to standard output: runtimes put it into their
//! own errors. Limits: [`state::MOST_STATE`], [`state::MOST_CONFIG`].
//!
//! Read first: OCI runtime specification 1.0.2, config.md § POSIX-platform Hooks, runtime.md § State.

mod files;
mod settings;
mod state;

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::api::client::{Client, ClientError};
use crate::api::types::{AttachEndpoint, AttachedEndpoint, EndpointReference, Runtime};
use crate::cni::daemon::{DETACH, Detached, Sockets};
use crate::cni::error::CniError;
use crate::cni::left_behind::{all_of, is_left_behind};
use crate::failpoint;
use crate::kernel::netns;
use settings::Settings;
use state::{State, Status};

const ENDPOINTS: &str = "/tunbridge/endpoints";

/// Why the hook failed, in one sentence.
#[derive(Debug, Error)]
pub enum HookError {
    /// What the runtime said makes no sense.
    #[error("the state on standard input: {0}")]
    State(String),
    /// The bundle cannot be used.
    #[error("{file}: {problem}")]
    File {
        /// Which file.
        file: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// An annotation cannot be used.
    #[error("annotation {name}: {problem}")]
    Annotation {
        /// Which one.
        name: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// No namespace, or the wrong one.
    #[error("container {id}: {problem}")]
    Namespace {
        /// The container.
        id: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// There is no daemon.
    #[error("container {id}: {problem}")]
    NoDaemon {
        /// The container.
        id: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The daemon said no.
    #[error("container {id}: {error}")]
    Daemon {
        /// The container.
        id: String,
        /// Its sentence.
        error: ClientError,
    },
}

/// Does what the state on `input` asks for, and gives warnings for the user. `socket` was named by the user,
/// `default_socket` is where the daemon listens otherwise.
///
/// # Errors
/// See [`HookError`].
pub fn run(
    socket: Option<PathBuf>,
    default_socket: &Path,
    input: impl Read,
) -> Result<Vec<String>, HookError> {
    let state = State::read(input)?;
    let no_daemon = |problem: String| HookError::NoDaemon {
        id: state.id.clone(),
        problem,
    };
    let sockets = Sockets::new(socket, None, default_socket);
    let sockets = sockets.map_err(|error| no_daemon(sentence(&error)))?;
    match state.status {
        Status::Stopped => {
            failpoint::reached("oci.stopped");
            match sockets.detach(&state.reference()) {
                Ok(Detached::ByDaemon | Detached::Left) => Ok(Vec::new()),
                Ok(Detached::Untold(error)) | Err(error) => Err(no_daemon(sentence(&error))),
            }
        }
        Status::Creating | Status::Created => {
            let settings = Settings::from_annotations(&state.annotations()?)?;
            if settings.networks.is_empty() {
                return Ok(Vec::new());
            }
            let client = sockets.find();
            let client = client.map_err(|error| no_daemon(sentence(&error)))?;
            let warnings = create(&sockets, &client, &state, &settings)?;
            failpoint::reached("oci.written");
            // It is wanted again.
            sockets.withdraw(&state.reference());
            Ok(warnings)
        }
    }
}

/// Without advice for who configures CNI.
fn sentence(error: &CniError) -> String {
    match error.details.as_str() {
        "" => error.message.clone(),
        _ => format!(
            "{}: start it with `systemctl start tunbridge` or `tunbridge daemon`, or name its socket with TUNBRIDGE_SOCKET in the hook's env",
            error.message
        ),
    }
}

fn create(
    sockets: &Sockets,
    client: &Client,
    state: &State,
    settings: &Settings,
) -> Result<Vec<String>, HookError> {
    let id = &state.id;
    let namespace = namespace(state)?;
    let numbers = netns::id(&namespace).map_err(|error| problem(id, &error))?;
    let attaching = client.clone().with_descriptor(namespace);
    let attached = match attach(sockets, &attaching, state, settings) {
        Err(HookError::Daemon {
            error: ClientError::Refused { status: 409, .. },
            ..
        }) if is_left_behind(client, Runtime::Oci, id, numbers) => {
            // It may have had another bundle.
            detach(client, &all_of(Runtime::Oci, id))?;
            attach(sockets, &attaching, state, settings)
        }
        outcome => outcome,
    };
    let attached = attached?;
    files::write(&state.bundle, settings, &attached).inspect_err(|_| {
        take_back(sockets, state);
    })?;
    Ok(attached.into_iter().flat_map(|one| one.warnings).collect())
}

/// Each network in turn; those before one that fails are taken back, and so is one of which a daemon that has died may have
/// stored something.
fn attach(
    sockets: &Sockets,
    client: &Client,
    state: &State,
    settings: &Settings,
) -> Result<Vec<AttachedEndpoint>, HookError> {
    let id = &state.id;
    let mut attached: Vec<AttachedEndpoint> = Vec::new();
    for network in &settings.networks {
        let request = AttachEndpoint {
            owner: Some(state.owner()),
            name: settings.name.clone(),
            settings: network.settings.clone(),
            publish: settings.publish.clone(),
            dns: settings.dns.clone(),
            dns_search: settings.dns_search.clone(),
            dns_option: settings.dns_option.clone(),
            ..AttachEndpoint::new(Runtime::Oci, id, &network.network)
        };
        match client.post(ENDPOINTS, &request) {
            Ok(endpoint) => {
                failpoint::reached("oci.attached");
                attached.push(endpoint);
            }
            Err(error) => {
                let lost = matches!(
                    error,
                    ClientError::Broken { .. } | ClientError::NotRunning(_)
                );
                if lost || !attached.is_empty() {
                    take_back(sockets, state);
                }
                let id = id.clone();
                let error = in_terms_of_annotations(error);
                return Err(HookError::Daemon { id, error });
            }
        }
    }
    Ok(attached)
}

/// The daemon speaks of flags.
fn in_terms_of_annotations(error: ClientError) -> ClientError {
    match error {
        ClientError::Refused { status, message } => ClientError::Refused {
            status,
            message: message.replace("(in -p \"", "(in annotation com.tunbridge.publish \""),
        },
        other @ (ClientError::NotRunning(_)
        | ClientError::Permission(_)
        | ClientError::Broken { .. }) => other,
    }
}

impl State {
    fn owner(&self) -> String {
        // However many slashes it is written with.
        let bundle: PathBuf = self.bundle.components().collect();
        bundle.to_string_lossy().into_owned()
    }

    /// All endpoints of the container.
    fn reference(&self) -> EndpointReference {
        EndpointReference {
            runtime: Runtime::Oci,
            container: self.id.clone(),
            owner: Some(self.owner()),
            network: None,
            interface: None,
        }
    }
}

/// By the daemon or by the next one. crun calls no poststop for a container whose hook has failed.
fn take_back(sockets: &Sockets, state: &State) {
    // What was wrong in the first place is what the user must know.
    let _ = sockets.detach(&state.reference());
}

fn detach(client: &Client, reference: &EndpointReference) -> Result<(), HookError> {
    let told = client.tell(DETACH, reference);
    told.map_err(|error| HookError::Daemon {
        id: reference.container.clone(),
        error,
    })
}

/// The namespace of the container's first process, which is not the hook's own.
fn namespace(state: &State) -> Result<OwnedFd, HookError> {
    let id = &state.id;
    let pid = state.pid.ok_or_else(|| HookError::State(
        "there is no pid: this hook belongs under createRuntime or prestart, and under poststop".to_owned(),
    ))?;
    let namespace = netns::open_pid(pid).map_err(|error| problem(id, &error))?;
    let own = netns::open_current().and_then(netns::id);
    let own = own.map_err(|error| problem(id, &error))?;
    if netns::id(namespace.as_fd()).map_err(|error| problem(id, &error))? == own {
        return Err(HookError::Namespace {
            id: id.clone(),
            problem: "it is in the hook's own network namespace: give it one of its own ({\"type\": \"network\"} in linux.namespaces), and name this hook under createRuntime, not createContainer".to_owned(),
        });
    }
    Ok(namespace)
}

fn problem(id: &str, error: &netns::NetnsError) -> HookError {
    HookError::Namespace {
        id: id.to_owned(),
        problem: error.to_string(),
    }
}
