#!/usr/bin/env bash
# A small internet made of network namespaces: for the demo, the tests, the bench and your own hands.
#
#        far (servers)                                                    containers (made by tunbridge)
#   ┌───────────────────┐     ┌──────────────────────────┐                      ┌───────────────────┐
#   │ eth0  192.0.2.9   │     │        wan (router)      │                      │ eth0  172.17.0.2  │
#   │       192.0.2.10  ├─────┤ far0   192.0.2.1         │                      └─────────┬─────────┘
#   └───────────────────┘     │                          │     host                       │
#        lan (a client)       │                          │   ┌────────────────────────────┴─────────┐
#   ┌───────────────────┐     │                          │   │                       tb0 172.17.0.1 │
#   │ eth0  203.0.113.9 ├─────┤ lan0   203.0.113.1       │   │                                      │
#   └───────────────────┘     │        198.51.100.1 host0├───┤ ext0  198.51.100.2                   │
#                             │        198.18.0.1   host1├┄┄┄┤ ext1  198.18.0.2  (--second-uplink)  │
#                             └──────────────────────────┘   └──────────────────────────────────────┘
#
#   IPv6, on the same links       default                          --seed-article
#     host   ⇄ wan       2001:db8:1::/64     ::2 ⇄ ::1       2001:db8:1::/64   ::1 ⇄ ::2
#     host   ⇄ wan (2)   2001:db8:2::/64     ::2 ⇄ ::1       2001:db8:2::/64   ::2 ⇄ ::1
#     lan    ⇄ wan       2001:db8:3::/64     ::9 ⇄ ::1       2001:db8:3::/64   ::9 ⇄ ::1
#     far    ⇄ wan       2001:db8:ffff::/64  ::9, ::a ⇄ ::1  2001:db8:9::/64   ::9, ::a ⇄ ::1
#     wan has a route    with --route-v6 PREFIX, to the host 2001:db8:ffff::/64, to the host
#   Nobody waits for duplicate address detection, and no router advertises itself.
#
# The router knows the networks drawn here and nothing else: an answer to an address that was not
# translated has no way back, unless --route-v6 says so. The addresses are the documentation and benchmark ranges
# (RFC 5737, 2544, 3849).
#
# Isolation. One *holder* process per lab is process 1 of its own mount, PID, UTS and network namespaces
# (the latter is "host"), with a fresh /run, /proc and /sys. The daemon, the CLI and every helper enter
# those, so that
#  * /run/netns/NAME, /run/tunbridge/… and all process numbers are private to the lab: the names below need
#    no prefix, labs run in parallel, and the machine's own namespaces, interfaces and sysctls are never met;
#  * /run is one shared mount tree inside the lab: a namespace that the daemon mounts under /run/netns is
#    seen by the CLI, by containers and by the next command, as on a real machine;
#  * when the holder ends, the kernel kills what still runs in the lab and frees all its namespaces. There
#    is nothing to clean up and nothing that a crash can leave behind.
# The holder ends when its standard input does (`hold`: the test that started it is gone), or by `down`.
#
# usage: lab.sh up [OPTIONS]        build the lab named $TB_LAB (default: tb) and return
#        lab.sh hold [OPTIONS]      the same in the foreground: prints "ready PID", lives until stdin ends
#        lab.sh down                remove it
#        lab.sh exec PLACE CMD…     run in host, wan, lan, far or the namespace of a container
#        lab.sh snapshot            what the host's network looks like, for "is it as before?"
#        lab.sh firewall on|off     no forwarding and nftables with FORWARD and INPUT policy drop, for both families
#                                   (of IPv6, what finds neighbours comes in); or neither
#        lab.sh check_clean         fail if a lab of that name is still there
# OPTIONS: --mtu N (host ⇄ wan, default 1500)  --far-mtu N (wan → far; IPv6: at least 1280)  --second-uplink
#          --seed-article  --route-v6 PREFIX (again and again)  --no-ipv6 (IPv6 is switched off everywhere)
set -euo pipefail

