//! Which ports of the host a container gets, and how they are held.

use crate::lab::{GATEWAY, LAN, Lab};

#[test]
fn a_published_port_cannot_be_taken_by_another_program() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    tunbridge.container_with("web", &["-p", "8080:80", "-p", "8080:80/udp"]);

    let bind = |kind: &str| {
        let program = format!(
            "import socket; socket.socket(socket.AF_INET, socket.{kind}).bind(('0.0.0.0', 8080))"
        );
        lab.host().run(&["/usr/bin/python3", "-c", &program])
    };
    for kind in ["SOCK_STREAM", "SOCK_DGRAM"] {
        let refused = bind(kind).expect_failure();
        assert!(
            refused.stderr.contains("Address already in use"),
            "{}",
            refused.stderr
        );
    }
    tunbridge.cli(&["rm", "-f", "web"]).expect_success();
    for kind in ["SOCK_STREAM", "SOCK_DGRAM"] {
        bind(kind).expect_success();
    }
}

#[test]
fn a_port_that_another_program_has_is_refused() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let _host_service = lab.host().serve(&["8099"]);

    for spec in ["8099:80", "8099:80/udp", "127.0.0.1:8099:80"] {
        let refused = tunbridge
            .cli(&[
                "run", "-d", "--name", "web", "-p", spec, "--", "sleep", "100",
            ])
            .expect_failure();
        assert!(
            refused.stderr.contains("address already in use"),
            "{}",
            refused.stderr
        );
        assert!(refused.stderr.contains("8099"), "{}", refused.stderr);
    }
    assert!(
        !tunbridge.names(&["-a"]).contains(&"web".to_owned()),
        "nothing is left half-made"
    );
    assert_eq!(
        lab.lan().tcp("198.51.100.2:8099").unwrap().at.to_string(),
        "198.51.100.2:8099"
    );
}

#[test]
fn a_port_that_another_container_has_is_refused() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    tunbridge.server("web", &["-p", "8080:80"]);

    for spec in ["8080:80", "127.0.0.1:8080:80", "8079-8081:8079-8081"] {
        let refused = tunbridge
            .cli(&[
                "run", "-d", "--name", "dup", "-p", spec, "--", "sleep", "100",
            ])
            .expect_failure();
        assert!(
            refused.stderr.contains("port is already allocated"),
            "{}",
            refused.stderr
        );
    }
    assert!(
        !tunbridge.names(&["-a"]).contains(&"dup".to_owned()),
        "nothing is left half-made"
    );
    tunbridge.container_with("other", &["-p", "8080:80/udp", "-p", "8079:80"]);
    lab.lan()
        .tcp("198.51.100.2:8080")
        .expect("the first owner is undisturbed");
}

#[test]
fn an_unnamed_host_port_comes_from_the_ephemeral_range() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    tunbridge.server("web", &["-p", "80"]);

    let line = tunbridge
        .cli(&["port", "web", "80/tcp"])
        .expect_success()
        .stdout;
    let port: u16 = line.trim().rsplit(':').next().unwrap().parse().unwrap();
    assert!((32_768..=60_999).contains(&port), "{line}");
    assert_eq!(
        lab.lan()
            .tcp(&format!("198.51.100.2:{port}"))
            .unwrap()
            .saw_address(),
        LAN
    );
}

#[test]
fn every_exposed_port_is_published_on_request() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    tunbridge.server("web", &["-P", "--expose", "80", "--expose", "53/udp"]);

    let listing = tunbridge.cli(&["port", "web"]).expect_success().stdout;
    assert!(listing.contains("80/tcp -> 0.0.0.0:"), "{listing}");
    assert!(listing.contains("53/udp -> 0.0.0.0:"), "{listing}");
}

