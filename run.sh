#!/usr/bin/env bash
# Sets up what is missing, then runs: `./run.sh` serves, `./run.sh test` tests, all else goes to the command `chatapi`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

venv=.venv
pip_version=26.1.2

die() {
  printf 'run.sh: %s\n' "$*" >&2
  exit 1
}

find_python() {
  local name
  for name in "${PYTHON:-python3}" python3.12 python3.13 python3.11 python3.10; do
    if "$name" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
      echo "$name"
      return
    fi
  done
  die "no Python from 3.10 to 3.13 found; install one (Debian: apt-get install python3 python3-venv) or name it in PYTHON"
}

# What is installed from; another answer means that it has to be installed again.
recipe() {
  cat pyproject.toml constraints.txt "$0" | cksum
}

fingerprint() {
  recipe
  echo "$*"
}

install_packages() {
  local wanted
  wanted=$(fingerprint "$@")
  if [ "$(cat "$venv/installed" 2>/dev/null)" = "$wanted" ]; then return; fi
  if [ ! -x "$venv/bin/python" ]; then
    "$(find_python)" -m venv "$venv" ||
      die "cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv"
  fi
  echo "run.sh: installing packages into $venv" >&2
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "pip==$pip_version"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt "$@"
  echo "$wanted" >"$venv/installed"
}

debian() {
  local missing=()
  local name
  for name in "$@"; do
    dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null | grep -qx installed || missing+=("$name")
  done
  if [ ${#missing[@]} -eq 0 ]; then return; fi
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "run.sh: installing Debian packages: ${missing[*]}" >&2
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  else
    echo "run.sh: these are missing, so something will not work: apt-get install ${missing[*]}" >&2
  fi
}

chatapi() {
  "$venv/bin/python" -m chatapi "$@"
}

# The command among the arguments, `serve` where there is none, and the settings that stand before it.
find_command() {
  command=serve
  while [ $# -gt 0 ]; do
    case "$1" in
      --set | --config)
        settings+=("$1" "${2:-}")
        shift
        ;;
      --set=* | --config=*) settings+=("$1") ;;
      -*)
        command=none
        return
        ;;
      *)
        command=$1
        return
        ;;
    esac
    shift $(($# > 0))
  done
}

# llama.cpp's wheel takes OpenMP from the system.
need_openmp() {
  "$venv/bin/python" -c 'import ctypes; ctypes.CDLL("libgomp.so.1")' 2>/dev/null || debian libgomp1
}

# PortAudio, for the microphone and the speaker; all else works without it.
need_portaudio() {
  "$venv/bin/python" -c 'import ctypes; ctypes.CDLL("libportaudio.so.2")' 2>/dev/null ||
    debian libportaudio2 ||
    echo "run.sh: libportaudio2 could not be installed, so there is no microphone and no speaker" >&2
}

run_tests() {
  install_packages --editable '.[engines]' --group dev
  need_openmp
  debian chromium chromium-driver curl
  debian pulseaudio pulseaudio-utils libasound2-plugins alsa-utils libportaudio2
  chatapi models fetch
  chatapi models fetch whisper-base
  "$venv/bin/ruff" check .
  "$venv/bin/ruff" format --check .
  "$venv/bin/mypy"
  "$venv/bin/shellcheck" run.sh .ci/run
  if [ $# -gt 0 ]; then
    "$venv/bin/python" -X dev -m pytest "$@"
  else
    # Most wait for sound that takes its time, so two files at once, each in one process, which loads a model once.
    "$venv/bin/python" -m pytest -m "not alone" --dist loadfile --tx "2*popen//python=$venv/bin/python -X dev"
    "$venv/bin/python" -X dev -m pytest -m alone
  fi
}

case "${1:-serve}" in
  test)
    shift
    run_tests "$@"
    ;;
  *)
    [ -e "$venv/installed" ] && [ "$(head -n 1 "$venv/installed")" = "$(recipe)" ] ||
      install_packages --editable '.[engines]'
    need_openmp
    settings=()
    find_command "$@"
    case "$command" in
      serve | talk) need_portaudio ;;
    esac
    case "$command $*" in
      # The box there has the models.
      "talk "*"--server"* | "talk "*"--list-devices"*) command=elsewhere ;;
    esac
    case "$command" in
      serve | talk | ask | say | transcribe | bench) chatapi ${settings[@]+"${settings[@]}"} models fetch >/dev/null ;;
    esac
    exec "$venv/bin/python" -m chatapi "$@"
    ;;
esac
