#!/usr/bin/env bash
# Throughput and latency through tunbridge and through the kernel's own NAT, in alternation.
#
#   lab A: … wan ── host (tunbridge)              ── app, web, ula     Both labs are laid out alike (lab.sh) and
#   lab B: … wan ── host (nftables, ip_forward=1) ── app, web, ula     stand at the same time; A, B, A, B, … run
#                                                                      one after the other, never together.
#
# IPv6: app and web have addresses that the router knows (routed), ula's are translated (NAT66), and an IPv6 client of
# web's published port is served over IPv4: by translation here, by docker-proxy there.
#
# Ratios are medians of the rounds, tunbridge / kernel. They depend less on the machine than the figures do.
#
# usage: bench.sh BINARY [ROUNDS [SECONDS]]     (default: 5 rounds of 2 seconds)
#        exit status 1 if a TCP stream is slower than half of the kernel's
set -euo pipefail

[ "$(id -u)" = 0 ] || { echo "bench: network namespaces need root (try: sudo make bench)" >&2; exit 1; }
binary=$(readlink -f "${1:?usage: bench.sh BINARY [ROUNDS [SECONDS]]}")
rounds=${2:-5}
seconds=${3:-2}
here=$(dirname "$(readlink -f "$0")")
results=$(mktemp -d)

lab() { TB_LAB=bench-$$-$1 "$here/lab.sh" "${@:2}"; }

finish() {
    status=$?
    lab tunbridge down || true
    lab kernel down || true
    rm -rf "$results"
    exit $status
}
trap finish EXIT
trap 'exit 130' INT TERM

# lay_out NAME PROGRAM: a lab with the program's daemon, two containers and servers.
lay_out() {
    local name=$1 program=$2
    lab "$name" up --route-v6 2001:db8:c::/64 >/dev/null
    lab "$name" exec host "$program" daemon --state-dir /run/lab/state --ipv6 --fixed-cidr-v6 2001:db8:c::/64 \
        >"$results/$name.log" 2>&1 &
    disown
    for _ in $(seq 200); do
        if lab "$name" exec host "$program" ps >/dev/null 2>&1; then break; fi
        sleep 0.05
    done
    lab "$name" exec host "$program" run -d --name app -- sleep 100000 >/dev/null
    lab "$name" exec host "$program" run -d --name web -p 5201:5201 -- iperf3 -s >/dev/null
    lab "$name" exec host "$program" network create --ipv6 ula >/dev/null
    lab "$name" exec host "$program" run -d --name ula --network ula -- sleep 100000 >/dev/null
    lab "$name" exec far iperf3 -s >/dev/null 2>&1 &
    disown
    lab "$name" exec far "$here/peer" serve 7000 >/dev/null 2>&1 &
    disown
    sleep 0.5
}

# measure LAB METRIC: prints one figure.
measure() {
    local name=$1
    case $2 in
        tcp_out)        iperf "$name" app '.end.sum_received.bits_per_second / 1e9' -c 192.0.2.9 ;;
        tcp_in)         iperf "$name" app '.end.sum_received.bits_per_second / 1e9' -c 192.0.2.9 -R ;;
        tcp_published)  iperf "$name" lan '.end.sum_received.bits_per_second / 1e9' -c 198.51.100.2 ;;
        udp_64)         iperf "$name" app '(.end.sum.packets - .end.sum.lost_packets) / .end.sum.seconds / 1e3' -c 192.0.2.9 -u -b 0 -l 64 ;;
        tcp6_out)       iperf "$name" app '.end.sum_received.bits_per_second / 1e9' -c 2001:db8:ffff::9 ;;
        tcp6_in)        iperf "$name" app '.end.sum_received.bits_per_second / 1e9' -c 2001:db8:ffff::9 -R ;;
        tcp66_out)      iperf "$name" ula '.end.sum_received.bits_per_second / 1e9' -c 2001:db8:ffff::9 ;;
        tcp66_in)       iperf "$name" ula '.end.sum_received.bits_per_second / 1e9' -c 2001:db8:ffff::9 -R ;;
        tcp64_in)       iperf "$name" lan '.end.sum_received.bits_per_second / 1e9' -c 2001:db8:1::2 ;;
        tcp64_out)      iperf "$name" lan '.end.sum_received.bits_per_second / 1e9' -c 2001:db8:1::2 -R ;;
        request66)      lab "$name" exec ula "$here/peer" rr 2001:db8:ffff::9 7000 5000 | sed 's/.*p50-us=\([0-9.]*\).*/\1/' ;;
        request)        lab "$name" exec app "$here/peer" rr 192.0.2.9 7000 5000 | sed 's/.*p50-us=\([0-9.]*\).*/\1/' ;;
    esac
}

