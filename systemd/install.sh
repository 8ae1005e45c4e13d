# shellcheck shell=bash
# Sourced by run.sh for install, uninstall, status, logs, update and support: the appliance as a service of the machine.
#
# A release is an unchanging folder of /opt/chatapi/releases: the source and its virtual environment, or the name of its
# image. `current` points to the running release, and the unit's files point into `current`, so that one rename swaps
# everything, and swaps it back. Needs `die`, `misused`, `mode` (venv or container) and what sets a release up.

home=/opt/chatapi
data=/var/lib/chatapi
settings_folder=/etc/chatapi
units=/etc/systemd/system
patience=${PATIENCE:-900}
crashes=3

need_root() {
  [ "$(id -u)" = 0 ] || die "$1 needs root, because it changes the machine's services: sudo ./run.sh $1"
  command -v systemctl >/dev/null || die "$1 needs systemd, which this machine does not have; ./run.sh serves without it"
}

# One at a time; the lock ends with this process, however it ends.
alone() {
  exec 9>/run/lock/chatapi
  flock --nonblock 9 || die "another install, update or uninstall is running; wait until it has ended"
}

current_release() {
  readlink "$home/current" || true
}

# At any moment $home/current is either the old release or the new one.
point_to() {
  ln -sfn "$1" "$home/.current"
  mv -T "$home/.current" "$home/current"
  sync -f "$home"
}

# Copies this checkout into a new release and sets it up; prints its folder. The running release is not touched.
make_release() {
  local release
  release="$home/releases/$(date +%Y%m%d-%H%M%S)-$(version)"
  # A separate process, because `set -e` has no effect where the status is tested.
  if mkdir -p "$release" && copy_source "$release" && "$release/run.sh" set-up >&2 && release_works "$release"; then
    sync -f "$release"
    echo "$release"
  else
    rm -rf "$release"
    return 1
  fi
}

copy_source() {
  tar --create --exclude=./.git --exclude=./.venv --exclude=__pycache__ --exclude='./.*_cache' --exclude=./image --exclude=./site . |
    tar --extract --no-same-owner --directory "$1"
}

# Tests whether a release can be started at all.
release_works() {
  if [ "$mode" = container ]; then
    docker run --rm --network none --read-only --tmpfs /tmp "$(cat "$1/image")" --version >/dev/null
  else
    "$1/.venv/bin/chatapi" --version >/dev/null
  fi
}

make_user() {
  if ! getent passwd chatapi >/dev/null; then
    # The id of the image's user; if it is taken, any other works too.
    useradd --system --uid 10001 --user-group --home-dir "$data" --no-create-home --shell /usr/sbin/nologin chatapi 2>/dev/null ||
      useradd --system --user-group --home-dir "$data" --no-create-home --shell /usr/sbin/nologin chatapi
  fi
  local group
  for group in audio video render jtop; do
    if getent group "$group" >/dev/null; then usermod --append --groups "$group" chatapi; fi
  done
}

# The unit's files are links into the current release.
place_units() {
  local dropins=$units/chatapi.service.d
  ln -sfn "$home/current/systemd/chatapi.service" "$units/chatapi.service"
  mkdir -p "$dropins" "$units/multi-user.target.wants"
  ln -sfn "$units/chatapi.service" "$units/multi-user.target.wants/chatapi.service"
  rm -f "$dropins/container.conf" "$dropins/backoff.conf"
  if [ "$mode" = container ]; then ln -sfn "$home/current/systemd/container.conf" "$dropins/container.conf"; fi
  # Growing pauses need systemd 254; before, every pause is RestartSec.
  if [ "$(systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')" -ge 254 ]; then
    ln -sfn "$home/current/systemd/backoff.conf" "$dropins/backoff.conf"
  fi
  mkdir -p "$settings_folder"
  if [ ! -e "$settings_folder/environment" ]; then
    install -m 640 -g chatapi systemd/environment "$settings_folder/environment"
  fi
}

restart() {
  systemctl daemon-reload
  systemctl reset-failed chatapi.service 2>/dev/null || true
  systemctl restart --no-block chatapi.service
}

# Runs a command of the current release, with the service's settings and as its user.
as_service() {
  if [ "$mode" = container ]; then
    docker exec "$container" python3 -m chatapi "$@"
    return
  fi
  local line environment=(CHATAPI_DATA="$data" HOME="$data")
  while IFS= read -r line; do
    case "$line" in [A-Za-z_]*=*) environment+=("$line") ;; esac
  done < <(cat "$settings_folder/environment" 2>/dev/null)
  (cd "$data" && exec setpriv --reuid chatapi --regid chatapi --init-groups env "${environment[@]}" "$home/current/.venv/bin/chatapi" "$@")
}

# Manages the service's API keys or its jobs, as its user.
service_command() {
  need_root "$1"
  as_service "$@"
}

# Waits until the service is ready; fails early once it has crashed too often.
becomes_ready() {
  local until=$((SECONDS + patience)) before
  before=$(systemctl show --property NRestarts --value chatapi.service)
  while [ $SECONDS -lt $until ]; do
    if [ "$(systemctl is-active chatapi.service || true)" = active ] && as_service health 2>/dev/null; then return 0; fi
    if [ $(($(systemctl show --property NRestarts --value chatapi.service) - before)) -ge $crashes ]; then return 1; fi
    sleep 1
  done
  return 1
}

