//! Wrong flags and arguments: one line that names flag and value, exit status 1 (2: usage), and
//! nothing left half-made.

use crate::lab::{Lab, Outcome};
use crate::tunbridge_under_test::{
    Tunbridge, cli, cli_without_rights, daemon_that_refuses, difference,
};

/// Checks a refusal; `naming` are words that its first line must contain.
#[track_caller]
fn refuses(what: &[&str], outcome: &Outcome, naming: &[&str]) {
    let said = outcome.stderr.trim();
    assert!(
        matches!(outcome.code, Some(1 | 2)),
        "{what:?}: exit {:?}\n{}",
        outcome.code,
        outcome.output()
    );
    let first = said.lines().next().unwrap_or_default().to_lowercase();
    for word in naming {
        assert!(
            first.contains(&word.to_lowercase()),
            "{what:?}: {word:?} is not named:\n{said}"
        );
    }
    assert!(
        !said.contains("panicked") && !said.contains("stack backtrace"),
        "{what:?}: {said}"
    );
    if outcome.code == Some(1) {
        assert_eq!(
            said.lines().count(),
            1,
            "{what:?}: one line, please:\n{said}"
        );
    }
}

#[test]
fn daemon_flags() {
    let lab = Lab::plain();
    let before = lab.snapshot();
    let table: &[(&[&str], &[&str])] = &[
        (&["--bip", "172.17.0.1/33"], &["bip", "172.17.0.1/33"]),
        (&["--bip", "172.17.0.1"], &["bip", "172.17.0.1"]),
        (&["--bip", "nonsense"], &["bip", "nonsense"]),
        (&["--bip", "172.17.0.0/16"], &["bip", "172.17.0.0"]),
        (&["--bip", "172.17.255.255/16"], &["bip", "172.17.255.255"]),
        (&["--bip", "127.0.0.1/8"], &["bip", "127.0.0.1/8"]),
        (&["--bip", "224.0.0.1/4"], &["bip", "224.0.0.1/4"]),
        (&["--bip", "10.0.0.1/32"], &["bip", "10.0.0.1/32"]),
        (
            &["--fixed-cidr", "172.17.1.0/33"],
            &["fixed-cidr", "172.17.1.0/33"],
        ),
        (
            &["--fixed-cidr", "172.17.1.5/24"],
            &["fixed-cidr", "172.17.1.5/24", "172.17.1.0/24"],
        ),
        (
            &["--bip", "172.17.0.1/16", "--fixed-cidr", "10.0.0.0/24"],
            &["fixed-cidr", "10.0.0.0/24"],
        ),
        (
            &["--default-gateway", "nonsense"],
            &["default-gateway", "nonsense"],
        ),
        (
            &["--default-gateway", "10.0.0.1"],
            &["default-gateway", "10.0.0.1"],
        ),
        (&["--mtu", "-1"], &["mtu", "-1"]),
        (&["--mtu", "67"], &["mtu", "67"]),
        (&["--mtu", "65536"], &["mtu", "65536"]),
        (&["--mtu", "big"], &["mtu", "big"]),
        (&["--ip", "300.1.1.1"], &["ip", "300.1.1.1"]),
        (&["--icc=maybe"], &["icc", "maybe"]),
        (&["--ip-masq=maybe"], &["ip-masq", "maybe"]),
        (&["--ip-forward=maybe"], &["ip-forward", "maybe"]),
        (
            &["--bridge", "a-name-that-is-too-long"],
            &["bridge", "a-name-that-is-too-long"],
        ),
        (&["--bridge", "a/b"], &["bridge", "a/b"]),
        (&["--bridge", "ext0"], &["bridge", "ext0"]),
        (&["--dns", "nonsense"], &["dns", "nonsense"]),
        (&["--dns-search", "two words"], &["dns-search", "two words"]),
        (&["--dns-option", "two words"], &["dns-option", "two words"]),
        (&["--state-dir", "/proc/none"], &["/proc/none"]),
        (&["--no-such-flag"], &["no-such-flag"]),
    ];
    for (flags, naming) in table {
        refuses(flags, &daemon_that_refuses(&lab, flags), naming);
        let changed = difference(&before, &lab.snapshot());
        assert!(changed.is_empty(), "{flags:?} left something:\n{changed}");
    }
}

