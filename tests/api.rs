//! The API over a real unix socket, with a daemon that only keeps records: what HTTP clients see, and what
//! unmodified `docker` clients do with it.

#![allow(clippy::unwrap_used, reason = "in a test, to panic is to report")]

#[path = "api/docker_cli.rs"]
mod docker_cli;
#[path = "shared/docker_clients.rs"]
mod docker_clients;
#[path = "api/fake_backend.rs"]
mod fake_backend;
#[path = "api/http.rs"]
mod http;
#[path = "api/limits.rs"]
mod limits;