forget_old_releases() {
  local release
  for release in "$home"/releases/*/; do
    release=${release%/}
    case "$release" in "$1" | "$2") ;; *) rm -rf "$release" ;; esac
  done
}

# Names the command that compiles a model for the board's GPU where the service looks for it.
hint_to_compile() {
  if [ "$mode" = container ] && ! compgen -G "$data/compiled/*/made.json" >/dev/null; then
    echo "run.sh: no model is compiled for this board's GPU, so a small model is used: sudo ./run.sh compile auto, then sudo systemctl restart chatapi"
  fi
}

# Swaps this checkout in, and back again when it does not become ready.
take() {
  local verb=$1 before release
  before=$(current_release)
  release=$(make_release) || die "the new release could not be set up (see above); the installed one is unchanged"
  make_user
  point_to "$release"
  place_units
  restart
  echo "run.sh: waiting until it is ready (at most $patience s; ./run.sh logs shows its log)" >&2
  if becomes_ready; then
    forget_old_releases "$release" "$before"
    echo "run.sh: $(basename "$release") is ready"
  elif [ -n "$before" ] && [ -d "$before" ]; then
    why=$(systemctl show --property StatusText --value chatapi.service)
    point_to "$before"
    place_units
    restart
    rm -rf "$release"
    becomes_ready || die "the new release did not become ready (${why:-no status}), and neither did the previous one; see ./run.sh logs"
    die "the new release did not become ready (${why:-no status}); the previous one runs again"
  else
    die "it is installed and keeps trying, but is not ready yet; see ./run.sh logs"
  fi
  hint_to_compile
  [ "$verb" = update ] || echo "run.sh: the settings are in $settings_folder/environment, the data is in $data"
}

install_service() {
  takes_none install "$@"
  need_root install
  alone
  take install
}

update_service() {
  case "$# ${1:-}" in
    "0 " | "1 "[!-]*) ;;
    *) misused "update takes at most the name of an image; ./run.sh update --help shows its usage" ;;
  esac
  need_root update
  alone
  [ -n "$(current_release)" ] || die "nothing is installed yet: ./run.sh install"
  if [ $# -gt 0 ]; then export IMAGE=$1; fi
  take update
}

uninstall_service() {
  case "$*" in
    "" | --purge) ;;
    *) misused "uninstall takes nothing but --purge, and not $*; ./run.sh uninstall --help shows its usage" ;;
  esac
  need_root uninstall
  alone
  systemctl disable --now chatapi.service 2>/dev/null || true
  rm -rf "$units/chatapi.service" "$units/chatapi.service.d" "$units/multi-user.target.wants/chatapi.service"
  systemctl daemon-reload
  rm -rf "$home"
  if [ "${1:-}" = --purge ]; then
    rm -rf "$data" "$settings_folder"
    if getent passwd chatapi >/dev/null; then userdel chatapi; fi
    echo "run.sh: the service, its models, conversations and settings are removed"
  else
    echo "run.sh: the service is removed; $data and $settings_folder are kept (uninstall --purge removes them too)"
  fi
}

need_installed() {
  [ -e "$units/chatapi.service" ] || die "nothing is installed: sudo ./run.sh install makes it a service that starts at boot"
}

status_service() {
  takes_none status "$@"
  need_installed
  systemctl --no-pager --lines 5 status chatapi.service || true
  as_service health && echo "ready"
}

logs_service() {
  need_installed
  exec journalctl --unit chatapi.service --no-hostname --output short-iso "$@"
}

# Collects what only the host knows, one file each, for `chatapi support`.
machine_facts() {
  local place=$1
  systemctl --no-pager show chatapi.service >"$place/unit.txt" 2>&1 || true
  journalctl --unit chatapi.service --no-hostname --output short-iso --lines 3000 >"$place/log.txt" 2>&1 || true
  journalctl --dmesg --no-hostname --lines 2000 2>/dev/null |
    grep -iE 'oom|killed process|nvgpu|nvmap|thermal|throttl|snd|usb|mmc|nvme|i/o error' >"$place/kernel.txt" || true
  { uname -a; uptime; cat /etc/nv_tegra_release /proc/meminfo; df -h; ls -l /dev/snd; nvpmodel -q; } >"$place/machine.txt" 2>&1 || true
  { readlink "$home/current"; cat "$home/current/image"; docker version; docker ps -a; } >"$place/release.txt" 2>&1 || true
}

support_archive() {
  need_root support
  need_installed
  local target facts
  target=$PWD/chatapi-support-$(date +%Y%m%d-%H%M%S).tar.gz
  # Below the data directory, which the service's user and the container can reach.
  facts=$(mktemp -d "$data/.support.XXXXXX")
  # shellcheck disable=SC2064 # expand the variable now
  trap "rm -rf '$facts'" EXIT
  mkdir "$facts/host"
  machine_facts "$facts/host"
  chown -R chatapi:chatapi "$facts"
  local inside=$facts
  if [ "$mode" = container ]; then inside=/data/$(basename "$facts"); fi
  as_service support -o "$inside/support.tar.gz" --include "$inside/host" >/dev/null ||
    die "the archive could not be written (see above); it needs a running container: ./run.sh logs"
  install -m 600 "$facts/support.tar.gz" "$target"
  echo "$target"
}
