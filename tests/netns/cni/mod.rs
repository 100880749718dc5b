//! The CNI plugin with the real daemon: what is in the container's namespace afterwards, and what is left of it.

mod bandwidth;
mod bridges;
mod hosts;
mod install;
mod kills;
mod life;
mod many;
mod runtime;
mod trouble;
