#!/usr/bin/env bash
# Builds the appliance's image: `containers/build.sh cpu` for any machine, `containers/build.sh r36` or `r39` on a Jetson
# with that L4T, out of the image that jetson-containers builds first. Ends by printing the image's name.
# BUILDER names what builds (docker, podman, buildah); BASE_IMAGE another base; BUILD_IMAGE what is built already.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() {
  printf 'build.sh: %s\n' "$*" >&2
  exit 1
}

builder=${BUILDER:-docker}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)

# Files under containers/, from the root of the repository; OPTIONS are more words for the builder, and ENGINES_OPTIONS
# some for the engines alone: where a mount was, an empty file stays, and what is mounted there does not get into the image.
build() {
  local file=$1 tag=$2
  shift 2
  # shellcheck disable=SC2086 # OPTIONS is a list of words
  case "$builder" in
    docker) docker build --file "containers/$file" --tag "$tag" ${OPTIONS:-} "$@" . ;;
    # Health checks are not part of the OCI's format, and buildah makes one layer of all unless told.
    podman | buildah) "$builder" build --layers --format docker --file "containers/$file" --tag "$tag" ${OPTIONS:-} "$@" . ;;
    *) die "BUILDER is $builder; it must be docker, podman or buildah" ;;
  esac >&2
}

# The image with every engine and what compiled them, by jetson-containers; models are compiled in it too.
build_engines() {
  local l4t=$1
  command -v jetson-containers >/dev/null ||
    die "there is no jetson-containers; install it (https://github.com/dusty-nv/jetson-containers) or name what is built in BUILD_IMAGE"
  # The star has it look into the folders below; it must reach jetson-containers as it is.
  jetson-containers build --package-dirs "$PWD/packages/*" --name chatapi-build chatapi >&2
  docker image ls --format '{{.Repository}}:{{.Tag}}' chatapi-build | grep "^chatapi-build:$l4t\.[^-]*-[^-]*-[^-]*-[^-]*$" | head -n 1
}

what=${1:-}
case "$what" in
  cpu)
    base=${BASE_IMAGE:-docker.io/library/python:3.12-slim-bookworm}
    # shellcheck disable=SC2086 # a list of words
    build wheels.Dockerfile chatapi-engines:cpu ${ENGINES_OPTIONS:-} --build-arg "BASE_IMAGE=$base"
    ;;
  r36 | r39)
    # Bases of jetson-containers (jetson_containers/l4t_version.py, get_l4t_base).
    if [ "$what" = r36 ]; then release=22.04; else release=24.04; fi
    base=${BASE_IMAGE:-docker.io/library/ubuntu:$release}
    built=${BUILD_IMAGE:-$(build_engines "$what")}
    [ -n "$built" ] || die "jetson-containers left no image chatapi-build:$what..."
    build board.Dockerfile "chatapi-engines:$what" --build-arg "BUILD_IMAGE=$built"
    ;;
  *) die "say for what: cpu, r36 (JetPack 6) or r39 (JetPack 7)" ;;
esac
build Dockerfile "chatapi:$version-$what" --build-arg "BASE_IMAGE=$base" \
  --build-arg "ENGINES_IMAGE=${ENGINES_PREFIX:-}chatapi-engines:$what" --build-arg "VERSION=$version" \
  --build-arg "L4T=$([ "$what" = cpu ] || echo "${what#r}")"
echo "chatapi:$version-$what"
