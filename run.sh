#!/usr/bin/env bash
# Sets up what is missing, then runs: `./run.sh` serves, `./run.sh --help` lists what else there is. The commands of `chatapi`
# run in a virtual environment here, and on a Jetson in the appliance's image (RUN_IN=venv or RUN_IN=container overrides that).
set -euo pipefail
# File arguments are relative to the caller's directory.
from=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"
here=$PWD

venv=.venv
pip_version=26.1.2

tegra_release=${TEGRA_RELEASE:-/etc/nv_tegra_release}
# The settings file beside this script, unless the caller's directory has one.
config=()
if [ ! -e "$from/chatapi.toml" ] && [ -e chatapi.toml ]; then config=(--config "$here/chatapi.toml"); fi
mode=${RUN_IN:-$(if [ -e "$tegra_release" ]; then echo container; else echo venv; fi)}

die() {
  printf 'run.sh: %s\n' "$*" >&2
  exit 1
}

find_python() {
  local name
  for name in "${PYTHON:-python3}" python3.12 python3.13 python3.11 python3.14 python3.10; do
    if "$name" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; then
      echo "$name"
      return
    fi
  done
  die "no Python from 3.10 to 3.14 found; install one (Debian: apt-get install python3 python3-venv) or name it in PYTHON"
}

# A checksum of what the environment is installed from; when it changes, the packages are installed again.
recipe() {
  cat pyproject.toml constraints.txt run.sh | cksum
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
      die "cannot create a virtual environment; on Debian and Ubuntu: apt-get install python3-venv"
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
    echo "run.sh: these packages are missing, so some features will not work: apt-get install ${missing[*]}" >&2
  fi
}

chatapi() {
  (cd "$from" && exec "$here/$venv/bin/python" -m chatapi ${config[@]+"${config[@]}"} "$@")
}

# The same, replacing this process.
chatapi_instead() {
  cd "$from"
  exec "$here/$venv/bin/python" -m chatapi ${config[@]+"${config[@]}"} "$@"
}

