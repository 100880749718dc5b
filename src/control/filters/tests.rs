use super::*;
use crate::api::types::{CreateContainer, CreateNetwork, ListContainers, NetworkAttachment};
use crate::control::State;
use crate::control::daemon_options::HostFacts;
use crate::control::mac::MacAddress;
use crate::control::network_config::NetworkConfig;
use crate::control::projections::ContainerPort;
use crate::control::records::{Container, Process};
use crate::control::test_state::{at, fresh, request};
use crate::control::transport::Transport;

fn network(name: &str, id: &str, driver: &str, created: &str) -> Network {
    Network {
        id: id.to_owned(),
        number: 1,
        name: name.to_owned(),
        created: parse_moment(created, at(0)).unwrap(),
        driver: driver.to_owned(),
        labels: BTreeMap::new(),
        options: BTreeMap::new(),
        attachable: false,
        config: NetworkConfig::none(),
        bridge_mac: "02:42:00:00:00:01".parse::<MacAddress>().unwrap(),
    }
}

/// moby's, of which all are local here; the flag: a container is on it.
fn networks() -> Vec<(Network, bool)> {
    let mut labelled = network(
        "mydrivernet",
        "zlqevirearg",
        "mydriver",
        "2024-12-01T02:00:00",
    );
    labelled.labels = [("foo".to_owned(), "bar".to_owned())].into();
    vec![
        (network("host", "ubfg", "host", "2025-06-01"), false),
        (network("bridge", "oevqtr", "bridge", "2025-06-01"), false),
        (network("none", "abar", "null", "2025-06-01"), false),
        (
            network("myoverlay", "zlbireynl", "overlay", "2024-06-01T12:00:00"),
            false,
        ),
        (labelled, false),
        (
            network("mykvnet", "zlxiarg", "mykvdriver", "2025-01-01"),
            false,
        ),
        (
            network(
                "networkwithcontainer",
                "argjbexjvgupbagnvare",
                "nwc",
                "2025-06-01",
            ),
            true,
        ),
        (
            network("idoverlap", "aaaaa0my0bbbbbb", "nwc", "2025-02-01"),
            false,
        ),
    ]
}

fn filters(pairs: &[(&str, &str)]) -> Filters {
    let mut filters = Filters::default();
    for (key, value) in pairs {
        filters.insert(*key, *value);
    }
    filters
}

fn selected(filter: &NetworkFilter) -> Vec<String> {
    let networks = networks().into_iter();
    networks
        .filter(|(network, in_use)| filter.matches(network, *in_use))
        .map(|(network, _)| network.name)
        .collect()
}

#[test]
fn test_filter() {
    let everything: Vec<String> = networks().into_iter().map(|(it, _)| it.name).collect();
    assert_eq!(
        selected(&NetworkFilter::list(&Filters::default()).unwrap()),
        everything
    );
    let unused = &["myoverlay", "mydrivernet", "mykvnet", "idoverlap"][..];
    for (pairs, expected) in [
        (&[("driver", "bridge")][..], &["bridge"][..]),
        (&[("driver", "overlay")], &["myoverlay"]),
        (&[("driver", "noname")], &[]),
        (&[("driver", "bri")], &[]),
        (
            &[("driver", "bridge"), ("driver", "overlay")],
            &["bridge", "myoverlay"],
        ),
        (
            &[("type", "custom")],
            &[
                "myoverlay",
                "mydrivernet",
                "mykvnet",
                "networkwithcontainer",
                "idoverlap",
            ],
        ),
        (&[("type", "builtin")], &["host", "bridge", "none"]),
        (&[("scope", "swarm")], &[]),
        (&[("scope", "local"), ("name", "none")], &["none"]),
        (&[("dangling", "true")], unused),
        (&[("dangling", "1")], unused),
        (
            &[("dangling", "false")],
            &["host", "bridge", "none", "networkwithcontainer"],
        ),
        (
            &[("dangling", "0")],
            &["host", "bridge", "none", "networkwithcontainer"],
        ),
        (&[("label", "foo")], &["mydrivernet"]),
        (&[("label", "foo=bar")], &["mydrivernet"]),
        (&[("label", "foo=baz")], &[]),
        (&[("label", "foo"), ("label", "other")], &[]),
        (&[("name", "with")], &["networkwithcontainer"]),
        (&[("name", "^my.*net$")], &["mydrivernet", "mykvnet"]),
        (&[("name", "(")], &[]),
        (&[("id", "with")], &[]),
        (&[("id", "argjbex")], &["networkwithcontainer"]),
        (&[("id", "my")], &["idoverlap"]),
        (&[("id", "my"), ("name", "host")], &[]),
    ] {
        let filter = NetworkFilter::list(&filters(pairs)).unwrap();
        assert_eq!(selected(&filter), expected, "{pairs:?}");
    }
    for (pairs, expected) in [
        (
            &[("type", "invalid")][..],
            "invalid filter: 'type'='invalid'",
        ),
        (
            &[("dangling", "asdf")],
            "invalid value for filter 'dangling', must be \"true\" (or \"1\"), or \"false\" (or \"0\")",
        ),
        (
            &[("dangling", "1"), ("dangling", "true")],
            "got more than one value for filter key \"dangling\"",
        ),
        (&[("label!", "foo")], "invalid filter 'label!'"),
        (&[("until", "1h")], "invalid filter 'until'"),
        (&[("nonsense", "x")], "invalid filter 'nonsense'"),
    ] {
        let error = NetworkFilter::list(&filters(pairs)).unwrap_err();
        assert_eq!(error.http_status(), 400);
        assert!(error.to_string().starts_with(expected), "{error}");
    }
}

