#!/usr/bin/env bash
# Builds the appliance's image: `containers/build.sh cpu` for any machine, `containers/build.sh cuda` for a PC with an NVIDIA
# GPU, `containers/build.sh r36` or `r39` on a Jetson with that L4T, from the image that jetson-containers builds first.
# Prints the image's name at the end.
# BUILDER: docker, podman or buildah; BASE_IMAGE: another base; BUILD_IMAGE: an existing build image.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Before anything else: a build takes hours.
for argument in "$@"; do
  case "$argument" in
    -h | --help)
      sed -n '2,/^set /s/^# //p' containers/build.sh
      exit
      ;;
  esac
done

die() {
  printf 'build.sh: %s\n' "$*" >&2
  exit 1
}

builder=${BUILDER:-docker}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)

# Builds a Dockerfile of containers/. OPTIONS: more arguments for the builder; ENGINES_OPTIONS: for the engines alone,
# because a mount leaves an empty file in the image.
build() {
  local file=$1 tag=$2
  shift 2
  # shellcheck disable=SC2086 # OPTIONS is a list of words
  case "$builder" in
    docker) docker build --file "containers/$file" --tag "$tag" ${OPTIONS:-} "$@" . ;;
    # The OCI format has no health checks, and buildah makes a single layer by default.
    podman | buildah) "$builder" build --layers --format docker --file "containers/$file" --tag "$tag" ${OPTIONS:-} "$@" . ;;
    *) die "BUILDER is $builder; it must be docker, podman or buildah" ;;
  esac >&2
}

# Builds the build image with jetson-containers: all engines and their compilers; models are compiled in it too.
build_engines() {
  local l4t=$1
  command -v jetson-containers >/dev/null ||
    die "jetson-containers is missing; install it (https://github.com/dusty-nv/jetson-containers) or name an existing build image in BUILD_IMAGE"
  # jetson-containers expands the star itself, to search the folders below.
  jetson-containers build --package-dirs "$PWD/packages/*" --name chatapi-build chatapi >&2
  docker image ls --format '{{.Repository}}:{{.Tag}}' chatapi-build | grep "^chatapi-build:$l4t\.[^-]*-[^-]*-[^-]*-[^-]*$" | head -n 1
}

[ $# -le 1 ] || die "it takes one target and not $*; containers/build.sh --help shows its usage"
what=${1:-}
case "$what" in
  cpu | cuda)
    base=${BASE_IMAGE:-docker.io/library/python:3.12-slim-bookworm}
    extras=engines,torchserve,grpc
    [ "$what" = cpu ] || extras=$extras,cuda
    # shellcheck disable=SC2086 # a list of words
    build wheels.Dockerfile "chatapi-engines:$what" ${ENGINES_OPTIONS:-} --build-arg "BASE_IMAGE=$base" \
      --build-arg "EXTRAS=$extras"
    ;;
  r36 | r39)
    # Bases of jetson-containers (jetson_containers/l4t_version.py, get_l4t_base).
    if [ "$what" = r36 ]; then release=22.04; else release=24.04; fi
    base=${BASE_IMAGE:-docker.io/library/ubuntu:$release}
    built=${BUILD_IMAGE:-$(build_engines "$what")}
    [ -n "$built" ] || die "jetson-containers left no image chatapi-build:$what..."
    build board.Dockerfile "chatapi-engines:$what" --build-arg "BUILD_IMAGE=$built"
    ;;
  *) die "the target must be cpu, cuda (a PC with an NVIDIA GPU), r36 (JetPack 6) or r39 (JetPack 7)" ;;
esac
build Dockerfile "chatapi:$version-$what" --build-arg "BASE_IMAGE=$base" \
  --build-arg "ENGINES_IMAGE=${ENGINES_PREFIX:-}chatapi-engines:$what" --build-arg "VERSION=$version" \
  --build-arg "L4T=$(case "$what" in r*) echo "${what#r}" ;; esac)"
echo "chatapi:$version-$what"
