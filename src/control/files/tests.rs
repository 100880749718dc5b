use super::fingerprint::NoFingerprint;
use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn lines(texts: &[&str]) -> Vec<HostsLine> {
    let line = |text: &&str| {
        let (address, names) = text.split_once(' ').unwrap();
        HostsLine {
            address: ip(address),
            names: names.to_owned(),
        }
    };
    texts.iter().map(line).collect()
}

fn edited(current: &str, before: &[&str], after: &[&str]) -> String {
    let text = edit_hosts(current.as_bytes(), &lines(before), &lines(after));
    String::from_utf8(text).unwrap()
}

#[test]
fn hosts_as_in_the_transcript() {
    // Transcript 01, the container with --add-host and a domain name, on a host without IPv6.
    let extra: Vec<ExtraHost> = ["db:10.9.8.7", "gw:host-gateway"]
        .map(|text| text.parse().unwrap())
        .into();
    let mut wanted = extra_lines(&extra, &[ip("172.17.0.1")]);
    wanted.extend(own_lines("web", "", [ip("172.17.0.5")]));
    assert_eq!(
        hosts(false, &wanted),
        "127.0.0.1\tlocalhost\n10.9.8.7\tdb\n172.17.0.1\tgw\n172.17.0.5\tweb\n"
    );
    assert_eq!(hostname("c1host"), "c1host\n");
}

#[test]
fn test_build_default() {
    let default = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
                   ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";
    assert_eq!(hosts(true, &[]), default);
    let own = own_lines("0123456789ab", "", [ip("172.18.0.2"), ip("fd00::2")]);
    assert_eq!(
        hosts(true, &own),
        format!("{default}172.18.0.2\t0123456789ab\nfd00::2\t0123456789ab\n")
    );
}

#[test]
fn test_build_no_ipv6() {
    let both = lines(&[
        "fdbb:c59c:d015::3 another.example",
        "10.11.12.13 another.example",
    ]);
    assert_eq!(
        hosts(false, &both),
        "127.0.0.1\tlocalhost\n10.11.12.13\tanother.example\n"
    );
}

#[test]
fn domain_names() {
    let names =
        |hostname, domainname| own_lines(hostname, domainname, [ip("10.0.0.2")])[0].to_string();
    assert_eq!(names("web", ""), "10.0.0.2\tweb");
    assert_eq!(
        names("web", "corp.example"),
        "10.0.0.2\tweb.corp.example web"
    );
    assert_eq!(names("web.corp", ""), "10.0.0.2\tweb.corp web");
    assert_eq!(
        names("web.corp", "example"),
        "10.0.0.2\tweb.corp.example web"
    );
}

#[test]
fn test_etc_hosts_disconnect() {
    // The container is connected to a second network, and both are disconnected and connected in turn; user lines stay.
    let (net1, net2) = ("192.168.123.2 c1.invalid c1", "192.168.124.2 c1.invalid c1");
    let start =
        "127.0.0.1\tlocalhost\n192.0.2.3\totherhost.invalid\n192.168.123.2\tc1.invalid c1\n";
    let user = "# mine\n10.1.1.1 mine";
    let mut text = format!("{start}{user}");
    text = edited(&text, &[net1], &[net1, net2]);
    assert_eq!(
        text,
        format!("{start}{user}\n192.168.124.2\tc1.invalid c1\n")
    );
    text = edited(&text, &[net1, net2], &[net2]);
    let first = "127.0.0.1\tlocalhost\n192.0.2.3\totherhost.invalid\n";
    assert_eq!(
        text,
        format!("{first}{user}\n192.168.124.2\tc1.invalid c1\n")
    );
    text = edited(&text, &[net2], &[net2, net1]);
    assert!(
        text.ends_with("124.2\tc1.invalid c1\n192.168.123.2\tc1.invalid c1\n"),
        "{text}"
    );
    text = edited(&text, &[net2, net1], &[net2]);
    text = edited(&text, &[net2], &[]);
    assert_eq!(text, format!("{first}{user}\n"));
}

