#!/usr/bin/env bash
# Set up once, then run: `./run.sh` serves, `./run.sh test` tests, anything else goes to `chatapi`.
set -euo pipefail
cd "$(dirname "$0")"
