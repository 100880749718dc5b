//! The containers that `ps` lists.

use std::ops::RangeInclusive;

use super::{Exact, FilterError, Labels, Patterns};
use crate::api::filters::Filters;
use crate::api::types::ListContainers;
use crate::control::names;
use crate::control::projections::ContainerPort;
use crate::control::records::{Container, ContainerState};
use crate::control::transport::Transport;

const KNOWN: [&str; 15] = [
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];
const STATES: [&str; 7] = [
    "created",
    "running",
    "paused",
    "restarting",
    "removing",
    "exited",
    "dead",
];
const HEALTHS: [&str; 4] = ["none", "starting", "healthy", "unhealthy"];

/// The containers that a query selects, newest first. `ports` gives the ports of a container as `ps` shows them.
///
/// Images, volumes and tasks do not exist here, so that `ancestor`, `volume` and `is-task=true` select nothing; no container
/// has a health check.
///
/// # Errors
/// For an unknown filter or a value that it cannot have, in Docker's words.
pub fn select_containers<'a>(
    containers: impl Iterator<Item = &'a Container>,
    query: &ListContainers,
    ports: impl Fn(&Container) -> Vec<ContainerPort>,
) -> Result<Vec<&'a Container>, FilterError> {
    let mut all: Vec<&Container> = containers.collect();
    all.sort_by(|a, b| (b.created, &b.id).cmp(&(a.created, &a.id)));
    let filter = ContainerFilter::new(&query.filters, &all)?;
    let limit = query.limit.filter(|limit| *limit > 0);
    let any_state = query.all || limit.is_some() || filter.has_status;
    // Nothing before it, and it neither.
    let start = match &filter.before {
        None => 0,
        Some(id) => all
            .iter()
            .position(|it| it.id == *id)
            .map_or(all.len(), |at| at + 1),
    };
    let end = filter
        .since
        .as_ref()
        .and_then(|id| all.iter().position(|it| it.id == *id));
    let end = end.unwrap_or(all.len()).max(start);
    let selected = all[start..end].iter().copied().filter(|container| {
        (any_state || container.is_running()) && filter.matches(container, &ports)
    });
    Ok(selected.take(limit.unwrap_or(usize::MAX)).collect())
}

struct ContainerFilter {
    names: Patterns,
    id_patterns: Patterns,
    /// Full ids of those that an `id` names; `None`: no such filter.
    ids: Option<Vec<String>>,
    labels: Labels,
    networks: Vec<String>,
    statuses: Patterns,
    has_status: bool,
    exited: Vec<i64>,
    health: Exact,
    publish: Vec<Ports>,
    expose: Vec<Ports>,
    before: Option<String>,
    since: Option<String>,
    nothing: bool,
}

type Ports = (RangeInclusive<u16>, Transport);

impl ContainerFilter {
    fn new(filters: &Filters, containers: &[&Container]) -> Result<Self, FilterError> {
        filters.check_keys(&KNOWN).map_err(FilterError::Invalid)?;
        one_of(filters, "status", "state", &STATES)?;
        one_of(filters, "health", "health", &HEALTHS)?;
        let exited = filters.values("exited").map(|value| {
            value.parse::<i64>().map_err(|_| {
                let value = value.escape_debug();
                FilterError::Invalid(format!(
                    "invalid filter 'exited={value}': strconv.Atoi: parsing \"{value}\": invalid syntax: give an exit code"
                ))
            })
        });
        let pairs = containers
            .iter()
            .map(|container| (container.id.as_str(), container.name.as_str(), *container));
        let named = |key: &str| {
            let found = filters.values(key).map(|value| {
                names::lookup(value, pairs.clone())
                    .map(|container| container.id.clone())
                    .map_err(|_| FilterError::NoSuchContainer(value.escape_debug().to_string()))
            });
            found.last().transpose()
        };
        // Docker looks ids up as prefixes of one container first.
        let by_prefix = |value: &str| {
            let mut found = containers.iter().filter(|it| it.id.starts_with(value));
            match (found.next(), found.next()) {
                (Some(container), None) => Some(container.id.clone()),
                (_, Some(_)) | (None, _) => None,
            }
        };
        Ok(Self {
            names: Patterns::new(filters, "name"),
            id_patterns: Patterns::new(filters, "id"),
            ids: filters
                .has("id")
                .then(|| filters.values("id").filter_map(by_prefix).collect()),
            labels: Labels::new(filters, "label"),
            networks: filters.values("network").map(str::to_owned).collect(),
            statuses: Patterns::new(filters, "status"),
            has_status: filters.has("status"),
            exited: exited.collect::<Result<_, _>>()?,
            health: Exact::new(filters, "health"),
            publish: ports(filters, "publish")?,
            expose: ports(filters, "expose")?,
            before: named("before")?,
            since: named("since")?,
            nothing: filters.has("ancestor") || filters.has("volume") || is_task(filters)?,
        })
    }

