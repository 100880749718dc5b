//! dockerd, our plugin and the daemon in a lab, and lines of shell for them.

use std::time::Duration;

use crate::engines::{ENGINES, Engines, PEER};
use crate::lab::{HOST, LAN, Lab, Outcome, Running, eventually};
use crate::tunbridge_under_test::{Tunbridge, binary};

/// Where the traffic helper is.
const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/netns-scripts");

/// dockerd, the plugin and the daemon in a lab.
#[derive(Debug)]
pub(crate) struct Docker<'lab> {
    engines: Engines<'lab>,
    pub(crate) lab: &'lab Lab,
    /// The daemon.
    pub(crate) tunbridge: Tunbridge<'lab>,
    plugin: Option<Running>,
    dockerd: Option<Running>,
    flags: &'static str,
}

impl<'lab> Docker<'lab> {
    pub(crate) fn in_lab(lab: &'lab Lab) -> Self {
        Self::beside(Engines::in_lab(lab), "")
    }

    /// With an image `busybox`, in which the traffic helper runs.
    pub(crate) fn beside(engines: Engines<'lab>, flags: &'static str) -> Self {
        let lab = engines.lab;
        let tunbridge = lab.start_daemon(&[]);
        let mut docker = Self {
            engines,
            lab,
            tunbridge,
            plugin: None,
            dockerd: None,
            flags,
        };
        docker.start_plugin();
        docker.start_dockerd();
        docker.said(&format!(
            "{ENGINES} rootfs /run/lab/rootfs && tar -C /run/lab/rootfs -c . |
                docker import --change 'ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin' - busybox"
        ));
        docker
    }

    pub(crate) fn start_plugin(&mut self) {
        let binary = binary();
        let line = format!("exec {binary} docker-plugin >>/run/lab/plugin.log 2>&1");
        self.plugin = Some(self.engines.start(&line));
        let socket = "curl -sf --unix-socket /run/docker/plugins/tunbridge.sock -X POST http://x/NetworkDriver.GetCapabilities";
        assert!(
            eventually(Duration::from_secs(30), || self
                .engines
                .shell(socket)
                .succeeded()),
            "no plugin: {}",
            self.logs()
        );
    }

    pub(crate) fn start_dockerd(&mut self) {
        let line = format!(
            "exec dockerd --exec-opt native.cgroupdriver=cgroupfs --storage-driver overlay2 {} >>/run/lab/dockerd.log 2>&1",
            self.flags
        );
        self.dockerd = Some(self.engines.start(&line));
        assert!(
            eventually(Duration::from_secs(60), || self
                .shell("docker info")
                .succeeded()),
            "no dockerd: {}",
            self.logs()
        );
    }

    /// Ends dockerd by a signal.
    pub(crate) fn end_dockerd(&mut self, signal: &str) {
        if let Some(mut dockerd) = self.dockerd.take() {
            dockerd.signal(signal);
            assert!(dockerd.ended_within(Duration::from_secs(60)).is_some());
        }
    }

    pub(crate) fn kill_plugin(&mut self) {
        if let Some(mut plugin) = self.plugin.take() {
            plugin.signal("KILL");
            assert!(plugin.ended_within(Duration::from_secs(30)).is_some());
        }
    }

    /// For the commands of docs/drop-in.md, which start a plugin themselves.
    pub(crate) fn kill_and_install(mut self) -> Self {
        self.kill_plugin();
        let link = format!("ln -s {} /usr/local/bin/tunbridge", binary());
        self.said(&link);
        self
    }

    pub(crate) fn logs(&self) -> String {
        let logs = self
            .engines
            .shell("tail -n 30 /run/lab/plugin.log /run/lab/dockerd.log");
        logs.output()
    }

    /// A line of shell in which `docker` is Debian's, and not a newer one that the machine may have.
    pub(crate) fn shell(&self, line: &str) -> Outcome {
        self.engines.shell(&format!(
            "docker() {{ timeout 90 /usr/bin/docker \"$@\"; }}; {line}"
        ))
    }

