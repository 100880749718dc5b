//! Attachments from `ADD` to `DEL`.

use std::time::Duration;

use serde_json::{Value, json};

use super::runtime::{NOTHING, Runtime, STOCK, left, own, podman, portmap, with_previous};
use crate::lab::{FAR, HOST, LAN, Lab};

#[test]
fn an_interface_is_added_checked_and_deleted() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let runtime = Runtime::new(&lab);
    let one = runtime.container("one");
    let mut config = own("net1");
    config["subnet"] = "10.71.0.0/24".into();
    let result = one.add(&config);
    assert_eq!(
        result["ips"][0],
        json!({"interface": 2, "address": "10.71.0.2/24", "gateway": "10.71.0.1"})
    );
    assert_eq!(result["interfaces"][2]["sandbox"], one.netns.as_str());
    assert_eq!(result["interfaces"][2]["mac"], one.place.mac("eth0"));
    assert_eq!(result["dns"]["nameservers"], json!(["127.0.0.11"]));
    assert_eq!(one.interfaces(), ["eth0"]);
    one.place.ping("10.71.0.1").expect_success();
    let _far = lab.far().serve(&["7000"]);
    assert_eq!(
        one.place.tcp(&format!("{FAR}:7000")).unwrap().saw_address(),
        HOST
    );
    one.check(&config, &result);
    let (code, text) = one.fails("ADD", &config);
    assert_eq!(code, 4, "{text}");
    assert!(text.contains("(eth0) already exists"), "{text}");
    one.call("tunbridge", "STATUS", &config, &[])
        .expect_success();
    for config in [&with_previous(&config, &result), &config] {
        one.del(config);
        assert_eq!(one.interfaces(), NOTHING);
    }
    assert_eq!(left(&lab, &tunbridge), NOTHING);
    // As `podman network reload` does it.
    assert_eq!(one.add(&config)["ips"][0]["address"], "10.71.0.2/24");
    one.del(&config);
}

#[test]
fn a_check_notices_what_somebody_has_changed() {
    let lab = Lab::plain();
    let _tunbridge = lab.start_daemon(&[]);
    let runtime = Runtime::new(&lab);
    let mut config = own("net1");
    config["subnet"] = "10.71.0.0/24".into();
    config["ipam"] = json!({"routes": [
        {"dst": "10.99.0.0/16"},
        {"dst": "10.98.0.0/16", "gw": "10.71.0.9", "priority": 7},
        // The kernel knows no longer packets, and the network's own is there already.
        {"dst": "10.97.0.0/16", "mtu": 9999999},
        {"dst": "10.71.0.0/24"},
    ]});
    for (index, spoil) in [
        "ip address delete 10.71.0.2/24 dev eth0",
        "ip link delete eth0",
        "ip route delete 10.99.0.0/16",
        "ip route delete 10.98.0.0/16",
    ]
    .into_iter()
    .enumerate()
    {
        let one = runtime.container(&format!("c{index}"));
        let result = one.add(&config);
        let routes = one.place.run(&["ip", "route"]).stdout;
        for route in [
            "10.99.0.0/16 via 10.71.0.1 dev eth0",
            "10.98.0.0/16 via 10.71.0.9 dev eth0 metric 7",
        ] {
            assert!(routes.contains(route), "{route} is not in {routes}");
        }
        one.check(&config, &result);
        one.place.shell(spoil).expect_success();
        let (code, text) = one.fails("CHECK", &with_previous(&config, &result));
        assert_eq!(code, 101, "{spoil}: {text}");
        one.del(&config);
        assert_eq!(one.interfaces(), NOTHING);
        // Code 3 would say that there is nothing to delete; the daemon alone cannot know that.
        let (code, text) = one.fails("CHECK", &with_previous(&config, &result));
        assert!(code == 101 && text.contains(&one.id), "{code} {text}");
    }
}