#[test]
fn a_subnet_that_the_host_is_on_is_refused_with_the_next_free_one() {
    let lab = Lab::plain();
    let flags = ["--bip", "198.51.100.77/24"];
    let refused = daemon_that_refuses(&lab, &flags);
    refuses(&flags, &refused, &["198.51.100.0/24", "ext0"]);
    assert!(
        refused.stderr.contains("172.17.0.1/16"),
        "a free one is offered: {}",
        refused.stderr
    );
}

#[test]
fn a_daemon_without_rights_says_so() {
    let lab = Lab::plain();
    let flags = ["daemon", "--state-dir", "/run/lab/state"];
    refuses(&flags, &cli_without_rights(&lab, &flags), &["root"]);
}

#[test]
fn a_client_without_daemon_or_rights_says_so() {
    let lab = Lab::plain();
    refuses(
        &["ps"],
        &cli(&lab, &["ps"]),
        &["/run/tunbridge/tunbridge.sock"],
    );
    let elsewhere = ["--socket", "/run/lab/no.sock", "ps"];
    refuses(&elsewhere, &cli(&lab, &elsewhere), &["/run/lab/no.sock"]);
    let _tunbridge = lab.start_daemon(&[]);
    refuses(
        &["ps"],
        &cli_without_rights(&lab, &["ps"]),
        &["/run/tunbridge/tunbridge.sock", "permission"],
    );
}

#[test]
fn run_flags() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    tunbridge.container("taken");
    let before = state(&lab, &tunbridge);
    let table: &[(&[&str], &[&str])] = &[
        (&["-p", ""], &["port"]),
        (&["-p", "abc"], &["abc"]),
        (&["-p", "8080:0"], &["8080:0"]),
        (&["-p", "0"], &["0"]),
        (&["-p", "65536:80"], &["65536"]),
        (&["-p", "80:65536"], &["65536"]),
        (&["-p", "8010-8000:80-90"], &["8010-8000"]),
        (&["-p", "8000-8001:80-82"], &["80-82", "8000-8001"]),
        (&["-p", "8080:80/xyz"], &["xyz"]),
        (&["-p", "999.1.1.1:8080:80"], &["999.1.1.1"]),
        (&["-p", "80:80:80:80"], &["80:80"]),
        (&["-p", "192.0.2.77:8085:80"], &["192.0.2.77"]),
        (&["--expose", "70000"], &["70000"]),
        (&["--name", "taken"], &["taken"]),
        (&["--name", "../x"], &["../x"]),
        (&["--name", "a/b"], &["a/b"]),
        (&["--name", ""], &["name"]),
        (&["--network", "nosuch"], &["nosuch"]),
        (&["--ip", "nonsense"], &["nonsense"]),
        (&["--ip", "10.1.1.1"], &["10.1.1.1"]),
        (
            &["--mac-address", "zz:42:00:00:00:01"],
            &["zz:42:00:00:00:01"],
        ),
        (
            &["--mac-address", "01:00:5e:00:00:01"],
            &["01:00:5e:00:00:01"],
        ),
        (&["--add-host", "nocolon"], &["nocolon"]),
        (&["--add-host", "db:300.1.1.1"], &["300.1.1.1"]),
        (&["--dns", "nonsense"], &["nonsense"]),
        (&["--hostname", "-bad-"], &["-bad-"]),
        (&["--rootfs", "/no/such/dir"], &["/no/such/dir"]),
        (&["--no-such-flag"], &["no-such-flag"]),
    ];
    for (flags, naming) in table {
        let words = [&["run", "-d"], *flags, &["--", "sleep", "100"]].concat();
        refuses(flags, &tunbridge.cli(&words), naming);
        let changed = difference(&before, &state(&lab, &tunbridge));
        assert!(changed.is_empty(), "{flags:?} left something:\n{changed}");
    }
    refuses(
        &["run"],
        &tunbridge.cli(&["run", "-d", "--name", "empty"]),
        &[],
    );
    tunbridge.cli(&["rm", "-f", "taken"]).expect_success();
}