#[test]
fn one_container_port_takes_the_first_free_host_port_of_a_range() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    tunbridge.server("r1", &["-p", "9000-9002:80"]);
    tunbridge.server("r2", &["-p", "9000-9002:80"]);

    assert_eq!(
        tunbridge
            .cli(&["port", "r1", "80"])
            .expect_success()
            .stdout
            .trim(),
        "0.0.0.0:9000\n[::]:9000"
    );
    assert_eq!(
        tunbridge
            .cli(&["port", "r2", "80"])
            .expect_success()
            .stdout
            .trim(),
        "0.0.0.0:9001\n[::]:9001"
    );
    assert_eq!(
        lab.lan().tcp("198.51.100.2:9001").unwrap().at.to_string(),
        "172.17.0.3:80"
    );
}

#[test]
fn port_lists_what_is_published_and_says_what_is_not() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    tunbridge.container_with(
        "web",
        &[
            "-p",
            "8080:80",
            "-p",
            "8080:80/udp",
            "-p",
            "127.0.0.1:8081:81",
        ],
    );

    let listing = tunbridge.cli(&["port", "web"]).expect_success().stdout;
    let mut lines: Vec<&str> = listing.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "80/tcp -> 0.0.0.0:8080",
            "80/tcp -> [::]:8080",
            "80/udp -> 0.0.0.0:8080",
            "80/udp -> [::]:8080",
            "81/tcp -> 127.0.0.1:8081"
        ]
    );
    let unknown = tunbridge.cli(&["port", "web", "99"]).expect_failure();
    assert!(
        unknown
            .stderr
            .contains("No public port '99/tcp' published for web"),
        "{}",
        unknown.stderr
    );
}

#[test]
fn ports_are_published_on_the_daemons_default_address() {
    let lab = Lab::with_options(crate::lab::World::Plain, &["--second-uplink"]);
    let tunbridge = lab.start_daemon(&["--ip", "198.18.0.2"]);
    tunbridge.server("web", &["-p", "8080:80"]);

    lab.wan().tcp("198.18.0.2:8080").unwrap();
    lab.wan().impatient().tcp("198.51.100.2:8080").unwrap_err();
}

#[test]
fn ports_are_published_and_unpublished_while_a_container_runs() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    tunbridge.server("web", &[]);

    lab.lan().impatient().tcp("198.51.100.2:8080").unwrap_err();
    tunbridge
        .cli(&["publish", "web", "8080:80"])
        .expect_success();
    assert_eq!(
        lab.lan().tcp("198.51.100.2:8080").unwrap().saw_address(),
        LAN
    );
    assert_eq!(
        lab.host().tcp("127.0.0.1:8080").unwrap().saw_address(),
        GATEWAY
    );
    let mut held = lab
        .lan()
        .start(&["socat", "-,ignoreeof", "TCP:198.51.100.2:8080"]);
    assert!(held.read_line().starts_with("server-saw="));

    tunbridge
        .cli(&["unpublish", "web", "8080:80"])
        .expect_success();
    lab.lan().impatient().tcp("198.51.100.2:8080").unwrap_err();
    held.write_line("echo 5\nhello");
    assert!(
        held.ended_within(std::time::Duration::from_millis(500))
            .is_some()
            || !tunbridge
                .flows()
                .iter()
                .any(|flow| flow.destination.ends_with(":8080")),
        "the connection is gone together with the publication"
    );
    lab.host().serve(&["8080"]);
}

#[test]
fn a_port_is_published_again_while_old_connections_linger() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    for round in 0..3 {
        let began = std::time::Instant::now();
        tunbridge.server("web", &["-p", "8080:80"]);
        assert!(began.elapsed().as_secs() < 5, "round {round}");
        lab.lan()
            .many_short_connections("198.51.100.2:8080", 100)
            .expect_success();
        // Closed by the client; and some by nobody, as the container goes away under them.
        let held = lab.lan().hold_connections("198.51.100.2:8080", 10);
        tunbridge.cli(&["rm", "-f", "web"]).expect_success();
        held.release();
    }
}