readonly lab=${TB_LAB:-tb}
readonly records=/run/tunbridge-labs        # on the machine: lab name -> process number of its holder
readonly record=$records/$lab
self=$(readlink -f "${BASH_SOURCE[0]}")
readonly self

die() { echo "lab.sh: $*" >&2; exit 1; }

need_root() { [ "$(id -u)" = 0 ] || die "needs root (try: sudo $0 $*)"; }

# Process number of the living holder; fails if there is none.
holder() {
    local pid
    [ -s "$record" ] && pid=$(<"$record") && [ -d "/proc/$pid" ] && echo "$pid"
}

# ---- the machine's side ---------------------------------------------------------------------------------

hold() {
    need_root hold
    if holder >/dev/null; then die "lab '$lab' is up already (lab.sh down removes it, TB_LAB=… names another)"; fi
    mkdir -p "$records"
    exec 3>"$record"                        # the inner process writes its number as the machine sees it
    trap 'rm -f "$record"' EXIT
    unshare --mount --pid --uts --net --fork --kill-child --propagation private \
        bash "$self" inside "$@" || true
    "${self%/*}/engines.sh" forget
}

up() {
    need_root up
    local fifo word pid
    fifo=$(mktemp -u)
    mkfifo "$fifo"
    # A fifo opened for both directions never reports its end: this holder lives until `down`.
    exec 4< <(exec setsid bash "$self" hold "$@" 0<>"$fifo")
    read -r word pid <&4 || { rm -f "$fifo"; die "the lab did not come up"; }
    rm -f "$fifo"
    [ "$word" = ready ] || die "$word $pid"
    echo "lab '$lab' is up (holder $pid); enter it with: $0 exec host bash"
}

down() {
    need_root down
    local pid
    pid=$(holder) || { rm -f "$record"; return 0; }
    kill -TERM "$pid"
    for _ in $(seq 500); do
        if [ ! -d "/proc/$pid" ] && [ ! -e "$record" ]; then return 0; fi
        sleep 0.01
    done
    die "holder $pid does not end"
}

# Enters the lab: mount and PID namespaces always, the network namespace as asked.
enter() {
    local place=$1 pid
    shift
    pid=$(holder) || die "lab '$lab' is not up (lab.sh up)"
    local net=/proc/$pid/root/run/netns/$place
    [ -e "$net" ] || die "no namespace '$place' in lab '$lab' (there are: $(ls "/proc/$pid/root/run/netns" | xargs))"
    exec nsenter --target "$pid" --mount --pid --uts --net="$net" -- "$@"
}

check_clean() {
    if holder >/dev/null; then die "lab '$lab' is still up"; fi
    [ ! -e "$record" ] || die "lab '$lab' left $record"
}

# ---- inside: process 1 of the lab -----------------------------------------------------------------------

