//! The verbs of the plugin that attaches: types `tunbridge` and `bridge`.

use std::os::fd::{AsFd, OwnedFd};

use ipnet::IpNet;
use serde_json::Value;

use super::attach::{Attachment, reference};
use super::daemon::{DETACH, Detached, Found};
use super::delegate::{self, Delegate};
use super::environment::{Verb, check_container, check_interface};
use super::error::{CniError, code};
use super::fields::Field;
use super::left_behind::{all_of, is_left_behind};
use super::network::Wanted;
use super::result::CniResult;
use super::runtime_config::RuntimeConfig;
use super::{Answer, Call, Plugin, complain, routes};
use crate::api::client::{Client, ClientError, segment};
use crate::api::types::{
    AttachedEndpoint, Bandwidth, CNI_NETWORK, CollectEndpoints, RateLimit, Runtime,
};
use crate::failpoint;
use crate::kernel::netns;

const ENDPOINTS: &str = "/tunbridge/endpoints";
pub(super) const CHECK: &str = "/tunbridge/endpoints/check";
const COLLECT: &str = "/tunbridge/endpoints/collect";

impl Call {
    pub(super) fn run(&self) -> Result<Answer, CniError> {
        match self.environment.verb {
            Verb::Add => self.add().map(Answer::Json),
            Verb::Check => self.check().map(|()| Answer::Nothing),
            Verb::Del => self.del().map(|()| Answer::Nothing),
            Verb::Gc => self.collect().map(|()| Answer::Nothing),
            Verb::Status => self.status().map(|()| Answer::Nothing),
            Verb::Version => Ok(Answer::Nothing),
        }
    }

    fn add(&self) -> Result<Value, CniError> {
        // All of it is understood before anything is done.
        let previous = self.previous()?;
        Attachment::read(&self.environment, &self.config, self.plugin, None)?;
        let ipam = delegate::ipam(&self.environment, &self.config)?;
        let namespace = self.namespace()?;
        self.expect_free_name(&namespace)?;
        let client = self.sockets.find()?;
        let added = self.add_to(client, &namespace, ipam.as_ref());
        if added.is_err()
            && let Some(ipam) = &ipam
            && let Err(error) = ipam.call(Verb::Del, &self.config)
        {
            complain(&format!("after the failure: {error}"));
        }
        let added = added?;
        let merged = match previous {
            Some(previous) => added.after(previous),
            None => added,
        };
        Ok(merged.render(self.config.version))
    }

    fn add_to(
        &self,
        mut client: Client,
        namespace: &OwnedFd,
        ipam: Option<&Delegate>,
    ) -> Result<CniResult, CniError> {
        let delegated = ipam.map(|ipam| ipam.addresses(&self.config)).transpose()?;
        failpoint::reached("cni.addresses");
        let attachment = Attachment::read(
            &self.environment,
            &self.config,
            self.plugin,
            delegated.as_ref(),
        )?;
        let attached = self.attach(&mut client, namespace, &attachment)?;
        failpoint::reached("cni.attached");
        if self.plugin == Plugin::Tunbridge {
            for key in self.config.unknown_keys() {
                complain(&format!(
                    "warning: configuration {}: key {key:?} is not known and has no effect (docs/cni.md lists all)",
                    self.config.name
                ));
            }
        }
        // It is wanted again.
        let reference = reference(&self.environment, &self.config);
        self.sockets.withdraw(&reference);
        for warning in &attached.warnings {
            complain(warning);
        }
        let interface = &self.environment.interface;
        if let Err(error) = routes::add(namespace, interface, &attachment.wanted.routes, &attached)
        {
            self.detach(&client)?;
            return Err(error);
        }
        failpoint::reached("cni.routed");
        let sandbox = self
            .environment
            .netns
            .as_deref()
            .unwrap_or_else(|| "".as_ref());
        Ok(attachment.result(&attached, &sandbox.to_string_lossy()))
    }

