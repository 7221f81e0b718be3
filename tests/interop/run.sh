#!/usr/bin/env bash
# Real OpenTelemetry SDKs against a real mesh: see interop.py. Needs Python 3.9+, cargo and a built spanmesh binary.
#   tests/interop/run.sh [path of the spanmesh binary]
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
binary=${1:-$root/target/debug/spanmesh}
[ -x "$binary" ] || { echo "no binary at $binary: run 'cargo build' first, or give its path" >&2; exit 2; }

venv=$here/.venv
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$here/requirements.txt"
cargo build --quiet --manifest-path "$here/rust/Cargo.toml"

SPANMESH=$binary RUST_SENDER=$here/rust/target/debug/interop-sender exec "$venv/bin/python" "$here/interop.py"
