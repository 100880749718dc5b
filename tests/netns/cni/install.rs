//! `tunbridge cni install` and `uninstall`, where links have been made by other versions and containers run.

use super::runtime::{NOTHING, Runtime, left, own};
use crate::lab::Lab;
use crate::tunbridge_under_test::binary;

const PLUGINS: &str = "/run/lab/plugins";
const CONFIGURATIONS: &str = "/run/lab/net.d";

#[test]
fn links_of_a_former_version_are_found_and_nothing_is_no_success() {
    let lab = Lab::plain();
    let host = lab.host();
    let places = ["--dir", PLUGINS, "--conf-dir", CONFIGURATIONS];
    let install = ["cni", "install", "--alias", "bridge"];
    let former = "/run/lab/former/tunbridge";
    host.shell(&format!(
        "mkdir -p /run/lab/former && ln -s {} {former}",
        binary()
    ))
    .expect_success();
    host.run(&[&[former], &install[..], &places].concat())
        .expect_success();
    let target = host.run(&["readlink", &format!("{PLUGINS}/bridge")]).stdout;
    assert_eq!(target.trim_end(), former);
    // Another program is there now.
    host.shell(&format!("rm {former} && cp /bin/true {former}"))
        .expect_success();
    let (binary, uninstall) = (binary(), ["cni", "uninstall"]);
    let uninstall = [&[binary.as_str()], &uninstall[..], &places].concat();
    let removed = host.run(&uninstall).expect_success().stdout;
    assert_eq!(removed.lines().count(), 4, "{removed}");
    let there = host.run(&["ls", PLUGINS, CONFIGURATIONS]).stdout;
    assert!(!there.contains("bridge"), "{there}");
    let said = host.run(&uninstall).expect_failure().output();
    assert!(
        said.contains(&format!("nothing of tunbridge's in {PLUGINS}")),
        "{said}"
    );
    host.run(&["rm", "-r", "/run/lab/former"]).expect_success();
}

#[test]
fn containers_that_run_are_named_and_not_left_to_themselves() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let runtime = Runtime::new(&lab);
    let (one, two) = (runtime.container("one"), runtime.container("two"));
    let config = own("net1");
    one.add(&config);
    two.add(&config);
    let install = ["cni", "install", "--no-conf", "--dir", PLUGINS];
    let uninstall = ["cni", "uninstall", "--no-conf", "--dir", PLUGINS];
    let with_force = [&uninstall[..], &["--force"]].concat();
    tunbridge.cli(&install).expect_success();
    let said = tunbridge.cli(&uninstall).expect_failure().output();
    assert!(
        said.contains("containers of CNI runtimes are on tunbridge (one two)")
            && said.contains("tunbridge rm -f one two"),
        "{said}"
    );
    tunbridge.cli(&with_force).expect_success();
    tunbridge.cli(&uninstall).expect_failure();
    // The one that is still there is not one of those that nobody took back.
    let _process = two.place.start(&["sleep", "1000"]);
    let doctor = || tunbridge.cli(&["doctor"]).stdout;
    assert!(
        doctor().contains("no process is in the network namespace of one\n")
            || doctor().contains("no process is in the network namespace of one "),
        "{}",
        doctor()
    );
    tunbridge.cli(&["rm", "-f", "one"]).expect_success();
    assert!(!doctor().contains("no process is in"), "{}", doctor());
    two.del(&config);
    tunbridge.cli(&install).expect_success();
    tunbridge.cli(&uninstall).expect_success();
    assert_eq!(left(&lab, &tunbridge), NOTHING);
}