#[test]
fn networks_of_podman_run_unchanged() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let runtime = Runtime::new(&lab);
    let config = podman("10.91.0.0/24");
    let web = runtime.container("web");
    let result = web.add(&config);
    assert_eq!(result["cniVersion"], "0.4.0");
    assert_eq!(result["interfaces"][0]["name"], "cni-podman1");
    assert_eq!(web.add(&portmap(8080, 80, &result)), result);
    let mut firewall = portmap(0, 80, &result);
    firewall["type"] = "firewall".into();
    firewall["runtimeConfig"] = Value::Null;
    assert_eq!(web.add(&firewall), result);
    let rules = lab.host().shell("iptables-save; nft list ruleset").stdout;
    assert!(!rules.contains("CNI"), "{rules}");
    let _server = web.place.serve(&["80"]);
    lab.host().shell("nft flush ruleset").expect_success();
    let answer = lab.lan().tcp(&format!("{HOST}:8080")).unwrap();
    assert_eq!(answer.saw_address(), LAN);
    // Somebody else wants the port: a container, and a program.
    let other = runtime.container("other");
    let second = other.add(&config);
    let (code, text) = other.fails("ADD", &portmap(8080, 80, &second));
    assert!(code == 100 && text.contains("8080"), "{code} {text}");
    let _stranger = lab.host().serve(&["9090"]);
    let (code, text) = other.fails("ADD", &portmap(9090, 80, &second));
    assert!(code == 100 && text.contains("9090"), "{code} {text}");
    other.del(&config);
    for chained in [&firewall, &portmap(8080, 80, &result)] {
        web.del(chained);
    }
    web.del(&with_previous(&config, &result));
    assert_eq!(left(&lab, &tunbridge), NOTHING);
    assert!(lab.lan().impatient().tcp(&format!("{HOST}:8080")).is_err());
    // The network was removed, and made again with another subnet.
    let result = web.add(&podman("10.92.0.0/24"));
    assert_eq!(result["ips"][0]["address"], "10.92.0.2/24");
    let (code, text) = other.fails("ADD", &config);
    assert!(code == 7 && text.contains("10.92.0.0/24"), "{code} {text}");
    web.del(&config);
}

/// As `unshare --net` makes them: a process's, and a file's.
#[test]
fn namespaces_that_ip_netns_does_not_know() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let runtime = Runtime::new(&lab);
    let one = runtime.container("one");
    let _far = lab.far().serve(&["7000"]);
    let config = own("net1");
    let mut process =
        lab.host()
            .start(&["unshare", "--net", "sh", "-c", "echo $$; exec sleep 1000"]);
    let of_process = format!("/proc/{}/ns/net", process.read_line());
    let of_file = "/run/lab/ns";
    lab.host()
        .shell(&format!("touch {of_file} && unshare --net={of_file} true"))
        .expect_success();
    for netns in [of_process.as_str(), of_file] {
        let call = |verb: &str, config: &Value, netns: &str| {
            let called = one.call("tunbridge", verb, config, &[("CNI_NETNS", netns)]);
            called.expect_success().stdout
        };
        let result: Value = serde_json::from_str(&call("ADD", &config, netns)).unwrap();
        assert_eq!(result["interfaces"][2]["sandbox"], netns);
        assert_eq!(one.interfaces(), NOTHING);
        lab.host().shell("nft flush ruleset").expect_success();
        let inside = |line: &str| {
            let line = format!("nsenter --net={netns} {line}");
            lab.host().shell(&line).expect_success().stdout
        };
        let address = inside("ip -o -4 address show eth0");
        assert!(
            address.contains(result["ips"][0]["address"].as_str().unwrap()),
            "{address}"
        );
        let gateway = result["ips"][0]["gateway"].as_str().unwrap();
        inside(&format!("ping -c1 -W2 {gateway}"));
        let peer = concat!(env!("CARGO_MANIFEST_DIR"), "/netns-scripts/peer");
        let answer = inside(&format!("{peer} tcp {FAR} 7000"));
        assert!(answer.contains(&format!("server-saw={HOST}:")), "{answer}");
        call("CHECK", &with_previous(&config, &result), netns);
        if netns == of_file {
            call("DEL", &config, netns);
            assert!(!inside("ip -br link").contains("eth0"));
        } else {
            // Its namespace ends with it.
            process.signal("KILL");
            assert!(process.ended_within(Duration::from_secs(20)).is_some());
            call("DEL", &config, "");
        }
        assert_eq!(left(&lab, &tunbridge), NOTHING);
    }
    lab.host()
        .shell(&format!("umount {of_file} && rm {of_file}"))
        .expect_success();
}

