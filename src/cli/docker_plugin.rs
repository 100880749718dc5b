//! `tunbridge docker-plugin`.

use std::path::{Path, PathBuf};

use clap::Args;

use super::Outcome;
use crate::docker_plugin::{self, DOCKER_SOCKET, PLUGIN_SOCKET, Settings};

/// `tunbridge docker-plugin`.
#[derive(Args, Clone, Debug)]
pub(super) struct DockerPlugin {
    /// Where dockerd finds the plugin; it calls the driver as the file is called
    #[arg(long, value_name = "PATH", default_value = PLUGIN_SOCKET)]
    plugin_socket: PathBuf,
    /// dockerd's own socket: it is asked for the names of containers
    #[arg(long, value_name = "PATH", default_value = DOCKER_SOCKET)]
    docker_socket: PathBuf,
}

impl DockerPlugin {
    pub(super) fn run(self, daemon: &Path) -> Outcome {
        docker_plugin::run(&Settings {
            daemon: daemon.to_owned(),
            plugin_socket: self.plugin_socket,
            docker_socket: self.docker_socket,
        })
        .map(|()| 0)
    }
}
