#!/usr/bin/env bash
# Containers on tunbridge networks, real traffic, line by line: what we do, what to expect, what happened.
#
#   lan (client) ──┐                         ┌── web   172.17.0.2   server on port 80, published as 8080
#                  ├── wan (router) ── host ─┼── app   172.17.0.3   client
#   far (server) ──┘                         ├── db    10.5.0.2     server on port 80, on a network of its own
#                                            ├── job   10.5.0.3     client there
#                                            └── both  fd00:20::2   server on port 80, published as 8090, on a third with IPv6
#
# (netns-scripts/lab.sh has the whole picture.) First on an ordinary host; then with `ip_forward = 0` and an
# nftables ruleset that drops everything that is forwarded, which would end Docker's network.
#
# usage: demo.sh BINARY     exit status 0 if every line happened as expected
set -euo pipefail

[ "$(id -u)" = 0 ] || { echo "demo: network namespaces need root (try: sudo make demo)" >&2; exit 1; }
binary=$(readlink -f "${1:?usage: demo.sh BINARY}")
here=$(dirname "$(readlink -f "$0")")
export TB_LAB=demo-$$
log=$(mktemp)
passed=0
failed=0

lab() { "$here/lab.sh" "$@"; }
tunbridge() { lab exec host "$binary" "$@"; }

finish() {
    status=$?
    lab down || true
    rm -f "$log"
    exit $status
}
trap finish EXIT
trap 'exit 130' INT TERM

if [ -t 1 ]; then bold=$'\e[1m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'; else bold='' green='' red='' plain=''; fi

title() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }

# line WHAT EXPECTATION PATTERN PLACE COMMAND…   PATTERN (extended regular expression) is about the whole output.
line() {
    local what=$1 expectation=$2 pattern=$3 place=$4 output
    shift 4
    printf '\n  we do     %s: %s\n  expect    %s\n' "$place" "$what" "$expectation"
    output=$(PEER_WAIT=3 lab exec "$place" timeout 30 "$@" 2>&1) || true
    printf '  happened  %s' "$(sed -E '2,$s/^/            /' <<<"${output:-(nothing)}")"
    if tr '\n' ' ' <<<"$output" | grep -qE -- "$pattern"; then
        printf '  %s✓%s\n' "$green" "$plain"
        passed=$((passed + 1))
    else
        printf '  %s✗%s\n' "$red" "$plain"
        failed=$((failed + 1))
    fi
}