    fn matches(
        &self,
        container: &Container,
        ports: impl Fn(&Container) -> Vec<ContainerPort>,
    ) -> bool {
        let (state, code) = match &container.state {
            ContainerState::Created => ("created", None),
            ContainerState::Running { .. } => ("running", None),
            ContainerState::Exited { code, started, .. } => ("exited", started.map(|_| *code)),
        };
        let name = self.names.matches(&container.name)
            || self.names.matches(&format!("/{}", container.name));
        let id = self
            .ids
            .as_ref()
            .is_none_or(|ids| ids.contains(&container.id))
            && self.id_patterns.matches(&container.id);
        let network = |wanted: &String| {
            container.attachments.iter().any(|place| {
                place.network_name == *wanted || place.network.starts_with(wanted.as_str())
            })
        };
        let exited = |wanted: &i64| code.map(i64::from) == Some(*wanted);
        !self.nothing
            && name
            && id
            && self.labels.is_empty()
            && self.statuses.matches(state)
            && self.health.matches("none")
            && (self.exited.is_empty() || self.exited.iter().any(exited))
            && (self.networks.is_empty() || self.networks.iter().any(network))
            && self.has_port(container, ports)
    }

    fn has_port(
        &self,
        container: &Container,
        ports: impl Fn(&Container) -> Vec<ContainerPort>,
    ) -> bool {
        let is_in = |wanted: &[Ports], port: u16, transport: Transport| {
            let mut wanted = wanted.iter();
            wanted.any(|(range, wanted)| range.contains(&port) && *wanted == transport)
        };
        (self.publish.is_empty() && self.expose.is_empty())
            || ports(container).iter().any(|port| {
                let public = port.public.map_or(0, |(_, port)| port);
                is_in(&self.publish, public, port.transport)
                    || is_in(&self.expose, port.private, port.transport)
            })
    }
}

fn one_of(filters: &Filters, key: &str, what: &str, known: &[&str]) -> Result<(), FilterError> {
    match filters.values(key).find(|value| !known.contains(value)) {
        None => Ok(()),
        Some(wrong) => {
            let (wrong, known) = (wrong.escape_debug(), known.join(", "));
            Err(FilterError::Invalid(format!(
                "invalid filter '{key}={wrong}': invalid value for {what} ({wrong}): must be one of {known}"
            )))
        }
    }
}

/// `is-task`: Docker's `GetBoolOrDefault`.
fn is_task(filters: &Filters) -> Result<bool, FilterError> {
    let values: Vec<&str> = filters.values("is-task").collect();
    let any = |wanted: [&str; 2]| values.iter().any(|value| wanted.contains(value));
    match (any(["1", "true"]), any(["0", "false"])) {
        (wanted, other) if wanted != other => Ok(wanted),
        _ if values.is_empty() => Ok(false),
        _ => Err(FilterError::Invalid(format!(
            "invalid filter 'is-task=[{}]': give true or false",
            values.join(" ").escape_debug()
        ))),
    }
}

/// `80`, `80/udp` or `8000-8010/tcp`.
fn ports(filters: &Filters, key: &str) -> Result<Vec<Ports>, FilterError> {
    let ports = filters.values(key).map(|value| {
        let shown = value.escape_debug();
        if value.contains(':') {
            return Err(FilterError::Invalid(format!(
                "filter for '{key}' should not contain ':': {shown}: give a port such as 80/tcp"
            )));
        }
        let (range, protocol) = value.split_once('/').unwrap_or((value, "tcp"));
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let transport = match protocol.to_ascii_lowercase().as_str() {
            "tcp" => Some(Transport::Tcp),
            "udp" => Some(Transport::Udp),
            _ => None,
        };
        let range = first.parse::<u16>().ok().zip(last.parse::<u16>().ok());
        range
            .filter(|(first, last)| first <= last)
            .zip(transport)
            .map(|((first, last), transport)| (first..=last, transport))
            .ok_or_else(|| {
                FilterError::Invalid(format!(
                    "error while looking up for {key} {shown}: invalid port: give a port such as 80/tcp or 8000-8010/udp"
                ))
            })
    });
    ports.collect()
}
