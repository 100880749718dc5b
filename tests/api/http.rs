//! What any HTTP client sees: status codes, headers, bodies.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use serde_json::{Value, json};
use tunbridge::api::client::Client;
use tunbridge::api::events::EventKind;
use tunbridge::api::server::ROUTES;
use tunbridge::api::types::AttachedEndpoint;

use crate::fake_backend::{OLD, Server, WEB};

#[test]
fn ping_tells_the_version_with_get_and_head_and_with_any_version() {
    let server = Server::start();
    for target in ["/_ping", "/v1.24/_ping", "/v1.52/_ping"] {
        for method in ["GET", "HEAD"] {
            let reply = server.ask(method, target, "");
            assert_eq!(reply.status, 200);
            assert_eq!(reply.body, if method == "GET" { "OK" } else { "" });
            for header in [
                "api-version: 1.52",
                "docker-experimental: false",
                "ostype: linux",
                "cache-control: no-cache, no-store, must-revalidate",
                "pragma: no-cache",
                "builder-version: 1",
                "swarm: inactive",
                "content-type: text/plain; charset=utf-8",
            ] {
                assert!(
                    reply.head.lines().any(|line| line == header),
                    "{header}: {reply:?}"
                );
            }
        }
    }
}

#[test]
fn versions_that_are_not_served_get_dockers_words() {
    let server = Server::start();
    for (target, message) in [
        (
            "/v1.99/info",
            "client version 1.99 is too new. Maximum supported API version is 1.52",
        ),
        (
            "/v1.12/info",
            "client version 1.12 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version",
        ),
    ] {
        let reply = server.ask("GET", target, "");
        assert_eq!((reply.status, reply.message().as_str()), (400, message));
        assert!(reply.head.contains("api-version: 1.52"));
    }
}

#[test]
fn the_life_of_a_network() {
    let server = Server::start();
    let body = json!({"Name": "net1", "Driver": "bridge", "IPAM": {"Config": [{"Subnet": "10.5.0.0/16"}]}});
    let reply = server.ask("POST", "/v1.41/networks/create", &body.to_string());
    assert_eq!(reply.status, 201);
    let id = reply.json()["Id"].as_str().unwrap().to_owned();
    assert_eq!(reply.json()["Warning"], "");
    let again = server.ask("POST", "/networks/create", &body.to_string());
    assert_eq!(
        (again.status, again.message().as_str()),
        (409, "network with name net1 already exists")
    );
    // The old form of filters, and the new one.
    for filters in [
        "%7B%22name%22%3A%5B%22net1%22%5D%7D",
        "%7B%22name%22%3A%7B%22net1%22%3Atrue%7D%7D",
    ] {
        let list = server
            .ask("GET", &format!("/networks?filters={filters}"), "")
            .json();
        assert_eq!(list[0]["Id"], id.as_str());
    }
    let filters = server.fake.records().filters.clone();
    assert_eq!(filters[0], filters[1]);
    for bad in ["x", "%7B%22nosuch%22%3A%5B%22x%22%5D%7D"] {
        let reply = server.ask("GET", &format!("/networks?filters={bad}"), "");
        assert_eq!(reply.status, 400);
        assert!(reply.message().starts_with("invalid filter"), "{reply:?}");
    }
    // `Status` is news of 1.52.
    assert!(
        server
            .ask("GET", "/v1.41/networks/net1", "")
            .json()
            .get("Status")
            .is_none()
    );
    assert!(
        server.ask("GET", "/v1.51/networks", "").json()[0]
            .get("Status")
            .is_none()
    );
    assert!(
        server
            .ask("GET", "/v1.52/networks/net1?verbose=1", "")
            .json()
            .get("Status")
            .is_some()
    );
    assert_eq!(
        server.ask("GET", "/networks/net1?scope=local", "").status,
        200
    );
    let other = server.ask("GET", "/networks/net1?scope=swarm", "");
    assert_eq!(
        (other.status, other.message().as_str()),
        (404, "network net1 not found")
    );

    let connect = json!({"Container": "web", "EndpointConfig": {"IPAMConfig": {"IPv4Address": "10.5.0.9"}, "GwPriority": 3}});
    let reply = server.ask("POST", "/networks/net1/connect", &connect.to_string());
    assert_eq!((reply.status, reply.body.as_str()), (200, ""));
    let settings = server.fake.records().connected[0].endpoint_config.clone();
    assert_eq!(
        settings.ipam_config.ipv4_address,
        Some([10, 5, 0, 9].into())
    );
    assert_eq!(settings.gw_priority, 3);
    assert_eq!(
        server
            .ask("POST", "/networks/net1/connect", &connect.to_string())
            .status,
        403
    );
    assert_eq!(server.ask("DELETE", "/networks/net1", "").status, 403);
    assert_eq!(
        server.ask("POST", "/networks/prune", "").json(),
        json!({"NetworksDeleted": null})
    );
    let disconnect = r#"{"Container":"web","Force":true}"#;
    assert_eq!(
        server
            .ask("POST", "/networks/net1/disconnect", disconnect)
            .status,
        200
    );
    assert_eq!(
        server
            .ask("POST", "/networks/net1/disconnect", disconnect)
            .status,
        403
    );
    assert_eq!(server.ask("DELETE", "/networks/net1", "").status, 204);
    for (target, status) in [
        ("shared", 403),
        ("shared?force=0", 403),
        ("shared?force=1", 404),
    ] {
        let target = format!("/networks/{target}");
        assert_eq!(server.ask("DELETE", &target, "").status, status, "{target}");
    }
    let gone = server.ask("DELETE", "/networks/net1", "");
    assert_eq!(
        (gone.status, gone.message().as_str()),
        (404, "network net1 not found")
    );
}

