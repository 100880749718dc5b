#!/usr/bin/env bash
# Installs the packages that building, testing and the demo need, and only those that are missing.
set -euo pipefail

packages=(
    gcc make clang llvm libbpf-dev linux-libc-dev                   # to build
    iproute2 nftables iptables procps util-linux                    # to lay out the lab
    iperf3 tcpdump traceroute iputils-ping socat busybox-static     # traffic
    hping3 conntrack netcat-openbsd bind9-dnsutils curl jq ethtool python3 python3-scapy
)
# install_missing PACKAGE…: those that are not there yet.
install_missing() {
    local package missing=()
    for package in "$@"; do
        dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    echo "setup: installing ${missing[*]}"
    [ "$(id -u)" = 0 ] || { echo "setup: that needs root (try: sudo make setup)" >&2; exit 1; }
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q || echo "setup: the package lists could not be refreshed, trying with what there is" >&2
    apt-get install -q -y --no-install-recommends "${missing[@]}"
}
install_missing "${packages[@]}"

# The docker client for the tests and docker-proxy for the bench, out of Debian's packages but not installed: docker.io
# would bring a daemon, and start it. (From Debian 13 on the client has a package of its own, docker-cli.)
fetched=$(dirname "$0")/../target/docker-io
unpacked=$(mktemp -d)
trap 'rm -rf "$unpacked"' EXIT
# unpack PACKAGE FILE: into target/docker-io.
unpack() {
    echo "setup: fetching ${2##*/} of $1"
    download() { (cd "$unpacked" && apt-get download -q -o APT::Sandbox::User=root "$1"); }
    { download "$1" || { [ "$(id -u)" = 0 ] && apt-get update -q && download "$1"; }; } &&
        dpkg-deb -x "$unpacked/$1"_*.deb "$unpacked" && [ -x "$unpacked/$2" ] &&
        install -D -m 0755 "$unpacked/$2" "$fetched/${2##*/}"
}
if [ ! -x "$fetched/docker" ]; then
    package=docker-cli
    apt-cache show "$package" >/dev/null 2>&1 || package=docker.io
    unpack "$package" usr/bin/docker ||
        echo "setup: no docker client of Debian: the tests will only use one in PATH, and fail if there is none" >&2
fi
if [ ! -x "$fetched/docker-proxy" ]; then
    unpack docker.io usr/sbin/docker-proxy ||
        echo "setup: no docker-proxy of Debian: the bench leaves out what is compared with it" >&2
fi

# The container engines for tests/engines.rs, as Debian packages them but not installed: several would start something.
# netns-scripts/engines.sh lays them over /usr and /etc of a lab. Their libraries are installed as usual, but for the
# one that would take an upgrade of systemd with it.
engines=(
    podman conmon crun runc netavark containerd containernetworking-plugins docker.io systemd-container libsystemd-shared
    golang-github-containers-common golang-github-containers-image
)
fetch_engines() {
    local root=$unpacked/root deb libraries
    mkdir -p "$unpacked/debs" "$root"
    download() { (cd "$unpacked/debs" && apt-get download -q -o APT::Sandbox::User=root "${engines[@]}"); }
    download || { [ "$(id -u)" = 0 ] && apt-get update -q && download; } || return 1
    for deb in "$unpacked"/debs/*.deb; do dpkg-deb -x "$deb" "$root" || return 1; done
    # As on a Debian whose /bin and /lib are links.
    local directory
    for directory in bin sbin lib; do
        [ -d "$root/$directory" ] || continue
        mkdir -p "$root/usr/$directory" && cp -a "$root/$directory/." "$root/usr/$directory" && rm -r "${root:?}/$directory"
    done
    rm -rf "$root"/usr/share/{doc,man,locale,lintian,bash-completion,fish,zsh} "$root"/etc/{default,init.d} "$root/var"
    libraries=$(for deb in "$unpacked"/debs/*.deb; do dpkg-deb -f "$deb" Depends | tr ',' '\n'; echo; done |
        sed -E 's/[|(].*//; s/ //g' | grep '^lib' | grep -vx libsystemd-shared | sort -u)
    # shellcheck disable=SC2086  # names of packages
    install_missing $libraries
    rm -rf "$fetched_engines"
    mkdir -p "$(dirname "$fetched_engines")" && mv "$root" "$fetched_engines"
}
fetched_engines=$(dirname "$0")/../target/engines
if [ ! -x "$fetched_engines/usr/bin/podman" ] || [ ! -x "$fetched_engines/usr/lib/podman/netavark" ]; then
    echo "setup: fetching ${engines[*]}"
    fetch_engines || {
        echo "setup: no container engines: this needs Debian 12 with its package archive, tests/engines.rs will fail" >&2
        exit 1
    }
fi
for program in podman conmon crun runc containerd ctr systemd-nspawn dockerd; do
    file=$(find "$fetched_engines/usr/bin" "$fetched_engines/usr/sbin" -name "$program" | head -n 1)
    if [ -z "$file" ] || ldd "$file" 2>/dev/null | grep -v libsystemd-shared | grep -q 'not found'; then
        echo "setup: $program in target/engines is not complete: remove that directory and run make setup again" >&2
        exit 1
    fi
done

wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$(dirname "$0")/../Cargo.toml")
if ! found=$("${CARGO:-cargo}" --version 2>/dev/null); then
    echo "setup: no cargo. Install Rust $wanted or later: https://rustup.rs, or" >&2
    echo "       curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y" >&2
    exit 1
fi
found=$(awk '{ print $2 }' <<<"$found")
if [ "$(printf '%s\n' "$wanted" "$found" | sort -V | head -n 1)" != "$wanted" ]; then
    echo "setup: cargo $found is too old, Rust $wanted or later is needed (rustup update)" >&2
    exit 1
fi
if [ ! -c /dev/net/tun ]; then
    echo "setup: /dev/net/tun is missing (modprobe tun)" >&2
    exit 1
fi
echo "setup: all there (cargo $found)"
