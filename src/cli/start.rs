//! `start` and `restart`: containers that have run before.
//!
//! As with `run -d`, a detached copy of this program is the parent of the container's process. What it runs the
//! daemon knows; the working directory and the terminal's kind are those of who starts it.

use clap::Args;
use serde_json::Value;

use super::containers::{Stop, each, runtime};
use super::run::{begin, environment, finish, variables};
use super::{Outcome, complain};
use crate::api::client::{Client, segment};
use crate::api::types::{Exited, StartSpec};
use crate::sandbox::{self, Failure, Running, Spec};

/// `tunbridge start`.
#[derive(Args, Clone, Debug)]
pub(super) struct Start {
    /// Names or ids of containers
    #[arg(required = true, value_name = "N")]
    containers: Vec<String>,
}

impl Start {
    pub(super) fn run(&self, client: &Client) -> Outcome {
        each(&self.containers, |container| {
            let found: Value = client.get(&format!("/containers/{}/json", segment(container)))?;
            // Of another runtime's, the daemon says who starts it.
            if found["State"]["Running"] == true && runtime(&found["Config"]["Labels"]).is_none() {
                return Ok(());
            }
            start(client, container)
        })
    }
}

/// `tunbridge restart`.
#[derive(Args, Clone, Debug)]
pub(super) struct Restart {
    #[command(flatten)]
    stop: Stop,
}

impl Restart {
    pub(super) fn run(&self, client: &Client) -> Outcome {
        each(&self.stop.containers, |container| {
            if is_running(client, container)? {
                self.stop.stop(client, container)?;
            }
            start(client, container)
        })
    }
}

fn is_running(client: &Client, container: &str) -> anyhow::Result<bool> {
    let found: Value = client.get(&format!("/containers/{}/json", segment(container)))?;
    Ok(found["State"]["Running"] == true)
}

fn start(client: &Client, container: &str) -> anyhow::Result<()> {
    let target = format!("/tunbridge/containers/{}/start", segment(container));
    let StartSpec {
        created,
        command,
        rootfs,
        env,
    } = client.post(&target, &Value::Null)?;
    for warning in &created.warnings {
        complain(&format!("warning: {warning}"));
    }
    let spec = Spec {
        netns: created.netns.clone(),
        files: created.files.clone(),
        hostname: created.hostname.clone(),
        rootfs,
        env: environment(&created.hostname, &created.env, variables(&env)),
        command,
    };
    let finish = |running: Running| {
        finish(client, &created, &running);
    };
    let started = sandbox::detach(
        &created.files.join("log"),
        || begin(client, &created, &spec),
        finish,
    );
    started.map_err(|Failure { status, message }| {
        // Exited again, as before; the daemon may have noticed by itself already.
        let target = format!("/tunbridge/containers/{}/exited", segment(&created.id));
        let _ = client.tell(
            &target,
            &Exited {
                code: status.into(),
                pid: None,
            },
        );
        anyhow::Error::msg(message)
    })
}