#[test]
fn networks_have_the_families_that_were_asked_for() {
    let server = Server::start();
    let pools = json!([
        {"Subnet": "fd00:5::/64", "Gateway": "fd00:5::1", "AuxiliaryAddresses": {"DefaultGatewayIPv6": "fe80::1"}},
    ]);
    for (name, families, ipv4, ipv6) in [
        ("four", json!({}), true, false),
        ("dual", json!({"EnableIPv6": true}), true, true),
        (
            "six",
            json!({"EnableIPv4": false, "EnableIPv6": true}),
            false,
            true,
        ),
    ] {
        let mut body = json!({"Name": name, "IPAM": {"Config": pools}});
        let fields = families.as_object().unwrap().clone();
        body.as_object_mut().unwrap().extend(fields);
        let reply = server.ask("POST", "/networks/create", &body.to_string());
        assert_eq!(reply.status, 201, "{reply:?}");
        let found = server.ask("GET", &format!("/networks/{name}"), "").json();
        assert_eq!(
            (&found["EnableIPv4"], &found["EnableIPv6"]),
            (&json!(ipv4), &json!(ipv6))
        );
        assert_eq!(found["IPAM"]["Config"], pools);
        // `EnableIPv4` is news of 1.48.
        let old = format!("/v1.47/networks/{name}");
        let found = server.ask("GET", &old, "").json();
        assert_eq!(
            (found.get("EnableIPv4"), &found["EnableIPv6"]),
            (None, &json!(ipv6))
        );
    }
    let body = r#"{"Container":"web","EndpointConfig":{"IPAMConfig":{"IPv6Address":"fd00:5::x"}}}"#;
    let reply = server.ask("POST", "/networks/dual/connect", body);
    assert_eq!(
        (reply.status, reply.message().as_str()),
        (400, "invalid IPv6 address: fd00:5::x")
    );
}

