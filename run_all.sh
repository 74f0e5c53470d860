#!/usr/bin/env bash
# Regenerate every figure: set up once, then run the companion.  ./run_all.sh --help lists the options.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. lib/environment.sh
exec "$PYTHON" -m lib.companion "$@"
