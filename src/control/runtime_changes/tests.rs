use super::*;
use crate::api::types::{AttachEndpoint, Placement, Runtime};
use crate::control::projections;
use crate::control::test_state::{Memory, Paper, at, fresh, make, open, run_on};

fn attach(state: &mut State, id: &str, placement: Placement) {
    let request = AttachEndpoint {
        placement,
        ..AttachEndpoint::new(Runtime::Docker, id, "shop")
    };
    state.attach_endpoint(&request, &|_| true, at(0)).unwrap();
}

fn named(id: &str, name: &str, aliases: &[&str]) -> NameEndpoint {
    NameEndpoint {
        runtime: Runtime::Docker,
        container: id.to_owned(),
        name: name.to_owned(),
        aliases: aliases.iter().map(|&alias| alias.to_owned()).collect(),
    }
}

/// What a container of our own finds by a name.
fn found(state: &State, name: &str) -> Vec<String> {
    let views = projections::dns_views(state, "");
    let own = &views[&state.container("own").unwrap().id];
    let addresses = own.addresses(name).unwrap_or_default();
    addresses.iter().map(ToString::to_string).collect()
}

fn world() -> (State, Memory) {
    let (mut state, memory, _) = fresh();
    make(&mut state, "shop", |_| {}).unwrap();
    run_on(&mut state, "own", &["shop"], |_| {});
    attach(&mut state, "e1", Placement::Host);
    attach(&mut state, "e2", Placement::Host);
    (state, memory)
}

#[test]
fn a_name_told_late_is_found_like_any_other() {
    let (mut state, memory) = world();
    assert!(found(&state, "web").is_empty());
    let request = named("e1", "web", &["www", "0123456789ab", "bad name"]);
    assert!(state.name_endpoint(&request).unwrap().is_some());
    assert!(
        state.name_endpoint(&request).unwrap().is_none(),
        "no write for nothing"
    );
    for name in ["web", "www", "web.shop", "0123456789ab"] {
        assert_eq!(found(&state, name), ["172.18.0.3"], "{name}");
    }
    // Another of the same name: both are found.
    state.name_endpoint(&named("e2", "web", &[])).unwrap();
    let mut both = found(&state, "web");
    both.sort();
    assert_eq!(both, ["172.18.0.3", "172.18.0.4"]);
    // docker rename.
    state
        .name_endpoint(&named("e1", "shop-web", &["www"]))
        .unwrap();
    assert_eq!(found(&state, "web"), ["172.18.0.4"]);
    assert_eq!(found(&state, "shop-web"), ["172.18.0.3"]);
    let (state, _) = open(&memory, &Paper::default());
    assert_eq!(found(&state, "www"), ["172.18.0.3"]);
    let names = state.network_names("shop").unwrap();
    let docker = names
        .iter()
        .find(|named| named.runtime == Some((Runtime::Docker, "e1".into())));
    assert!(docker.unwrap().names.contains(&"shop-web".to_owned()));
    let own = names.iter().find(|named| named.runtime.is_none()).unwrap();
    assert!(own.names.contains(&"own".to_owned()));
    assert_eq!(own.addresses[0].to_string(), "172.18.0.2");
}

#[test]
fn names_are_of_endpoints_whose_namespace_is_not_ours() {
    let (mut state, _) = world();
    attach(&mut state, "e3", Placement::Namespace);
    let error = state.name_endpoint(&named("e3", "web", &[])).unwrap_err();
    assert!(
        error.to_string().contains("its namespace bears its name"),
        "{error}"
    );
    let error = state.name_endpoint(&named("e4", "web", &[])).unwrap_err();
    assert_eq!(error.http_status(), 404);
}

#[test]
fn ports_are_published_all_or_none_and_taken_back_together() {
    let (mut state, _) = world();
    let publish = |state: &mut State, specs: &[&str]| {
        let specs: Vec<String> = specs.iter().map(|&spec| spec.to_owned()).collect();
        let id = state
            .runtime_container(Runtime::Docker, "e1")
            .unwrap()
            .id
            .clone();
        let published = state.publish_only(&id, &specs);
        published.map(|container| {
            let bindings = container.bindings.iter();
            bindings
                .map(|binding| binding.host_port)
                .collect::<Vec<u16>>()
        })
    };
    assert_eq!(
        publish(&mut state, &["8080:80/tcp", "8081:81/udp"]).unwrap(),
        [8080, 8081]
    );
    assert_eq!(
        publish(&mut state, &["8080:80", "8082:82"]).unwrap(),
        [8080, 8082]
    );
    state.publish("own", "9090:90").unwrap();
    assert!(publish(&mut state, &["8083:83", "9090:90"]).is_err());
    assert!(publish(&mut state, &["8083:83", "nonsense"]).is_err());
    let kept = state.runtime_container(Runtime::Docker, "e1").unwrap();
    assert_eq!(kept.publish, ["8080:80", "8082:82"]);
    assert_eq!(publish(&mut state, &[]).unwrap(), Vec::<u16>::new());
    state.publish("own", "8080:80").unwrap();
}

#[test]
fn labels_come_and_go() {
    let (mut state, memory) = world();
    let change = |label: &str, value: Option<&str>| {
        BTreeMap::from([(label.to_owned(), value.map(str::to_owned))])
    };
    state
        .change_labels("shop", &change("a", Some("b")))
        .unwrap();
    let (mut state, _) = open(&memory, &Paper::default());
    assert_eq!(state.network("shop").unwrap().labels["a"], "b");
    state.change_labels("shop", &change("a", None)).unwrap();
    assert!(state.network("shop").unwrap().labels.is_empty());
    assert!(state.change_labels("shop", &change("", Some("b"))).is_err());
    assert!(state.change_labels("nope", &change("a", None)).is_err());
}