#[test]
fn bad_bodies_get_dockers_words() {
    let server = Server::start();
    for (body, start) in [
        ("{", "invalid JSON: got EOF while reading request body"),
        ("nonsense", "invalid JSON: "),
        (r#"{"Name":7}"#, "invalid JSON: "),
        (r#"{"Name":"a"}{"#, "unexpected content after JSON"),
    ] {
        let reply = server.ask("POST", "/networks/create", body);
        assert_eq!(reply.status, 400);
        assert!(reply.message().starts_with(start), "{reply:?}");
    }
    let body = r#"{"Container":"web","EndpointConfig":{"IPAMConfig":{"IPv4Address":"10.5.9"}}}"#;
    let reply = server.ask("POST", "/networks/net1/connect", body);
    assert_eq!(
        (reply.status, reply.message().as_str()),
        (400, "invalid IPv4 address: 10.5.9")
    );
    let text = "POST /networks/create HTTP/1.1\r\nHost: d\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}";
    let answer = server.raw(text.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(
        answer.contains("unsupported Content-Type header (text/plain): must be 'application/json'")
    );
    assert!(server.fake.records().created.is_empty());
}

#[test]
fn containers_are_listed_inspected_stopped_killed_and_removed() {
    let server = Server::start();
    let list = server
        .ask("GET", "/v1.41/containers/json?all=1&limit=0&size=1", "")
        .json();
    assert_eq!(list.as_array().map(Vec::len), Some(2));
    server.ask("GET", "/containers/json?limit=3", "");
    server.ask("GET", "/containers/json?limit=-1", "");
    assert_eq!(
        server.ask("GET", "/containers/json?limit=x", "").status,
        400
    );
    let asked = std::mem::take(&mut server.fake.records().asked);
    assert_eq!(
        asked,
        ["list true None", "list false Some(3)", "list false None"]
    );

    let old = server.ask("GET", "/v1.41/containers/web/json", "").json();
    let new = server.ask("GET", "/v1.52/containers/web/json", "").json();
    assert_eq!(old["NetworkSettings"]["IPAddress"], "10.5.0.2");
    assert_eq!(new["NetworkSettings"].get("IPAddress"), None);
    let endpoint =
        |body: &Value, key: &str| body["NetworkSettings"]["Networks"]["net1"][key].clone();
    assert_eq!(endpoint(&new, "Aliases"), json!(["svc"]));
    assert_eq!(endpoint(&new, "GwPriority"), json!(0));
    assert_eq!(endpoint(&old, "Aliases"), json!(["svc", "aaaaaaaaaaaa"]));
    assert_eq!(endpoint(&old, "GwPriority"), Value::Null, "not known then");
    let gone = server.ask("GET", "/containers/nosuch/json", "");
    assert_eq!(
        (gone.status, gone.message().as_str()),
        (404, "No such container: nosuch")
    );
    let bad = server.ask("GET", "/containers/%FF/json", "");
    assert_eq!(bad.status, 400);
    assert!(bad.message().starts_with("invalid path"), "{bad:?}");

    for (method, target, status) in [
        ("POST", "/containers/web/stop", 204),
        ("POST", "/containers/web/stop?t=3", 204),
        ("POST", "/containers/web/stop?t=-1&signal=SIGTERM", 204),
        ("POST", "/containers/old/stop", 304),
        ("POST", "/containers/web/stop?t=x", 400),
        ("POST", "/containers/web/stop?signal=SIGINT", 501),
        ("POST", "/containers/web/kill", 204),
        ("POST", "/containers/web/kill?signal=HUP", 204),
        ("POST", "/containers/web/kill?signal=nosuch", 400),
        ("POST", "/containers/old/kill", 409),
        ("DELETE", "/containers/web", 409),
        ("DELETE", "/containers/web?force=1&v=1", 204),
        ("DELETE", "/containers/old", 204),
        ("DELETE", "/containers/web/db?link=1", 204),
        ("DELETE", "/containers/web%2Fdb?link=1", 204),
        ("DELETE", "/containers/web/db", 404),
        ("DELETE", "/containers/nosuch", 404),
    ] {
        let reply = server.ask(method, target, "");
        assert_eq!(reply.status, status, "{target} {reply:?}");
        assert_eq!(reply.body.is_empty(), status < 400, "{reply:?}");
    }
    let asked = std::mem::take(&mut server.fake.records().asked);
    assert_eq!(
        asked,
        [
            "stop web 10",
            "stop web 3",
            "stop web 2147483647",
            "stop old 10",
            "kill web 9",
            "kill web 1",
            "remove web true",
            "remove old false",
            "unlink web/db",
            "unlink web/db",
        ]
    );
}

/// The namespace comes as a descriptor with the connection, and once.
#[test]
fn a_runtime_hands_its_namespace_over() {
    let server = Server::start();
    let namespace = File::open("/proc/self/ns/net").unwrap();
    let inode = namespace.metadata().unwrap().ino();
    let body = json!({"runtime": "cni", "container": "c1", "network": "net1", "interface": "eth0"});
    let client = Client::new(&server.socket());
    let attached: AttachedEndpoint = client
        .clone()
        .with_descriptor(namespace.into())
        .post("/tunbridge/endpoints", &body)
        .unwrap();
    assert_eq!(attached.network, "net1");
    client
        .post::<AttachedEndpoint>("/tunbridge/endpoints", &body)
        .unwrap();
    let reference = json!({"runtime": "cni", "container": "c1"});
    client
        .tell("/tunbridge/endpoints/detach", &reference)
        .unwrap();
    let valid = json!({"runtime": "cni", "owner": "net1", "valid": [["c1", "eth0"]]});
    client.tell("/tunbridge/endpoints/collect", &valid).unwrap();
    let limits =
        json!({"endpoint": reference, "bandwidth": {"egress": {"rate": 1000, "burst": 20_000}}});
    client
        .tell("/tunbridge/endpoints/bandwidth", &limits)
        .unwrap();
    assert_eq!(
        server.fake.records().asked,
        [
            format!("attach c1 {inode}"),
            "attach c1 0".to_owned(),
            "detach c1".to_owned(),
            "collect 1".to_owned(),
            "limit c1 Some(1000)".to_owned()
        ]
    );
    let refused = client
        .post::<AttachedEndpoint>("/tunbridge/endpoints/check", &reference)
        .unwrap_err();
    assert_eq!(refused.to_string(), "no endpoint of c1");
    let unknown = server.ask(
        "POST",
        "/tunbridge/endpoints",
        r#"{"runtime":"cni","container":"c1","network":"n","mac":"x"}"#,
    );
    assert_eq!(unknown.status, 400);
    assert!(unknown.body.contains("unknown field"), "{}", unknown.body);
    assert_eq!(
        server.ask("GET", "/tunbridge/host", "").json()["netns"][0],
        4
    );
}

#[test]
fn our_own_requests() {
    let server = Server::start();
    let reply = server.ask(
        "POST",
        "/tunbridge/containers",
        r#"{"name":"web","networks":[{"network":"a","Aliases":["x"]}]}"#,
    );
    assert_eq!(
        (reply.status, &reply.json()["env"][0]),
        (201, &json!("DB_NAME=/web/db"))
    );
    let reply = server.ask("POST", "/tunbridge/containers/old/start", "");
    let spec = reply.json();
    assert_eq!(
        (reply.status, &spec["command"], &spec["env"]),
        (200, &json!(["sleep", "9"]), &json!(["A=b"]))
    );
    let own = i32::try_from(std::process::id()).unwrap();
    let peers = server.fake.records().peers.clone();
    assert!(peers.iter().all(|peer| peer.pid == Some(own)), "{peers:?}");
    for (target, body) in [
        ("started", r#"{"pid":7}"#),
        ("exited", r#"{"code":3}"#),
        ("publish", r#"{"spec":"80:80"}"#),
        ("unpublish", r#"{"spec":"80:80"}"#),
    ] {
        assert_eq!(
            server
                .ask("POST", &format!("/tunbridge/containers/web/{target}"), body)
                .status,
            204
        );
    }
    // Our own bodies are strict: a misspelt key would be a wish that is not granted.
    let reply = server.ask("POST", "/tunbridge/containers", r#"{"nmae":"web"}"#);
    assert_eq!(reply.status, 400);
    assert!(reply.message().contains("nmae"), "{reply:?}");
    assert_eq!(server.ask("GET", "/tunbridge/flows", "").json(), json!([]));
    assert_eq!(server.ask("GET", "/tunbridge/doctor", "").json(), json!([]));
    assert!(server.ask("GET", "/tunbridge/stats", "").json().is_object());
}

#[test]
fn what_is_not_served_says_so() {
    let server = Server::start();
    for (method, target, status) in [
        ("POST", "/v1.41/containers/create", 501),
        ("POST", "/containers/web/start", 501),
        ("POST", "/containers/web/restart", 501),
        ("POST", "/containers/web/exec", 501),
        ("POST", "/containers/web/wait", 501),
        ("POST", "/exec/ab/start", 501),
        ("GET", "/containers/web/logs", 501),
        ("GET", "/images/json", 501),
        ("POST", "/build", 501),
        ("PUT", "/networks", 501),
        ("GET", "/swarm", 501),
        ("GET", "/tunbridge/nonsense", 501),
        ("GET", "/images/x/json", 404),
        ("GET", "/volumes/x", 404),
        ("GET", "/", 404),
        ("GET", "/nonsense", 404),
        ("GET", "/v1.x/networks", 404),
        ("GET", "/v1.41", 404),
    ] {
        let reply = server.ask(method, target, "");
        assert_eq!(reply.status, status, "{target}");
        assert!(
            !reply.message().is_empty() && !reply.message().contains('\n'),
            "{reply:?}"
        );
    }
}

#[test]
fn every_route_of_the_document_is_served() {
    let server = Server::start();
    let document = server
        .ask("GET", "/v1.41/tunbridge/openapi.json", "")
        .json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    let paths = document["paths"].as_object().unwrap();
    let operations: usize = paths
        .values()
        .map(|methods| methods.as_object().unwrap().len())
        .sum();
    assert_eq!(operations, ROUTES.len());
    for (path, methods) in paths {
        for method in methods
            .as_object()
            .unwrap()
            .keys()
            .filter(|_| path != "/events")
        {
            let target = path
                .replace("{id}", "web")
                .replace("{name}", "x")
                .replace("{alias}", "x?link=1");
            let reply = server.ask(&method.to_uppercase(), &target, "");
            assert!(
                reply.status != 501 && reply.status != 405,
                "{method} {path}: {reply:?}"
            );
        }
    }
}

#[test]
fn the_page_on_the_api_names_exactly_the_routes() {
    let page = include_str!("../../docs/api.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let rows = rows
        .filter_map(|row| row.split_once('`'))
        .map(|(route, _)| route.to_owned());
    let named: Vec<String> = rows.collect();
    let served: Vec<String> = ROUTES
        .iter()
        .map(|(method, path)| format!("{} {path}", method.to_uppercase()))
        .collect();
    assert_eq!(named, served);
}

fn lines(server: &Server, target: &str) -> impl Iterator<Item = Value> {
    let mut stream = server.open();
    let request = format!("GET {target} HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        assert!(reader.read_line(&mut line).unwrap() > 0, "no head");
    }
    // Chunks: a length, then the line.
    reader
        .lines()
        .map(Result::unwrap)
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(&line).unwrap())
}

#[test]
fn events_come_at_once_filtered_and_from_the_past() {
    let server = Server::start();
    let publish = |action: &'static str, id: &str| {
        server.fake.events.publish(
            EventKind::Network,
            action,
            id,
            [("name", "net1"), ("type", "bridge")],
        );
    };
    server
        .fake
        .events
        .publish(EventKind::Container, "start", WEB, [("name", "web")]);
    publish("create", "aa");
    // The head comes before the first event does.
    let mut live = lines(&server, "/events");
    publish("connect", "aa");
    let event = live.next().unwrap();
    assert_eq!(
        (&event["Action"], &event["Type"]),
        (&json!("connect"), &json!("network"))
    );
    assert_eq!(
        event["Actor"],
        json!({"ID": "aa", "Attributes": {"name": "net1", "type": "bridge"}})
    );

    let actions = |target: &str| -> Vec<String> {
        lines(&server, target)
            .map(|event| event["Action"].as_str().unwrap().to_owned())
            .collect()
    };
    let now = event["time"].as_i64().unwrap() + 1;
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(
        actions(&format!("/events?since=0&until={now}")),
        ["start", "create", "connect"]
    );
    assert_eq!(
        actions(&format!("/events?until={now}.000000000")),
        ["start", "create", "connect"]
    );
    assert_eq!(
        actions("/events?since=10m&until=0s"),
        ["start", "create", "connect"]
    );
    assert_eq!(
        actions("/events?since=2020-01-01T00:00:00Z&until=2020-01-02T00:00:00Z"),
        Vec::<String>::new()
    );
    let filters = "%7B%22type%22%3A%5B%22container%22%5D%7D";
    assert_eq!(
        actions(&format!("/events?since=0&until={now}&filters={filters}")),
        ["start"]
    );

    // Docker's older clients read `status`, newer ones are not sent it.
    let first = |version: &str| {
        lines(&server, &format!("{version}/events?since=0&until={now}"))
            .next()
            .unwrap()
    };
    assert_eq!(
        (&first("/v1.41")["status"], &first("")["id"]),
        (&json!("start"), &json!(WEB))
    );
    assert_eq!(first("/v1.52").get("status"), None);

    // The stream ends when `until` comes.
    let begun = std::time::Instant::now();
    let mut stream = lines(&server, "/events?until=-1s");
    publish("destroy", "aa");
    assert_eq!(stream.by_ref().last().unwrap()["Action"], "destroy");
    assert!(
        (900..5000).contains(&begun.elapsed().as_millis()),
        "{:?}",
        begun.elapsed()
    );

    for (target, start) in [
        ("/events?since=x", "invalid since=x"),
        ("/events?until=1.x", "invalid until=1.x"),
        (
            "/events?since=5&until=4",
            "`since` time (5) cannot be after `until` time (4)",
        ),
        ("/events?filters=x", "invalid filter"),
    ] {
        let reply = server.ask("GET", target, "");
        assert_eq!(reply.status, 400);
        assert!(reply.message().starts_with(start), "{reply:?}");
    }
}

#[test]
fn info_and_version_have_what_clients_print() {
    let server = Server::start();
    let info = server.ask("GET", "/info", "").json();
    assert_eq!(
        (&info["Containers"], &info["ContainersStopped"]),
        (&json!(2), &json!(1))
    );
    assert_eq!(info["Swarm"]["LocalNodeState"], "inactive");
    let version = server.ask("GET", "/v1.41/version", "").json();
    for key in [
        "Version",
        "ApiVersion",
        "MinAPIVersion",
        "GitCommit",
        "GoVersion",
        "Os",
        "Arch",
        "KernelVersion",
        "BuildTime",
    ] {
        assert!(
            version[key].as_str().is_some_and(|text| !text.is_empty()),
            "{key}"
        );
    }
    assert_eq!(
        version["Components"][0]["Details"]["ApiVersion"],
        version["ApiVersion"]
    );
    assert!(OLD.starts_with("0000"));
}