iperf() {
    local name=$1 place=$2 figure=$3
    shift 3
    lab "$name" exec "$place" timeout $((seconds + 20)) iperf3 --json --time "$seconds" --omit 0 "$@" |
        jq -e "if .error then error(.error) else $figure end"
}

median() { sort -n "$1" | awk '{ v[NR] = $1 } END { m = int((NR + 1) / 2); print (NR % 2 ? v[m] : (v[m] + v[m + 1]) / 2) }'; }

lay_out tunbridge "$binary"
lay_out kernel "$here/oracle"

metrics=(tcp_out tcp_in tcp_published udp_64 request tcp6_out tcp6_in tcp66_out tcp66_in request66)
# What is compared with docker-proxy needs one.
if [ -x "$here/../target/docker-io/docker-proxy" ]; then metrics+=(tcp64_in tcp64_out); fi
declare -A title=(
    [tcp_out]="one TCP stream, container → outside, Gbit/s"
    [tcp_in]="one TCP stream, outside → container, Gbit/s"
    [tcp_published]="one TCP stream, outside → published port, Gbit/s"
    [udp_64]="UDP 64 octets, container → outside, 1000/s"
    [tcp6_out]="IPv6, routed: one TCP stream, container → outside, Gbit/s"
    [tcp6_in]="IPv6, routed: one TCP stream, outside → container, Gbit/s"
    [tcp66_out]="NAT66: one TCP stream, container → outside, Gbit/s"
    [tcp66_in]="NAT66: one TCP stream, outside → container, Gbit/s"
    [request66]="NAT66: TCP request and response, median, µs (less is better)"
    [tcp64_in]="IPv6 client → IPv4 port (other: docker-proxy), Gbit/s"
    [tcp64_out]="the same, IPv4 port → IPv6 client, Gbit/s"
    [request]="TCP request and response, median, µs (less is better)"
)
for metric in "${metrics[@]}"; do
    for ((round = 1; round <= rounds; round++)); do
        for name in tunbridge kernel; do
            measure $name "$metric" >>"$results/$name.$metric" || {
                echo "bench: $metric through $name failed" >&2
                tail -n 20 "$results/$name.log" >&2
                exit 1
            }
        done
    done
done

printf '%-56s %10s %10s %8s\n' "$rounds rounds of $seconds s, medians ($(uname -r), $(nproc) cpus)" tunbridge kernel ratio
slow=0
for metric in "${metrics[@]}"; do
    ours=$(median "$results/tunbridge.$metric")
    theirs=$(median "$results/kernel.$metric")
    ratio=$(awk -v a="$ours" -v b="$theirs" 'BEGIN { printf "%.2f", a / b }')
    printf '%-56s %10.1f %10.1f %8s\n' "${title[$metric]}" "$ours" "$theirs" "$ratio"
    case $metric in tcp_*) awk -v r="$ratio" 'BEGIN { exit !(r < 0.5) }' && slow=1 ;; esac
done
if [ $slow = 1 ]; then echo "a TCP stream is slower than half of the kernel's" >&2; exit 1; fi
