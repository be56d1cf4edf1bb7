#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Install what is missing, build everything and run every test; the last line is
# `N passed, N failed, N skipped`. Works in a stranger's clone: tests on data that is not part
# of the project look in QUIRE_TEST_DATA or ../shared/data and say so when they skip.
#
#   ./test.sh           everything
#   ./test.sh --quick   release build, its unit, kernel and cluster tests only
set -uo pipefail
cd "$(dirname "$0")"
quick=${1:-}
results=build/test-results
rm -rf "$results"
mkdir -p "$results"
failed_steps=()

step() { # step NAME COMMAND...: a step that cannot run counts as one failed test
    local name=$1
    shift
    echo "== $name"
    if ! "$@"; then
        echo "!! step failed: $name"
        failed_steps+=("$name")
        return 1
    fi
}

skip() { # skip NAME REASON
    echo "== skipped: $2"
    echo "<testsuite name=\"$1\"><testcase name=\"$2\"><skipped/></testcase></testsuite>" \
        > "$results/$1.xml"
}

build() { # build PRESET [TARGETS...]
    local preset=$1
    shift
    [ -f "build/$preset/build.ninja" ] || cmake --preset "$preset" > "build/$preset.log" 2>&1 || {
        cat "build/$preset.log"
        return 1
    }
    ninja -C "build/$preset" --quiet "$@"
}

run_ctest() { # run_ctest PRESET [ctest options]: results are counted, failures shown
    local preset=$1
    shift
    ctest --test-dir "build/$preset" --output-on-failure --no-tests=error -j2 \
        --output-junit "$PWD/$results/ctest-$preset.xml" "$@" | grep -v '^ *[0-9]*/[0-9]* Test.*Passed' \
        || true
}

python_env() {
    build/venv/bin/python -c 'import pytest, openai, tokenizers, sentencepiece, jinja2' 2> /dev/null && return 0
    python3 -m venv build/venv && build/venv/bin/pip install -q --disable-pip-version-check \
        pytest openai tokenizers sentencepiece jinja2
}

node_env() {
    [ -d build/node/node_modules/openai ] && return 0
    mkdir -p build/node && npm install --silent --no-fund --no-audit --prefix build/node openai
}

run_pytest() { # run_pytest NAME PATHS...
    local name=$1
    shift
    build/venv/bin/pytest -q -rs --junitxml="$results/pytest-$name.xml" "$@" || true
}

fuzz_one() { # fuzz_one TARGET: a short fixed time from its seeds
    local target=$1 name out
    name=$(basename "$target")
    out=$(mktemp -d)
    if "$target" -seed="${QUIRE_FUZZ_SEED:-1}" -max_total_time=10 -timeout=10 -rss_limit_mb=2048 -print_final_stats=0 \
        -artifact_prefix="$results/" "$out" "tests/fuzz/corpus/${name#fuzz_}" \
        > "$results/$name.log" 2>&1; then
        echo "<testsuite name=\"$name\"><testcase name=\"$name\"/></testsuite>" > "$results/$name.xml"
    else
        tail -n 30 "$results/$name.log"
        echo "<testsuite name=\"$name\"><testcase name=\"$name\"><failure/></testcase></testsuite>" \
            > "$results/$name.xml"
    fi
    rm -rf "$out"
}

fuzz() { # every parser, two at once; QUIRE_FUZZ_SEED: other mutations
    export -f fuzz_one
    export results
    find build/fuzz/tests -maxdepth 1 -type f -name 'fuzz_*' -executable -print0 | sort -z \
        | xargs -0 -P 2 -I '{}' bash -c 'fuzz_one "$1"' fuzz '{}'
}

step "packages" deploy/install-deps.sh --tests || exit 1
step "python packages" python_env
step "release build (gcc)" build release
run_ctest release
step "node packages" node_env
run_pytest all tests/house tests/cluster tests/sdk
if [ "$quick" != --quick ]; then
    step "clang build" build clang
    step "address and undefined-behaviour sanitizers" build asan && run_ctest asan
    # Kernels, the replay of seeds and much of what works on text have one thread.
    step "thread sanitizer" build tsan \
        && run_ctest tsan -E '^(check|fuzz)_|^test_(tok_(steps|regex|files)|gram.*|gotmpl|outparse|templates|mistral)$'
    step "fuzz targets" build fuzz && fuzz
    if command -v aarch64-linux-gnu-gcc > /dev/null && command -v qemu-aarch64 > /dev/null; then
        step "64-bit ARM kernels on an emulator" build aarch64 && run_ctest aarch64
    else
        skip aarch64 "64-bit ARM kernels: needs aarch64-linux-gnu-gcc and qemu-aarch64"
    fi
fi

python3 tests/tools/summary.py "$results" "${failed_steps[@]}"
