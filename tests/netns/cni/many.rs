//! Many attachments from several processes at once.

use std::time::{Duration, Instant};

use super::runtime::{NOTHING, Runtime, STOCK, left};
use crate::lab::{Lab, Outcome};

const PROCESSES: usize = 8;
const EACH: usize = 25;

/// Rounds of the comparison, and how often each process adds and deletes in one.
const ROUNDS: usize = 3;
const EACH_ROUND: usize = 2;

/// Adds and deletes `$3` times with `$1` as plugins' directory and `$2` as the process's number, `bridge` and `portmap`
/// each. While a container has an address nobody else can make its directory.
const LOOP: &str = r#"
set -euo pipefail
mkdir -p /run/lab/addresses
plugins=$1 process=$2 times=$3
export CNI_PATH=$plugins:$4 CNI_IFNAME=eth0 CNI_NETNS=/run/netns/cni-p$process
bridge='"cniVersion":"0.4.0","name":"many","type":"bridge","bridge":"many0","isGateway":true,"ipMasq":true,"hairpinMode":true,"ipam":{"type":"host-local","dataDir":"/run/host-local","routes":[{"dst":"0.0.0.0/0"}],"ranges":[[{"subnet":"10.74.0.0/16"}]]}'
for i in $(seq "$times"); do
    export CNI_CONTAINERID=p$process-$i
    port=$((20000 + process * 100 + i))
    portmap='"cniVersion":"0.4.0","name":"many","type":"portmap","runtimeConfig":{"portMappings":[{"hostPort":'$port',"containerPort":80,"protocol":"tcp"}]}'
    result=$(echo "{$bridge}" | CNI_COMMAND=ADD "$plugins/bridge")
    [[ $result =~ \"address\":\ ?\"([0-9.]+) ]]
    address=/run/lab/addresses/${BASH_REMATCH[1]}
    mkdir "$address"
    echo "{$portmap,\"prevResult\":$result}" | CNI_COMMAND=ADD "$plugins/portmap" > /dev/null
    echo "{$portmap,\"prevResult\":$result}" | CNI_COMMAND=DEL "$plugins/portmap"
    rmdir "$address"
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

/// Ours do it in no more time than Debian's, which have a lab of their own, whose host they change.
#[test]
fn ours_are_not_slower_than_the_stock_plugins() {
    let (lab, theirs) = (Lab::plain(), Lab::plain());
    let _tunbridge = lab.start_daemon(&[]);
    let runtimes = [&lab, &theirs].map(Runtime::new);
    let containers = |runtime| {
        (0..PROCESSES).map(move |process| Runtime::container(runtime, &format!("p{process}")))
    };
    let _containers: Vec<_> = runtimes.iter().flat_map(containers).collect();
    let mut ratios: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let ours = run(&lab, "/run/cni", EACH_ROUND);
            let stock = run(&theirs, STOCK, EACH_ROUND);
            let ratio = ours.as_secs_f64() / stock.as_secs_f64();
            eprintln!("ours {ours:.2?}, stock {stock:.2?}, ratio {ratio:.2}");
            ratio
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    let median = ratios[ROUNDS / 2];
    assert!(median <= 1.0, "{ratios:?}");
}