#[test]
fn test_update() {
    let text = edited(
        "10.11.12.13\ttesthostname.testdomainname testhostname\n# end\n",
        &["10.11.12.13 testhostname.testdomainname testhostname"],
        &["1.1.1.1 testhostname.testdomainname testhostname"],
    );
    assert_eq!(
        text, "1.1.1.1\ttesthostname.testdomainname testhostname\n# end\n",
        "in its place"
    );
    // Transcript 05: the linked container comes back with another address.
    let (database, db) = ("database e91ed6eb3924 db", "db e91ed6eb3924");
    let with = |address: &str| [format!("{address} {database}"), format!("{address} {db}")];
    let (old, new) = (with("172.17.0.2"), with("172.17.0.4"));
    let text = edited(
        "172.17.0.2\tdatabase e91ed6eb3924 db\n172.17.0.2\tdb e91ed6eb3924\n172.17.0.3\tb8232841b1ea\n",
        &old.each_ref().map(String::as_str),
        &new.each_ref().map(String::as_str),
    );
    assert_eq!(
        text,
        "172.17.0.4\tdatabase e91ed6eb3924 db\n172.17.0.4\tdb e91ed6eb3924\n172.17.0.3\tb8232841b1ea\n"
    );
}

#[test]
fn new_lines_come_where_a_new_file_has_them() {
    // A linked container stops and comes back.
    let own = "172.17.0.3 app";
    let (database, db) = ("172.17.0.2 database db-host db", "172.17.0.2 db db-host");
    let full = "127.0.0.1\tlocalhost\n172.17.0.2\tdatabase db-host db\n172.17.0.2\tdb db-host\n172.17.0.3\tapp\n# mine\n";
    let without = edited(full, &[database, db, own], &[own]);
    assert_eq!(without, "127.0.0.1\tlocalhost\n172.17.0.3\tapp\n# mine\n");
    assert_eq!(edited(&without, &[own], &[database, db, own]), full);
    // Its successor has been changed by the user: at the end.
    assert_eq!(
        edited("172.17.0.3\tapp app2\n", &[own], &[db, own]),
        "172.17.0.3\tapp app2\n172.17.0.2\tdb db-host\n"
    );
}

#[test]
fn test_update_ignores_prefixed_hostname() {
    let start = "2.2.2.2\tprefix\n3.3.3.3\tprefixAndMore\n4.4.4.4\tunaffectedHost\n";
    assert_eq!(
        edited(start, &["2.2.2.2 prefix"], &["5.5.5.5 prefix"]),
        "5.5.5.5\tprefix\n3.3.3.3\tprefixAndMore\n4.4.4.4\tunaffectedHost\n"
    );
}

#[test]
fn test_delete_ignores_prefixed_hostname() {
    assert_eq!(
        edited(
            "1.1.1.1\tprefix\n2.2.2.2\tprefixAndMore\n",
            &["1.1.1.1 prefix"],
            &[]
        ),
        "2.2.2.2\tprefixAndMore\n"
    );
}

#[test]
fn test_delete() {
    assert_eq!(
        edited(
            "1.1.1.1\ttesthostname1\n2.2.2.2\ttesthostname2\n3.3.3.3\ttesthostname3\n",
            &[
                "1.1.1.1 testhostname1",
                "2.2.2.2 testhostname2",
                "3.3.3.3 testhostname3"
            ],
            &["2.2.2.2 testhostname2"],
        ),
        "2.2.2.2\ttesthostname2\n"
    );
}

#[test]
fn what_the_user_did_to_the_file_stays() {
    // Changed and removed lines are not ours any more; whatever is not text is kept.
    let current = "\n1.1.1.1 h\n1.1.1.1\th also\n\n";
    assert_eq!(edited(current, &["1.1.1.1 h"], &[]), current);
    assert_eq!(edited(current, &["1.1.1.1 h"], &["2.2.2.2 h"]), current);
    assert_eq!(edited("", &["1.1.1.1 h"], &["1.1.1.1 h"]), "");
    assert_eq!(edited("x", &[], &["1.1.1.1 h"]), "x\n1.1.1.1\th\n");
    assert_eq!(edited("", &[], &["1.1.1.1 h"]), "1.1.1.1\th\n");
    let bytes = b"\xff\xfe\n1.1.1.1\th";
    assert_eq!(
        edit_hosts(bytes, &lines(&["1.1.1.1 h"]), &[]),
        b"\xff\xfe\n"
    );
    // Of two equal lines one is taken for each that we had.
    assert_eq!(
        edited("1.1.1.1\th\n1.1.1.1\th\n", &["1.1.1.1 h"], &[]),
        "1.1.1.1\th\n"
    );
}

