//! Many attachments from several processes at once.

use std::time::{Duration, Instant};

use super::runtime::{NOTHING, Runtime, STOCK, left};
use crate::lab::{Lab, Outcome};

const PROCESSES: usize = 8;
const EACH: usize = 25;

/// Adds and deletes `$3` times with `$1` as plugins' directory and `$2` as the process's number, `bridge` and `portmap`
/// each.
const LOOP: &str = r#"
set -euo pipefail
plugins=$1 process=$2 times=$3
export CNI_PATH=$plugins:$4 CNI_IFNAME=eth0 CNI_NETNS=/run/netns/cni-p$process
bridge='"cniVersion":"0.4.0","name":"many","type":"bridge","bridge":"many0","isGateway":true,"ipMasq":true,"hairpinMode":true,"ipam":{"type":"host-local","dataDir":"/run/host-local","routes":[{"dst":"0.0.0.0/0"}],"ranges":[[{"subnet":"10.74.0.0/16"}]]}'
for i in $(seq "$times"); do
    export CNI_CONTAINERID=p$process-$i
    port=$((20000 + process * 100 + i))
    portmap='"cniVersion":"0.4.0","name":"many","type":"portmap","runtimeConfig":{"portMappings":[{"hostPort":'$port',"containerPort":80,"protocol":"tcp"}]}'
    result=$(echo "{$bridge}" | CNI_COMMAND=ADD "$plugins/bridge")
    echo "{$portmap,\"prevResult\":$result}" | CNI_COMMAND=ADD "$plugins/portmap" > /dev/null
    echo "{$portmap,\"prevResult\":$result}" | CNI_COMMAND=DEL "$plugins/portmap"
    echo "{$bridge,\"prevResult\":$result}" | CNI_COMMAND=DEL "$plugins/bridge"
done
"#;

/// All processes at once; how long they took.
fn run(lab: &Lab, plugins: &str, times: usize) -> Duration {
    let begun = Instant::now();
    let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
        let start = |process: usize| {
            let host = lab.host();
            scope.spawn(move || {
                let (process, times) = (process.to_string(), times.to_string());
                host.run(&["bash", "-c", LOOP, "loop", plugins, &process, &times, STOCK])
            })
        };
        let running: Vec<_> = (0..PROCESSES).map(start).collect();
        running
            .into_iter()
            .map(|running| running.join().unwrap())
            .collect()
    });
    let took = begun.elapsed();
    for outcome in outcomes {
        outcome.expect_success();
    }
    took
}

#[test]
fn two_hundred_from_eight_processes() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let runtime = Runtime::new(&lab);
    let containers: Vec<_> = (0..PROCESSES)
        .map(|process| runtime.container(&format!("p{process}")))
        .collect();
    run(&lab, "/run/cni", EACH);
    for container in &containers {
        assert_eq!(container.interfaces(), NOTHING);
    }
    assert_eq!(left(&lab, &tunbridge), NOTHING);
}

/// `TB_BINARY` should be an optimised build. The stock plugins have a lab of their own, whose host they change.
#[test]
#[ignore = "measures"]
fn compared_with_the_stock_plugins() {
    let (lab, theirs) = (Lab::plain(), Lab::plain());
    let _tunbridge = lab.start_daemon(&[]);
    let runtimes = [&lab, &theirs].map(Runtime::new);
    let containers = |runtime| {
        (0..PROCESSES).map(move |process| Runtime::container(runtime, &format!("p{process}")))
    };
    let _containers: Vec<_> = runtimes.iter().flat_map(containers).collect();
    for round in 1..=3 {
        let ours = run(&lab, "/run/cni", EACH);
        let stock = run(&theirs, STOCK, EACH);
        let ratio = ours.as_secs_f64() / stock.as_secs_f64();
        eprintln!("round {round}: 200 times ours {ours:.2?}, stock {stock:.2?}, ratio {ratio:.2}");
    }
}
