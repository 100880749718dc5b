//! What containers know of each other by name: the embedded resolver.
//!
//! It follows the state after every change ([`Core::settle`]): views that differ are replaced; a resolver starts with a
//! container's first user-defined network and stops with its last.
//!
//! A container in which none can be started is logged, and tried again with every change; it concerns nobody else,
//! neither other containers nor the start of the daemon. Only what made it need one, a start or a connect, fails
//! ([`Core::require_names`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::core::Core;
use super::interfaces::networking_failed;
use crate::api::server::ApiError;
use crate::control::{State, projections};
use crate::dns::{View, Zone};
use crate::kernel::netns;

impl Core {
    /// Makes forwarder, steering, files and resolvers follow the state.
    pub(super) async fn settle(&self, state: &State) -> Result<(), ApiError> {
        self.project(state)?;
        self.steer_again(state)?;
        self.follow_ndp(state);
        let host = tokio::task::block_in_place(|| {
            let host = self.host_files();
            self.follow_files(state, &host);
            host
        });
        self.follow_names(state, &host.resolv_conf).await;
        Ok(())
    }

    /// Fails if a container that needs a resolver has none.
    pub(super) fn require_names(&self, id: &str) -> Result<(), ApiError> {
        let projected = self.projected.lock();
        let problem = projected.nameless.get(id);
        problem.map_or(Ok(()), |problem| Err(networking_failed(problem)))
    }

    /// Starts, updates and stops resolvers.
    async fn follow_names(&self, state: &State, resolv_conf: &str) {
        let mut wanted: BTreeMap<String, View> = projections::dns_views(state, resolv_conf);
        let (gone, new) = {
            let mut projected = self.projected.lock();
            share_zones(&mut wanted, &projected.views);
            projected.nameless.retain(|id, _| wanted.contains_key(id));
            let gone: Vec<String> = projected
                .views
                .keys()
                .filter(|id| !wanted.contains_key(*id))
                .cloned()
                .collect();
            let new: Vec<(String, View)> = wanted
                .into_iter()
                .filter(|(id, view)| projected.views.get(id) != Some(view))
                .collect();
            (gone, new)
        };
        for id in gone {
            self.silence(&id).await;
        }
        for (id, view) in new {
            let known = self.projected.lock().views.contains_key(&id);
            let served = if known {
                self.resolver
                    .update(&id, view.clone())
                    .map_err(|error| ApiError::internal(error.to_string()))
            } else {
                self.serve_names(state, &id, view.clone()).await
            };
            let mut projected = self.projected.lock();
            match served {
                Ok(()) => {
                    projected.nameless.remove(&id);
                    projected.views.insert(id, view);
                }
                Err(error) => {
                    let before = projected.nameless.get(&id);
                    if before != Some(&error.message) {
                        tracing::warn!(container = %id, error = %error.message, "no names there");
                    }
                    projected.nameless.insert(id, error.message);
                }
            }
        }
    }

    async fn serve_names(&self, state: &State, id: &str, view: View) -> Result<(), ApiError> {
        let failed = |error: &dyn std::error::Error| {
            let mut text = format!("cannot serve names: {error}");
            let mut source = error.source();
            while let Some(cause) = source {
                text = format!("{text}: {cause}");
                source = cause.source();
            }
            ApiError::internal(text)
        };
        let container = state.container(id)?;
        let namespace = netns::open_path(&container.netns).map_err(|error| failed(&error))?;
        self.resolver
            .start(id, namespace, view)
            .await
            .map_err(|error| failed(&error))
    }

    /// Stops a container's resolver: its sockets would keep the namespace.
    pub(super) async fn silence(&self, id: &str) {
        self.resolver.stop(id).await;
        let mut projected = self.projected.lock();
        projected.views.remove(id);
        projected.nameless.remove(id);
    }
}

/// Zones that are equal to former ones become the same, so that comparing views costs one comparison a
/// network and not one a container.
fn share_zones(views: &mut BTreeMap<String, View>, former: &BTreeMap<String, View>) {
    let mut known: BTreeMap<&str, &Arc<Zone>> = BTreeMap::new();
    for zone in former.values().flat_map(|view| &view.zones) {
        known.insert(&zone.network, zone);
    }
    let mut replaced: BTreeMap<*const Zone, Arc<Zone>> = BTreeMap::new();
    for zone in views.values_mut().flat_map(|view| &mut view.zones) {
        let same = replaced.entry(Arc::as_ptr(zone)).or_insert_with(|| {
            match known.get(zone.network.as_str()) {
                Some(old) if **old == *zone => Arc::clone(old),
                _ => Arc::clone(zone),
            }
        });
        *zone = Arc::clone(same);
    }
}
