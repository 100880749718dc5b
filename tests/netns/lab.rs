//! Places in a lab and what one does there. `netns-scripts/lab.sh` builds the lab (its head has the
//! diagram) and says why nothing can be left behind when a test crashes.

use std::fmt::Debug;
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tunbridge::kernel::netns;

use crate::failpoint;
pub(crate) use crate::processes::{Answer, Held, Outcome, Running, eventually};

/// The host's address on its uplink.
pub(crate) const HOST: &str = "198.51.100.2";
/// The router's address on the same link.
pub(crate) const WAN: &str = "198.51.100.1";
/// A client behind the router.
pub(crate) const LAN: &str = "203.0.113.9";
/// A server behind the router.
pub(crate) const FAR: &str = "192.0.2.9";
/// The same server's second address.
pub(crate) const FAR_TOO: &str = "192.0.2.10";
/// IPv6 of [`HOST`].
pub(crate) const HOST6: &str = "2001:db8:1::2";
/// IPv6 of [`WAN`].
pub(crate) const WAN6: &str = "2001:db8:1::1";
/// IPv6 of [`LAN`].
pub(crate) const LAN6: &str = "2001:db8:3::9";
/// IPv6 of [`FAR`].
pub(crate) const FAR6: &str = "2001:db8:ffff::9";
/// The gateway of the default network: the host's address on its bridge.
pub(crate) const GATEWAY: &str = "172.17.0.1";

/// No helper runs longer than this many seconds.
const PATIENCE: &str = "300";

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/netns-scripts");

fn script(name: &str) -> String {
    format!("{SCRIPTS}/{name}")
}

/// What other software has done to the host that tunbridge runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum World {
    /// Nothing.
    Plain,
    /// `ip_forward=0`, nftables with FORWARD and INPUT policy drop.
    Hostile,
    /// The same and `nft flush ruleset` in turns, for ever.
    Flushing,
}

/// Makes a module with `#[test]` functions per world of functions that take a [`World`].
macro_rules! in_every_world {
    ($($behaviour:ident)*) => {
        in_every_world!(@plain Plain $($behaviour)*);
        in_every_world!(@hostile Hostile $($behaviour)*);
        in_every_world!(@flushing Flushing $($behaviour)*);
    };
    (@$module:ident $world:ident $($behaviour:ident)*) => {
        mod $module {
            $(
                #[test]
                fn $behaviour() {
                    super::$behaviour($crate::lab::World::$world);
                }
            )*
        }
    };
}
pub(crate) use in_every_world;

/// A lab; removed when dropped, or when this process ends in whatever way.
#[derive(Debug)]
pub(crate) struct Lab {
    holder: Child,
    lives_while_open: Option<ChildStdin>,
    holder_pid: u32,
    /// What happens to its host.
    pub(crate) world: World,
    flushing: Option<Running>,
}

impl Lab {
    /// A lab whose host is in `world`.
    pub(crate) fn in_world(world: World) -> Self {
        Self::with_options(world, &[])
    }

    /// A lab with a host that nobody else touches.
    pub(crate) fn plain() -> Self {
        Self::in_world(World::Plain)
    }

    /// The same with options of `lab.sh`.
    pub(crate) fn with_options(world: World, options: &[&str]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("test-{}-{number}", std::process::id());
        let mut holder = Command::new(script("lab.sh"))
            .arg("hold")
            .args(options)
            .env("TB_LAB", &name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("lab.sh starts");
        let mut line = String::new();
        BufReader::new(holder.stdout.take().expect("stdout is piped"))
            .read_line(&mut line)
            .expect("lab.sh tells");
        let holder_pid = line
            .strip_prefix("ready ")
            .and_then(|pid| pid.trim().parse().ok())
            .unwrap_or_else(|| panic!("no lab (these tests need root): {line:?}"));
        let lives_while_open = holder.stdin.take();
        let mut lab = Self {
            holder,
            lives_while_open,
            holder_pid,
            world,
            flushing: None,
        };
        lab.apply_world();
        if world == World::Flushing {
            let lab_sh = script("lab.sh");
            let forever = format!(
                "while :; do {lab_sh} firewall_here on; sleep 0.05; nft flush ruleset; sleep 0.05; done"
            );
            lab.flushing = Some(lab.host().start(&["bash", "-c", &forever]));
        }
        lab
    }

    /// Does to the host what this world does. Again after each change: `ip_forward=0` resets the
    /// interfaces that exist at that moment.
    pub(crate) fn apply_world(&self) {
        if self.world != World::Plain {
            self.host()
                .run(&[&script("lab.sh"), "firewall_here", "on"])
                .expect_success();
        }
    }

    /// What tunbridge might have changed in the host, one fact a line.
    pub(crate) fn snapshot(&self) -> String {
        let text = self
            .host()
            .run(&[&script("lab.sh"), "snapshot_here"])
            .expect_success()
            .stdout;
        // Rules come and go in that world.
        let comes_and_goes =
            |line: &&str| self.world != World::Flushing || !line.starts_with("nft ");
        text.lines()
            .filter(comes_and_goes)
            .map(|line| format!("{line}\n"))
            .collect()
    }

    /// A file of the lab as the test itself can open it.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.holder_pid))
    }

