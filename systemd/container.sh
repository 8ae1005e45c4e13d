# shellcheck shell=bash
# Sourced by run.sh on a Jetson: finds the appliance's image and runs its container. Needs `die`.

container=chatapi

version() {
  sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml
}

# Major version of Linux for Tegra, such as 36 for JetPack 6: "# R36 (release), REVISION: 4.3, ..."
l4t_major() {
  sed -n 's/^# R\([0-9]*\) (release).*/\1/p' "$tegra_release"
}

image_name() {
  echo "chatapi:$(version)-r$(l4t_major)"
}

has_image() {
  docker image inspect "$1" >/dev/null 2>&1
}

need_docker() {
  command -v docker >/dev/null || die "docker is missing; it runs the appliance's image: apt-get install nvidia-container"
  docker info >/dev/null 2>&1 ||
    die "docker does not answer: is it running (systemctl start docker), and are you root or in the group docker?"
  docker info --format '{{json .Runtimes}}' | grep -q '"nvidia"' ||
    die "docker has no nvidia runtime, so there is no GPU: apt-get install nvidia-container, then nvidia-ctk runtime configure --runtime=docker and systemctl restart docker"
}

# The image to run: this release's, the one named in IMAGE, this version's own, or one that is built now.
take_image() {
  if [ -s image ] && has_image "$(cat image)"; then
    cat image
    return
  fi
  local name=${IMAGE:-$(image_name)}
  if [ -f "$name" ]; then
    name=$(docker load --quiet --input "$name" | sed -n 's/^Loaded image\( ID\)\?: //p' | tail -n 1)
    [ -n "$name" ] || die "$IMAGE is not an archive of an image; docker save writes one"
  elif [ -n "${IMAGE:-}" ] && ! has_image "$name"; then
    docker pull --quiet "$name" >&2 || die "there is no image $name, neither on this machine nor in a registry"
  elif ! has_image "$name"; then
    build_image >&2
  fi
  local major
  major=$(docker image inspect --format '{{index .Config.Labels "org.chatapi.l4t"}}' "$name" 2>/dev/null || true)
  case "$major" in
    "" | "<no value>" | "$(l4t_major)") ;;
    *) die "the image $name is for L4T r$major and this board has r$(l4t_major); use chatapi:$(version)-r$(l4t_major), or ./run.sh build" ;;
  esac
  # By its id, so that a new image of the same name does not replace an installed one.
  docker image inspect --format '{{.Id}}' "$name"
}

# Builds the image under the name that take_image looks for.
build_image() {
  command -v jetson-containers >/dev/null ||
    die "there is no image $(image_name), and no jetson-containers to build it with: name one in IMAGE, or install jetson-containers (git clone, then its install.sh)"
  echo "run.sh: building $(image_name); this takes hours the first time" >&2
  containers/build.sh "r$(l4t_major)" || die "the image could not be built; see the output of jetson-containers"
}

# Models are compiled in the image that the appliance's image was made from, because only that one has compilers.
find_compiler() {
  docker image ls --format '{{.Repository}}:{{.Tag}}' chatapi-build |
    grep "^chatapi-build:r$(l4t_major)\.[^-]*-[^-]*-[^-]*-[^-]*$" | head -n 1
}

compiler_image() {
  local made
  made=$(find_compiler || true)
  [ -n "$made" ] || die "models are compiled in the build image, which is missing: ./run.sh build"
  echo "$made"
}

# Mounts what a container cannot see of the board: docker hides /sys/firmware, where the device tree is.
board_files() {
  local place=$1
  mkdir -p "$place/device-tree"
  local name
  for name in model compatible; do
    cat "/proc/device-tree/$name" >"$place/device-tree/$name" 2>/dev/null || true
  done
}

