use std::sync::Arc;

use super::*;
use crate::control::port_allocator::PortAllocator;
use crate::control::state::State;
use crate::control::test_state::{Paper, at, config, request, settings};

fn file() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.redb");
    (directory, path)
}

fn state(path: &Path) -> State {
    let store = Store::open(path).unwrap();
    let records = store.load().unwrap();
    let ports = PortAllocator::new(Arc::new(Paper::default()), 32_768..=60_999, []);
    State::open(Box::new(store), records, ports, settings())
        .unwrap()
        .0
}

#[test]
fn what_is_committed_is_found_again() {
    let (_directory, path) = file();
    let mut first = state(&path);
    first
        .set_default_network(Some(&config(|_| {})), at(0))
        .unwrap();
    first
        .create_container(&request("web", &["8080:80"]), at(0))
        .unwrap();
    first
        .create_container(&request("gone", &[]), at(0))
        .unwrap();
    first.set_started("web", None, at(1)).unwrap();
    first.remove("gone", true).unwrap();
    let networks: Vec<_> = first.networks().cloned().collect();
    let web = first.container("web").unwrap().clone();
    drop(first);
    let records = Store::open(&path).unwrap().load().unwrap();
    assert_eq!(
        records,
        Records {
            networks,
            containers: vec![web],
            pools: Vec::new(),
            counters: Counters {
                network: 1,
                endpoint: 2
            },
            identity: records.identity.clone(),
        }
    );
}

#[test]
fn an_empty_file_has_an_identity_and_nothing_else() {
    let (_directory, path) = file();
    let records = Store::open(&path).unwrap().load().unwrap();
    assert_eq!(records.identity.secret.len(), 64);
    assert_eq!(
        records,
        Records {
            identity: records.identity.clone(),
            ..Records::default()
        }
    );
    let again = Store::open(&path).unwrap().load().unwrap();
    assert_eq!(again.identity, records.identity, "it is kept");
    let metadata = std::fs::metadata(&path).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions());
    assert_eq!(mode & 0o777, 0o600, "it holds environment variables");
}

/// The file as a daemon leaves it that is killed: every commit that returned is in it.
#[test]
fn a_killed_daemon_loses_nothing() {
    let (directory, path) = file();
    let mut alive = state(&path);
    alive
        .set_default_network(Some(&config(|_| {})), at(0))
        .unwrap();
    alive
        .create_container(&request("web", &["8080:80"]), at(0))
        .unwrap();
    let left = directory.path().join("left.redb");
    std::fs::copy(&path, &left).unwrap();
    let found = Store::open(&left).unwrap().load().unwrap();
    assert_eq!(found.containers, [alive.container("web").unwrap().clone()]);
    assert_eq!(found.counters.endpoint, 1);
}

#[test]
fn one_daemon_per_state_directory() {
    let (_directory, path) = file();
    let _first = Store::open(&path).unwrap();
    let error = Store::open(&path).unwrap_err().to_string();
    assert!(
        error.starts_with("another daemon uses this state directory: ")
            && error.contains("--state-dir"),
        "{error}"
    );
}

#[test]
fn damage_is_reported_and_not_repaired_away() {
    let (_directory, path) = file();
    std::fs::write(
        &path,
        b"this is not a database, but it is long enough to be looked at ".repeat(200),
    )
    .unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
    assert!(error.to_string().contains("move it away"), "{error}");

    let (_directory, path) = file();
    let mut store = Store::open(&path).unwrap();
    put(&mut store, CONTAINERS, "c1", b"{\"id\": 5}");
    let error = store.load().unwrap_err().to_string();
    assert!(error.contains("is damaged (record c1: "), "{error}");
}