    #[track_caller]
    pub(crate) fn said(&self, line: &str) -> String {
        let outcome = self.shell(line);
        assert!(
            outcome.succeeded(),
            "{line}\n{}\n{}",
            outcome.output(),
            self.logs()
        );
        outcome.stdout.trim_end().to_owned()
    }

    #[track_caller]
    pub(crate) fn refused(&self, line: &str) -> String {
        self.shell(line).expect_failure().output()
    }

    /// `docker run -d OPTIONS… busybox COMMAND`, with the traffic helper in it.
    #[track_caller]
    pub(crate) fn run(&self, name: &str, options: &str, command: &str) {
        self.said(&format!(
            "docker run -d --name {name} -v /usr:/usr:ro -v {SCRIPTS}:{SCRIPTS}:ro {options} busybox {command}"
        ));
    }

    /// A server on TCP and UDP ports.
    #[track_caller]
    pub(crate) fn serve(&self, name: &str, options: &str, ports: &str) {
        self.run(name, options, &format!("{PEER} serve {ports}"));
        self.wait_for(name, ports.split([' ', '-']).next().unwrap());
    }

    pub(crate) fn wait_for(&self, name: &str, port: &str) {
        let query = format!("docker exec {name} netstat -ltn | grep -q :{port}");
        assert!(
            eventually(Duration::from_secs(20), || self.shell(&query).succeeded()),
            "{name} does not serve {port}: {}",
            self.logs()
        );
    }

    /// Until a line of shell succeeds.
    #[track_caller]
    pub(crate) fn eventually(&self, line: &str) {
        assert!(
            eventually(Duration::from_secs(20), || self.shell(line).succeeded()),
            "{line}\n{}\n{}",
            self.shell(line).output(),
            self.logs()
        );
    }

    /// Whom a server at `to` saw when a container asked it.
    #[track_caller]
    pub(crate) fn saw(&self, container: &str, protocol: &str, to: &str, port: u16) -> String {
        let answer = self.said(&format!(
            "docker exec {container} {PEER} {protocol} {to} {port}"
        ));
        let seen = answer.split_once("server-saw=").expect("an answer").1;
        seen.rsplit_once(" server-at")
            .unwrap()
            .0
            .rsplit_once(':')
            .unwrap()
            .0
            .to_owned()
    }

    /// Whether a container of our own finds a name.
    pub(crate) fn finds(&self, container: &str, name: &str) -> bool {
        let words = ["exec", container, "getent", "ahostsv4", name];
        self.tunbridge.cli(&words).succeeded()
    }

    /// The network of a docker network.
    pub(crate) fn network_behind(&self, docker: &str) -> String {
        let id = self.said(&format!("docker network inspect -f '{{{{.Id}}}}' {docker}"));
        let filter = format!("label=com.tunbridge.docker.{id}");
        let words = [
            "network",
            "ls",
            "--filter",
            &filter,
            "--format",
            "{{.Name}}",
        ];
        let listed = self.tunbridge.cli(&words).expect_success().stdout;
        listed.trim().to_owned()
    }

    /// Everything that is published answers, to everybody.
    #[track_caller]
    pub(crate) fn web_is_reached(&self) {
        let lan = self.lab.lan();
        for port in ["8080", "9001"] {
            let to = format!("{HOST}:{port}");
            assert_eq!(lan.tcp(&to).unwrap().saw_address(), LAN, "{}", self.logs());
        }
        let udp = lan.udp(&format!("{HOST}:8080")).unwrap();
        assert_eq!(udp.saw_address(), LAN);
    }
}

impl Drop for Docker<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        self.end_dockerd("TERM");
        self.kill_plugin();
        // What dockerd has done to the host would be taken for the daemon's.
        self.tunbridge.kill();
    }
}