    /// The namespace `name`: a place of the lab or a container.
    pub(crate) fn place(&self, name: &str) -> Place {
        Place {
            holder_pid: self.holder_pid,
            name: name.to_owned(),
            patience: None,
        }
    }

    /// Where tunbridge runs.
    pub(crate) fn host(&self) -> Place {
        self.place("host")
    }

    /// The router outside, on the host's link.
    pub(crate) fn wan(&self) -> Place {
        self.place("wan")
    }

    /// A client outside, behind the router.
    pub(crate) fn lan(&self) -> Place {
        self.place("lan")
    }

    /// A server outside, behind the router.
    pub(crate) fn far(&self) -> Place {
        self.place("far")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.flushing = None;
        self.lives_while_open = None;
        let ended = self.holder.wait();
        let left = Path::new(&format!("/proc/{}", self.holder_pid)).exists();
        if !std::thread::panicking() {
            assert!(
                ended.is_ok() && !left,
                "the lab's holder is still there: {ended:?}"
            );
        }
    }
}

/// A namespace of the lab in which commands run.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    holder_pid: u32,
    name: String,
    patience: Option<&'static str>,
}

impl Place {
    /// Process number of the lab's holder, as the machine sees it.
    pub(crate) const fn holder_pid(&self) -> u32 {
        self.holder_pid
    }

    /// Its name, which for a container is the container's.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The same place, but silence counts as "unreachable" after a second already. For what is
    /// expected to be unreachable.
    pub(crate) fn impatient(&self) -> Self {
        Self {
            patience: Some("1"),
            ..self.clone()
        }
    }

    /// The file of its network namespace, as this process sees it.
    pub(crate) fn namespace(&self) -> PathBuf {
        let path = format!("/proc/{}/root/run/netns/{}", self.holder_pid, self.name);
        PathBuf::from(path)
    }