traffic() {
    line "tunbridge exec app -- peer tcp 192.0.2.9 7000" "the server outside sees the host, 198.51.100.2" \
        'server-saw=198\.51\.100\.2:' host "$binary" exec app -- "$here/peer" tcp 192.0.2.9 7000
    line "tunbridge exec app -- peer udp 192.0.2.9 7000 (4000 octets: fragments)" "the same with UDP, both ways" \
        'server-saw=198\.51\.100\.2:.* bytes=4000' host "$binary" exec app -- "$here/peer" udp 192.0.2.9 7000 --size 4000
    line "tunbridge exec app -- ping 192.0.2.9" "an answer" \
        '1 received' host "$binary" exec app -- ping -n -c 1 -W 2 192.0.2.9
    line "tunbridge exec app -- traceroute 192.0.2.9" "first the gateway 172.17.0.1, then the router, then the server" \
        ' 1  172\.17\.0\.1 .* 2  198\.51\.100\.1 .* 3  192\.0\.2\.9 ' \
        host "$binary" exec app -- traceroute -n -q 1 -w 2 -m 5 192.0.2.9
    line "tunbridge exec app -- peer get 192.0.2.9 7000 (64 MiB)" "the checksum is right" \
        'get ok bytes=67108864' host "$binary" exec app -- "$here/peer" get 192.0.2.9 7000 67108864
    line "peer tcp 198.51.100.2 8080" "the container sees the client's own address, 203.0.113.9" \
        'server-saw=203\.0\.113\.9:[0-9]+ server-at=172\.17\.0\.2:80' lan "$here/peer" tcp 198.51.100.2 8080
    line "peer udp 198.51.100.2 8080" "the same with UDP" \
        'server-saw=203\.0\.113\.9:[0-9]+ server-at=172\.17\.0\.2:80' lan "$here/peer" udp 198.51.100.2 8080
    line "peer tcp 127.0.0.1 8080" "the container answers; to it the host is the gateway" \
        'server-saw=172\.17\.0\.1:[0-9]+ server-at=172\.17\.0\.2:80' host "$here/peer" tcp 127.0.0.1 8080
    line "peer tcp 198.51.100.2 8080" "the same at the host's own address" \
        'server-saw=172\.17\.0\.1:[0-9]+ server-at=172\.17\.0\.2:80' host "$here/peer" tcp 198.51.100.2 8080
    line "tunbridge exec app -- peer tcp 172.17.0.2 80" "container to container: app's own address, 172.17.0.3" \
        'server-saw=172\.17\.0\.3:' host "$binary" exec app -- "$here/peer" tcp 172.17.0.2 80
    line "tunbridge exec app -- peer tcp 198.51.100.2 8080" "container to container by the published port" \
        'server-saw=172\.17\.0\.1:' host "$binary" exec app -- "$here/peer" tcp 198.51.100.2 8080
    line "peer tcp 198.51.100.2 8081 (published on 127.0.0.1 only)" "refused or silence" \
        'error: ' lan "$here/peer" tcp 198.51.100.2 8081
    line "tunbridge exec job -- peer tcp db 80" "names of neighbours on a network of one's own: job's address, 10.5.0.3" \
        'server-saw=10\.5\.0\.3:[0-9]+ server-at=10\.5\.0\.2:80' host "$binary" exec job -- "$here/peer" tcp db 80
    line "tunbridge exec app -- peer tcp 10.5.0.2 80" "silence: another network" \
        'error: ' host "$binary" exec app -- "$here/peer" tcp 10.5.0.2 80
    line "tunbridge exec job -- peer tcp 198.51.100.2 8080" "but what the other network publishes is there for all" \
        'server-saw=172\.17\.0\.1:[0-9]+ server-at=172\.17\.0\.2:80' \
        host "$binary" exec job -- "$here/peer" tcp 198.51.100.2 8080
    line "tunbridge exec both -- ping 2001:db8:ffff::9" "IPv6: an answer" \
        '1 received' host "$binary" exec both -- ping -n -c 1 -W 2 2001:db8:ffff::9
    line "tunbridge exec both -- peer tcp 2001:db8:ffff::9 7000" "the server sees the host, 2001:db8:1::2" \
        'server-saw=\[2001:db8:1::2\]:' host "$binary" exec both -- "$here/peer" tcp 2001:db8:ffff::9 7000
    line "peer tcp 2001:db8:1::2 8090" "the container sees the client's own address, 2001:db8:3::9" \
        'server-saw=\[2001:db8:3::9\]:[0-9]+ server-at=\[fd00:20::2\]:80' lan "$here/peer" tcp 2001:db8:1::2 8090
    line "peer tcp ::1 8090" "the container answers; to it the host is the gateway" \
        'server-saw=\[fd00:20::1\]:[0-9]+ server-at=\[fd00:20::2\]:80' host "$here/peer" tcp ::1 8090
    line "peer tcp 2001:db8:1::2 8080" "IPv6 outside, IPv4 inside: translated, web sees its gateway" \
        'server-saw=172\.17\.0\.1:[0-9]+ server-at=172\.17\.0\.2:80' lan "$here/peer" tcp 2001:db8:1::2 8080
}

title "The lab: far and lan behind the router wan, and a host, all of them network namespaces"
lab up
lab exec far "$here/peer" serve 7000 >/dev/null 2>&1 &
disown