# Sets the array `options` to the options of docker run.
container_options() {
  local folder=$1
  options=(
    --rm --network host --runtime nvidia --env "NVIDIA_DRIVER_CAPABILITIES=compute,utility"
    --env HOME=/data --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges --ulimit nice=30 --ulimit core=0
    --volume "$folder:/data" --env CHATAPI_DATA=/data
  )
  # File arguments are relative to the caller's directory; the service has none.
  if [ "$command" = serve ]; then options+=(--workdir /data); else options+=(--volume "$from:/here" --workdir /here); fi
  # Files in the data directory keep their owner.
  options+=(--user "$(stat -c %u "$folder"):$(stat -c %g "$folder")")
  if [ -t 0 ] && [ -t 1 ]; then options+=(--interactive --tty); elif [ -p /dev/stdin ] || [ -f /dev/stdin ]; then options+=(--interactive); fi
  local name group
  for name in audio video render jtop; do
    if group=$(getent group "$name" | cut -d: -f3) && [ -n "$group" ]; then options+=(--group-add "$group"); fi
  done
  if [ -d /dev/snd ]; then options+=(--device /dev/snd); fi
  # For a microphone or speaker that is plugged in later: major 116 is ALSA's.
  options+=(--device-cgroup-rule 'c 116:* rw')
  if [ -S /run/jtop.sock ]; then options+=(--volume /run/jtop.sock:/run/jtop.sock); fi
  if [ -S "${XDG_RUNTIME_DIR:-/nowhere}/pulse/native" ]; then
    options+=(--volume "$XDG_RUNTIME_DIR/pulse/native:/run/pulse" --env PULSE_SERVER=unix:/run/pulse)
  fi
  for name in /etc/nvpmodel.conf /var/lib/nvpmodel /run/systemd/timesync; do
    if [ -e "$name" ]; then options+=(--volume "$name:$name:ro"); fi
  done
  if [ -e "$tegra_release" ]; then options+=(--volume "$tegra_release:/etc/nv_tegra_release:ro"); fi
  if board_files "$folder/board"; then options+=(--volume "$folder/board:/run/board:ro"); fi
  if [ -S "${NOTIFY_SOCKET:-/nowhere}" ]; then
    options+=(--volume "$NOTIFY_SOCKET:/run/notify" --env NOTIFY_SOCKET=/run/notify --env "WATCHDOG_USEC=${WATCHDOG_USEC:-}")
  fi
  for name in $(compgen -e CHATAPI_) HF_TOKEN http_proxy https_proxy no_proxy; do
    [ "$name" = CHATAPI_DATA ] || [ -z "${!name:-}" ] || options+=(--env "$name")
  done
}

# The data directory: the service's if it is writable, otherwise the user's own.
data_folder() {
  if [ -n "${CHATAPI_DATA:-}" ]; then
    echo "$CHATAPI_DATA"
  elif [ -w /var/lib/chatapi ] || [ "$(id -u)" = 0 ]; then
    echo /var/lib/chatapi
  else
    echo "${XDG_DATA_HOME:-$HOME/.local/share}/chatapi"
  fi
}

# Compiles the best model for this board when none is compiled yet; a service has no time for that at boot. A failure does
# not prevent serving.
compile_first() {
  local folder=$1 word made words=()
  shift
  if compgen -G "$folder/compiled/*/made.json" >/dev/null || ! made=$(find_compiler); then return; fi
  # Passes the settings on, wherever they are, and no option of `serve`.
  for word in "$@"; do case "$word" in serve | --tls) ;; *) words+=("$word") ;; esac; done
  echo "run.sh: compiling a model for this board, once, unless the settings name a model; Ctrl-C skips it, the next start resumes it" >&2
  trap : INT
  docker run "${options[@]}" "$made" python3 -m chatapi ${words[@]+"${words[@]}"} compile auto --if-wanted ||
    echo "run.sh: no model is compiled (see above); a small model is used until ./run.sh compile auto has compiled one" >&2
  trap - INT
}

# Runs the command line in a container; `serve` in the one that has the appliance's name.
in_container() {
  local folder image options=()
  folder=$(data_folder)
  need_docker
  if [ "$command" = compile ]; then image=$(compiler_image); else image=$(take_image); fi
  mkdir -p "$folder" 2>/dev/null && [ -w "$folder" ] ||
    die "$folder cannot be written; name another folder in CHATAPI_DATA, or be root"
  container_options "$folder"
  local file
  for file in "$from/chatapi.toml" "$here/chatapi.toml"; do
    if [ -e "$file" ]; then
      options+=(--volume "$file:/run/chatapi.toml:ro")
      settings=(--config /run/chatapi.toml ${settings[@]+"${settings[@]}"})
      set -- --config /run/chatapi.toml "$@"
      break
    fi
  done
  if [ "$command" = serve ] && [ -z "${NOTIFY_SOCKET:-}" ]; then compile_first "$folder" "$@"; fi
  if [ "$command" = serve ]; then
    # Named, so that it can be found; a container left by a power cut is removed.
    docker rm --force "$container" >/dev/null 2>&1 || true
    options+=(--name "$container")
  fi
  case "$command" in
    serve | talk | caption | ask | say | transcribe | commands | voices | convert | bench)
      docker run "${options[@]}" "$image" ${settings[@]+"${settings[@]}"} models fetch >/dev/null </dev/null ||
        echo "run.sh: not all models could be fetched (see above); continuing with the installed ones" >&2
      ;;
  esac
  if [ "$command" = compile ]; then set -- python3 -m chatapi "$@"; fi
  exec docker run "${options[@]}" "$image" "$@"
}