inside() {
    local outer mtu=1500 far_mtu=1500 second_uplink='' resolv ipv6=yes prefix
    local host6=2001:db8:1::2 wan6=2001:db8:1::1 far6=2001:db8:ffff: routes6=() wan_index=10
    read -r outer _ </proc/self/stat        # /proc is still the machine's
    while [ $# -gt 0 ]; do
        case $1 in
            --mtu) mtu=$2; shift 2 ;;
            --far-mtu) far_mtu=$2; shift 2 ;;
            --second-uplink) second_uplink=yes; shift ;;
            --seed-article)
                host6=2001:db8:1::1 wan6=2001:db8:1::2 far6=2001:db8:9: routes6+=(2001:db8:ffff::/64)
                shift ;;
            --route-v6) routes6+=("$2"); shift 2 ;;
            --no-ipv6) ipv6=''; shift ;;
            *) die "unknown option $1" ;;
        esac
    done

    mount -t proc proc /proc
    mount -t sysfs sysfs /sys               # /sys/class/net of this network namespace
    mount -t bpf bpf /sys/fs/bpf
    resolv=$(cat /etc/resolv.conf 2>/dev/null || true)
    # The machine's named namespaces: hidden now, and when somebody removes one it would vanish from here, too.
    sed -n 's/^[^ ]* [^ ]* [^ ]* [^ ]* \(\/run\/netns\/[^ ]*\) .*/\1/p' /proc/self/mountinfo |
        while read -r mounted; do umount --lazy "$mounted" 2>/dev/null || true; done
    mount -t tmpfs -o mode=0755 tmpfs /run
    mount --make-rshared /run
    if [ ! -e /etc/resolv.conf ] && [ -L /etc/resolv.conf ]; then   # it pointed into the hidden /run
        mkdir -p "$(dirname "$(readlink -m /etc/resolv.conf)")"
        echo "$resolv" >"$(readlink -m /etc/resolv.conf)"
    fi
    # Nor has dockerd been here.
    if [ -d /var/lib/docker ]; then mount -t tmpfs -o mode=0711 tmpfs /var/lib/docker; fi
    mkdir -p /run/lock /run/lab
    echo "$outer" >/run/lab/holder          # its number on the machine
    hostname host

    ip netns attach host $$
    ip link set lo up
    local place
    for place in wan lan far; do
        ip netns add $place
        ip -n $place link set lo up
    done

    # Addresses are usable at once. In the host only those of its uplinks: what tunbridge makes there must see to itself.
    # Traceroute must see every answer of the router, not the first six of a second.
    ip netns exec wan sysctl -qw net.ipv4.ip_forward=1 net.ipv4.icmp_ratelimit=0 \
        net.ipv6.conf.all.forwarding=1 net.ipv6.conf.default.accept_dad=0 net.ipv6.icmp.ratelimit=0
    ip netns exec far sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv6.conf.default.accept_dad=0 net.ipv6.icmp.ratelimit=0
    ip netns exec lan sysctl -qw net.ipv6.conf.default.accept_dad=0
    if [ -z "$ipv6" ]; then
        for place in host wan lan far; do
            ip netns exec $place sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1
        done
    fi

    cable wan host0 198.51.100.1/24 $wan6/64          host ext0 198.51.100.2/24 $host6/64         "$mtu"
    cable wan lan0  203.0.113.1/24  2001:db8:3::1/64  lan  eth0 203.0.113.9/24  2001:db8:3::9/64  1500
    cable wan far0  192.0.2.1/24    ${far6}:1/64      far  eth0 192.0.2.9/24    ${far6}:9/64      1500
    ip -n far address add 192.0.2.10/24 dev eth0
    if [ -n "$second_uplink" ]; then
        cable wan host1 198.18.0.1/24 2001:db8:2::1/64  host ext1 198.18.0.2/24 2001:db8:2::2/64 "$mtu"
    fi
    ip -n host route add default via 198.51.100.1
    ip -n lan route add default via 203.0.113.1
    ip -n far route add default via 192.0.2.1
    # A narrow hop that neither end can see from its own interface, and only on the way there.
    ip -n wan route change 192.0.2.0/24 dev far0 proto kernel scope link src 192.0.2.1 mtu lock "$far_mtu"
    if [ -n "$ipv6" ]; then
        # Never by itself the source of anything.
        ip -n far address add ${far6}:a/64 dev eth0 nodad preferred_lft 0
        ip -n host -6 route add default via $wan6
        ip -n lan -6 route add default via 2001:db8:3::1
        ip -n far -6 route add default via ${far6}:1
        if [ "$far_mtu" -lt 1500 ]; then
            ip -n wan -6 route add ${far6}:/64 dev far0 metric 128 mtu lock $((far_mtu > 1280 ? far_mtu : 1280))
        fi
        for prefix in ${routes6[@]+"${routes6[@]}"}; do ip -n wan -6 route add "$prefix" via $host6; done
        # Until the kernel has noticed the links it answers no solicitation.
        for _ in $(seq 200); do
            if [[ $(</proc/net/if_inet6) == *fe80*ext0* ]]; then break; fi
            sleep 0.01
        done
    fi

    echo "$outer" >&3
    exec 3>&-
    echo "ready $outer"
    trap 'exit 0' TERM
    # Until the end of the input. As process 1 the shell also reaps what containers leave behind.
    while read -r _; do :; done
}

