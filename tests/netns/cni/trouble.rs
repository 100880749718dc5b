//! Whatever has happened, `DEL` or `GC` leaves nothing.

use serde_json::json;

use super::runtime::{NOTHING, Runtime, STOCK, left, own, podman, with_previous};
use crate::lab::Lab;

#[test]
fn deletion_succeeds_whatever_is_left() {
    let lab = Lab::plain();
    let mut tunbridge = lab.start_daemon(&[]);
    let runtime = Runtime::new(&lab);
    let config = own("net1");
    // Before anything was added.
    let one = runtime.container("one");
    one.del(&config);
    // After a failed ADD: the address is out of reach.
    let mut refused = config.clone();
    refused["runtimeConfig"] = json!({"ips": ["192.0.2.7"]});
    one.fails("ADD", &refused);
    one.del(&refused);
    assert_eq!(left(&lab, &tunbridge), NOTHING);
    // The namespace is gone, or not named.
    for variables in [&[][..], &[("CNI_NETNS", "")]] {
        let two = runtime.container("two");
        let result = two.add(&config);
        two.vanish();
        let config = with_previous(&config, &result);
        let deleted = two.call("tunbridge", "DEL", &config, variables);
        assert_eq!(deleted.expect_success().stdout, "");
        assert_eq!(left(&lab, &tunbridge), NOTHING);
    }
    // Somebody has deleted the interface.
    one.add(&config);
    one.place.shell("ip link delete eth0").expect_success();
    one.del(&config);
    assert_eq!(left(&lab, &tunbridge), NOTHING);
    // The daemon has died since.
    one.add(&config);
    tunbridge.kill();
    tunbridge.start_again();
    one.del(&config);
    assert_eq!(one.interfaces(), NOTHING);
    assert_eq!(left(&lab, &tunbridge), NOTHING);
}

#[test]
fn a_failed_add_leaves_an_interface_of_another_network() {
    let lab = Lab::plain();
    let _tunbridge = lab.start_daemon(&[]);
    let runtime = Runtime::new(&lab);
    let one = runtime.container("one");
    let (first, second) = (own("net1"), own("net2"));
    one.add(&first);
    one.fails("ADD", &second);
    one.del(&second);
    assert_eq!(one.interfaces(), ["eth0"]);
    one.del(&first);
}

#[test]
fn what_is_deleted_without_a_daemon_is_not_made_again() {
    let lab = Lab::plain();
    let mut tunbridge = lab.start_daemon(&[]);
    let runtime = Runtime::new(&lab);
    let (one, two) = (runtime.container("one"), runtime.container("two"));
    let config = own("net1");
    let result = one.add(&config);
    two.add(&config);
    tunbridge.kill();
    let (code, text) = one.fails("STATUS", &config);
    assert!(
        code == 50 && text.contains("systemctl start tunbridge"),
        "{code} {text}"
    );
    one.del(&with_previous(&config, &result));
    assert_eq!(one.interfaces(), NOTHING);
    one.del(&config);
    assert_eq!(two.interfaces(), ["eth0"]);
    tunbridge.start_again();
    assert_eq!(one.interfaces(), NOTHING);
    assert_eq!(two.interfaces(), ["eth0"]);
    assert_eq!(tunbridge.names(&["-a"]).len(), 1, "{}", tunbridge.log());
    two.del(&config);
    assert_eq!(left(&lab, &tunbridge), NOTHING);
}

#[test]
fn an_interface_that_the_stock_plugin_has_made_goes_with_it() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let runtime = Runtime::new(&lab);
    let one = runtime.container("one");
    let mut config = podman("10.91.0.0/24");
    config["ipam"]["dataDir"] = "/run/host-local".into();
    config["ipam"]["routes"] = json!([]);
    // Else it changes the host.
    (config["isGateway"], config["ipMasq"]) = (false.into(), false.into());
    // The links of ours are not there yet.
    let result = one.call_in(STOCK, "bridge", "ADD", &config, &[]);
    let result: serde_json::Value = serde_json::from_str(&result.expect_success().stdout).unwrap();
    let reserved = || {
        lab.host()
            .shell("ls /run/host-local/mynet | grep ^10")
            .stdout
    };
    assert_eq!(reserved(), "10.91.0.2\n");
    let config = with_previous(&config, &result);
    one.call_in("/run/cni", "bridge", "DEL", &config, &[])
        .expect_success();
    assert_eq!((one.interfaces(), reserved().as_str()), (Vec::new(), ""));
    lab.host()
        .run(&["ip", "link", "delete", "cni-podman1"])
        .expect_success();
    assert_eq!(left(&lab, &tunbridge), NOTHING);
}