    /// Asks the daemon. A network that was made for an older configuration of this name, and that nobody uses, is made
    /// anew: CNI has no verb that would have told us when it was removed. What a runtime that was killed has left of this
    /// container goes first. A daemon that has just ended is looked for, or
    /// started, once more; what it has stored of the first request goes before the second.
    fn attach(
        &self,
        client: &mut Client,
        namespace: &OwnedFd,
        attachment: &Attachment,
    ) -> Result<AttachedEndpoint, CniError> {
        let id = &self.environment.container;
        let (mut lost, mut outdated, mut cleared) = (false, false, false);
        loop {
            let descriptor = namespace.try_clone().map_err(|error| {
                CniError::new(code::IO, format!("cannot duplicate a descriptor: {error}"))
            })?;
            let asked = client.clone().with_descriptor(descriptor);
            let answered = asked.post::<AttachedEndpoint>(ENDPOINTS, &attachment.request);
            let error = match answered {
                Ok(attached) => match attachment.foreign(&attached) {
                    None => return Ok(attached),
                    Some(address) => {
                        self.detach(client)?;
                        CniError::configuration(format!(
                            "the address {address} of network {} is not in the subnet of the configuration",
                            self.config.network
                        ))
                    }
                },
                Err(ClientError::Broken { .. } | ClientError::NotRunning(_)) if !lost => {
                    lost = true;
                    *client = self.sockets.find()?;
                    self.detach(client)?;
                    continue;
                }
                Err(ClientError::Refused { status: 409, .. })
                    if !cleared
                        && netns::id(namespace)
                            .is_ok_and(|new| is_left_behind(client, Runtime::Cni, id, new)) =>
                {
                    cleared = true;
                    client.tell(DETACH, &all_of(Runtime::Cni, id))?;
                    continue;
                }
                Err(error) => self.about_the_configuration(error.into()),
            };
            if outdated || !self.outdated(client, &attachment.wanted)? {
                return Err(error);
            }
            outdated = true;
        }
    }

    /// The daemon speaks of flags, which a runtime's user has not given.
    fn about_the_configuration(&self, error: CniError) -> CniError {
        if !error.message.contains("--subnet ") {
            return error;
        }
        let message = error.message.replace("--subnet ", "subnet ");
        CniError {
            message: format!("configuration {}: {message}", self.config.name),
            ..error
        }
    }