#[test]
fn ranges_of_the_runtime_and_their_end() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let runtime = Runtime::new(&lab);
    let ranges = json!([
        [{"subnet": "10.74.0.0/24", "gateway": "10.74.0.254", "rangeStart": "10.74.0.10", "rangeEnd": "10.74.0.11"}],
        [{"subnet": "fd74::/64", "rangeStart": "fd74::10"}],
    ]);
    let mut own = own("net1");
    own["runtimeConfig"] = json!({"ipRanges": ranges});
    let mut stock = podman("10.91.0.0/24");
    stock["runtimeConfig"] = own["runtimeConfig"].clone();
    for config in [own, stock] {
        let name = config["name"].as_str().unwrap();
        let (one, two) = (runtime.container("one"), runtime.container("two"));
        let result = one.add(&config);
        assert_eq!(result["ips"][0]["address"], "10.74.0.10/24");
        assert_eq!(result["ips"][0]["gateway"], "10.74.0.254");
        assert_eq!(result["ips"][1]["address"], "fd74::10/64");
        let route = one.place.run(&["ip", "route"]).stdout;
        assert!(route.contains("default via 10.74.0.254"), "{route}");
        one.place.ping("10.74.0.254").expect_success();
        assert_eq!(two.add(&config)["ips"][0]["address"], "10.74.0.11/24");
        let three = runtime.container("three");
        let (code, text) = three.fails("ADD", &config);
        assert_eq!(code, 100, "{text}");
        for words in [
            &format!("no available IPv4 addresses on this network's address pools: {name} ("),
            "no available addresses in the given ranges: all of 10.74.0.10-10.74.0.11 are in use",
        ] {
            assert!(text.contains(words), "{text}");
        }
        assert_eq!(three.interfaces(), NOTHING);
        // One that has become free is given out again.
        one.del(&config);
        assert_eq!(three.add(&config)["ips"][0]["address"], "10.74.0.10/24");
        for container in [two, three] {
            container.del(&config);
        }
        assert_eq!(left(&lab, &tunbridge), NOTHING);
        tunbridge.cli(&["network", "rm", name]).expect_success();
    }
}

#[test]
fn addresses_of_another_ipam_plugin() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let runtime = Runtime::new(&lab);
    let mut config = own("net1");
    config["cniVersion"] = "1.0.0".into();
    config["ipam"] = json!({
        "type": "host-local", "dataDir": "/run/host-local",
        "ranges": [[{"subnet": "10.73.0.0/24", "rangeStart": "10.73.0.50"}], [{"subnet": "fd73::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.99.0.0/16"}],
    });
    let taken = || {
        let listed = lab
            .host()
            .shell("ls /run/host-local/net1 | grep -v -e last -e lock");
        listed.stdout.lines().count()
    };
    let (one, two) = (runtime.container("one"), runtime.container("two"));
    let result = one.add(&config);
    assert_eq!(
        result["ips"][0]["address"], "10.73.0.50/24",
        "{STOCK} is there"
    );
    assert_eq!(two.add(&config)["ips"][0]["address"], "10.73.0.51/24");
    one.place.ping("10.73.0.51").expect_success();
    assert!(
        one.place
            .run(&["ip", "-6", "address"])
            .stdout
            .contains("fd73::")
    );
    assert!(
        one.place
            .run(&["ip", "route"])
            .stdout
            .contains("10.99.0.0/16 via 10.73.0.1")
    );
    one.check(&config, &result);
    assert_eq!(taken(), 4);
    // After a failure of ours its address is free again.
    let three = runtime.container("three");
    let mut refused = config.clone();
    refused["runtimeConfig"] = json!({"mac": "nonsense"});
    three.fails("ADD", &refused);
    assert_eq!(taken(), 4);
    one.del(&config);
    two.del(&config);
    two.del(&config);
    assert_eq!(taken(), 0);
    assert_eq!(left(&lab, &tunbridge), NOTHING);
}
