//! When no daemon runs.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::plugin::{Answer, Namespace, Plugins};
use super::recorder::Recorder;

const VETH: &str = "ip link add eth0 address 02:42:0a:05:00:02 type veth peer name other;";

struct Bench {
    plugins: Plugins,
    directory: TempDir,
}

impl Bench {
    fn new() -> Self {
        Self {
            plugins: Plugins::new(),
            directory: TempDir::with_prefix("tbcni-").unwrap(),
        }
    }

    fn call(&self, verb: &str, netns: &str, keys: Value) -> Answer {
        let mut config = json!({"cniVersion": "1.1.0", "name": "net", "type": "tunbridge"});
        config
            .as_object_mut()
            .unwrap()
            .extend(keys.as_object().unwrap().clone());
        let call = self.plugins.call("tunbridge").attachment(verb, netns);
        call.socket(&self.directory.path().join("sock"))
            .with_config(&config)
    }

    /// What is left for the next daemon.
    fn left(&self) -> Vec<Value> {
        let Ok(files) = fs::read_dir(self.directory.path().join("detached")) else {
            return Vec::new();
        };
        let read =
            |file: fs::DirEntry| serde_json::from_slice(&fs::read(file.path()).unwrap()).unwrap();
        files.map(|file| read(file.unwrap())).collect()
    }
}

#[test]
fn adding_fails_at_once_and_says_how_to_start_it() {
    let bench = Bench::new();
    let namespace = Namespace::new();
    let begun = Instant::now();
    let words = [
        "the tunbridge daemon does not run",
        "sock",
        "systemctl start tunbridge",
    ];
    for verb in ["ADD", "GC"] {
        bench
            .call(verb, &namespace.path(), json!({}))
            .expect_error(11, &words);
    }
    bench.call("STATUS", "", json!({})).expect_error(50, &words);
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn what_is_deleted_is_gone_and_left_for_the_next_daemon_to_forget() {
    let bench = Bench::new();
    let namespace = Namespace::with(VETH);
    for _ in 0..2 {
        let answer = bench.call("DEL", &namespace.path(), json!({}));
        answer.silent();
        assert!(!namespace.interfaces().contains("eth0"));
    }
    let reference = json!({"runtime": "cni", "container": "c1", "owner": "net", "network": "net", "interface": "eth0"});
    assert_eq!(bench.left(), [reference]);
    for netns in ["", "/run/netns/gone"] {
        bench.call("DEL", netns, json!({})).silent();
    }
}

#[test]
fn an_interface_that_is_not_ours_stays() {
    let bench = Bench::new();
    let bridge = Namespace::with("ip link add eth0 type bridge;");
    bench.call("DEL", &bridge.path(), json!({})).silent();
    assert!(bridge.interfaces().contains("eth0"));
    let veth = Namespace::with(VETH);
    let previous = |mac: &str| json!({"prevResult": {"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "mac": mac, "sandbox": "/x"}]}});
    bench
        .call("DEL", &veth.path(), previous("02:42:0a:05:00:09"))
        .silent();
    assert!(veth.interfaces().contains("eth0"));
    bench
        .call("DEL", &veth.path(), previous("02:42:0A:05:00:02"))
        .silent();
    assert!(!veth.interfaces().contains("eth0"));
}

#[test]
fn the_key_socket_names_a_daemon() {
    let bench = Bench::new();
    let namespace = Namespace::new();
    let socket = "/nonexistent/tunbridge.sock";
    let config = json!({"cniVersion": "1.0.0", "name": "net", "socket": socket});
    let call = bench
        .plugins
        .call("tunbridge")
        .attachment("ADD", &namespace.path());
    call.with_config(&config).expect_error(11, &[socket]);
}

#[test]
fn a_daemon_that_somebody_has_named_and_that_is_of_another_namespace_is_refused() {
    let (plugins, daemon) = (Plugins::new(), Recorder::start());
    let other = json!({"netns": [0, 7], "version": "0"});
    daemon.answer("GET /tunbridge/host", 200, other);
    // Where one would be started for this namespace: it could not.
    let own = fs::metadata("/proc/self/ns/net").unwrap().ino();
    let directory = daemon.socket().parent().unwrap().to_owned();
    fs::write(directory.join(format!("ns-{own}")), "").unwrap();
    let namespace = Namespace::with(VETH);
    let socket = daemon.socket();
    let call = |verb: &str, by_key: bool| {
        let mut config = json!({"cniVersion": "1.1.0", "name": "net", "type": "tunbridge"});
        let mut call = plugins
            .call("tunbridge")
            .attachment(verb, &namespace.path())
            .set("CNI_IFNAME", "eth1");
        if by_key {
            config["socket"] = socket.to_str().unwrap().into();
        } else {
            call = call.socket(&socket);
        }
        call.with_config(&config)
    };
    for by_key in [false, true] {
        let words = ["serves another network namespace", socket.to_str().unwrap()];
        call("ADD", by_key).expect_error(7, &words);
        call("GC", by_key).expect_error(7, &words);
        call("STATUS", by_key).expect_error(50, &words);
        let deleted = call("DEL", by_key);
        deleted.silent();
        assert!(deleted.stderr.contains(words[0]), "{deleted:?}");
    }
    assert_eq!(daemon.requests(), [""; 0]);
    // Neither is a daemon started there nor word left for one.
    assert_eq!(fs::read_dir(directory).unwrap().count(), 2);
}