#[test]
fn test_filter_prune() {
    let now = parse_moment("2025-06-02", at(0)).unwrap();
    for (pairs, expected) in [
        (
            &[][..],
            &["myoverlay", "mydrivernet", "mykvnet", "idoverlap"][..],
        ),
        (&[("label", "foo")], &["mydrivernet"]),
        (&[("label", "foo=bar")], &["mydrivernet"]),
        (&[("label", "foo=baz")], &[]),
        (&[("label!", "foo")], &["myoverlay", "mykvnet", "idoverlap"]),
        (
            &[("label!", "foo=baz")],
            &["myoverlay", "mydrivernet", "mykvnet", "idoverlap"],
        ),
        (
            &[("until", "2025-01-01")],
            &["myoverlay", "mydrivernet", "mykvnet"],
        ),
        (&[("until", "2024-12-01T01:00:00")], &["myoverlay"]),
        (&[("until", "4390h")], &["myoverlay", "mydrivernet"]),
    ] {
        let filter = NetworkFilter::prune(&filters(pairs), now).unwrap();
        assert_eq!(selected(&filter), expected, "{pairs:?}");
    }
    for (pairs, expected) in [
        (
            &[("until", "2024-12-01T01:00:00"), ("until", "2h")][..],
            "more than one until filter specified",
        ),
        (
            &[("until", "whenever")],
            "failed to parse value as time or duration: \"whenever\"",
        ),
        (&[("dangling", "true")], "invalid filter 'dangling'"),
        (&[("name", "x")], "invalid filter 'name'"),
    ] {
        let error = NetworkFilter::prune(&filters(pairs), now).unwrap_err();
        assert!(error.to_string().starts_with(expected), "{error}");
    }
}

/// web, running since second 1; db, on net1, since second 2; job, exited with 3; new, created.
fn containers() -> State {
    let (mut state, ..) = fresh();
    let net1 = CreateNetwork {
        name: "net1".into(),
        ..CreateNetwork::default()
    };
    state
        .create_network(&net1, &HostFacts::default(), at(0))
        .unwrap();
    let process = Process {
        pid: 4711,
        start_time: 12,
    };
    let on_net1 = vec![NetworkAttachment {
        network: "net1".into(),
        ..NetworkAttachment::default()
    }];
    for (second, wanted) in [
        (1, request("web", &["8080:80"])),
        (
            2,
            CreateContainer {
                networks: on_net1,
                expose: vec!["53/udp".into()],
                ..request("db", &[])
            },
        ),
        (3, request("job", &[])),
        (4, request("new", &[])),
    ] {
        let name = wanted.name.clone().unwrap();
        state.create_container(&wanted, at(second)).unwrap();
        if name != "new" {
            state.set_started(&name, Some(process), at(second)).unwrap();
        }
    }
    state.set_exited("job", 3, at(5)).unwrap();
    state
}

/// As published or exposed by the flags.
fn ports(container: &Container) -> Vec<ContainerPort> {
    let public = |port| Some(([0, 0, 0, 0].into(), port));
    match container.name.as_str() {
        "web" => vec![ContainerPort {
            transport: Transport::Tcp,
            private: 80,
            public: public(8080),
        }],
        "db" => vec![ContainerPort {
            transport: Transport::Udp,
            private: 53,
            public: None,
        }],
        _ => Vec::new(),
    }
}

fn listed(state: &State, query: &ListContainers) -> Result<Vec<String>, FilterError> {
    let found = select_containers(state.containers(), query, ports)?;
    Ok(found.into_iter().map(|it| it.name.clone()).collect())
}