    /// Whether the network had other subnets than the configuration and is gone now.
    fn outdated(&self, client: &Client, wanted: &Wanted) -> Result<bool, CniError> {
        if wanted.create.is_none() || wanted.subnets.is_empty() {
            return Ok(false);
        }
        let name = &self.config.network;
        let target = format!("/networks/{}", segment(name));
        let network: Value = match client.get(&target) {
            Ok(network) => network,
            Err(ClientError::Refused { status: 404, .. }) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let pools = network["IPAM"]["Config"].as_array();
        let present: Vec<IpNet> = pools
            .into_iter()
            .flatten()
            .filter_map(|pool| pool["Subnet"].as_str()?.parse().ok())
            .collect();
        let missing = wanted
            .subnets
            .iter()
            .find(|wanted| !present.contains(&wanted.subnet));
        let Some(missing) = missing else {
            return Ok(false);
        };
        let is_ours = network["Labels"][CNI_NETWORK] == self.config.name.as_str();
        let is_unused = network["Containers"]
            .as_object()
            .is_none_or(serde_json::Map::is_empty);
        if is_ours && is_unused && client.delete(&target).is_ok() {
            failpoint::reached("cni.outdated");
            return Ok(true);
        }
        let present: Vec<String> = present.iter().map(IpNet::to_string).collect();
        let message = format!(
            "network {name} has the subnet {}, but the configuration {} says {}",
            present.join(", "),
            self.config.name,
            missing.subnet
        );
        let details = format!(
            "remove its containers and then the network with `tunbridge network rm {name}`, or change the configuration"
        );
        Err(CniError::configuration(message).details(details))
    }

    fn detach(&self, client: &Client) -> Result<(), CniError> {
        let reference = reference(&self.environment, &self.config);
        Ok(client.tell(DETACH, &reference)?)
    }

    fn del(&self) -> Result<(), CniError> {
        self.detach_somehow()?;
        failpoint::reached("cni.detached");
        // Its address may be used again only now that nobody has it.
        match delegate::ipam(&self.environment, &self.config)? {
            Some(ipam) => ipam.call(Verb::Del, &self.config).map(drop),
            None => Ok(()),
        }
    }

    fn detach_somehow(&self) -> Result<(), CniError> {
        let reference = reference(&self.environment, &self.config);
        match self.sockets.detach(&reference)? {
            Detached::ByDaemon => return self.remove_leftover(),
            Detached::Left => failpoint::reached("cni.left"),
            Detached::Untold(why) => complain(&format!(
                "{why}: once it runs, remove container {} with `tunbridge rm`",
                self.environment.container
            )),
        }
        // A namespace that is gone has no interfaces.
        let Some(namespace) = self.namespace_if_there() else {
            return Ok(());
        };
        routes::remove_interface(&namespace, &self.environment.interface, self.previous_mac())
    }

    /// An interface that `ADD` answered and that the daemon does not know: the stock plugin has made it before we took its
    /// name, or the daemon's state is lost.
    fn remove_leftover(&self) -> Result<(), CniError> {
        let (Some(mac), Some(namespace)) = (self.previous_mac(), self.namespace_if_there()) else {
            return Ok(());
        };
        let interface = &self.environment.interface;
        if self.is_free_name(&namespace)? {
            return Ok(());
        }
        if self.plugin == Plugin::Bridge
            && let Some(next) = Delegate::find(self.plugin.name(), &self.environment.path)
        {
            return next.call(Verb::Del, &self.config).map(drop);
        }
        routes::remove_interface(&namespace, interface, Some(mac))
    }

    /// The container's namespace, unless it is gone.
    fn namespace_if_there(&self) -> Option<OwnedFd> {
        self.environment.netns.as_ref()?;
        self.namespace().ok()
    }

    /// The interface's Ethernet address as `ADD` told it.
    fn previous_mac(&self) -> Option<String> {
        let previous = self.config.previous()?;
        let previous = CniResult::read(&previous).ok()?;
        let mut interfaces = previous.interfaces.into_iter();
        let own = interfaces.find(|interface| {
            !interface.sandbox.is_empty() && interface.name == self.environment.interface
        })?;
        Some(own.mac).filter(|mac| !mac.is_empty())
    }

    fn check(&self) -> Result<(), CniError> {
        let previous = self.require_previous()?;
        if let Some(ipam) = delegate::ipam(&self.environment, &self.config)? {
            ipam.call(Verb::Check, &self.config)?;
        }
        let namespace = self.namespace()?;
        let descriptor = namespace
            .try_clone()
            .map_err(|error| CniError::new(code::IO, error.to_string()))?;
        let client = self.existing()?.with_descriptor(descriptor);
        let reference = reference(&self.environment, &self.config);
        let attached: AttachedEndpoint = client.post(CHECK, &reference).map_err(|error| {
            let error = CniError::from(error);
            match error.code {
                code::CONFIGURATION | code::REFUSED => CniError {
                    code: code::CHECK,
                    ..error
                },
                _ => error,
            }
        })?;
        self.compare(&previous, &attached)?;
        let wanted = RuntimeConfig::read(&self.config.root(), &self.config.name)?.bandwidth;
        self.compare_bandwidth(&wanted, &attached.bandwidth)?;
        let delegated = (self.config.ipam != super::config::Ipam::Ours).then_some(&previous);
        let wanted = Wanted::read(&self.config, self.plugin, &[], delegated)?;
        let interface = &self.environment.interface;
        routes::check(&namespace, interface, &wanted.routes, &attached)
    }

    /// Whether the endpoint is still what `ADD` answered.
    fn compare(&self, previous: &CniResult, attached: &AttachedEndpoint) -> Result<(), CniError> {
        let name = &self.environment.interface;
        let is_own = |interface: &&super::result::Interface| {
            !interface.sandbox.is_empty() && interface.name == *name
        };
        let changed = |what: &str, was: &str, is: &str| {
            let message = format!("interface {name}: its {what} was {was} and is {is}");
            Err(CniError::new(code::CHECK, message))
        };
        let own = previous.interfaces.iter().find(is_own);
        if let Some(own) = own
            && !own.mac.is_empty()
            && !own.mac.eq_ignore_ascii_case(&attached.inside.mac)
        {
            return changed("MAC address", &own.mac, &attached.inside.mac);
        }
        for address in &previous.addresses {
            let interface = address
                .interface
                .and_then(|index| previous.interfaces.get(index));
            let is_ours = interface.as_ref().is_some_and(is_own);
            if is_ours && !attached.addresses.contains(&address.address) {
                let present: Vec<String> =
                    attached.addresses.iter().map(IpNet::to_string).collect();
                return changed("address", &address.address.to_string(), &present.join(", "));
            }
        }
        Ok(())
    }

    /// One that is not asked for here may have been by the plugin `bandwidth`.
    pub(super) fn compare_bandwidth(
        &self,
        wanted: &Bandwidth,
        present: &Bandwidth,
    ) -> Result<(), CniError> {
        let name = &self.environment.interface;
        for (direction, wanted, present) in [
            ("ingress", wanted.ingress, present.ingress),
            ("egress", wanted.egress, present.egress),
        ] {
            if wanted.is_some() && wanted != present {
                let text = |limit: Option<RateLimit>| match limit {
                    Some(limit) => format!("{} bit/s, burst {} bits", limit.rate, limit.burst),
                    None => "unlimited".to_owned(),
                };
                let message = format!(
                    "interface {name}: its {direction} bandwidth is not {} but {}",
                    text(wanted),
                    text(present)
                );
                return Err(CniError::new(code::CHECK, message));
            }
        }
        Ok(())
    }

    fn collect(&self) -> Result<(), CniError> {
        let request = CollectEndpoints {
            runtime: Runtime::Cni,
            // Another configuration may have the same network: its attachments we are not told.
            owner: self.config.name.clone(),
            valid: self.valid_attachments()?,
        };
        let collected = match self.existing()?.tell(COLLECT, &request) {
            Ok(()) | Err(ClientError::Refused { status: 404, .. }) => Ok(()),
            Err(error) => Err(error.into()),
        };
        if let Some(ipam) = delegate::ipam(&self.environment, &self.config)? {
            ipam.call(Verb::Gc, &self.config)?;
        }
        collected
    }

    /// Containers and interfaces that stay. libcni leaves the key out where none do.
    fn valid_attachments(&self) -> Result<Vec<(String, String)>, CniError> {
        let root = self.config.root();
        let field = root
            .get("cni.dev/valid-attachments")
            .or_else(|| root.get("cni.dev/attachments"));
        let Some(field) = field else {
            return Ok(Vec::new());
        };
        let attachment = |field: &Field<'_>| {
            let text = |key: &str| {
                let text = field.text_of(key)?;
                text.ok_or_else(|| field.wrong(&format!("an attachment needs {key:?}")))
            };
            let (container, interface) = (text("containerID")?, text("ifname")?);
            let named = |error: CniError| field.wrong(&error.message);
            check_container(container).map_err(named)?;
            check_interface(interface).map_err(named)?;
            Ok((container.to_owned(), interface.to_owned()))
        };
        field.elements()?.iter().map(attachment).collect()
    }