# cable NS IF ADDRESS ADDRESS6  NS IF ADDRESS ADDRESS6  MTU
cable() {
    # The kernel is in no hurry to notice the link if both ends have the same number.
    wan_index=$((wan_index + 1))
    ip link add "$2" netns "$1" index "$wan_index" mtu "$9" type veth peer name "$6" netns "$5" mtu "$9"
    if [ "$5" = host ]; then echo 0 >"/proc/sys/net/ipv6/conf/$6/accept_dad"; fi
    end "$1" "$2" "$3" "$4"
    end "$5" "$6" "$7" "$8"
}

end() {
    local batch="address add $3 dev $2"
    if [ -n "$ipv6" ]; then batch+=$'\n'"address add $4 dev $2 nodad"; fi
    ip -n "$1" -batch - <<<"$batch"$'\n'"link set $2 up"
}

# ---- things to do to the host ---------------------------------------------------------------------------

# Everything that tunbridge might change in the host, one fact per line, sorted: compare with diff.
snapshot_here() {
    ip -o -4 address | awk '{ print "address", $2, $4 }'
    ip -o link | awk '{ sub(/@.*|:$/, "", $2); mtu = $0; sub(/.* mtu /, "", mtu); sub(/ .*/, "", mtu); print "link", $2, "mtu", mtu }'
    ip -4 route show table all | sed 's/^/route /'
    ip -4 rule | sed 's/^/rule /'
    # Without what the kernel counts down.
    ip -o -6 address | awk '{ print "address", $2, $4 }'
    ip -6 route show table all | sed -E 's/ expires [0-9]+sec//; s/^/route6 /'
    ip -6 rule | sed 's/^/rule6 /'
    ip -6 neighbour show proxy | sed 's/^/proxy6 /'
    ip maddress | awk '/^[0-9]+:/ { dev = $2; next } $1 != "inet" { print "group", dev, $1, $2 }'
    local dev
    for dev in $(ip -o link | awk '{ sub(/@.*|:$/, "", $2); print $2 }'); do
        tc qdisc show dev "$dev" | sed "s/^/qdisc /"
        tc filter show dev "$dev" ingress 2>/dev/null | sed "s/^/filter $dev ingress /"
        tc filter show dev "$dev" egress 2>/dev/null | sed "s/^/filter $dev egress /"
    done
    sysctl -a -r '^net\.(ipv4\.(conf|ip_|neigh)|ipv6\.(conf|neigh|icmp|ip6)|bridge)' 2>/dev/null | sed 's/^/sysctl /'
    nft list ruleset | sed 's/^/nft /'
    ss -Hltnup | awk '{ print "socket", $1, $5, $7 }'
    ls /run/netns | sed 's/^/netns /'
    # Without what engines mount and unmount for themselves.
    findmnt -rn -o TARGET | grep -vE '^(/proc|/var/lib/(containers|containerd|docker))/' | sed 's/^/mount /'
    ps -eo comm= | awk '/^tunbridge/ { print "process", $0 }'
}

firewall_here() {
    case ${1:-} in
        on) sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0
            nft -f - <<'RULES'
table inet hostile
delete table inet hostile
table inet hostile {
    chain input {
        type filter hook input priority filter; policy drop
        iif "lo" accept
        ct state established,related accept
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } accept
    }
    chain forward { type filter hook forward priority filter; policy drop; }
}
RULES
            ;;
        off) nft delete table inet hostile ;;
        *) die "firewall on or firewall off?" ;;
    esac
}

verb=${1:-}
[ $# -eq 0 ] || shift
case $verb in
    up) up "$@" ;;
    hold) hold "$@" ;;
    down) down ;;
    exec) [ $# -ge 2 ] || die "usage: lab.sh exec PLACE CMD…"; enter "$@" ;;
    snapshot) enter host bash "$self" snapshot_here ;;
    snapshot_here) snapshot_here | LC_ALL=C sort -u ;;
    firewall) enter host bash "$self" firewall_here "$@" ;;
    firewall_here) firewall_here "$@" ;;
    check_clean) check_clean ;;
    inside) inside "$@" ;;
    *) sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p}' "$self"; [ -z "$verb" ] || exit 2 ;;
esac
