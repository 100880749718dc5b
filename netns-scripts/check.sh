#!/usr/bin/env bash
# Format, lints and all tests. The last line is "N passed, N failed", summed over all test programs;
# the exit status is not 0 if anything failed or no test ran.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

cargo=${CARGO:-cargo}
output=$(mktemp)
trap 'rm -f "$output"' EXIT

wrong=0
echo "== cargo fmt --check";       "$cargo" fmt --check || wrong=1
echo "== cargo clippy -D warnings"; "$cargo" clippy --all-targets -- -D warnings || wrong=1
# What users build: dependencies without the features that only the tests ask for.
echo "== cargo check";             "$cargo" check --lib --bins || wrong=1
if [ "$(id -u)" != 0 ]; then echo "the tests in tests/netns.rs need root (sudo make check)" >&2; fi
if [ ! -x target/docker-io/docker ] && ! command -v docker >/dev/null; then
    echo "tests/api and tests/netns need a docker client, some tests there will fail (make setup)" >&2
fi
if [ ! -x target/engines/usr/bin/podman ]; then
    echo "the tests in tests/engines.rs need target/engines and will fail (make setup)" >&2
fi
echo "== cargo test"
# The tests in labs wait more than they compute.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((3 * $(nproc)))}
"$cargo" test --no-fail-fast 2>&1 | tee "$output"
tests=${PIPESTATUS[0]}

# "test result: ok. 12 passed; 0 failed; …", one line a program.
read -r passed failed < <(awk '/^test result: / { passed += $4; failed += $6 } END { print passed + 0, failed + 0 }' "$output")
# A program that does not compile, or dies, prints no result: cargo's status tells.
if [ "$tests" -ne 0 ] && [ "$failed" -eq 0 ]; then
    echo "cargo test ended with status $tests though no test failed" >&2
    failed=1
fi
[ "$wrong" -eq 0 ] || echo "format or lints are not clean (see above)" >&2
echo "$passed passed, $failed failed"
[ "$wrong" -eq 0 ] && [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
