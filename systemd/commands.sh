# shellcheck shell=bash
# Sourced by run.sh: its commands, their usage, and errors of wrong use. Needs `mode` and `venv`.

# The wrong use of a command: nothing is done.
misused() {
  printf 'run.sh: %s\n' "$*" >&2
  exit 2
}

# Every command: its name, its arguments, what it does.
commands() {
  cat <<'END'
serve|[OPTION...]|run the server until it is stopped; so does ./run.sh without a command
talk|[OPTION...]|hold a conversation through this machine's microphone and speaker
ask|[OPTION...] QUESTION|run one turn, with the models of this machine or with a server
transcribe|[OPTION...] FILE|FOLDER|URL...|transcribe recordings of any length, here or on a server
caption|[OPTION...] [FILE|URL|-]|caption the microphone, a file or a stream while somebody speaks
say|[OPTION...] TEXT|synthesize speech into a file, or show the normalized text
models|[list|fetch|verify|remove|engines|import|pack] [NAME...]|list, fetch, verify, remove, import or pack models
compile|[OPTION...] MODEL|compile a model for this board, or check a compiled one
commands|[classify|submit|record|train|list|rollback|samples] [LABEL] [FILE...]|classify spoken commands, and teach new ones
monitor|[OPTION...] [report | CONFIG.yml...]|monitor live streams for sounds, or report what was heard
voices|[add|list|show|remove|export] [NAME]|add, list, show, remove or export voices for voice conversion
convert|[OPTION...] FILE|say a recording in one of those voices
check|[OPTION...]|check settings, models, libraries, devices and memory
settings|[get|set|unset] [KEY]|show settings, or override them in the data directory
stress|[OPTION...] --model MODEL|send many requests at once to a server, and draw its latency and memory
bench|[OPTION...] [PART]|measure this machine against the bare engines; `bench peers` against other programs
health|[OPTION...]|tell whether the server of these settings is ready
keys|[add|list|revoke] [NAME]|add, list or revoke API keys: those of the service, if it is installed
jobs|[list|show|pause|resume|cancel|retry] [ID]|list, show, pause, resume, cancel or retry jobs: those of the service, if it is installed
support|[OPTION...]|write an archive for diagnosing a fault, without secrets and speech
install||make this checkout a service that starts at every boot (root)
update|[IMAGE]|install this checkout, or an image, in place of the running release; rolls back by itself (root)
uninstall|[--purge]|remove the service; --purge removes its models, conversations and settings too (root)
status||show the state of the service
logs|[OPTION...]|show the service's log; the options are those of journalctl, such as -f
build||build the appliance's image on a Jetson; takes hours
test|[--all | --clients | ARGUMENT...]|check the source and run the tests; --all runs everything, --clients third-party clients, arguments go to pytest
lint||check the source: ruff, mypy, shellcheck, import contracts
fix||change the source: ruff's fixes and format
docs||build the documentation, strictly, into site/
fuzz|[OPTION...]|send hostile inputs to a server: --minutes N, --seed N, --engines fake, --replay FILE, --clients N
soak|[OPTION...]|send mixed traffic to a server: --minutes N, --kills N
set-up||set up the environment or find the image, as install does it for a new release
END
}

usage() {
  local name arguments what
  if [ $# = 0 ]; then
    echo "usage: ./run.sh [--set KEY=VALUE] [--config FILE] [COMMAND] [ARGUMENT...]"
    echo
    while IFS='#' read -r name arguments what; do
      printf '  %-11s %s\n' "$name" "$what"
    done < <(commands | sed 's/^\([a-z-]*\)|\(.*\)|\([^|]*\)$/\1#\2#\3/')
    echo
    echo "./run.sh COMMAND --help shows the arguments of one. Nothing is installed until a command needs it."
    return
  fi
  IFS='#' read -r name arguments what < <(commands | sed -n "s/^\\($1\\)|\\(.*\\)|\\([^|]*\\)\$/\\1#\\2#\\3/p")
  echo "usage: ./run.sh $name${arguments:+ $arguments}"
  echo
  echo "$what"
}

# Whether the first argument is a command of this script or of `chatapi`.
is_command() {
  commands | cut -d'|' -f1 | grep -qxF -- "$1"
}

# Whether the arguments ask for help, before any `--`.
asks_for_help() {
  local argument
  for argument in "$@"; do
    case "$argument" in
      -h | --help) return 0 ;;
      --) return 1 ;;
    esac
  done
  return 1
}

# Shows the usage of a command; that of `chatapi` itself where it is installed, because it knows every option.
help() {
  case "$1" in
    none) usage ;;
    serve | talk | ask | transcribe | caption | say | models | compile | commands | monitor | voices | convert | check | settings | stress | bench | health | keys | jobs | support)
      if [ "$mode" = venv ] && [ -x "$venv/bin/python" ] && "$venv/bin/python" -m chatapi "$1" --help 2>/dev/null; then return; fi
      usage "$1"
      ;;
    *) usage "$1" ;;
  esac
}

# For commands without arguments.
takes_none() {
  local name=$1
  shift
  [ $# = 0 ] || misused "$name takes no arguments, and not $1; ./run.sh $name --help shows its usage"
}