/// Whatever happened to the file, opening it answers; it never brings the daemon down.
#[test]
fn any_damage_is_an_error_or_harmless() {
    let (_directory, path) = file();
    let mut first = state(&path);
    first
        .set_default_network(Some(&config(|_| {})), at(0))
        .unwrap();
    for index in 0..20 {
        first
            .create_container(&request(&format!("c{index}"), &[]), at(0))
            .unwrap();
    }
    drop(first);
    let expected = Store::open(&path).unwrap().load().unwrap();
    let whole = std::fs::read(&path).unwrap();
    let attempt = |octets: &[u8], what: &str| {
        std::fs::write(&path, octets).unwrap();
        let outcome =
            std::panic::catch_unwind(|| Store::open(&path).and_then(|store| store.load()));
        match outcome {
            Ok(Ok(records)) => assert!(records == expected || octets.is_empty(), "{what}"),
            Ok(Err(StoreError::Damaged { .. })) => {}
            Ok(Err(other)) => panic!("{what}: {other}"),
            Err(_) => panic!("{what}: panicked"),
        }
    };
    for length in [0, 1, 100, 320, 4096, 5000, whole.len() / 2, whole.len() - 1] {
        attempt(&whole[..length], &format!("cut to {length}"));
    }
    for at in (0..whole.len()).step_by(4096 / 3) {
        let mut damaged = whole.clone();
        for octet in damaged.iter_mut().skip(at).take(64) {
            *octet ^= 0xa5;
        }
        attempt(&damaged, &format!("flipped at {at} of {}", whole.len()));
    }
}

#[test]
fn a_directory_that_is_not_there() {
    let (directory, _) = file();
    let error = Store::open(&directory.path().join("no/state.redb")).unwrap_err();
    assert!(
        error.to_string().starts_with("cannot use the state file "),
        "{error}"
    );
}

#[test]
fn a_later_version_is_left_alone() {
    let (_directory, path) = file();
    let mut store = Store::open(&path).unwrap();
    put(&mut store, META, "version", b"6");
    drop(store);
    let error = Store::open(&path).unwrap_err();
    assert!(
        matches!(error, StoreError::TooNew { version: 6, .. }),
        "{error}"
    );
}

#[test]
fn version_1_is_brought_up_to_this() {
    // As the version before user-defined networks wrote them.
    let network = br#"{"id":"ab12","number":1,"name":"bridge","created":1795244396428803446,"driver":"bridge",
        "config":{"name":"tb0","managed":true,"address":"192.168.77.1/24","allocation_range":"192.168.77.128/25",
        "default_gateway":"192.168.77.254","mtu":1400,"host_address":"0.0.0.0","icc":false,"masquerade":true},
        "bridge_mac":"02:11:22:33:44:55"}"#;
    let container = br#"{"id":"cd34","name":"web","hostname":"web","created":1795244396428803446,
        "command":["sleep"],"env":[],"kind":"run","rootfs":null,"auto_remove":false,"netns":"/run/netns/web",
        "files":"/x","sandbox_id":"ef","attachments":[{"network":"ab12","network_name":"bridge",
        "requested_address":null,"requested_mac":null,"endpoint":{"id":"e1","number":1,
        "addresses":["192.168.77.128/24"],"gateways":["192.168.77.254"],"mac":"02:42:c0:a8:4d:80",
        "host_interface":"veth1234567"}}],"publish":[],"publish_all":false,"expose":[],"bindings":[],
        "dns":{"servers":[],"search":[],"options":[]},"extra_hosts":[],
        "state":{"running":{"process":null,"started":1795244396428803446}}}"#;
    let (_directory, path) = file();
    let mut store = Store::open(&path).unwrap();
    put(&mut store, META, "version", b"1");
    put(&mut store, NETWORKS, "ab12", network);
    put(&mut store, CONTAINERS, "cd34", container);
    drop(store);
    let mut state = state(&path);
    let flags = config(|o| {
        o.bip = Some("192.168.77.1/24".into());
        o.fixed_cidr = Some("192.168.77.128/25".into());
        o.default_gateway = Some("192.168.77.254".into());
        o.mtu = Some(1400);
        o.icc = false;
    });
    assert_eq!(state.network("bridge").unwrap().config, flags);
    assert_eq!(
        state.set_default_network(Some(&flags), at(0)).unwrap(),
        Vec::<String>::new()
    );
    assert_eq!(state.network("bridge").unwrap().id, "ab12");
    let web = state.container("web").unwrap();
    assert_eq!(web.endpoint().unwrap().interface, "eth0");
    assert_eq!(
        (web.network_mode.as_str(), web.domainname.as_str()),
        ("default", "")
    );
    assert_eq!(state.addresses_in_use("ab12"), 5);
    drop(state);
    assert_eq!(
        Store::open(&path).unwrap().load().unwrap().networks.len(),
        3
    );
}

