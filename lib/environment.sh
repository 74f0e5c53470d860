# Sourced by run_all.sh and run_tests.sh from the project folder: sets PYTHON to an interpreter that satisfies the
# project.  An active environment that does is used as it is; else .venv is made once and reused.

needed_gib=8 # room for torch with its CUDA libraries, as measured in site/machines.md

fail() {
  echo "error: $*" >&2
  exit 1
}

active_python() {
  local prefix
  for prefix in "${VIRTUAL_ENV:-}" "${CONDA_PREFIX:-}"; do
    [ -n "$prefix" ] && [ -x "$prefix/bin/python" ] && echo "$prefix/bin/python" && return
  done
  return 1
}

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
  local name
  for name in python3.11 python3 python3.12 python3.13 python3.14 python; do
    command -v "$name" >/dev/null 2>&1 && new_enough "$name" && echo "$name" && return
  done
  return 1
}

fingerprint() { cat pyproject.toml requirements.lock | cksum; }

explain_failure() { # turn pip's log into one line
  if grep -qiE 'no space left' "$1"; then
    fail "no disk space: the set-up needs about $needed_gib GiB in $PWD; free some and run the same command again"
  elif grep -qiE 'name resolution|connection (refused|error|broken)|network is unreachable|timed out|failed to establish|newconnectionerror' "$1"; then
    fail "no network: the set-up downloads packages from PyPI once; connect (or set a proxy for pip) and run the same command again"
  fi
  fail "the set-up failed: $(grep -E '^ERROR' "$1" | head -1); full log: $1"
}

install_into() { # python of the environment
  local log=.venv/setup.log constraints=()
  if "$1" -c 'import sys; sys.exit(not (sys.version_info[:2] == (3, 11) and sys.platform == "linux"))'; then
    constraints=(-c requirements.lock)
  else
    echo "set-up: $("$1" -V) on $(uname -s) is not what requirements.lock pins (Python 3.11 on Linux); using the ranges of pyproject.toml" >&2
  fi
  "$1" -m pip install --disable-pip-version-check ${constraints[@]+"${constraints[@]}"} -e '.[test]' >"$log" 2>&1 || explain_failure "$log"
}

make_environment() {
  local base available
  base=$(find_python) || fail "Python 3.11 or newer is needed, found $(python3 -V 2>&1 || echo none); install one (python.org, conda, apt) and run the same command again"
  available=$(($(df -Pk . | awk 'NR==2 {print $4}') / 1048576))
  if [ ! -d .venv/lib ] && [ "$available" -lt "$needed_gib" ]; then
    fail "no disk space: $available GiB free in $PWD, the set-up needs about $needed_gib GiB; free some, or install the CPU build of torch first (site/machines.md)"
  fi
  echo "set-up: installing packages into .venv, once (some minutes, about 6 GiB)" >&2
  if [ ! -x .venv/bin/python ]; then
    "$base" -m venv .venv >/dev/null 2>&1 || fail "$base cannot make a virtual environment; on Debian or Ubuntu: apt install python3-venv"
  fi
  install_into .venv/bin/python
  fingerprint >.venv/ready
}

if candidate=$(active_python) && lacking=$("$candidate" lib/environment.py); then
  PYTHON=$candidate
  export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" # leaves the user's environment unchanged
else
  [ -n "${candidate:-}" ] && echo "set-up: the active environment lacks $(echo "$lacking" | head -3 | paste -sd, -); using .venv" >&2
  [ -x .venv/bin/python ] && [ "$(cat .venv/ready 2>/dev/null)" = "$(fingerprint)" ] || make_environment
  PYTHON=.venv/bin/python
fi
