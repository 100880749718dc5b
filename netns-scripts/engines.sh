#!/usr/bin/env bash
# Container engines of Debian in a lab (lab.sh): podman, containerd, dockerd, runc, crun, systemd-nspawn, as if their
# packages were installed there, with their own configuration and paths, while the machine knows nothing of it.
#
# `setup.sh` has unpacked the packages into target/engines. In the lab's mount namespace
#  * /usr and /etc are those of the machine with the packages laid over them, /opt and /var are those of the machine;
#    whatever is written there goes to the lab's own /run (overlayfs) and ends with the lab;
#  * /dev/shm (podman's locks) and the engines' directories of images are the lab's own;
#  * /sys/fs/cgroup shows cgroups made for this lab, below those in which the lab runs (version 1) or below the root
#    (version 2). They are the only things outside: lab.sh removes them behind the lab (`forget`). Where version 1 has
#    the controllers, version 2 is not shown at all: crun takes one or the other.
# The image is busybox from /bin/busybox. Its /lib and /lib64 point into /usr, which is empty: with the machine's /usr in
# it (podman does that here with every container, see containers.conf below) the traffic helper runs in it, too.
#
# usage, inside a lab (lab.sh exec host …):
#   engines.sh install            lays the engines over the lab; nothing runs yet
#   engines.sh podman             configures podman and imports the image as localhost/busybox
#   engines.sh containerd         starts containerd and imports podman's image, under the same name
#   engines.sh rootfs DIRECTORY   a file system for runc, crun, systemd-nspawn
#   engines.sh run COMMAND…       an engine's command: in the lab's cgroups
# and on the machine:
#   engines.sh forget             removes the cgroups of labs that are gone
set -euo pipefail

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
readonly here
readonly repository=${here%/*}
readonly engines=$repository/target/engines
readonly private=/run/lab/engines

die() { echo "engines.sh: $*" >&2; exit 1; }

need_lab() { [ -s /run/lab/holder ] || die "this belongs into a lab: $here/lab.sh exec host $0 …"; }

# ---- the lab's file system ------------------------------------------------------------------------------

install_engines() {
    need_lab
    [ -x "$engines/usr/bin/podman" ] || die "target/engines is not there (make setup)"
    local file hidden=''
    mkdir -p "$private/kept" "$private/repository"
    case $repository in /usr/* | /etc/* | /opt/* | /var/*) hidden=yes && mount --bind "$repository" "$private/repository" ;; esac
    # In a container these are mounts of their own, that the next ones hide.
    for file in resolv.conf hosts hostname; do [ ! -e /etc/$file ] || cat "/etc/$file" >"$private/kept/$file"; done
    lay usr "$engines/usr:/usr"
    lay etc "$engines/etc:/etc"
    lay opt /opt
    lay var /var
    for file in resolv.conf hosts hostname; do
        [ ! -e "$private/kept/$file" ] || cat "$private/kept/$file" >"/etc/$file"
    done
    [ -z "$hidden" ] || mount --move "$private/repository" "$repository"
    # overlayfs takes no overlayfs as the layer that is written to.
    for file in containers containerd docker; do
        mkdir -p /var/lib/$file && mount -t tmpfs -o mode=0711 tmpfs /var/lib/$file
    done
    mkdir -p /etc/cni/net.d /opt/cni/bin /var/lib/cni "$private/tmp"
    mount -t tmpfs -o mode=1777 tmpfs /dev/shm
    cgroups
}

lay() {
    mkdir -p "$private/$1/upper" "$private/$1/work"
    mount -t overlay overlay -o "lowerdir=$2,upperdir=$private/$1/upper,workdir=$private/$1/work" "/$1" ||
        die "the kernel has no overlayfs for /$1"
}

# Makes them, and a cgroup namespace in which they are the roots: else what /proc/PID/cgroup names is not below
# /sys/fs/cgroup, and runc looks there.
cgroups() {
    local controllers path name own line mine hierarchy=$private/hierarchy version1=''
    own=tunbridge-lab-$(</run/lab/holder)
    mkdir -p "$hierarchy"
    mount -t tmpfs -o mode=0755 tmpfs /sys/fs/cgroup
    mapfile -t mine </proc/self/cgroup      # at once: it changes below
    for line in "${mine[@]}"; do
        IFS=: read -r _ controllers path <<<"$line"
        [ -n "$controllers" ] || continue
        version1+=" $controllers"
        mount -t cgroup -o "$controllers" cgroup "$hierarchy"
        mkdir -p "$hierarchy$path/$own"
        if [[ ,$controllers, == *,cpuset,* ]]; then
            for name in cpuset.cpus cpuset.mems; do cat "$hierarchy$path/$name" >"$hierarchy$path/$own/$name"; done
            echo 1 >"$hierarchy$path/$own/cgroup.clone_children"
        fi
        echo $$ >"$hierarchy$path/$own/cgroup.procs"
        umount "$hierarchy"
    done
    if [ -z "$version1" ]; then
        mount -t cgroup2 cgroup "$hierarchy"
        mkdir -p "$hierarchy/$own"
        echo $$ >"$hierarchy/$own/cgroup.procs"
        umount "$hierarchy"
    fi
    touch "$private/cgroup"
    unshare --cgroup="$private/cgroup" true
    for controllers in $version1; do
        name=${controllers#name=}
        mkdir -p "/sys/fs/cgroup/$name"
        nsenter --cgroup="$private/cgroup" mount -t cgroup -o "$controllers" cgroup "/sys/fs/cgroup/$name"
        if [[ $name == *,* ]]; then for path in ${name//,/ }; do ln -s "$name" "/sys/fs/cgroup/$path"; done; fi
    done
    [ -z "$version1" ] || return 0
    umount /sys/fs/cgroup
    nsenter --cgroup="$private/cgroup" mount -t cgroup2 cgroup /sys/fs/cgroup
    # No controller for groups in a group that has processes.
    mkdir /sys/fs/cgroup/commands
    echo $$ >/sys/fs/cgroup/commands/cgroup.procs
    for name in $(</sys/fs/cgroup/cgroup.controllers); do
        echo "+$name" >/sys/fs/cgroup/cgroup.subtree_control 2>/dev/null || true
    done
}

# Runs a command in them.
run() {
    local group
    [ -e "$private/cgroup" ] || die "the engines are not in this lab yet ($0 install)"
    if [ -e /sys/fs/cgroup/commands ]; then
        echo $$ >/sys/fs/cgroup/commands/cgroup.procs
    else
        for group in /sys/fs/cgroup/*/cgroup.procs; do echo $$ >"$group"; done
    fi
    export TMPDIR=$private/tmp
    exec nsenter --cgroup="$private/cgroup" -- "$@"
}