#[test]
fn version_2_is_brought_up_to_this() {
    use crate::api::types::NetworkAttachment;
    use crate::control::test_state::{make, run_on};
    let (_directory, path) = file();
    let mut first = state(&path);
    let flags = config(|_| {});
    first.set_default_network(Some(&flags), at(0)).unwrap();
    make(&mut first, "net1", |_| {}).unwrap();
    run_on(&mut first, "web", &["net1"], |wanted| {
        let mut attachment = NetworkAttachment {
            network: "net1".to_owned(),
            ..NetworkAttachment::default()
        };
        attachment.settings.ipam_config.ipv4_address = Some("172.18.0.9".parse().unwrap());
        wanted.networks = vec![attachment];
        wanted.publish = vec!["8080:80".to_owned()];
    });
    drop(first);
    let before = Store::open(&path).unwrap().load().unwrap();
    // As the version before IPv6 wrote them.
    let mut store = Store::open(&path).unwrap();
    put(&mut store, META, "version", b"2");
    for network in &before.networks {
        let mut record = serde_json::to_value(network).unwrap();
        let config = record["config"].as_object_mut().unwrap();
        for new in ["link_local", "ipv6_address", "ndp_proxy"] {
            assert!(config.remove(new).is_some(), "{new}");
        }
        let record = record.to_string();
        put(&mut store, NETWORKS, &network.id, record.as_bytes());
    }
    for container in &before.containers {
        let mut record = serde_json::to_value(container).unwrap();
        for attachment in record["attachments"].as_array_mut().unwrap() {
            let attachment = attachment.as_object_mut().unwrap();
            let requested = attachment.remove("requested_addresses").unwrap();
            attachment.insert("requested_address".to_owned(), requested[0].clone());
            let endpoint = attachment["endpoint"].as_object_mut().unwrap();
            endpoint.remove("former_ipv6");
        }
        let record = record.to_string();
        put(&mut store, CONTAINERS, &container.id, record.as_bytes());
    }
    drop(store);
    let mut second = state(&path);
    second.set_default_network(Some(&flags), at(1)).unwrap();
    assert_eq!(second.restore().unwrap(), Vec::<String>::new());
    drop(second);
    let mut after = Store::open(&path).unwrap().load().unwrap();
    assert_eq!(
        after.containers[0].attachments[0].requested_addresses,
        [std::net::IpAddr::from([172, 18, 0, 9])]
    );
    let key = |network: &Network| network.number;
    after.networks.sort_by_key(key);
    let mut expected = before;
    expected.networks.sort_by_key(key);
    assert_eq!(after, expected);
}

#[test]
fn a_requested_address_of_version_2_is_one_of_several() {
    let upgraded = |requested: &str| {
        let record =
            format!(r#"{{"name":"web","attachments":[{{"requested_address":{requested}}}]}}"#);
        let upgraded = upgrade::container(record.as_bytes()).unwrap();
        let upgraded: serde_json::Value = serde_json::from_slice(&upgraded).unwrap();
        upgraded["attachments"][0]["requested_addresses"].to_string()
    };
    assert_eq!(upgraded("null"), "[]");
    assert_eq!(upgraded(r#""10.0.0.9""#), r#"["10.0.0.9"]"#);
    assert!(upgrade::container(b"no").is_err());
}

fn put(store: &mut Store, table: TableDefinition<'_, &str, &[u8]>, key: &str, value: &[u8]) {
    let transaction = store.database().unwrap().begin_write().unwrap();
    transaction
        .open_table(table)
        .unwrap()
        .insert(key, value)
        .unwrap();
    transaction.commit().unwrap();
}
