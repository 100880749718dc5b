//! `portmap`, `bandwidth` and `firewall`, called after the plugin that attached.
//!
//! These names are answered so that a configuration of podman's works unchanged. An attachment that is not ours, as of a
//! network of the stock `macvlan`, is left to the next plugin of the same name along `CNI_PATH`.

use serde_json::Value;

use super::attach::reference;
use super::daemon::Found;
use super::delegate::Delegate;
use super::environment::Verb;
use super::error::{CniError, code};
use super::plugin::CHECK;
use super::runtime_config::{Ports, RuntimeConfig, read_bandwidth};
use super::{Answer, Call, Plugin, complain};
use crate::api::client::{Client, ClientError, segment};
use crate::api::types::{
    AttachedEndpoint, Bandwidth, ChangePorts, EndpointReference, LimitEndpoint,
};
use crate::failpoint;

const LIMIT: &str = "/tunbridge/endpoints/bandwidth";

/// What the plugin is to do.
#[derive(Debug)]
enum Task {
    Nothing,
    Publish(Vec<Ports>),
    Limit(Bandwidth),
    /// `firewall`: nothing for a container of ours, and who knows what for others.
    Pass,
}

/// Who has made the attachment.
enum Maker {
    /// We, and it is as it was made.
    Ours(Client, Box<AttachedEndpoint>),
    /// We, and nobody asks how it is.
    Damaged,
    Other,
    /// Nobody is there to ask.
    Unknown(CniError),
}

impl Call {
    pub(super) fn run_chained(&self) -> Result<Answer, CniError> {
        match self.environment.verb {
            Verb::Add => self.add_chained(),
            Verb::Check => self.check_chained().map(|()| Answer::Nothing),
            Verb::Del => self.del_chained().map(|()| Answer::Nothing),
            Verb::Status => self.status().map(|()| Answer::Nothing),
            Verb::Gc => self.collect_chained().map(|()| Answer::Nothing),
            Verb::Version => Ok(Answer::Nothing),
        }
    }

    fn add_chained(&self) -> Result<Answer, CniError> {
        let echo = self.echo()?;
        let task = self.task()?;
        if matches!(task, Task::Nothing) {
            return Ok(Answer::Json(echo));
        }
        match self.maker()? {
            Maker::Unknown(why) => return Err(why),
            Maker::Other => {
                return self.next()?.call(Verb::Add, &self.config).map(Answer::Text);
            }
            Maker::Damaged => {}
            Maker::Ours(client, attached) => match task {
                Task::Publish(ports) => publish_all(&client, &attached.container, &ports)?,
                Task::Limit(bandwidth) => {
                    let endpoint = self.endpoint();
                    let request = LimitEndpoint {
                        endpoint,
                        bandwidth,
                    };
                    client.tell(LIMIT, &request)?;
                }
                Task::Nothing | Task::Pass => {}
            },
        }
        Ok(Answer::Json(echo))
    }

    fn check_chained(&self) -> Result<(), CniError> {
        self.require_previous()?;
        let task = self.task()?;
        if matches!(task, Task::Nothing) {
            return Ok(());
        }
        match self.maker()? {
            Maker::Unknown(why) => Err(why),
            Maker::Other => self.next()?.call(Verb::Check, &self.config).map(drop),
            Maker::Damaged => Ok(()),
            Maker::Ours(client, attached) => match task {
                Task::Publish(ports) => check_ports(&client, &attached.container, &ports),
                // That it is so in the kernel, the daemon has looked already.
                Task::Limit(wanted) => self.compare_bandwidth(&wanted, &attached.bandwidth),
                Task::Nothing | Task::Pass => Ok(()),
            },
        }
    }

    /// Ports go with the container's last interface, for it is the container that has them; limits go with their interface.
    fn del_chained(&self) -> Result<(), CniError> {
        if matches!(self.task(), Ok(Task::Nothing)) {
            return Ok(());
        }
        let maker = self.maker()?;
        let next = Delegate::find(self.plugin.name(), &self.environment.path);
        match (maker, next) {
            (Maker::Ours(..) | Maker::Damaged, _) | (_, None) => Ok(()),
            (Maker::Other, Some(next)) => next.call(Verb::Del, &self.config).map(drop),
            (Maker::Unknown(_), Some(next)) => {
                if let Err(error) = next.call(Verb::Del, &self.config) {
                    complain(&error.to_string());
                }
                Ok(())
            }
        }
    }