# Finds the command among the arguments (`serve` when there is none) and the settings before it.
find_command() {
  command=serve
  while [ $# -gt 0 ]; do
    case "$1" in
      --set | --config)
        settings+=("$1" "${2:-}")
        shift
        ;;
      --set=* | --config=*) settings+=("$1") ;;
      -h | --help | --version)
        command=none
        return
        ;;
      -*) misused "there is no option $1 before a command; ./run.sh --help lists all commands" ;;
      *)
        command=$1
        return
        ;;
    esac
    shift $(($# > 0))
  done
}

# llama.cpp's wheel needs the system's OpenMP.
need_openmp() {
  "$venv/bin/python" -c 'import ctypes; ctypes.CDLL("libgomp.so.1")' 2>/dev/null || debian libgomp1
}

# PortAudio, for the microphone and the speaker; everything else works without it.
need_portaudio() {
  "$venv/bin/python" -c 'import ctypes; ctypes.CDLL("libportaudio.so.2")' 2>/dev/null ||
    debian libportaudio2 ||
    echo "run.sh: libportaudio2 could not be installed, so microphone and speaker do not work" >&2
}

# Prometheus and promtool, for the tests. Debian's package would also start a server, so it is only unpacked.
need_prometheus() {
  if [ -x "$venv/bin/promtool" ] || ! command -v apt-get >/dev/null; then return; fi
  local folder
  folder=$(mktemp -d)
  chmod 755 "$folder"
  if (cd "$folder" && { apt-get download -qq prometheus || { apt-get update -qq && apt-get download -qq prometheus; }; }) \
    >/dev/null 2>&1; then
    dpkg-deb --extract "$folder"/prometheus_*.deb "$folder"
    cp "$folder"/usr/bin/prom* "$venv/bin/"
  else
    echo "run.sh: Debian's prometheus could not be fetched, so its tests are skipped" >&2
  fi
  rm -r "$folder"
}

# nginx, for the tests; only unpacked too.
need_nginx() {
  if [ -x "$venv/bin/nginx" ] || command -v nginx >/dev/null || ! command -v apt-get >/dev/null; then return; fi
  local folder
  folder=$(mktemp -d)
  chmod 755 "$folder"
  if (cd "$folder" && { apt-get download -qq nginx || { apt-get update -qq && apt-get download -qq nginx; }; }) >/dev/null 2>&1; then
    dpkg-deb --extract "$folder"/nginx_*.deb "$folder"
    cp "$folder/usr/sbin/nginx" "$venv/bin/"
  else
    echo "run.sh: Debian's nginx could not be fetched, so its tests are skipped" >&2
  fi
  rm -r "$folder"
}

# OpenAI's clients for Node, for the tests.
need_node() {
  if ! command -v npm >/dev/null; then
    echo "run.sh: there is no npm, so the tests with OpenAI's clients for Node are skipped" >&2
  elif [ tests/node/package-lock.json -nt tests/node/node_modules ]; then
    npm ci --prefix tests/node --silent --no-audit --no-fund
  fi
}

# Installs what tests, linters and the documentation need.
install_dev() {
  install_packages --editable '.[engines]' --group dev
}

# Checks the source without changing it; `fix` changes it.
lint() {
  "$venv/bin/ruff" check .
  "$venv/bin/ruff" format --check .
  "$venv/bin/mypy"
  "$venv/bin/shellcheck" --external-sources run.sh .ci/run containers/build.sh
  "$venv/bin/lint-imports" --no-cache
}

fix() {
  "$venv/bin/ruff" check --fix .
  "$venv/bin/ruff" format .
}

# Generates the reference pages, then builds the site.
build_docs() {
  "$venv/bin/python" docs/generate.py
  NO_MKDOCS_2_WARNING=1 "$venv/bin/mkdocs" build --strict --quiet
  echo "run.sh: the documentation is in site/index.html" >&2
}

# What tests of real models, devices, browsers and boots need beyond Python.
set_up_tests() {
  need_openmp
  debian chromium chromium-driver curl espeak-ng faketime
  debian systemd-container systemd-sysv dbus
  debian gcc libc6-dev binutils binutils-aarch64-linux-gnu
  debian pulseaudio pulseaudio-utils libasound2-plugins alsa-utils libportaudio2
  need_prometheus
  need_nginx
  need_node
  chatapi models fetch
  chatapi models fetch whisper-tiny.en whisper-base whisper-base-ct2 knn-vc-whisper-base whisper-base-words
}

# Several files run at once, each in one process; most tests wait for something. With -X dev every warning is an error; it costs
# a tenth of the time, so that the tests of every change do without.
in_parallel() {
  local processes=$1
  local python=$2
  shift 2
  "$venv/bin/python" -m pytest --dist loadfile --tx "$processes*popen//python=$python" "$@"
}

# Runs tests by the command that is given, then what failed once more by itself: a busy machine fails a test that waits now and
# then. Both results are printed. More than ten failures are not the machine's doing, and nor is an end without failed tests.
with_second_try() {
  local status=0
  rm -rf .pytest_cache
  "$@" || status=$?
  if [ $status != 1 ]; then return $status; fi
  local failed=()
  mapfile -t failed < <("$venv/bin/python" -c 'import json; print(*json.load(open(".pytest_cache/v/cache/lastfailed")), sep="\n")')
  if [ ${#failed[@]} -gt 10 ]; then return $status; fi
  echo "run.sh: ${#failed[@]} failed; the same tests once more, by themselves" >&2
  "$venv/bin/python" -X dev -m pytest "${failed[@]}"
}

# Third-party clients, each installed into an environment of its own in .venv-clients and run unmodified; further arguments
# go to pytest, such as `-k pipecat`. The results are data of the documentation.
test_clients() {
  need_openmp
  # Home Assistant converts speech with it.
  debian ffmpeg
  chatapi models fetch
  chatapi models fetch whisper-tiny.en-ct2
  local status=0
  CLIENTS_REPORT=$here/docs/integrations/clients.json "$venv/bin/python" -m pytest -m clients tests/clients "$@" || status=$?
  "$venv/bin/python" docs/generate.py
  return $status
}

# Without arguments: what a contributor needs on every change, on fake engines. `--all`: everything, images and boots
# included, and a skipped test fails unless tests/conftest.py expects it. `--clients`: third-party clients. Anything else goes
# to pytest.
run_tests() {
  install_dev
  lint
  case "${1:-}" in
    "")
      in_parallel 4 "$venv/bin/python" -m "not alone and not real and not slow and not image" \
        tests/unit tests/contract tests/protocol
      echo "run.sh: these were the tests on fake engines; ./run.sh test --all runs all, ./run.sh test FILE... some" >&2
      ;;
    --clients)
      shift
      test_clients "$@"
      ;;
    --all)
      set_up_tests
      debian buildah podman runc netavark aardvark-dns mmdebstrap qemu-user-static binfmt-support
      export CHATAPI_TESTS=all
      with_second_try in_parallel 3 "$venv/bin/python -X dev" -m "not alone and not image and not clients"
      with_second_try "$venv/bin/python" -X dev -m pytest -m alone
      "$venv/bin/python" -X dev -m pytest -m image
      ;;
    *)
      set_up_tests
      case "$*" in
        *image*) debian buildah podman runc netavark aardvark-dns mmdebstrap qemu-user-static binfmt-support ;;
      esac
      "$venv/bin/python" -X dev -m pytest "$@"
      ;;
  esac
}