#[test]
fn add_host_values() {
    for (value, address) in [
        ("a:10.0.0.1", Some("10.0.0.1")),
        ("a=10.0.0.1", Some("10.0.0.1")),
        ("a.b:::1", Some("::1")),
        ("a:[::1]", Some("::1")),
        ("a=host-gateway", None),
    ] {
        let host: ExtraHost = value.parse().unwrap();
        assert_eq!(host.address, address.map(ip), "{value}");
    }
    for bad in [
        "",
        "a",
        "a:",
        ":10.0.0.1",
        "a b:10.0.0.1",
        "a\nb:10.0.0.1",
        "a#:10.0.0.1",
    ] {
        let message = bad.parse::<ExtraHost>().unwrap_err().to_string();
        assert!(
            message.starts_with("bad format for add-host: ") && !message.contains('\n'),
            "{message}"
        );
    }
    let message = "db:10.9.8".parse::<ExtraHost>().unwrap_err().to_string();
    assert!(
        message.starts_with(
            "invalid IP address in add-host: \"10.9.8\" (in --add-host \"db:10.9.8\")"
        ),
        "{message}"
    );
    assert_eq!(
        "db=host-gateway".parse::<ExtraHost>().unwrap().to_string(),
        "db:host-gateway"
    );
}

const HOST: &str = "# a comment\nnameserver 127.0.0.53\nnameserver 203.0.113.53\nnameserver fd00::53\n\
                    nameserver fe80::1%eth0\n; other\nsearch wan.example\noptions timeout:1 attempts:1\n";

#[test]
fn resolv_conf_is_the_hosts_without_what_cannot_be_reached() {
    assert_eq!(
        resolv_conf("/etc/resolv.conf", HOST, &DnsSettings::default(), false),
        "# Generated by tunbridge.\n\
         # This file can be edited; tunbridge will not make further changes once it\n\
         # has been modified.\n\
         \n\
         nameserver 203.0.113.53\n\
         search wan.example\n\
         options timeout:1 attempts:1\n\
         \n\
         # Based on host file: '/etc/resolv.conf' (legacy)\n\
         # Overrides: []\n"
    );
    let v6 = resolv_conf("/etc/resolv.conf", HOST, &DnsSettings::default(), true);
    assert!(
        v6.contains("nameserver 203.0.113.53\nnameserver fd00::53\nsearch "),
        "{v6}"
    );
}

#[test]
fn flags_override() {
    // Transcript 01: --dns 192.0.2.53 --dns-search corp.example --dns-opt ndots:3.
    let settings = DnsSettings {
        servers: vec![ip("192.0.2.53")],
        search: vec!["corp.example".into()],
        options: vec!["ndots:3".into()],
    };
    let text = resolv_conf("/etc/resolv.conf", HOST, &settings, false);
    assert!(
        text.contains("\n\nnameserver 192.0.2.53\nsearch corp.example\noptions ndots:3\n\n")
            && text.ends_with(
                "# Overrides: [nameservers search options]\n# Option ndots from: override\n"
            ),
        "{text}"
    );
    let none = DnsSettings {
        search: vec![".".into()],
        ..DnsSettings::default()
    };
    let text = resolv_conf("/etc/resolv.conf", HOST, &none, false);
    assert!(
        !text.contains("\nsearch") && text.ends_with("# Overrides: [search]\n"),
        "{text}"
    );
    let daemon = DnsSettings {
        servers: vec![ip("10.1.1.1")],
        search: vec!["d".into()],
        options: vec![],
    };
    assert_eq!(
        none.or(&daemon),
        DnsSettings {
            servers: vec![ip("10.1.1.1")],
            search: vec![".".into()],
            options: vec![]
        }
    );
}

