//! A runtime of containers that calls plugins as libcni does, in a lab.

use std::io::Write;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::lab::{Lab, Outcome, Place};
use crate::tunbridge_under_test::{Tunbridge, binary};

/// Links to the program under test, in the lab's own /run.
const PLUGINS: &str = "/run/cni";
/// Debian's plugins, which `make setup` fetches.
pub(crate) const STOCK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/engines/usr/lib/cni");

#[derive(Debug)]
pub(crate) struct Runtime<'lab> {
    lab: &'lab Lab,
    /// Where the plugins run.
    host: Place,
}

impl<'lab> Runtime<'lab> {
    pub(crate) fn new(lab: &'lab Lab) -> Self {
        Self::in_host(lab, lab.host())
    }

    /// With another host namespace than the lab's.
    pub(crate) fn in_host(lab: &'lab Lab, host: Place) -> Self {
        let program = binary();
        let line = format!(
            "mkdir -p {PLUGINS}; for name in tunbridge bridge portmap bandwidth firewall; do ln -sf {program} {PLUGINS}/$name; done"
        );
        lab.host().shell(&line).expect_success();
        Self { lab, host }
    }

    /// A namespace for a container.
    pub(crate) fn container(&self, id: &str) -> Container<'_> {
        let name = format!("cni-{id}");
        self.lab
            .host()
            .run(&["ip", "netns", "add", &name])
            .expect_success();
        Container {
            runtime: self,
            id: id.to_owned(),
            netns: format!("/run/netns/{name}"),
            place: self.lab.place(&name),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Container<'a> {
    runtime: &'a Runtime<'a>,
    pub(crate) id: String,
    pub(crate) netns: String,
    pub(crate) place: Place,
}

impl Container<'_> {
    /// Calls one of our plugins with `variables` beside the usual ones.
    pub(crate) fn call(
        &self,
        plugin: &str,
        verb: &str,
        config: &Value,
        variables: &[(&str, &str)],
    ) -> Outcome {
        self.call_in(PLUGINS, plugin, verb, config, variables)
    }

    /// The same of any plugins.
    pub(crate) fn call_in(
        &self,
        plugins: &str,
        plugin: &str,
        verb: &str,
        config: &Value,
        variables: &[(&str, &str)],
    ) -> Outcome {
        let usual = [
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", &self.id),
            ("CNI_NETNS", &self.netns),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", &format!("{PLUGINS}:{STOCK}")),
        ];
        let program = format!("{plugins}/{plugin}");
        let mut command = self.runtime.host.command(&["timeout", "60", &program]);
        command.env_remove("TUNBRIDGE_SOCKET");
        command.envs(usual).envs(variables.iter().copied());
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        let _ = input.write_all(config.to_string().as_bytes());
        drop(input);
        let output = child.wait_with_output().unwrap();
        Outcome::new(format!("{plugin} {verb} {variables:?} {config}"), &output)
    }

    /// `ADD`, and its result.
    #[track_caller]
    pub(crate) fn add(&self, config: &Value) -> Value {
        let added = self
            .call(plugin(config), "ADD", config, &[])
            .expect_success();
        serde_json::from_str(&added.stdout).unwrap()
    }

    /// `DEL` never fails and says nothing.
    #[track_caller]
    pub(crate) fn del(&self, config: &Value) {
        let deleted = self
            .call(plugin(config), "DEL", config, &[])
            .expect_success();
        assert_eq!(deleted.stdout, "");
    }

    /// Number and text of an error.
    #[track_caller]
    pub(crate) fn fails(&self, verb: &str, config: &Value) -> (u64, String) {
        error(&self.call(plugin(config), verb, config, &[]))
    }

    #[track_caller]
    pub(crate) fn check(&self, config: &Value, result: &Value) {
        let config = with_previous(config, result);
        self.call(plugin(&config), "CHECK", &config, &[])
            .expect_success();
    }

    /// Names of its interfaces, `lo` left out.
    pub(crate) fn interfaces(&self) -> Vec<String> {
        let links = self.place.run(&["ip", "-br", "link"]).expect_success();
        let names = links
            .stdout
            .lines()
            .filter_map(|line| line.split(['@', ' ']).next());
        names
            .filter(|name| *name != "lo")
            .map(str::to_owned)
            .collect()
    }

    /// Its namespace goes, as that of a process that ends.
    pub(crate) fn vanish(&self) {
        let name = self.place.name();
        self.runtime
            .lab
            .host()
            .run(&["ip", "netns", "delete", name]);
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        self.vanish();
    }
}

fn plugin(config: &Value) -> &str {
    config["type"].as_str().unwrap()
}

#[track_caller]
pub(crate) fn error(outcome: &Outcome) -> (u64, String) {
    let failed = outcome.clone().expect_failure();
    let error: Value = serde_json::from_str(&failed.stdout)
        .unwrap_or_else(|problem| panic!("{problem}: {}", failed.output()));
    let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
    (
        error["code"].as_u64().unwrap(),
        format!("{}: {}", text("msg"), text("details")),
    )
}

pub(crate) fn with_previous(config: &Value, result: &Value) -> Value {
    let mut config = config.clone();
    config["prevResult"] = result.clone();
    config
}

/// A configuration of our own type.
pub(crate) fn own(name: &str) -> Value {
    json!({"cniVersion": "1.1.0", "name": name, "type": "tunbridge"})
}

/// As `podman network create` writes it.
pub(crate) fn podman(subnet: &str) -> Value {
    json!({
        "cniVersion": "0.4.0", "name": "mynet", "type": "bridge", "bridge": "cni-podman1",
        "isGateway": true, "ipMasq": true, "hairpinMode": true, "capabilities": {"ips": true},
        "ipam": {"type": "host-local", "routes": [{"dst": "0.0.0.0/0"}], "ranges": [[{"subnet": subnet}]]},
    })
}

/// The plugin that comes next there.
pub(crate) fn portmap(host: u16, container: u16, result: &Value) -> Value {
    json!({
        "cniVersion": "0.4.0", "name": "mynet", "type": "portmap", "capabilities": {"portMappings": true},
        "runtimeConfig": {"portMappings": [{"hostPort": host, "containerPort": container, "protocol": "tcp"}]},
        "prevResult": result,
    })
}

/// Records and interfaces that are still there.
pub(crate) fn left(lab: &Lab, tunbridge: &Tunbridge<'_>) -> Vec<String> {
    let veths = lab
        .host()
        .shell("ip -br link show type veth | grep ^veth")
        .stdout;
    let names = lab.host().run(&["ls", "/run/netns"]).stdout;
    let known = ["host", "wan", "lan", "far"];
    let names = names
        .lines()
        .filter(|name| !known.contains(name) && !name.starts_with("cni-"));
    let records = tunbridge.names(&["-a"]);
    let interfaces = veths.lines().chain(names).map(str::to_owned);
    interfaces.chain(records).collect()
}

pub(crate) const NOTHING: [&str; 0] = [];
