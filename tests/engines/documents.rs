//! The commands of docs/drop-in.md, as they stand there.

use std::fs;
use std::time::Duration;

use crate::engines::{ENGINES, Engines, PEER};
use crate::lab::{FAR, HOST, LAN, Lab, eventually};
use crate::tunbridge_under_test::{Tunbridge, binary};

fn document() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/drop-in.md");
    fs::read_to_string(path).unwrap()
}

/// The first block of a language behind the words `place`.
pub(crate) fn block(place: &str, language: &str) -> String {
    let text = document();
    let begin = format!("```{language}\n");
    let block = text
        .split_once(place)
        .and_then(|(_, rest)| rest.split_once(&begin))
        .and_then(|(_, rest)| rest.split_once("```"))
        .unwrap_or_else(|| panic!("no {language} behind {place}"));
    // One in a list is indented.
    let lines = block.0.lines().map(|line| line.trim_start());
    lines.collect::<Vec<_>>().join("\n")
}

/// What stands in back quotes and begins like this.
pub(crate) fn quoted(beginning: &str) -> String {
    let text = document();
    let found = text.split('`').find(|part| part.starts_with(beginning));
    found.unwrap_or_else(|| panic!("no {beginning}")).to_owned()
}

/// The commands below `label` (`Over`, `Back`) in a section.
pub(crate) fn commands(section: &str, label: &str) -> String {
    let text = document();
    let text = text
        .split("\n## ")
        .find_map(|text| text.strip_prefix(section))
        .unwrap_or_else(|| panic!("no section {section}"));
    let text = text
        .split_once(&format!("\n{label}:\n\n```sh\n"))
        .and_then(|(_, rest)| rest.split_once("\n```\n"))
        .unwrap_or_else(|| panic!("{section} has no commands for {label}"))
        .0;
    assert!(
        text.lines().filter(|line| !line.starts_with(' ')).count() <= 3,
        "three are promised:\n{text}"
    );
    format!("set -e\n{text}")
}

fn install(engines: &Engines<'_>) {
    engines.said(&format!("ln -s {} /usr/local/bin/tunbridge", binary()));
}

fn seen_from_outside(lab: &Lab) -> Option<String> {
    let ask = || lab.lan().impatient().tcp(&format!("{HOST}:8080"));
    eventually(Duration::from_secs(20), || ask().is_ok());
    ask().ok().map(|answer| answer.saw_address())
}

#[test]
fn podman_goes_over_and_back() {
    let lab = Lab::plain();
    let engines = Engines::with_podman(&lab);
    install(&engines);
    engines.said(&format!(
        "echo nameserver {FAR} >/etc/resolv.conf
        podman network create shop
        podman run -d --stop-signal KILL --name web --network shop -p 8080:80 localhost/busybox {PEER} serve 80
        podman run -d --stop-signal KILL --name client --network shop localhost/busybox /bin/sleep 1000"
    ));
    assert_eq!(seen_from_outside(&lab).as_deref(), Some(LAN));
    // What the stock plugins leave behind stays.
    let mut tunbridge = lab.start_daemon(&[]);
    engines.said(&commands("podman", "Over"));
    engines.said("nft flush ruleset");
    assert_eq!(seen_from_outside(&lab).as_deref(), Some(LAN));
    engines.said(&format!("podman exec client {PEER} tcp web 80"));
    assert_eq!(tunbridge.names(&[]).len(), 2);
    engines.said(&commands("podman", "Back"));
    assert_eq!(tunbridge.names(&["-a"]), Vec::<String>::new());
    assert_eq!(seen_from_outside(&lab).as_deref(), Some(LAN));
    let networks = tunbridge.cli(&["network", "ls", "--format", "{{.Name}}"]);
    assert!(!networks.stdout.contains("shop"), "{}", networks.stdout);
    engines.said("podman rm -fat0");
    end(&mut tunbridge);
}

#[test]
fn podman_with_netavark_calls_the_hook() {
    let hook = block("### podman with netavark", "json");
    let lab = Lab::plain();
    let engines = Engines::with_podman(&lab);
    install(&engines);
    let backend = engines.said(&format!(
        "sed -i 's/^network_backend.*/network_backend = \"netavark\"/' /etc/containers/containers.conf
        mkdir -p /usr/share/containers/oci/hooks.d
        echo '{hook}' >/usr/share/containers/oci/hooks.d/tunbridge.json
        podman info -f '{{{{.Host.NetworkBackend}}}}'"
    ));
    assert_eq!(backend, "netavark");
    let tunbridge = lab.start_daemon(&[]);
    let container = block("And each container:", "sh");
    engines.said(&block("Once for all containers:", "sh"));
    engines.said(&container);
    // What podman calls it, nobody tells.
    let unnamed = container
        .replace("--name web", "--name client")
        .replace("--annotation com.tunbridge.name=web", "")
        .replace("8080:80", "8081:80");
    let id = engines.said(&unnamed);
    let fetched = || {
        let url = format!("http://{HOST}:8080/passwd");
        lab.lan().run(&["curl", "-sf", "-m", "2", &url])
    };
    let named = ["web", id.get(..12).unwrap()];
    for _ in 0..2 {
        engines.said("nft flush ruleset");
        let answers = || fetched().stdout.starts_with("root:");
        assert!(eventually(Duration::from_secs(20), answers));
        let found = tunbridge.names(&[]);
        assert!(
            named.iter().all(|name| found.iter().any(|is| is == name)),
            "{found:?}"
        );
        engines.said("podman exec client getent ahostsv4 web");
        engines.said("podman stop -t0 web client");
        assert_eq!(tunbridge.names(&["-a"]), Vec::<String>::new());
        engines.said("podman start web client");
    }
    engines.said("podman rm -ft0 web client");
}