# Long runs of hostile inputs or mixed traffic: `tests/fuzz` and `tests/soak`.
run_long_test() {
  install_dev
  need_openmp
  chatapi models fetch >/dev/null
  cd "$from"
  PYTHONPATH=$here/tests:$here/tests/support:$here:$here/compile exec "$here/$venv/bin/python" -m "$@"
}

# Creates the virtual environment with everything in it.
set_up() {
  [ -e "$venv/installed" ] && [ "$(head -n 1 "$venv/installed")" = "$(recipe)" ] ||
    install_packages --editable '.[engines]'
  need_openmp
}

# Other programs beside this one; their tables go to standard output.
compare_peers() {
  [ "$mode" = venv ] || misused "bench peers runs in a virtual environment (RUN_IN=venv)"
  set_up
  chatapi models fetch >/dev/null
  chatapi models fetch whisper-tiny.en whisper-tiny.en-ct2 >/dev/null
  exec "$venv/bin/python" benchmarks/peers "$@"
}

run_here() {
  set_up
  case "$command" in
    serve | talk | caption) need_portaudio ;;
  esac
  case "$command" in
    serve | talk | caption | ask | say | transcribe | commands | monitor | voices | convert | bench) chatapi ${settings[@]+"${settings[@]}"} models fetch >/dev/null ;;
  esac
  chatapi_instead "$@"
}

run_command() {
  case "$command $*" in
    # The other box has the models.
    "talk "*"--server"* | "caption "*"--server"* | "talk "*"--list-devices"* | "ask "*"--server"*) command=elsewhere ;;
  esac
  if [ "$mode" = container ]; then in_container "$@"; else run_here "$@"; fi
}

case "$mode" in
  container | venv) ;;
  *) die "RUN_IN is $mode; it can be venv or container" ;;
esac
# shellcheck source=systemd/commands.sh
source systemd/commands.sh
# shellcheck source=systemd/container.sh
source systemd/container.sh
# shellcheck source=systemd/install.sh
source systemd/install.sh
settings=()
find_command "$@"
[ "$command" = none ] || is_command "$command" || misused "there is no command $command; ./run.sh --help lists all"
if asks_for_help "$@"; then
  help "$command"
  exit
fi
if [ "$command" = none ]; then
  echo "chatapi $(version)"
  exit
fi
verb=${1:-serve}
case "$verb" in
  test)
    shift
    run_tests "$@"
    ;;
  lint | fix)
    takes_none "$@"
    install_dev
    "$verb"
    ;;
  docs)
    takes_none "$@"
    install_dev
    build_docs
    ;;
  fuzz | soak) run_long_test "$@" ;;
  install | uninstall | update | status | logs)
    shift
    "${verb}_service" "$@"
    ;;
  # For the service, if it is installed; otherwise for this checkout.
  support) if [ -e "$units/chatapi.service" ] && [ $# = 1 ]; then support_archive; else run_command "$@"; fi ;;
  # The service's keys and jobs, if it is installed.
  keys | jobs) if [ -e "$units/chatapi.service" ]; then service_command "$@"; else run_command "$@"; fi ;;
  # Run by `install` and `update` in a new release before it is swapped in.
  set-up)
    takes_none "$@"
    if [ "$mode" = container ]; then
      need_docker
      name=$(take_image)
      echo "$name" >image
    else
      set_up
      # The service cannot write there; without this every start would compile the source again.
      "$venv/bin/python" -m compileall -q chatapi compile
    fi
    ;;
  build)
    takes_none "$@"
    need_docker
    build_image
    ;;
  bench)
    if [ "${2:-}" = peers ]; then compare_peers "${@:3}"; else run_command "$@"; fi
    ;;
  *) run_command "$@" ;;
esac
