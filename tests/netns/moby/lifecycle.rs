//! Networks come and go (integration/network, integration-cli).

use super::{create, network};
use crate::lab::{HOST, Lab};
use crate::tunbridge_under_test::Tunbridge;

/// Names that `tunbridge network ls OPTIONS…` prints, one a line.
fn list(tunbridge: &Tunbridge<'_>, options: &[&str]) -> Vec<String> {
    let words = [&["network", "ls", "--format", "{{.Name}}"], options].concat();
    let outcome = tunbridge.cli(&words).expect_success();
    outcome.stdout.lines().map(str::to_owned).collect()
}

/// The one line that a refused command says.
fn refusal(tunbridge: &Tunbridge<'_>, words: &[&str]) -> String {
    let outcome = tunbridge.cli(words).expect_failure();
    let said = outcome.stderr.trim().to_owned();
    assert_eq!(said.lines().count(), 1, "{words:?}: {said}");
    said
}

#[test]
fn test_network_create_delete() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let id = create(&tunbridge, "one", &[]);
    let bridge = format!("tb-{}", &id[..12]);
    lab.host()
        .run(&["ip", "link", "show", &bridge])
        .expect_success();
    assert!(list(&tunbridge, &[]).contains(&"one".to_owned()));
    tunbridge.cli(&["network", "rm", "one"]).expect_success();
    assert!(!list(&tunbridge, &[]).contains(&"one".to_owned()));
    lab.host()
        .run(&["ip", "link", "show", &bridge])
        .expect_failure();
    let said = refusal(&tunbridge, &["network", "rm", "one"]);
    assert!(said.contains("network one not found"), "{said}");
    tunbridge
        .cli(&["network", "rm", "-f", "one"])
        .expect_success();
}

#[test]
fn test_docker_network_delete_prefer_id() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let first = create(&tunbridge, "first", &[]);
    // Named as the other's id and as a prefix of it.
    create(&tunbridge, &first[..12], &[]);
    let inspected = |query: &str| network(&tunbridge, query)["Name"].clone();
    assert_eq!(inspected(&first), "first", "a full id wins");
    assert_eq!(
        inspected(&first[..12]),
        first[..12],
        "a full name wins over a part of an id"
    );
    assert_eq!(inspected(&first[..13]), "first");
    tunbridge
        .cli(&["network", "rm", &first[..12]])
        .expect_success();
    assert!(list(&tunbridge, &[]).contains(&"first".to_owned()));
    tunbridge.cli(&["network", "rm", &first]).expect_success();
    assert!(!list(&tunbridge, &[]).contains(&"first".to_owned()));
}

#[test]
fn test_forbid_duplicate_network_names() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "one", &[]);
    let said = refusal(&tunbridge, &["network", "create", "one"]);
    assert!(
        said.contains("network with name one already exists"),
        "{said}"
    );
}

#[test]
fn test_create_delete_predefined_networks() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    for name in ["bridge", "host", "none"] {
        let said = refusal(&tunbridge, &["network", "rm", name]);
        assert!(
            said.contains(&format!(
                "{name} is a pre-defined network and cannot be removed"
            )),
            "{said}"
        );
        let said = refusal(&tunbridge, &["network", "create", name]);
        assert!(
            said.contains("operation is not permitted on predefined")
                || said.contains(&format!("network with name {name} already exists")),
            "{said}"
        );
    }
}

#[test]
fn test_network_list() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    for name in ["net10", "net9", "alpha"] {
        create(&tunbridge, name, &[]);
    }
    assert_eq!(
        list(&tunbridge, &[]),
        ["alpha", "bridge", "host", "net9", "net10", "none"],
        "in natural order"
    );
    let table = tunbridge.cli(&["network", "ls"]).expect_success().stdout;
    let header: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(header, ["NETWORK", "ID", "NAME", "DRIVER", "SCOPE"]);
}

#[test]
fn test_api_network_filter() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "one", &["--label", "env=dev", "--internal"]);
    let two = create(&tunbridge, "two", &["--label", "env=prod"]);
    tunbridge.container_with("cc", &["--network", "two"]);
    let filtered = |filter: &str| list(&tunbridge, &["--filter", filter]);
    assert_eq!(filtered("name=on"), ["none", "one"]);
    assert_eq!(filtered("label=env"), ["one", "two"]);
    assert_eq!(filtered("label=env=dev"), ["one"]);
    assert_eq!(filtered(&format!("id={}", &two[..10])), ["two"]);
    assert_eq!(filtered("driver=bridge"), ["bridge", "one", "two"]);
    assert_eq!(filtered("driver=null"), ["none"]);
    assert_eq!(filtered("type=custom"), ["one", "two"]);
    assert_eq!(filtered("type=builtin"), ["bridge", "host", "none"]);
    assert_eq!(filtered("dangling=true"), ["one"]);
    assert_eq!(filtered("scope=swarm"), [""; 0]);
    let said = refusal(&tunbridge, &["network", "ls", "--filter", "colour=red"]);
    assert!(said.contains("invalid filter 'colour"), "{said}");
}

