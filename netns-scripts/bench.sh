#!/usr/bin/env bash
# Throughput and latency through tunbridge and through the kernel's own NAT, in alternation.
#
#   lab A: … wan ── host (tunbridge)              ── app, web          Both labs are laid out alike (lab.sh) and
#   lab B: … wan ── host (nftables, ip_forward=1) ── app, web          stand at the same time; A, B, A, B, … run
#                                                                      one after the other, never together.
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
    lab "$name" up >/dev/null
    lab "$name" exec host "$program" daemon --state-dir /run/lab/state >"$results/$name.log" 2>&1 &
    disown
    for _ in $(seq 200); do
        if lab "$name" exec host "$program" ps >/dev/null 2>&1; then break; fi
        sleep 0.05
    done
    lab "$name" exec host "$program" run -d --name app -- sleep 100000 >/dev/null
    lab "$name" exec host "$program" run -d --name web -p 5201:5201 -- iperf3 -s >/dev/null
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

metrics=(tcp_out tcp_in tcp_published udp_64 request)
declare -A title=(
    [tcp_out]="one TCP stream, container → outside, Gbit/s"
    [tcp_in]="one TCP stream, outside → container, Gbit/s"
    [tcp_published]="one TCP stream, outside → published port, Gbit/s"
    [udp_64]="UDP 64 octets, container → outside, 1000/s"
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