#[test]
fn nothing_left_is_said_and_no_third_party_is_asked() {
    let text = resolv_conf(
        RESOLV_CONF,
        "nameserver 127.0.0.1\nnameserver nonsense\nsortlist 10.0.0.0\n",
        &DnsSettings::default(),
        false,
    );
    assert!(!text.contains("\nnameserver"), "{text}");
    assert!(
        text.ends_with(
            "\nsortlist 10.0.0.0\n\n# Based on host file: '/etc/resolv.conf' (legacy)\n# NO EXTERNAL NAMESERVERS DEFINED\n\
             # Invalid nameservers: [nonsense]\n# Overrides: []\n"
        ),
        "{text}"
    );
    assert!(resolv_conf(RESOLV_CONF, "", &DnsSettings::default(), false).contains("# NO EXTERNAL"));
}

#[test]
fn the_stub_of_systemd_is_looked_behind() {
    assert_eq!(
        resolv_conf_source("nameserver 127.0.0.53\noptions edns0\n"),
        SYSTEMD_RESOLV_CONF
    );
    assert_eq!(
        resolv_conf_source("nameserver 127.0.0.53\nnameserver 10.0.0.1\n"),
        RESOLV_CONF
    );
    assert_eq!(resolv_conf_source(""), RESOLV_CONF);
}

#[test]
fn dns_values_cannot_break_their_line() {
    let settings = |search: &str, option: &str| {
        DnsSettings {
            servers: vec![],
            search: vec![search.into()],
            options: vec![option.into()],
        }
        .validate()
    };
    assert_eq!(settings("corp.example", "ndots:2"), Ok(()));
    assert_eq!(settings(".", "rotate"), Ok(()));
    for bad in ["a b", "a\nnameserver 6.6.6.6", "", "#"] {
        assert!(
            matches!(settings(bad, "rotate"), Err(FileValueError::Search(_))),
            "{bad:?}"
        );
        assert!(
            matches!(settings("a", bad), Err(FileValueError::Option(_))),
            "{bad:?}"
        );
    }
}

/// Both of a host: its text, and where it comes from.
fn internal(host: &str, settings: &DnsSettings) -> InternalResolvConf {
    internal_resolv_conf(RESOLV_CONF, host, settings)
}

#[test]
fn test_resolv_conf_localhost_ipv6() {
    for (server, address) in [("127.0.0.53", "127.0.0.53"), ("::1", "::1")] {
        let host = format!("search example.internal\nnameserver {server}\n");
        let made = internal(&host, &DnsSettings::default());
        assert_eq!(
            made.text,
            format!(
                "# Generated by tunbridge.\n\
                 # This file can be edited; tunbridge will not make further changes once it\n\
                 # has been modified.\n\
                 \n\
                 nameserver 127.0.0.11\n\
                 search example.internal\n\
                 options ndots:0\n\
                 \n\
                 # Based on host file: '/etc/resolv.conf' (internal resolver)\n\
                 # ExtServers: [host({server})]\n\
                 # Overrides: []\n\
                 # Option ndots from: internal\n"
            )
        );
        let upstream = NameServer {
            address: ip(address),
            zone: None,
            from_host: true,
        };
        assert_eq!((made.upstreams, made.ndots_set), (vec![upstream], false));
    }
}

