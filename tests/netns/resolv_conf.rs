//! /etc/resolv.conf of containers: exact texts, and what becomes of it when flags, networks or the host's file change.

use std::time::{Duration, Instant};

use crate::lab::{FAR, FAR_TOO, Lab, eventually};
use crate::message::{A, NOERROR, answers, query, rcode};
use crate::names::{address, addresses, answering, ask, create, outside, set_resolv_conf};
use crate::tunbridge_under_test::Tunbridge;

/// What a command inside a container prints.
fn inside(tunbridge: &Tunbridge<'_>, container: &str, words: &[&str]) -> String {
    let words = [&["exec", container, "--"], words].concat();
    tunbridge.cli(&words).expect_success().stdout
}

fn resolv_conf(tunbridge: &Tunbridge<'_>, container: &str) -> String {
    inside(tunbridge, container, &["cat", "/etc/resolv.conf"])
}

/// Docker reads the file when a container starts; here running containers follow it.
#[test]
fn the_hosts_resolv_conf_may_change() {
    let lab = Lab::plain();
    let _first = answering(&lab.far(), FAR, 9);
    let _second = answering(&lab.far(), FAR_TOO, 10);
    set_resolv_conf(&lab, &format!("search old.example\\nnameserver {FAR}\\n"));
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "one", &[]);
    let c1 = tunbridge.container_with("c1", &["--network", "one"]);
    let edited = tunbridge.container_with("edited", &["--network", "one"]);
    tunbridge.container("plain");
    tunbridge.container_with(
        "given",
        &[
            "--network",
            "one",
            "--dns",
            FAR,
            "--dns-search",
            "my.example",
        ],
    );
    inside(
        &tunbridge,
        "edited",
        &["sh", "-c", "echo '# mine' >>/etc/resolv.conf"],
    );
    let of_edited = resolv_conf(&tunbridge, "edited");
    let stat = ["stat", "-c", "%i", "/etc/resolv.conf"];
    let inode = inside(&tunbridge, "c1", &stat);
    assert_eq!(addresses(&c1, "www.wan.example"), outside(9));
    // Another file in its place, as NetworkManager and others do it.
    lab.host()
        .shell(&format!(
            "printf 'search new.example\\nnameserver {FAR_TOO}\\n' >/run/lab/new && mount --bind /run/lab/new /etc/resolv.conf"
        ))
        .expect_success();
    let patience = Duration::from_secs(4);
    let started = Instant::now();
    let followed = eventually(patience, || {
        addresses(&c1, "www.wan.example") == outside(10)
    });
    assert!(followed, "{}", tunbridge.log());
    eprintln!(
        "the resolver followed the host's file after {:?}",
        started.elapsed()
    );
    assert_eq!(addresses(&edited, "www.wan.example"), outside(10));
    assert_eq!(
        addresses(&lab.place("given"), "www.wan.example"),
        outside(9)
    );
    let text = resolv_conf(&tunbridge, "c1");
    assert!(text.contains(&format!("\nsearch new.example\noptions ndots:0\n\n# Based on host file: '/etc/resolv.conf' (internal resolver)\n# ExtServers: [host({FAR_TOO})]\n")), "{text}");
    assert_eq!(inside(&tunbridge, "c1", &stat), inode, "written in place");
    assert_eq!(resolv_conf(&tunbridge, "edited"), of_edited);
    let text = resolv_conf(&tunbridge, "plain");
    assert!(
        text.contains(&format!("\nnameserver {FAR_TOO}\nsearch new.example\n")),
        "{text}"
    );
    let text = resolv_conf(&tunbridge, "given");
    assert!(text.contains("\nsearch my.example\n"), "{text}");
    // The mount is ours, and the daemon must leave everything as it was.
    lab.host()
        .run(&["umount", "/etc/resolv.conf"])
        .expect_success();
}