#[test]
fn what_ps_lists() {
    let state = containers();
    let id = |name: &str| state.container(name).unwrap().id.clone();
    let net1 = state.network("net1").unwrap().id.clone();
    let query = |all, limit, pairs: &[(&str, &str)]| ListContainers {
        all,
        limit,
        filters: filters(pairs),
    };
    let list = |query: &ListContainers| listed(&state, query).unwrap();
    assert_eq!(list(&query(false, None, &[])), ["db", "web"]);
    assert_eq!(list(&query(true, None, &[])), ["new", "job", "db", "web"]);
    assert_eq!(
        list(&query(false, Some(3), &[])),
        ["new", "job", "db"],
        "the newest, whatever their state"
    );
    assert_eq!(list(&query(false, Some(0), &[])), ["db", "web"]);
    let (web, unknown) = (id("web"), "0".repeat(64));
    for (pairs, expected) in [
        (&[("name", "e")][..], &["new", "web"][..]),
        (&[("name", "^/web$")], &["web"]),
        (&[("name", "^web$")], &["web"]),
        (&[("name", "web"), ("name", "job")], &["job", "web"]),
        (&[("id", &web)], &["web"]),
        (&[("id", &web[..20])], &["web"]),
        (&[("id", &web[1..20])], &[]),
        (&[("id", &unknown)], &[]),
        (&[("id", &web), ("name", "db")], &[]),
        (&[("id", "")], &[]),
        (&[("status", "exited")], &["job"]),
        (
            &[("status", "created"), ("status", "running")],
            &["new", "db", "web"],
        ),
        (&[("status", "paused")], &[]),
        (&[("exited", "3")], &["job"]),
        (&[("exited", "0")], &[]),
        (&[("network", "net1")], &["db"]),
        (&[("network", &net1[..12])], &["db"]),
        (&[("network", "bridge")], &["new", "job", "web"]),
        (&[("network", "nosuch")], &[]),
        (&[("label", "a")], &[]),
        (&[("health", "none")], &["new", "job", "db", "web"]),
        (&[("health", "healthy")], &[]),
        (&[("publish", "8080")], &["web"]),
        (&[("publish", "8000-9000/tcp")], &["web"]),
        (&[("publish", "80")], &[]),
        (&[("publish", "8080/udp")], &[]),
        (&[("expose", "80")], &["web"]),
        (&[("expose", "53/udp")], &["db"]),
        (&[("expose", "53/udp"), ("publish", "8080")], &["db", "web"]),
        (&[("before", "job")], &["db", "web"]),
        (&[("since", "db")], &["new", "job"]),
        (&[("before", "new"), ("since", "web")], &["job", "db"]),
        (&[("before", "web"), ("since", "new")], &[]),
        (&[("ancestor", "busybox")], &[]),
        (&[("volume", "/data")], &[]),
        (&[("is-task", "true")], &[]),
        (&[("is-task", "0")], &["new", "job", "db", "web"]),
        (&[("isolation", "default")], &["new", "job", "db", "web"]),
    ] {
        assert_eq!(list(&query(true, None, pairs)), expected, "{pairs:?}");
    }
    assert_eq!(
        list(&query(false, None, &[("status", "exited")])),
        ["job"],
        "a state is looked for in all"
    );
    assert!(list(&query(false, None, &[("exited", "3")])).is_empty());
}

#[test]
fn bad_filters_of_ps_have_dockers_words() {
    let state = containers();
    for (pairs, status, expected) in [
        (&[("nonsense", "x")][..], 400, "invalid filter 'nonsense'"),
        (
            &[("status", "busy")],
            400,
            "invalid filter 'status=busy': invalid value for state (busy): must be one of created, running, paused, restarting, removing, exited, dead",
        ),
        (
            &[("health", "ill")],
            400,
            "invalid filter 'health=ill': invalid value for health (ill): must be one of none, starting, healthy, unhealthy",
        ),
        (
            &[("exited", "x")],
            400,
            "invalid filter 'exited=x': strconv.Atoi: parsing \"x\": invalid syntax",
        ),
        (&[("is-task", "x")], 400, "invalid filter 'is-task=[x]'"),
        (
            &[("is-task", "1"), ("is-task", "0")],
            400,
            "invalid filter 'is-task=[0 1]'",
        ),
        (
            &[("publish", "0.0.0.0:80")],
            400,
            "filter for 'publish' should not contain ':': 0.0.0.0:80",
        ),
        (
            &[("expose", "x")],
            400,
            "error while looking up for expose x: invalid port",
        ),
        (
            &[("expose", "90-80")],
            400,
            "error while looking up for expose 90-80: ",
        ),
        (
            &[("expose", "80/icmp")],
            400,
            "error while looking up for expose 80/icmp: ",
        ),
        (&[("before", "nosuch")], 404, "No such container: nosuch: "),
        (&[("since", "a\nb")], 404, "No such container: a\\nb: "),
    ] {
        let query = ListContainers {
            all: true,
            limit: None,
            filters: filters(pairs),
        };
        let error = listed(&state, &query).unwrap_err();
        assert_eq!(error.http_status(), status);
        let message = error.to_string();
        assert!(message.starts_with(expected), "{message}");
        assert!(!message.contains('\n'), "{message:?}");
    }
}