#[test]
fn containers_that_do_not_exist() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let table: &[&[&str]] = &[
        &["exec", "nosuch", "--", "true"],
        &["inspect", "nosuch"],
        &["port", "nosuch"],
        &["stop", "nosuch"],
        &["rm", "nosuch"],
        &["rm", "-f", "nosuch"],
        &["publish", "nosuch", "80:80"],
        &["unpublish", "nosuch", "80:80"],
    ];
    for words in table {
        let refused = tunbridge.cli(words);
        refuses(words, &refused, &["nosuch"]);
        assert_eq!(refused.code, Some(1), "{words:?}");
    }
}

#[test]
fn namespaces_that_are_none() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let before = state(&lab, &tunbridge);
    let table: &[(&[&str], &[&str])] = &[
        (&["--pid", "999999"], &["999999"]),
        (&["--pid", "0"], &["pid", "0"]),
        (&["--pid", "-5"], &["-5"]),
        (&["--pid", "me"], &["pid", "me"]),
        (&["--netns", "/etc/passwd"], &["/etc/passwd"]),
        (&["--netns", "/proc/self/ns/mnt"], &["/proc/self/ns/mnt"]),
        (&["--netns", "/no/such/file"], &["/no/such/file"]),
        (&["--netns", "/run/netns/host"], &["/run/netns/host"]),
        (&[], &["--pid"]),
        (&["--pid", "1", "--netns", "/run/netns/lan"], &["--netns"]),
    ];
    for (flags, naming) in table {
        let words = [&["attach", "--name", "adopted"], *flags].concat();
        let refused = tunbridge.cli(&words);
        // Which of several missing or clashing flags clap names on its first line is its business.
        if flags.len() == 2 {
            refuses(flags, &refused, naming);
        } else {
            assert!(
                matches!(refused.code, Some(1 | 2)) && refused.stderr.contains(naming[0]),
                "{flags:?}: {}",
                refused.output()
            );
        }
        let changed = difference(&before, &state(&lab, &tunbridge));
        assert!(changed.is_empty(), "{flags:?} left something:\n{changed}");
    }
}

#[test]
fn changes_of_ports_that_make_no_sense() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    tunbridge.container_with("web", &["-p", "8080:80"]);
    tunbridge.container("other");
    let before = state(&lab, &tunbridge);
    let table: &[(&[&str], &[&str])] = &[
        (&["publish", "other", "8080:80"], &["8080"]),
        (&["publish", "web", "8080:80"], &["8080"]),
        (&["publish", "web", "nonsense"], &["nonsense"]),
        (&["unpublish", "web", "8081:80"], &["8081"]),
        (&["unpublish", "other", "8080:80"], &["8080"]),
        (&["unpublish", "web", "nonsense"], &["nonsense"]),
    ];
    for (words, naming) in table {
        refuses(words, &tunbridge.cli(words), naming);
        let changed = difference(&before, &state(&lab, &tunbridge));
        assert!(changed.is_empty(), "{words:?} left something:\n{changed}");
    }
    tunbridge
        .cli(&["rm", "-f", "web", "other"])
        .expect_success();
}

/// The host's network and what the daemon believes.
fn state(lab: &Lab, tunbridge: &Tunbridge<'_>) -> String {
    let ports = ["web", "other"]
        .map(|name| tunbridge.cli(&["port", name]).stdout)
        .concat();
    let names = tunbridge.cli(&["ps", "-a"]).stdout;
    // The age of a container is in the table too.
    let names: String = names
        .split_whitespace()
        .filter(|word| ["taken", "web", "other", "x", "empty"].contains(word))
        .collect();
    let count = tunbridge.cli(&["ps", "-a"]).stdout.lines().count();
    format!("{}names {names} {count}\n{ports}", lab.snapshot())
}