/// NetworkManager and others move a new file over the old one, which takes all mounts over the old one away.
#[test]
fn a_file_moved_over_the_hosts_takes_nothing_from_containers() {
    let lab = Lab::plain();
    let _first = answering(&lab.far(), FAR, 9);
    let _second = answering(&lab.far(), FAR_TOO, 10);
    // An /etc of the lab's own, in which files can be replaced.
    lab.host()
        .shell(&format!(
            "mkdir -p /run/lab/etc && cp -a /etc/. /run/lab/etc && mount --bind /run/lab/etc /etc && \
             rm -f /etc/resolv.conf && echo nameserver {FAR} >/etc/resolv.conf"
        ))
        .expect_success();
    let mut tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "one", &[]);
    let c1 = tunbridge.container_with("c1", &["--network", "one"]);
    tunbridge.container("plain");
    let hosts = inside(&tunbridge, "c1", &["cat", "/etc/hosts"]);
    let replace = |server: &str| {
        let line = format!(
            "echo nameserver {server} >/etc/new && mv /etc/new /etc/resolv.conf; cp /etc/hosts /etc/new && mv /etc/new /etc/hosts"
        );
        lab.host().shell(&line).expect_success();
    };
    for (round, (server, last)) in [(FAR_TOO, 10), (FAR, 9), (FAR_TOO, 10)]
        .into_iter()
        .enumerate()
    {
        if round == 2 {
            // It happens while no daemon runs.
            tunbridge.kill();
        }
        replace(server);
        if round == 2 {
            tunbridge.start_again();
        }
        let back = eventually(Duration::from_secs(4), || {
            resolv_conf(&tunbridge, "c1").contains(&format!("host({server})"))
                && resolv_conf(&tunbridge, "plain").contains("# Generated by tunbridge")
                && addresses(&c1, "www.wan.example") == outside(last)
        });
        assert!(
            back,
            "{}\n{}",
            resolv_conf(&tunbridge, "c1"),
            tunbridge.log()
        );
        assert_eq!(inside(&tunbridge, "c1", &["cat", "/etc/hosts"]), hosts);
        assert_eq!(addresses(&c1, "c1").len(), 1);
    }
    let mounts = inside(
        &tunbridge,
        "c1",
        &["grep", "-c", " /etc/resolv.conf ", "/proc/self/mountinfo"],
    );
    assert_eq!(mounts.trim(), "1", "nothing is doubled");
}

/// Transcript 04's host file and flags; the order of lines and the comments are those of newer Dockers.
#[test]
fn dns_flags_give_these_files() {
    let lab = Lab::plain();
    set_resolv_conf(
        &lab,
        "search wan.example\\nnameserver 203.0.113.53\\noptions timeout:1 attempts:1\\n",
    );
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "net1", &[]);
    let head = "# Generated by tunbridge.
# This file can be edited; tunbridge will not make further changes once it
# has been modified.

";
    let based = "\n# Based on host file: '/etc/resolv.conf' (internal resolver)\n";
    let cases: [(&[&str], String); 6] = [
        (
            &[],
            format!(
                "nameserver 127.0.0.11\nsearch wan.example\noptions timeout:1 attempts:1 ndots:0\n{based}# ExtServers: [host(203.0.113.53)]\n# Overrides: []\n# Option ndots from: internal\n"
            ),
        ),
        (
            &["--dns", "203.0.113.53", "--dns-search", "corp.example"],
            format!(
                "nameserver 127.0.0.11\nsearch corp.example\noptions timeout:1 attempts:1 ndots:0\n{based}# ExtServers: [203.0.113.53]\n# Overrides: [nameservers search]\n# Option ndots from: internal\n"
            ),
        ),
        (
            &["--dns", "127.0.0.1"],
            format!(
                "nameserver 127.0.0.11\nsearch wan.example\noptions timeout:1 attempts:1 ndots:0\n{based}# ExtServers: [127.0.0.1]\n# Overrides: [nameservers]\n# Option ndots from: internal\n"
            ),
        ),
        (
            &["--dns-search", "."],
            format!(
                "nameserver 127.0.0.11\noptions timeout:1 attempts:1 ndots:0\n{based}# ExtServers: [host(203.0.113.53)]\n# Overrides: [search]\n# Option ndots from: internal\n"
            ),
        ),
        (
            &["--dns-option", "ndots:3", "--dns-option", "rotate"],
            format!(
                "nameserver 127.0.0.11\nsearch wan.example\noptions ndots:3 rotate\n{based}# ExtServers: [host(203.0.113.53)]\n# Overrides: [options]\n# Option ndots from: override\n"
            ),
        ),
        (
            &[
                "--dns",
                "192.0.2.1",
                "--dns",
                "192.0.2.2",
                "--dns-search",
                "a.example",
                "--dns-search",
                "b.example",
            ],
            format!(
                "nameserver 127.0.0.11\nsearch a.example b.example\noptions timeout:1 attempts:1 ndots:0\n{based}# ExtServers: [192.0.2.1 192.0.2.2]\n# Overrides: [nameservers search]\n# Option ndots from: internal\n"
            ),
        ),
    ];
    for (number, (flags, expected)) in cases.iter().enumerate() {
        let name = format!("c{number}");
        tunbridge.container_with(&name, &[&["--network", "net1"], *flags].concat());
        assert_eq!(
            resolv_conf(&tunbridge, &name),
            format!("{head}{expected}"),
            "{flags:?}"
        );
    }
    // With `ndots` a choice of the user, a name without a dot stays here: the search list comes next.
    let reply = ask(&lab.place("c4"), &query(1, "nosuch", A));
    assert_eq!((rcode(&reply), answers(&reply).len()), (NOERROR, 0));
}