#[test]
fn test_network_rm_with_active_containers() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "one", &[]);
    tunbridge.container_with("c1", &["--network", "one"]);
    let said = refusal(&tunbridge, &["network", "rm", "one"]);
    assert!(said.contains("has active endpoints"), "{said}");
    assert!(said.contains("c1"), "it says whose: {said}");
    tunbridge.cli(&["network", "prune", "-f"]).expect_success();
    assert!(list(&tunbridge, &[]).contains(&"one".to_owned()));
    tunbridge.cli(&["rm", "-f", "c1"]).expect_success();
    let pruned = tunbridge.cli(&["network", "prune", "-f"]).expect_success();
    assert_eq!(pruned.stdout, "Deleted Networks:\none\n\n");
}

#[test]
fn test_network_create_error_no_bridge() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let before = lab.snapshot();
    let option = "com.docker.network.bridge.name=ext0";
    let said = refusal(&tunbridge, &["network", "create", "-o", option, "one"]);
    assert!(
        said.contains("existing interface ext0 is not a bridge"),
        "{said}"
    );
    assert_eq!(list(&tunbridge, &[]), ["bridge", "host", "none"]);
    assert_eq!(lab.snapshot(), before, "nothing is left");
    create(&tunbridge, "one", &[]);
}

#[test]
fn test_network_init_error_user_defined() {
    // A network that cannot be made at a start of the daemon must not keep the others down.
    let lab = Lab::plain();
    let mut tunbridge = lab.start_daemon(&[]);
    create(
        &tunbridge,
        "one",
        &["-o", "com.docker.network.bridge.name=mybridge"],
    );
    create(&tunbridge, "two", &[]);
    tunbridge.kill();
    for line in [
        "ip link delete mybridge",
        "ip link add mybridge type veth peer name other",
    ] {
        lab.host().shell(line).expect_success();
    }
    tunbridge.start_again();
    let c2 = tunbridge.container_with("c2", &["--network", "two"]);
    c2.ping("172.19.0.1").expect_success();
    assert!(
        tunbridge.log().contains("mybridge"),
        "it says which: {}",
        tunbridge.log()
    );
    lab.host().shell("ip link delete mybridge").expect_success();
    // The way is free: the bridge is made without another start.
    let made = crate::lab::eventually(std::time::Duration::from_secs(5), || {
        lab.host()
            .shell("ip -o address show mybridge | grep -q 172.18.0.1")
            .succeeded()
    });
    assert!(made, "{}", tunbridge.log());
}

#[test]
fn test_no_such_external_bridge() {
    let lab = Lab::plain();
    let refused =
        crate::tunbridge_under_test::daemon_that_refuses(&lab, &["--bridge", "tbmissing"]);
    assert!(
        refused
            .expect_failure()
            .stderr
            .contains("bridge device with non default name tbmissing must be created manually")
    );
}

/// The option `com.docker.network.bridge.name`, with a bridge that is there.
#[test]
fn test_a_bridge_of_the_users_is_used_and_left() {
    let lab = Lab::plain();
    let mut tunbridge = lab.start_daemon(&[]);
    let bridge = "ip link add theirs type bridge && ip address add 10.66.0.1/24 dev theirs";
    lab.host().shell(bridge).expect_success();
    let option = "com.docker.network.bridge.name=theirs";
    create(
        &tunbridge,
        "one",
        &["--subnet", "10.66.0.0/24", "-o", option],
    );
    // Without a port it has no Ethernet address, neither when the last has gone nor at the start of a daemon.
    for restarted in [false, true] {
        let c1 = tunbridge.container_with("c1", &["--network", "one"]);
        c1.ping("10.66.0.1").expect_success();
        tunbridge.cli(&["rm", "-f", "c1"]).expect_success();
        if !restarted {
            tunbridge.kill();
            tunbridge.start_again();
        }
    }
    tunbridge.container("c2").ping(HOST).expect_success();
    assert!(
        !tunbridge.log().contains("cannot follow"),
        "{}",
        tunbridge.log()
    );
    tunbridge.cli(&["network", "rm", "one"]).expect_success();
    lab.host()
        .shell("ip -4 -o address show theirs | grep -q 10.66.0.1/24 && ip link delete theirs")
        .expect_success();
}