    pub(super) fn status(&self) -> Result<(), CniError> {
        Wanted::read(&self.config, self.plugin, &[], None)?;
        let ipam = delegate::ipam(&self.environment, &self.config)?;
        self.sockets.reachable().map_err(|error| CniError {
            code: code::UNAVAILABLE,
            ..error
        })?;
        if let Some(ipam) = ipam {
            ipam.call(Verb::Status, &self.config)?;
        }
        Ok(())
    }

    /// The daemon, which must run.
    pub(super) fn existing(&self) -> Result<Client, CniError> {
        match self.sockets.look()? {
            Found::Daemon(client) => Ok(client),
            Found::Absent(why) => Err(why),
        }
    }

    /// The container's namespace.
    pub(super) fn namespace(&self) -> Result<OwnedFd, CniError> {
        let path = self
            .environment
            .netns
            .as_deref()
            .unwrap_or_else(|| "".as_ref());
        let namespace = netns::open_path(path).map_err(|error| {
            let message = format!("invalid CNI_NETNS {path:?}: {error}");
            CniError::environment(message)
        })?;
        let id = netns::id(namespace.as_fd());
        if id.is_ok_and(|id| id == self.sockets.own()) {
            let message =
                format!("invalid CNI_NETNS {path:?}: it is the host's own network namespace");
            return Err(CniError::environment(message));
        }
        Ok(namespace)
    }

    fn is_free_name(&self, namespace: &OwnedFd) -> Result<bool, CniError> {
        let name = self.environment.interface.as_str();
        let taken = netns::run_in(namespace.as_fd(), || {
            nix::net::if_::if_nametoindex(name).is_ok()
        });
        let taken = taken.map_err(|error| CniError::new(code::IO, error.to_string()))?;
        Ok(!taken)
    }

    fn expect_free_name(&self, namespace: &OwnedFd) -> Result<(), CniError> {
        if self.is_free_name(namespace)? {
            return Ok(());
        }
        let message = format!(
            "interface name provided in CNI_IFNAME ({}) already exists in the container",
            self.environment.interface
        );
        Err(CniError::environment(message)
            .details("give another name, or delete that interface first"))
    }

    pub(super) fn previous(&self) -> Result<Option<CniResult>, CniError> {
        let previous = self.config.previous();
        previous
            .map(|previous| CniResult::read(&previous))
            .transpose()
    }

    pub(super) fn require_previous(&self) -> Result<CniResult, CniError> {
        let missing = || CniError::configuration("Required prevResult missing");
        self.previous()?.ok_or_else(missing)
    }
}