#[test]
fn test_rc_transform_for_int_ns() {
    let made = internal(HOST, &DnsSettings::default());
    assert!(
        made.text.contains(
            "\n\nnameserver 127.0.0.11\nsearch wan.example\noptions timeout:1 attempts:1 ndots:0\n\n"
        ),
        "{}",
        made.text
    );
    assert!(
        made.text.contains(
            "# ExtServers: [host(127.0.0.53) host(203.0.113.53) host(fd00::53) host(fe80::1%eth0)]\n"
        ),
        "{}",
        made.text
    );
    assert_eq!(
        made.upstreams[3],
        NameServer {
            address: ip("fe80::1"),
            zone: Some("eth0".into()),
            from_host: true
        }
    );

    // Transcript 04: --dns 203.0.113.53 --dns-search corp.example.
    let settings = DnsSettings {
        servers: vec![ip("203.0.113.53"), ip("fd00::53")],
        search: vec!["corp.example".into()],
        options: vec![],
    };
    let made = internal(HOST, &settings);
    assert!(
        made.text.ends_with(
            "nameserver 127.0.0.11\nsearch corp.example\noptions timeout:1 attempts:1 ndots:0\n\n\
             # Based on host file: '/etc/resolv.conf' (internal resolver)\n\
             # ExtServers: [203.0.113.53 fd00::53]\n\
             # Overrides: [nameservers search]\n\
             # Option ndots from: internal\n"
        ),
        "{}",
        made.text
    );
    assert!(made.upstreams.iter().all(|server| !server.from_host));

    let none = internal("nameserver x\n", &DnsSettings::default());
    assert!(
        none.text.ends_with(
            "(internal resolver)\n# NO EXTERNAL NAMESERVERS DEFINED\n# Invalid nameservers: [x]\n# Overrides: []\n\
             # Option ndots from: internal\n"
        ),
        "{}",
        none.text
    );
    assert!(none.upstreams.is_empty());
}

#[test]
fn where_ndots_comes_from() {
    let made = |host: &str, options: &[&str]| {
        let settings = DnsSettings {
            options: options.iter().map(|option| (*option).to_owned()).collect(),
            ..DnsSettings::default()
        };
        let made = internal(host, &settings);
        let line = |start: &str| {
            let mut lines = made.text.lines();
            lines.find_map(|line| line.strip_prefix(start).map(str::to_owned))
        };
        (
            line("options ").unwrap(),
            line("# Option ndots from: ").unwrap(),
            made.ndots_set,
        )
    };
    let expect = |options: &str, from: &str, set| (options.to_owned(), from.to_owned(), set);
    assert_eq!(made("", &[]), expect("ndots:0", "internal", false));
    assert_eq!(
        made("options ndots:2 edns0\n", &[]),
        expect("ndots:2 edns0", "host", true)
    );
    assert_eq!(
        made("options ndots:2\n", &["ndots:5"]),
        expect("ndots:5", "override", true)
    );
    assert_eq!(
        made("options ndots:2\n", &["rotate"]),
        expect("rotate ndots:0", "internal", false)
    );
    for bad in ["ndots", "ndots:", "ndots:x", "ndots:-1"] {
        assert_eq!(
            made(&format!("options {bad} edns0\n"), &[]),
            expect("edns0 ndots:0", "internal", true),
            "{bad}"
        );
    }
    let legacy = |options: &str| {
        let host = format!("nameserver 10.0.0.1\n{options}");
        resolv_conf(RESOLV_CONF, &host, &DnsSettings::default(), false)
    };
    assert!(legacy("options ndots:2\n").ends_with("# Overrides: []\n# Option ndots from: host\n"));
    assert!(legacy("").ends_with("# Overrides: []\n"));
}

#[test]
fn an_edited_file_is_noticed() {
    let written = Fingerprint::of(b"nameserver 10.0.0.1\n");
    let stored: Fingerprint = format!("{written}\n").parse().unwrap();
    assert_eq!(stored, written);
    assert_eq!(
        written.to_string().len(),
        "siphash128:".len() + 32,
        "{written}"
    );
    for (current, written, edited) in [
        (Some(&b"nameserver 10.0.0.1\n"[..]), Some(written), false),
        (Some(b"nameserver 10.0.0.2\n"), Some(written), true),
        (Some(b""), Some(written), true),
        (None, Some(written), true),
        (Some(b"x"), None, false),
        (None, None, false),
    ] {
        assert_eq!(Fingerprint::was_edited(current, written), edited);
    }
    for bad in [
        "",
        "siphash128:",
        "sha256:00",
        "siphash128:+0000000000000000000000000000000",
    ] {
        assert_eq!(bad.parse::<Fingerprint>(), Err(NoFingerprint), "{bad}");
    }
}
