#!/usr/bin/env bash
# Installs the peers (once, outside the repository) and runs a series. usage: benchmarks/run.sh [MEASURE…] [options], or --help
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export BENCH_HOME="${BENCH_HOME:-${TMPDIR:-/tmp}/dlq-bench}"
python="${BENCH_PYTHON:-$here/../.venv/bin/python}"

if [ ! -x "$python" ]; then
  echo "No interpreter at $python: run 'make install' first, or set BENCH_PYTHON" >&2
  exit 1
fi
for program in wrk node npm; do
  command -v "$program" > /dev/null || { echo "$program is missing: apt-get install wrk nodejs npm" >&2; exit 1; }
done

# What is installed belongs to these files; another version of them installs again.
wanted=$(cat "$here/peers/node/package.json" "$here/peers/requirements.txt" | cksum)
if [ "$(cat "$BENCH_HOME/installed" 2> /dev/null)" != "$wanted" ]; then
  mkdir -p "$BENCH_HOME/node"
  cp "$here/peers/node/package.json" "$BENCH_HOME/node/"
  (cd "$BENCH_HOME/node" && npm install --omit=dev --no-audit --no-fund --no-package-lock)
  [ -x "$BENCH_HOME/venv/bin/python" ] || "$python" -m venv "$BENCH_HOME/venv"
  "$BENCH_HOME/venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$here/peers/requirements.txt"
  echo "$wanted" > "$BENCH_HOME/installed"
fi

cd "$here/.."
exec "$python" -m benchmarks "$@"