/// Ends the daemon in a host where another has made rules and sysctls meanwhile.
fn end(tunbridge: &mut Tunbridge<'_>) {
    tunbridge.kill();
}

#[test]
fn ctr_goes_over_and_back() {
    let lab = Lab::plain();
    let engines = Engines::with_containerd(&lab);
    install(&engines);
    let mut tunbridge = lab.start_daemon(&[]);
    let over = commands("containerd", "Over").replace("\nctr", "\nnft flush ruleset\nctr");
    let said = engines.said(&over);
    assert!(said.contains("eth0    inet 172.18.0.2/16"), "{said}");
    assert!(said.contains("\"Subnet\": \"172.18.0.0/16\""), "{said}");
    let said = engines.said(&commands("containerd", "Back"));
    assert!(said.contains("eth0    inet 10.88.0.2/16"), "{said}");
    end(&mut tunbridge);
}

#[test]
fn runc_goes_over_and_back() {
    let lab = Lab::plain();
    let engines = Engines::in_lab(&lab);
    install(&engines);
    let tunbridge = lab.start_daemon(&[]);
    let bundle = |commands: &str| engines.said(&format!("set -e\ncd /run/lab/bundle\n{commands}"));
    engines.said(&format!(
        "{ENGINES} rootfs /run/lab/bundle/rootfs && cd /run/lab/bundle && runc spec
        touch rootfs/etc/resolv.conf rootfs/etc/hosts
        jq '.process.args = [\"/bin/sh\", \"-c\", \"ip -o -4 address; grep . /etc/resolv.conf /etc/hosts || true\"] | .process.terminal = false
            | .hooks.prestart = [{{\"path\": \"/bin/sh\", \"args\": [\"sh\", \"-c\", \"cat >/dev/null\"]}}] | del(.process.rlimits)' config.json >c && mv c config.json"
    ));
    let before = bundle("jq -S .hooks.prestart config.json");
    let link = block(
        "The hook is a link to tunbridge, once for all bundles:",
        "sh",
    );
    for runtime in ["runc", "crun"] {
        let run = format!("{runtime} run web");
        bundle(&link);
        bundle(&commands("runc and crun", "Over"));
        engines.said("nft flush ruleset");
        let said = bundle(&run);
        assert!(said.contains("eth0    inet 172.17.0.2/16"), "{said}");
        bundle(&commands("runc and crun", "Back"));
        let said = bundle(&run);
        assert!(!said.contains("eth0"), "{said}");
        assert_eq!(bundle("jq -S .hooks.prestart config.json"), before);
        assert_eq!(tunbridge.names(&["-a"]), Vec::<String>::new());
    }
    // Names, for a bundle that has files for them.
    tunbridge
        .cli(&["network", "create", "shop"])
        .expect_success();
    bundle(&commands("runc and crun", "Over"));
    bundle(&block("No link is followed below the bundle.", "sh"));
    bundle(
        "jq '.annotations[\"com.tunbridge.network\"] = \"shop\"' config.json >c && mv c config.json",
    );
    for runtime in ["runc", "crun"] {
        let said = bundle(&format!("{runtime} run web"));
        assert!(
            said.contains("/etc/resolv.conf:nameserver 127.0.0.11"),
            "{said}"
        );
        assert!(said.contains("\tweb"), "{said}");
    }
}

#[test]
fn nspawn_goes_over_and_back() {
    let lab = Lab::plain();
    let engines = Engines::in_lab(&lab);
    install(&engines);
    let _tunbridge = lab.start_daemon(&[]);
    engines.said(&format!("{ENGINES} rootfs /var/lib/machines/vm"));
    // Here is no systemd that could be told of a machine.
    let with_nspawn = |label: &str| {
        let nspawn = "\nsystemd-nspawn";
        let commands = commands("systemd-nspawn", label)
            .replace(nspawn, &format!("\nnft flush ruleset{nspawn}"));
        engines.said(&format!(
            "systemd-nspawn() {{ command systemd-nspawn --register=no --keep-unit --pipe \"$@\"; }}\n{commands}"
        ))
    };
    let said = with_nspawn("Over");
    assert!(said.contains("eth0    inet 172.17.0.2/16"), "{said}");
    let said = with_nspawn("Back");
    assert!(said.contains(&format!("inet {HOST}/24")), "{said}");
}
