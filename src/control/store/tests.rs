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
            counters: Counters {
                network: 1,
                endpoint: 2
            }
        }
    );
}

#[test]
fn an_empty_file_has_nothing() {
    let (_directory, path) = file();
    assert_eq!(
        Store::open(&path).unwrap().load().unwrap(),
        Records::default()
    );
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
    put(&mut store, META, "version", b"2");
    drop(store);
    let error = Store::open(&path).unwrap_err();
    assert!(
        matches!(error, StoreError::TooNew { version: 2, .. }),
        "{error}"
    );
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
