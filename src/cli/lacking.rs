//! Flags of Docker's that are not there on purpose: what to do instead.

/// The advice for `flag` (`-v`, `--volume`) of `subcommand`, if Docker has it and we do not.
pub(super) fn instead_of(subcommand: &str, flag: &str) -> Option<&'static str> {
    let advice = match (subcommand, flag) {
        ("run" | "exec", "-i" | "--interactive" | "-t" | "--tty") => {
            "the program has your terminal, input and output already: leave it out"
        }
        ("start", "-a" | "--attach" | "-i" | "--interactive" | "--detach-keys") => {
            "it starts in the background, and its output goes to the file that `inspect` calls LogPath: follow that with tail -f"
        }
        ("exec", "-d" | "--detach") => "let the shell do it: tunbridge exec NAME CMD &",
        (
            "run",
            "-v" | "--volume" | "--mount" | "--volumes-from" | "--volume-driver" | "--tmpfs",
        ) => {
            "without --rootfs the host's files are there anyway; with --rootfs DIR, do before it: mount --bind SOURCE DIR/TARGET"
        }
        ("run", "-w" | "--workdir") => {
            "the program begins in your working directory, with --rootfs in /: use sh -c 'cd DIR && exec CMD'"
        }
        ("run" | "exec", "-u" | "--user" | "--group-add") => {
            "programs run as you: use setpriv --reuid USER --regid GROUP --init-groups CMD"
        }
        ("run", "--entrypoint") => "there are no images: the whole command stands after --",
        ("run", "--restart") => {
            "a service manager does that: give systemd a unit with `ExecStart=tunbridge run …` and `Restart=`, or use `tunbridge restart`"
        }
        (
            "run",
            "-m"
            | "--memory"
            | "--memory-swap"
            | "--memory-reservation"
            | "--memory-swappiness"
            | "--kernel-memory"
            | "-c"
            | "--cpu-shares"
            | "--cpus"
            | "--cpu-period"
            | "--cpu-quota"
            | "--cpu-rt-period"
            | "--cpu-rt-runtime"
            | "--cpuset-cpus"
            | "--cpuset-mems"
            | "--pids-limit"
            | "--blkio-weight"
            | "--cgroup-parent"
            | "--oom-kill-disable"
            | "--oom-score-adj"
            | "--device-read-bps"
            | "--device-write-bps"
            | "--device-read-iops"
            | "--device-write-iops",
        ) => {
            "systemd limits resources: systemd-run --scope -p MemoryMax=512M -p CPUQuota=50% tunbridge run …"
        }
        ("run", "--ulimit") => {
            "the shell's and prlimit's are passed on: prlimit --nofile=1024 tunbridge run …"
        }
        (
            "run" | "exec",
            "--privileged" | "--cap-add" | "--device" | "--gpus" | "--device-cgroup-rule",
        ) => "nothing is taken away from a program but the network: leave it out",
        ("run", "--cap-drop" | "--security-opt" | "--read-only" | "--userns") => {
            "programs keep your rights: take them away with setpriv --bounding-set -all --no-new-privs CMD"
        }
        ("run", "--pid" | "--ipc" | "--uts" | "--cgroupns" | "--isolation" | "--shm-size") => {
            "a container has a network, mount and UTS namespace of its own and shares the others with the host: leave it out"
        }
        ("run", "--init") => {
            "there is no process namespace, so the host's init reaps orphans: leave it out"
        }
        ("run", "--sysctl") => "set it once it runs: tunbridge exec NAME sysctl -w KEY=VALUE",
        ("run" | "exec", "--env-file") => "give each one with -e NAME=VALUE",
        ("run", "-a" | "--attach" | "--sig-proxy" | "--detach-keys") => {
            "without -d the program has your terminal and gets your signals: leave it out"
        }
        ("run", "-l" | "--label" | "--label-file" | "--annotation") => {
            "only networks have labels: tell containers apart with --name"
        }
        ("run", "--log-driver" | "--log-opt") => {
            "output of run -d goes to the file that `inspect` calls LogPath, otherwise to you: leave it out"
        }
        ("run", "--cidfile") => "run -d prints the id: tunbridge run -d … > FILE",
        (
            "run",
            "--pull"
            | "--platform"
            | "--disable-content-trust"
            | "--runtime"
            | "--storage-opt"
            | "-q"
            | "--quiet",
        ) => {
            "there are no images: give the root of a file tree with --rootfs, or share the host's files"
        }
        ("run", "--stop-signal" | "--stop-timeout") | ("stop" | "restart", "-s" | "--signal") => {
            "it is SIGTERM, then SIGKILL: choose the time between them with `tunbridge stop -t SECONDS`"
        }
        (
            "run",
            "--health-cmd"
            | "--health-interval"
            | "--health-retries"
            | "--health-start-interval"
            | "--health-start-period"
            | "--health-timeout"
            | "--no-healthcheck",
        ) => "nothing watches a program's health: use tunbridge exec NAME CMD in your monitoring",
        ("ps" | "inspect", "-s" | "--size") => {
            "there are no images and layers, so no sizes: leave it out"
        }
        ("daemon", "--iptables" | "--ip6tables" | "--userland-proxy" | "--userland-proxy-path") => {
            "not needed, since tunbridge uses no netfilter and no proxy process: leave it out"
        }
        _ => return None,
    };
    Some(advice)
}