forget() {
    local directory
    find /sys/fs/cgroup -type d -name 'tunbridge-lab-*' 2>/dev/null | while read -r directory; do
        [ ! -d "/proc/${directory##*-}" ] || continue
        find "$directory" -depth -type d -exec rmdir {} + 2>/dev/null || true
    done || true                            # another lab may be doing the same
}

# ---- the image ------------------------------------------------------------------------------------------

rootfs() {
    local root=$1 applet
    mkdir -p "$root"/{bin,usr,etc,dev,proc,sys,tmp,run,var,root}
    ln -sf usr/lib "$root/lib"
    ln -sf usr/lib64 "$root/lib64"
    for applet in $(/bin/busybox --list); do ln -sf busybox "$root/bin/$applet"; done
    cp --remove-destination /bin/busybox "$root/bin/busybox"
    echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
    echo 'root:x:0:' >"$root/etc/group"
    echo 'ID=busybox' >"$root/etc/os-release"
}

image() {
    local archive=$private/busybox.tar
    if [ ! -e "$archive" ]; then
        rootfs "$private/rootfs"
        tar -C "$private/rootfs" -cf "$archive" .
    fi
    echo "$archive"
}

# ---- engines --------------------------------------------------------------------------------------------

podman_here() {
    # Debian's own containers.conf leaves all at its default. Here is no systemd, nobody may raise a limit, and every
    # container sees /usr and the traffic helper of the machine.
    cat >/etc/containers/containers.conf <<CONF
[containers]
default_ulimits = ["nofile=1024:4096", "nproc=4096:4096"]
log_driver = "k8s-file"
volumes = ["/usr:/usr:ro", "$here:$here:ro"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "cni"
CONF
    podman import --quiet --change 'ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin' "$(image)" localhost/busybox >/dev/null
}

containerd_here() {
    cat >/etc/containerd/config.toml <<'CONF'
version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri"]
CONF
    setsid containerd >/run/lab/containerd.log 2>&1 </dev/null &
    local _
    for _ in $(seq 200); do
        if ctr version >/dev/null 2>&1; then break; fi
        sleep 0.05
    done
    ctr version >/dev/null || die "containerd does not start: $(tail -n 3 /run/lab/containerd.log)"
    podman save --quiet --format docker-archive localhost/busybox | ctr images import - >/dev/null
}

verb=${1:-}
[ $# -eq 0 ] || shift
case $verb in
    install) install_engines ;;
    run) run "$@" ;;
    podman | containerd) need_lab && run bash "$0" "${verb}_here" ;;
    podman_here) podman_here ;;
    containerd_here) containerd_here ;;
    rootfs) rootfs "${1:?usage: engines.sh rootfs DIRECTORY}" ;;
    forget) forget ;;
    *) sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p}' "$0"; [ -z "$verb" ] || exit 2 ;;
esac
