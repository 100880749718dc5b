//! A network namespace of its own for tests that open sockets.

use std::net::{TcpListener, TcpStream};

use nix::sched::{CloneFlags, unshare};

/// Runs `test` on a thread in a new network namespace with `lo` up. The namespace vanishes with the
/// thread. Without the right to make one the test is skipped, and says so.
pub(super) fn in_fresh_netns(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
                println!("SKIPPED: cannot make a network namespace ({error}); run as root");
                return;
            }
            let up = std::process::Command::new("ip")
                .args(["link", "set", "lo", "up"])
                .status()
                .unwrap();
            assert!(up.success(), "ip link set lo up");
            // Nothing of the machine is visible here.
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            drop(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
            test();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Raises the limit of open files as far as it goes. False, with a message, if that is below `wanted`.
pub(super) fn may_open_files(wanted: u64) -> bool {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    if hard < wanted {
        println!("SKIPPED: {wanted} open files are needed, the hard limit is {hard}");
    }
    hard >= wanted
}
