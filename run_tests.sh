#!/usr/bin/env bash
# Run the tests: set up once, then pytest.  Arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. lib/environment.sh
exec "$PYTHON" -m pytest "$@"