    /// Nothing of ours: what is here goes with its endpoints. The next plugin has a book of its own.
    fn collect_chained(&self) -> Result<(), CniError> {
        match Delegate::find(self.plugin.name(), &self.environment.path) {
            Some(next) => next.call(Verb::Gc, &self.config).map(drop),
            None => Ok(()),
        }
    }

    fn task(&self) -> Result<Task, CniError> {
        let runtime = || RuntimeConfig::read(&self.config.root(), &self.config.name);
        Ok(match self.plugin {
            Plugin::Firewall => Task::Pass,
            Plugin::Bandwidth => {
                // As in the stock plugin, what stands in the configuration goes before what the runtime says.
                let fixed = read_bandwidth(&self.config.root())?;
                let bandwidth = match fixed.is_unlimited() {
                    true => runtime()?.bandwidth,
                    false => fixed,
                };
                match bandwidth.is_unlimited() {
                    true => Task::Nothing,
                    false => Task::Limit(bandwidth),
                }
            }
            Plugin::Portmap | Plugin::Tunbridge | Plugin::Bridge => {
                let ports = runtime()?.ports;
                match ports.is_empty() {
                    true => Task::Nothing,
                    false => Task::Publish(ports),
                }
            }
        })
    }

    /// What the plugins before have answered.
    fn echo(&self) -> Result<Value, CniError> {
        self.require_previous().map_err(|error| {
            let message = format!(
                "{} must be called as chained plugin: {error}",
                self.plugin.name()
            );
            CniError { message, ..error }
        })?;
        let mut echo = self
            .config
            .previous()
            .map(|field| field.value.clone())
            .unwrap_or_default();
        echo["cniVersion"] = self.config.version.text().into();
        Ok(echo)
    }

    fn maker(&self) -> Result<Maker, CniError> {
        let client = match self.sockets.look()? {
            Found::Daemon(client) => client,
            Found::Absent(why) => return Ok(Maker::Unknown(why)),
        };
        let asked = match self.namespace() {
            Ok(namespace) => client.clone().with_descriptor(namespace),
            Err(_) if self.environment.verb == Verb::Del => client.clone(),
            Err(error) => return Err(error),
        };
        match asked.post::<AttachedEndpoint>(CHECK, &self.endpoint()) {
            Ok(attached) => Ok(Maker::Ours(client, Box::new(attached))),
            Err(ClientError::Refused { status: 404, .. }) => Ok(Maker::Other),
            // It is known; what is wrong with it is no matter of ours.
            Err(ClientError::Refused { .. }) if self.environment.verb == Verb::Del => {
                Ok(Maker::Damaged)
            }
            Err(error @ (ClientError::Broken { .. } | ClientError::NotRunning(_))) => {
                Ok(Maker::Unknown(error.into()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What the plugin before has attached: on which network, its own section of the configuration says.
    fn endpoint(&self) -> EndpointReference {
        EndpointReference {
            network: None,
            ..reference(&self.environment, &self.config)
        }
    }

    fn next(&self) -> Result<Delegate, CniError> {
        Delegate::require(self.plugin.name(), &self.environment.path)
    }
}

/// All or none.
fn publish_all(client: &Client, container: &str, ports: &[Ports]) -> Result<(), CniError> {
    let tell = |verb: &str, ports: &Ports| {
        let target = format!("/tunbridge/containers/{}/{verb}", segment(container));
        let spec = ports.to_string();
        client.tell(&target, &ChangePorts { spec })
    };
    for (index, next) in ports.iter().enumerate() {
        if let Err(error) = tell("publish", next) {
            for done in &ports[..index] {
                if let Err(error) = tell("unpublish", done) {
                    complain(&format!("port {done} stays published: {error}"));
                }
            }
            return Err(error.into());
        }
        failpoint::reached("cni.published");
    }
    Ok(())
}

fn check_ports(client: &Client, container: &str, ports: &[Ports]) -> Result<(), CniError> {
    let found: Value = client.get(&format!("/containers/{}/json", segment(container)))?;
    let published = &found["NetworkSettings"]["Ports"];
    for ports in ports {
        for (host, container) in ports.pairs() {
            let bindings = published[format!("{container}/{}", ports.protocol)].as_array();
            let host = host.to_string();
            let mut bindings = bindings.into_iter().flatten();
            if !bindings.any(|binding| binding["HostPort"] == host.as_str()) {
                let message = format!("port {ports} is not published any more");
                return Err(CniError::new(code::CHECK, message));
            }
        }
    }
    Ok(())
}