#[test]
fn test_host_ipv4_bridge_label() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(
        &tunbridge,
        "bound",
        &[
            "-o",
            "com.docker.network.bridge.host_binding_ipv4=127.0.0.1",
        ],
    );
    tunbridge.server("web", &["--network", "bound", "-p", "8097:80"]);
    assert_eq!(
        tunbridge.cli(&["port", "web"]).stdout,
        "80/tcp -> 127.0.0.1:8097\n"
    );
    lab.host().tcp("127.0.0.1:8097").unwrap();
    lab.lan().impatient().tcp("198.51.100.2:8097").unwrap_err();
}

#[test]
fn test_endpoint_with_custom_ifname() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "one", &[]);
    let long = "name=one,driver-opt=com.docker.network.endpoint.ifname=foobar";
    let c1 = tunbridge.container_with("c1", &["--network", long]);
    let links = c1.run(&["ip", "-o", "link"]).stdout;
    assert!(links.contains("foobar@"), "{links}");
}

#[test]
fn test_custom_ifname_collides_with_existing_iface() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "one", &[]);
    create(&tunbridge, "two", &[]);
    let option = "com.docker.network.endpoint.ifname=foobar";
    let long = format!("name=one,driver-opt={option}");
    let c1 = tunbridge.container_with("c1", &["--network", &long]);
    let said = refusal(
        &tunbridge,
        &["network", "connect", "--driver-opt", option, "two", "c1"],
    );
    assert!(said.contains("foobar"), "{said}");
    assert_eq!(
        c1.run(&["ip", "-o", "-4", "address"])
            .stdout
            .lines()
            .count(),
        2,
        "lo and foobar"
    );
}

#[test]
fn test_set_endpoint_sysctl() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    create(&tunbridge, "one", &[]);
    let setting = "com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME.log_martians=1";
    let long = format!("name=one,driver-opt={setting}");
    let c1 = tunbridge.container_with("c1", &["--network", &long]);
    let value = c1.run(&["cat", "/proc/sys/net/ipv4/conf/eth0/log_martians"]);
    // /proc of the container's namespace, whichever process looks.
    assert_eq!(value.stdout.trim(), "1", "{}", value.output());
    let refused = refusal(
        &tunbridge,
        &[
            "run",
            "-d",
            "--network",
            "name=one,driver-opt=com.docker.network.endpoint.sysctls=net.ipv4.conf.eth0.log_martians=1",
            "--",
            "true",
        ],
    );
    assert!(
        refused.contains("unrecognised network interface sysctl"),
        "{refused}"
    );
}

#[test]
fn test_firewalld_reload_no_zombies() {
    // What firewalld does at a reload: everybody's rules are gone. A network that was removed must not come back.
    let lab = Lab::in_world(crate::lab::World::Flushing);
    let tunbridge = lab.start_daemon(&[]);
    let id = create(&tunbridge, "gone", &[]);
    create(&tunbridge, "stays", &[]);
    tunbridge.cli(&["network", "rm", "gone"]).expect_success();
    tunbridge.container_with("c1", &["--network", "stays"]);
    let links = lab.host().run(&["ip", "-o", "link"]).stdout;
    assert!(!links.contains(&format!("tb-{}", &id[..12])), "{links}");
    let rules = lab.host().shell("iptables-save; nft list ruleset").stdout;
    assert!(
        !rules.contains("172.1"),
        "there never is a rule of ours: {rules}"
    );
}

#[test]
fn test_default_network_opts() {
    let lab = Lab::plain();
    let option = "bridge=com.docker.network.driver.mtu=1337";
    let tunbridge = lab.start_daemon(&["--default-network-opt", option]);
    create(&tunbridge, "one", &[]);
    create(
        &tunbridge,
        "own",
        &["-o", "com.docker.network.driver.mtu=1400"],
    );
    for (name, mtu) in [("one", "mtu 1337"), ("own", "mtu 1400")] {
        let container = tunbridge.container_with(&format!("c-{name}"), &["--network", name]);
        let link = container.run(&["ip", "link", "show", "eth0"]).stdout;
        assert!(link.contains(mtu), "{name}: {link}");
    }
}