title "The daemon, in host"
echo "  we do     host: tunbridge daemon --state-dir /run/lab/state &"
lab exec host "$binary" daemon --state-dir /run/lab/state >"$log" 2>&1 &
disown
for _ in $(seq 200); do
    if tunbridge ps >/dev/null 2>&1; then break; fi
    sleep 0.05
done
tunbridge ps >/dev/null || { echo "demo: the daemon does not answer:" >&2; cat "$log" >&2; exit 1; }

title "Two containers: web serves port 80, app does nothing yet"
line "tunbridge run -d --name web -p 8080:80 -p 8080:80/udp -p 127.0.0.1:8081:80 -- peer serve 80" "its identifier" '^[0-9a-z]+ $' \
    host "$binary" run -d --name web -p 8080:80 -p 8080:80/udp -p 127.0.0.1:8081:80 -- "$here/peer" serve 80
line "tunbridge run -d --name app -- sleep 100000" "its identifier" '^[0-9a-z]+ $' \
    host "$binary" run -d --name app -- sleep 100000
line "tunbridge ps" "both are listed" 'web.*app|app.*web' host "$binary" ps
for _ in $(seq 100); do
    if lab exec web ss -Hltn 'sport = :80' 2>/dev/null | grep -q .; then break; fi
    sleep 0.05
done

title "And two on a network of their own"
line "tunbridge network create --subnet 10.5.0.0/24 backend" "its identifier" '^[0-9a-z]+ $' \
    host "$binary" network create --subnet 10.5.0.0/24 backend
line "tunbridge run -d --name db --network backend -- peer serve 80" "its identifier" '^[0-9a-z]+ $' \
    host "$binary" run -d --name db --network backend -- "$here/peer" serve 80
line "tunbridge run -d --name job --network backend -- sleep 100000" "its identifier" '^[0-9a-z]+ $' \
    host "$binary" run -d --name job --network backend -- sleep 100000
line "tunbridge network ls" "it is listed with the three that are always there" 'backend.*bridge.*host.*none' \
    host "$binary" network ls
title "One with addresses of both families"
line "tunbridge network create --ipv6 --subnet fd00:20::/64 dual" "its identifier" '^[0-9a-z]+ $' \
    host "$binary" network create --ipv6 --subnet fd00:20::/64 dual
line "tunbridge run -d --name both --network dual -p 8090:80 -- peer serve 80" "its identifier" '^[0-9a-z]+ $' \
    host "$binary" run -d --name both --network dual -p 8090:80 -- "$here/peer" serve 80
for _ in $(seq 100); do
    if lab exec both ss -H4ltn 'sport = :80' 2>/dev/null | grep -q .; then break; fi
    sleep 0.05
done
for _ in $(seq 100); do
    if lab exec db ss -Hltn 'sport = :80' 2>/dev/null | grep -q .; then break; fi
    sleep 0.05
done

title "Traffic"
traffic

title "Now somebody resets ip_forward and loads a firewall that drops what is forwarded, and most of what comes in"
lab firewall on
line "sysctl net.ipv4.ip_forward; nft list ruleset" "0; policy drop twice" 'ip_forward = 0 .*policy drop.*policy drop' \
    host bash -c 'sysctl net.ipv4.ip_forward; nft list ruleset'

title "The same traffic again"
traffic

title "Networks change while containers run"
line "tunbridge network connect backend app; peer tcp db 80" "now app has an address there, too: 10.5.0.4" \
    'server-saw=10\.5\.0\.4:' host bash -c "$binary network connect backend app && $binary exec app -- $here/peer tcp db 80"
line "tunbridge network disconnect backend app; peer tcp db 80" "and now neither address nor name" \
    'error: ' host bash -c "$binary network disconnect backend app && $binary exec app -- $here/peer tcp db 80"

title "$passed as expected, $failed not"
if [ "$failed" -gt 0 ]; then
    echo "the daemon's last words:"
    tail -n 20 "$log"
    exit 1
fi