#[test]
fn the_daemons_dns_flags_count_on_networks_of_users() {
    let lab = Lab::plain();
    set_resolv_conf(&lab, "search wan.example\\nnameserver 203.0.113.53\\n");
    let flags = [
        "--dns",
        FAR,
        "--dns-search",
        "corp.example",
        "--dns-option",
        "timeout:2",
    ];
    let server = answering(&lab.far(), FAR, 9);
    let other = answering(&lab.far(), FAR_TOO, 10);
    let tunbridge = lab.start_daemon(&flags);
    create(&tunbridge, "one", &[]);
    let c1 = tunbridge.container_with("c1", &["--network", "one"]);
    let text = resolv_conf(&tunbridge, "c1");
    assert!(text.ends_with("\nnameserver 127.0.0.11\nsearch corp.example\noptions timeout:2 ndots:0\n\n# Based on host file: '/etc/resolv.conf' (internal resolver)\n# ExtServers: [192.0.2.9]\n# Overrides: [nameservers search options]\n# Option ndots from: internal\n"), "{text}");
    assert_eq!(addresses(&c1, "www.wan.example"), outside(9));
    assert_eq!(
        (server.count(), server.last_client().as_deref()),
        (1, Some("198.51.100.2"))
    );
    // A container's own flags replace them, each its own.
    let c2 = tunbridge.container_with("c2", &["--network", "one", "--dns", FAR_TOO]);
    let text = resolv_conf(&tunbridge, "c2");
    assert!(
        text.contains("\nsearch corp.example\noptions timeout:2 ndots:0\n"),
        "{text}"
    );
    assert_eq!(addresses(&c2, "www.wan.example"), outside(10));
    assert_eq!((server.count(), other.count()), (1, 1));
}

#[test]
fn the_file_of_a_container_follows_its_networks_unless_edited() {
    let lab = Lab::plain();
    set_resolv_conf(&lab, &format!("nameserver {FAR}\\n"));
    let _server = answering(&lab.far(), FAR, 9);
    let mut tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "one", &[]);
    let c1 = tunbridge.container("c1");
    let edited = tunbridge.container("edited");
    let before = resolv_conf(&tunbridge, "c1");
    assert!(
        before.contains(&format!("\nnameserver {FAR}\n")),
        "{before}"
    );
    let line = "echo 'nameserver 192.0.2.99' >/etc/resolv.conf";
    inside(&tunbridge, "edited", &["sh", "-c", line]);
    let stat = ["stat", "-c", "%i", "/etc/resolv.conf"];
    let inode = inside(&tunbridge, "c1", &stat);
    for round in 0..3 {
        for name in ["c1", "edited"] {
            tunbridge
                .cli(&["network", "connect", "one", name])
                .expect_success();
        }
        let text = resolv_conf(&tunbridge, "c1");
        assert!(
            text.contains("\nnameserver 127.0.0.11\n") && text.contains(&format!("host({FAR})")),
            "{text}"
        );
        assert_eq!(resolv_conf(&tunbridge, "edited"), "nameserver 192.0.2.99\n");
        for place in [&c1, &edited] {
            assert_eq!(addresses(place, "c1"), [address(&tunbridge, "c1", "one")]);
            assert_eq!(addresses(place, "www.wan.example"), outside(9));
        }
        if round == 1 {
            tunbridge.kill();
            tunbridge.start_again();
        }
        for name in ["c1", "edited"] {
            tunbridge
                .cli(&["network", "disconnect", "one", name])
                .expect_success();
        }
        assert_eq!(resolv_conf(&tunbridge, "c1"), before);
        assert_eq!(resolv_conf(&tunbridge, "edited"), "nameserver 192.0.2.99\n");
        assert_eq!(inside(&tunbridge, "c1", &stat), inode);
        let sockets = c1.shell("ss -Hlntu src 127.0.0.11").expect_success().stdout;
        assert_eq!(sockets, "", "no resolver any more");
    }
}