    /// Runs `work` on a thread inside its network namespace.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = netns::open_path(&self.namespace()).expect("the place is there");
        netns::run_in(namespace.as_fd(), work).expect("work inside a place")
    }

    /// The command as it runs there.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args([
                "--target",
                &self.holder_pid.to_string(),
                "--mount",
                "--pid",
                "--uts",
            ])
            .arg(format!("--net={}", self.namespace().display()))
            .arg("--")
            .args(words)
            .env(failpoint::VARIABLE.0, failpoint::VARIABLE.1)
            .stdin(Stdio::null());
        if let Some(seconds) = self.patience {
            command.env("PEER_WAIT", seconds);
        }
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, words: &[&str]) -> Outcome {
        let bounded = [&["timeout", "--kill-after=5", PATIENCE], words].concat();
        let output = self.command(&bounded).output().expect("nsenter runs");
        Outcome::new(format!("[{}]# {}", self.name, words.join(" ")), &output)
    }

    /// Runs a line of shell to its end.
    pub(crate) fn shell(&self, line: &str) -> Outcome {
        self.run(&["bash", "-c", line])
    }

    /// Starts a command that goes on; it ends when the answer is dropped.
    pub(crate) fn start(&self, words: &[&str]) -> Running {
        Running::spawn(self, words, "exec \"$0\" \"$@\"")
    }

    /// Starts a command with its output going to a file.
    pub(crate) fn start_logging_to(&self, log: &Path, words: &[&str]) -> Running {
        Running::spawn(
            self,
            words,
            &format!("exec \"$0\" \"$@\" >>'{}' 2>&1", log.display()),
        )
    }

    fn peer(&self, words: &[&str]) -> Outcome {
        let peer = script("peer");
        self.run(&[&[peer.as_str()], words].concat())
    }

    /// Starts a TCP and UDP server on `ports` (each `N` or `N-M`) and waits until it listens.
    pub(crate) fn serve(&self, ports: &[&str]) -> Running {
        let peer = script("peer");
        let mut server = self.start(&[&[peer.as_str(), "serve"], ports].concat());
        let line = server.read_line();
        assert!(
            line.starts_with("listening"),
            "no server on {ports:?} in {}: {line}",
            self.name
        );
        server
    }

    /// Waits until something listens on TCP `port`.
    pub(crate) fn wait_until_it_serves(&self, port: u16) {
        // The helper's server listens there last.
        let query = format!("ss -H4ltn 'sport = :{port}' | grep -q .");
        assert!(
            eventually(Duration::from_secs(10), || self.shell(&query).succeeded()),
            "nothing listens on port {port} in {}",
            self.name
        );
    }

    /// One TCP connection to `to`: what the server saw, or why not.
    pub(crate) fn tcp(&self, to: &str) -> Result<Answer, String> {
        let (host, port) = split(to);
        self.peer(&["tcp", host, port]).answer()
    }

    /// One UDP datagram to `to` and back.
    pub(crate) fn udp(&self, to: &str) -> Result<Answer, String> {
        let (host, port) = split(to);
        self.peer(&["udp", host, port]).answer()
    }

    /// The same with `octets` of payload each way.
    pub(crate) fn udp_of(&self, octets: usize, to: &str) -> Result<Answer, String> {
        let (host, port) = split(to);
        self.peer(&["udp", host, port, "--size", &octets.to_string()])
            .answer()
    }

    /// [`Self::tcp`] or [`Self::udp`] from a source port of one's choice.
    pub(crate) fn ask_from_port(
        &self,
        protocol: &str,
        source_port: u16,
        to: &str,
    ) -> Result<Answer, String> {
        let (host, port) = split(to);
        let any = if host.contains(':') { "::" } else { "0.0.0.0" };
        self.peer(&[protocol, host, port, any, &source_port.to_string()])
            .answer()
    }

    /// From one source port to each of `targets` in turn.
    pub(crate) fn ask_each_from_one_port(&self, protocol: &str, targets: &[&str]) -> Vec<Answer> {
        let outcome = self
            .peer(&[&["same", protocol], targets].concat())
            .expect_success();
        outcome
            .stdout
            .lines()
            .map(|line| Answer::parse(line).expect("an answer"))
            .collect()
    }

    /// Fetches (`get`) or sends (`put`) so many octets and compares checksums.
    pub(crate) fn transfer(&self, verb: &str, to: &str, octets: u64) -> Outcome {
        let (host, port) = split(to);
        self.peer(&[verb, host, port, &octets.to_string()])
    }

    /// Bits per second that come from `from` to this place by `protocol`, when they come as fast as they can, from a second
    /// on after the first. `to`: where `from` finds port `port` of this place.
    #[track_caller]
    pub(crate) fn rate_from(&self, from: &Self, protocol: &str, to: &str, port: u16) -> u64 {
        let (peer, port) = (script("peer"), port.to_string());
        let mut drain = self.start(&[&peer, "drain", &port]);
        let line = drain.read_line();
        assert!(line.starts_with("listening"), "{}: {line}", self.name);
        let (host, to_port) = split(to);
        let _flood = from.start(&[&peer, "flood", protocol, host, to_port, "8"]);
        let line = drain.read_line();
        let rate = line
            .strip_prefix("drained ")
            .and_then(|rate| rate.parse().ok());
        rate.unwrap_or_else(|| panic!("{protocol} from {} to {to}: {line}", from.name))
    }

    /// Makes `count` short connections.
    pub(crate) fn many_short_connections(&self, to: &str, count: u32) -> Outcome {
        let (host, port) = split(to);
        self.peer(&["many", host, port, &count.to_string()])
    }

    /// Opens `count` connections at once, each of which must echo, and keeps them.
    pub(crate) fn hold_connections(&self, to: &str, count: u32) -> Held {
        let (host, port) = split(to);
        let peer = script("peer");
        let mut running = self.start(&[&peer, "hold", host, port, &count.to_string()]);
        let report = running.read_line();
        Held { report, running }
    }

    /// One question to each target, all at once (`peer probe`): who the server saw, or `none`,
    /// `refused`, `unreachable`.
    pub(crate) fn probe(&self, targets: &[&str]) -> Vec<String> {
        let outcome = self.peer(&[&["probe"], targets].concat()).expect_success();
        let answers: Vec<String> = outcome
            .stdout
            .lines()
            .filter_map(|line| Some(line.split_once(' ')?.1.to_owned()))
            .collect();
        assert_eq!(answers.len(), targets.len(), "{}", outcome.output());
        answers
    }

    /// One echo request.
    pub(crate) fn ping(&self, to: &str) -> Outcome {
        self.run(&["ping", "-n", "-c", "1", "-W", "2", to])
    }

    /// One echo request of `size` octets as an IP packet that must not be fragmented.
    pub(crate) fn ping_unfragmented(&self, size: u32, to: &str) -> Outcome {
        let headers = if to.contains(':') { 48 } else { 28 };
        self.run(&[
            "ping",
            "-n",
            "-c",
            "1",
            "-W",
            "2",
            "-M",
            "do",
            "-s",
            &(size - headers).to_string(),
            to,
        ])
    }

    /// The addresses that `traceroute` shows on the way to `to`.
    pub(crate) fn hops(&self, method: &str, to: &str) -> Vec<String> {
        let outcome = self
            .run(&[
                "traceroute",
                "-n",
                method,
                "-q",
                "1",
                "-w",
                "2",
                "-m",
                "6",
                to,
            ])
            .expect_success();
        let address = |line: &str| line.split_whitespace().nth(1).map(str::to_owned);
        outcome.stdout.lines().skip(1).filter_map(address).collect()
    }

    /// Neighbour discovery by hand (`netns-scripts/ndp`): what it prints.
    pub(crate) fn ndp(&self, words: &[&str]) -> String {
        let outcome = self.run(&[&[script("ndp").as_str()], words].concat());
        outcome.expect_success().stdout.trim().to_owned()
    }

    /// Starts to print what `ICMPv6` comes and goes on one of its interfaces; it hears from now on.
    pub(crate) fn hear(&self, interface: &str) -> Running {
        let ndp = script("ndp");
        let mut running = self.start(&[&ndp, "hear", "--interface", interface]);
        assert_eq!(running.read_line(), "hearing", "in {}", self.name);
        running
    }

    /// Its IPv6 addresses with prefix length, without loopback; each tells behind it if it is `tentative`.
    pub(crate) fn addresses6(&self) -> Vec<String> {
        let query = "ip -o -6 address | grep -v ' lo ' | awk '{ print $4, / tentative/ ? \"tentative\" : \"\" }'";
        let outcome = self.shell(query).expect_success();
        outcome
            .stdout
            .lines()
            .map(|line| line.trim().to_owned())
            .collect()
    }

    /// [`Self::addresses6`] when duplicate address detection is over.
    pub(crate) fn settled_addresses6(&self) -> Vec<String> {
        let mut addresses = Vec::new();
        let settled = eventually(Duration::from_secs(5), || {
            addresses = self.addresses6();
            !addresses
                .iter()
                .any(|address| address.contains("tentative"))
        });
        assert!(settled, "{}: {addresses:?}", self.name);
        addresses
    }

    /// The link-local address of one of its interfaces.
    pub(crate) fn link_local(&self, interface: &str) -> String {
        let query = format!(
            "ip -o -6 address show dev {interface} scope link | awk '{{ print $4 }}' | cut -d/ -f1"
        );
        self.shell(&query).expect_success().stdout.trim().to_owned()
    }

    /// The Ethernet address of one of its interfaces.
    pub(crate) fn mac(&self, interface: &str) -> String {
        let query = format!("ip -j link show {interface} | jq -r .[0].address");
        self.shell(&query).expect_success().stdout.trim().to_owned()
    }

    /// Sends a crafted TCP SYN and says what came back: `none`, `refused` or `accepted`.
    pub(crate) fn crafted_syn(&self, options: &[&str], source: &str, destination: &str) -> String {
        let words = [&["syn"], options, &[source, destination]].concat();
        let outcome = self.peer(&words).expect_success();
        outcome
            .stdout
            .trim()
            .trim_start_matches("answer=")
            .to_owned()
    }

    /// A sysctl's value.
    pub(crate) fn sysctl(&self, name: &str) -> String {
        self.run(&["sysctl", "-n", name])
            .expect_success()
            .stdout
            .trim()
            .to_owned()
    }

    /// Sets a sysctl, `name=value`.
    pub(crate) fn set_sysctl(&self, assignment: &str) {
        self.run(&["sysctl", "-qw", assignment]).expect_success();
    }

    /// Resets a sysctl and waits for somebody to set it back.
    ///
    /// How soon is printed and not judged: the kernel's lock that both take is the whole machine's, and so is every
    /// lab's. Nobody comes by sooner or later: it is set back because the kernel announced it, or never.
    pub(crate) fn expect_restored(&self, sysctl: &str, reset_to: &str) {
        let outcome = self.peer(&["flip", sysctl, reset_to]).expect_success();
        eprintln!("{sysctl}: {}", outcome.stdout.trim());
    }
}

fn split(target: &str) -> (&str, &str) {
    target.rsplit_once(':').expect("HOST:PORT")
}

/// The command line of the traffic helper's server, for a container's main process.
pub(crate) fn server_command(ports: &[&str]) -> Vec<String> {
    let words = ["serve"].iter().chain(ports).map(|&word| word.to_owned());
    std::iter::once(script("peer")).chain(words).collect()
}
