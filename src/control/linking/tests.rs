use super::*;
use crate::api::types::CreateContainer;
use crate::control::projections;
use crate::control::test_state::{at, config, fresh, make, on, request, run_on};
use crate::forwarder::{EndpointId, Protocol};

fn database(state: &mut State) -> Container {
    run_on(state, "db", &[""], |r| {
        r.env = vec!["POSTGRES_USER=u1".into(), "PATH=/bin".into()];
        r.expose = vec!["5432".into(), "53/udp".into()];
        r.publish = vec!["8100:9000".into()];
    })
}

fn link(name: &str, links: &[&str]) -> CreateContainer {
    CreateContainer {
        links: links.iter().map(|&link| link.to_owned()).collect(),
        ..request(name, &[])
    }
}

fn hosts(state: &State, name: &str) -> Vec<String> {
    let lines = state.hosts_lines(state.container(name).unwrap());
    lines.iter().map(ToString::to_string).collect()
}

#[test]
fn links_as_in_the_transcript() {
    let (mut state, memory, _) = fresh();
    let db = database(&mut state);
    let app = link("app", &["db:database", "db"]);
    let app = state.create_container(&app, at(0)).unwrap();
    assert_eq!(app.env.len(), 2 * 15);
    assert!(
        app.env
            .contains(&"DATABASE_PORT_9000_TCP_ADDR=172.17.0.2".to_owned())
    );
    assert!(app.env.contains(&"DB_ENV_POSTGRES_USER=u1".to_owned()));
    let app = app.container;
    let (id, own) = (&db.id[..12], &app.id[..12]);
    let lines = |address: &str| {
        vec![
            format!("{address}\tdatabase {id} db"),
            format!("{address}\tdb {id}"),
            format!("172.17.0.3\t{own}"),
        ]
    };
    assert_eq!(hosts(&state, "app"), lines("172.17.0.2"));
    let shown = crate::control::inspect::container(&state, &app);
    assert_eq!(
        shown["HostConfig"]["Links"].to_string(),
        r#"["/db:/app/database","/db:/app/db"]"#
    );
    assert!(shown["NetworkSettings"]["Networks"]["bridge"]["Links"].is_null());

    // The target comes back with another address.
    state.set_started("app", None, at(1)).unwrap();
    state.set_exited("db", 0, at(2)).unwrap();
    assert_eq!(hosts(&state, "app"), [format!("172.17.0.3\t{own}")]);
    run_on(&mut state, "filler", &[""], |_| {});
    state.restart("db").unwrap();
    let parents: Vec<_> = state.linking_to(&db.id).map(|c| c.name.as_str()).collect();
    assert_eq!(parents, ["app"]);
    assert_eq!(hosts(&state, "app"), lines("172.17.0.4"));

    let changed = state.remove_link("/app/database").unwrap();
    assert_eq!(changed.attachments[0].links.len(), 1);
    assert!(memory.records().containers.contains(&changed));
    let error = state.remove_link("app/database").unwrap_err();
    assert_eq!(error.to_string(), "No such container: app/database");
    let error = state.remove_link("app").unwrap_err().to_string();
    assert!(
        error.starts_with("Conflict, cannot remove the default link name of the container"),
        "{error}"
    );

    // A target that is removed takes the links to it along.
    state.remove("db", true).unwrap();
    assert!(
        state.container("app").unwrap().attachments[0]
            .links
            .is_empty()
    );
    let stored = memory.records().containers;
    assert!(stored.contains(state.container("app").unwrap()) && stored.len() == 2);
}

#[test]
fn links_need_a_running_target_on_the_default_network() {
    let (mut state, ..) = fresh();
    make(&mut state, "net1", |_| {}).unwrap();
    run_on(&mut state, "else", &["net1"], |_| {});
    state
        .create_container(&request("idle", &[]), at(0))
        .unwrap();
    let refuse = |state: &mut State, value: &str, text: &str| {
        let error = state
            .create_container(&link("app", &[value]), at(0))
            .unwrap_err()
            .to_string();
        assert!(error.starts_with(text), "{error}");
    };
    refuse(
        &mut state,
        "nosuch:x",
        "could not get container for nosuch: No such container: nosuch",
    );
    refuse(
        &mut state,
        "idle:x",
        "Cannot link to a non running container: /idle AS /app/x",
    );
    refuse(
        &mut state,
        "else:x",
        "Cannot link to /else, as it does not belong to the default network",
    );
    refuse(&mut state, "a:b:c", "bad format for links: a:b:c");
    // And so does a later start.
    database(&mut state);
    state
        .create_container(&link("app", &["db"]), at(0))
        .unwrap();
    for name in ["app", "db"] {
        state.set_exited(name, 0, at(2)).unwrap();
    }
    let error = state.restart("app").unwrap_err().to_string();
    assert!(
        error.starts_with("Cannot link to a non running container: /db AS /app/db"),
        "{error}"
    );
    state.restart("db").unwrap();
    state.set_started("db", None, at(3)).unwrap();
    assert_eq!(state.restart("app").unwrap().env.len(), 15);
}

#[test]
fn elsewhere_a_link_is_a_name() {
    let (mut state, ..) = fresh();
    make(&mut state, "ln", |_| {}).unwrap();
    let wanted = CreateContainer {
        networks: on(&["ln"]),
        ..link("app2", &["db2:Database"])
    };
    // It need not exist yet.
    let made = state.create_container(&wanted, at(0)).unwrap();
    assert!(made.env.is_empty());
    let db2 = run_on(&mut state, "db2", &["ln"], |_| {});
    assert_eq!(
        hosts(&state, "app2"),
        [format!("172.18.0.2\t{}", &made.container.id[..12])]
    );
    let views = projections::dns_views(&state, "");
    let address = db2.endpoint().unwrap().addresses[0].addr();
    let view = &views[&made.container.id];
    assert_eq!(view.addresses("database"), Some(&[address][..]));
    assert_eq!(views[&db2.id].addresses("database"), None);
    let shown = crate::control::inspect::container(&state, &made.container);
    assert_eq!(
        shown["NetworkSettings"]["Networks"]["ln"]["Links"].to_string(),
        r#"["db2:Database"]"#
    );
    assert!(shown["HostConfig"]["Links"].is_null());
}

#[test]
fn links_open_exposed_ports_where_icc_is_off() {
    // TestLegacyLink, TestRemoveLegacyLink.
    let (mut state, ..) = fresh();
    database(&mut state);
    run_on(&mut state, "other", &[""], |_| {});
    state
        .create_container(&link("app", &["db:database"]), at(0))
        .unwrap();
    assert!(
        projections::policy(&state, &[]).links.is_empty(),
        "icc is on"
    );
    state
        .set_default_network(Some(&config(|o| o.icc = false)), at(1))
        .unwrap();
    let opened = |state: &State| -> Vec<_> {
        let links = projections::policy(state, &[]).links.into_iter();
        links
            .map(|l| {
                (
                    l.client,
                    l.server,
                    l.protocol,
                    *l.ports.start(),
                    *l.ports.end(),
                )
            })
            .collect()
    };
    let (client, server) = (EndpointId(3), EndpointId(1));
    assert_eq!(
        opened(&state),
        [
            (client, server, Protocol::Tcp, 5432, 5432),
            (client, server, Protocol::Tcp, 9000, 9000),
            (client, server, Protocol::Udp, 53, 53)
        ]
    );
    state.remove_link("app/database").unwrap();
    assert_eq!(opened(&state), []);
}
