use std::net::Ipv4Addr;

use super::*;
use crate::control::records::GatewayMode;
use crate::control::test_state::{add_ipv6, change_families, fresh, make, run_on};

fn ip(octets: [u8; 4]) -> IpAddr {
    Ipv4Addr::from(octets).into()
}

#[test]
fn names_of_the_transcript() {
    let (mut state, ..) = fresh();
    make(&mut state, "net1", |_| {}).unwrap();
    make(&mut state, "inside", |request| request.internal = true).unwrap();
    let alpha = run_on(&mut state, "alpha", &["net1"], |r| {
        r.networks[0].settings.aliases = vec!["svc".into(), "a2".into()];
    });
    let beta = run_on(&mut state, "Beta", &["net1", "inside"], |r| {
        r.networks[0].settings.aliases = vec!["svc".into(), "BETA".into()];
        r.hostname = Some("bhost".into());
        r.dns = vec![ip([10, 1, 1, 1])];
        r.dns_option = vec!["ndots:2".into()];
    });
    let lonely = run_on(&mut state, "lonely", &["inside"], |_| {});
    let plain = run_on(&mut state, "plain", &["bridge"], |_| {});
    assert_eq!(
        dns_names(&beta, &beta.attachments[0]),
        ["Beta", "svc", "BETA", &beta.id[..12], "bhost"]
    );
    assert_eq!(
        dns_names(&alpha, &alpha.attachments[0]),
        ["alpha", "svc", "a2", &alpha.id[..12]]
    );
    let host = "nameserver 127.0.0.53\noptions ndots:2\n";
    let views = dns_views(&state, host);
    assert!(!views.contains_key(&plain.id) && views.len() == 3);
    let view = &views[&alpha.id];
    let (a, b) = (ip([172, 18, 0, 2]), ip([172, 18, 0, 3]));
    for (name, addresses) in [
        ("alpha", vec![a]),
        ("beta", vec![b]),
        ("bhost", vec![b]),
        ("beta.net1", vec![b]),
        (&beta.id[..12], vec![b]),
    ] {
        assert_eq!(view.addresses(name), Some(&addresses[..]), "{name}");
    }
    let mut both = view.addresses("svc").unwrap().to_vec();
    both.sort();
    assert_eq!(both, [a, b]);
    assert_eq!(view.addresses("lonely"), None);
    assert_eq!(view.pointer(&b).as_deref(), Some("Beta.net1"));
    assert_eq!(view.upstreams, [Upstream::host(ip([127, 0, 0, 53]))]);
    assert!(view.forward && view.ndots_set);
    let scoped = "nameserver fe80::53%lo\nnameserver fe80::53%nosuch0\nnameserver fe80::54%7\n";
    let scoped = &dns_views(&state, scoped)[&alpha.id].upstreams;
    let servers: Vec<String> = scoped.iter().map(|u| u.address.to_string()).collect();
    assert_eq!(servers, ["[fe80::53%1]:53", "[fe80::54%7]:53"]);
    let view = &views[&beta.id];
    assert_eq!(view.upstreams, [Upstream::container(ip([10, 1, 1, 1]))]);
    assert_eq!(view.zones.len(), 2);
    assert_eq!(view.zones[0].network, "net1", "internal networks come last");
    assert!(view.forward && view.ndots_set);
    assert!(
        !views[&lonely.id].forward,
        "nothing leaves an internal network"
    );
    // What has exited has no name.
    state
        .set_exited("Beta", 0, crate::control::test_state::at(5))
        .unwrap();
    let views = dns_views(&state, host);
    assert_eq!(views[&alpha.id].addresses("beta"), None);
    assert_eq!(views[&alpha.id].addresses("svc"), Some(&[a][..]));
    assert_eq!(views.len(), 2);
}

#[test]
fn names_have_the_addresses_of_both_families() {
    let (mut state, ..) = fresh();
    make(&mut state, "dual", |_| {}).unwrap();
    add_ipv6(&mut state, "dual", "fd00:d::/64", GatewayMode::Nat);
    make(&mut state, "six", |_| {}).unwrap();
    add_ipv6(&mut state, "six", "fd00:6::/64", GatewayMode::Routed);
    change_families(&mut state, "six", |families| drop(families.remove(0)));
    let web = run_on(&mut state, "web", &["dual"], |_| {});
    let only = run_on(&mut state, "only", &["six"], |_| {});
    let views = dns_views(&state, "nameserver 2001:db8::53\nnameserver ::1\n");
    let six = |text: &str| -> IpAddr { text.parse().unwrap() };
    let view = &views[&web.id];
    assert_eq!(
        view.addresses("web"),
        Some(&[ip([172, 18, 0, 2]), six("fd00:d::2")][..])
    );
    assert_eq!(view.pointer(&six("fd00:d::2")).as_deref(), Some("web.dual"));
    let view = &views[&only.id];
    assert_eq!(view.addresses("only.six"), Some(&[six("fd00:6::2")][..]));
    assert_eq!(view.addresses("web"), None);
    assert_eq!(view.pointer(&six("fd00:d::2")), None);
    // A way out over IPv6 is one, and so are servers there.
    assert!(view.forward);
    assert_eq!(
        view.upstreams,
        [
            Upstream::host(six("2001:db8::53")),
            Upstream::host(six("::1"))
        ]
    );
}
