# The engines for any machine, from wheels. containers/Dockerfile uses this image as ENGINES_IMAGE.
ARG BASE_IMAGE=docker.io/library/python:3.12-slim-bookworm

FROM ${BASE_IMAGE} AS install
# Extras of pyproject.toml; cuda adds cuBLAS for an NVIDIA GPU of a PC.
ARG EXTRAS=engines,torchserve,grpc
# Debian's python3 cannot create a virtual environment without python3-venv.
# hadolint ignore=DL3008
RUN python3 -c 'import ensurepip' 2>/dev/null \
    || { apt-get update && apt-get install -y --no-install-recommends python3-venv && rm -rf /var/lib/apt/lists/*; }
# pip is outside the environment, so that it does not ship.
RUN python3 -m venv /pip && python3 -m venv --without-pip /opt/venv
WORKDIR /source
COPY pyproject.toml constraints.txt ./
# An empty package installs the real one's requirements, so this layer changes only with them.
RUN mkdir -p chatapi compile/chatapi_compile models \
    && touch chatapi/__init__.py compile/chatapi_compile/__init__.py models/none README.md LICENSE \
    && /pip/bin/pip --python /opt/venv/bin/python install --no-cache-dir --constraint constraints.txt ".[${EXTRAS}]" \
    && /pip/bin/pip --python /opt/venv/bin/python uninstall --yes chatapi-appliance \
    && rm -r models
COPY LICENSE README.md ./
COPY models ./models
COPY compile ./compile
COPY chatapi ./chatapi
RUN /pip/bin/pip install --no-cache-dir --constraint constraints.txt --no-deps --target /opt/chatapi . \
    && mkdir -p /engines/system/etc/ld.so.conf.d /engines/python/opt \
    && find /opt/venv/lib -type d -path "*/nvidia/*/lib" >/engines/system/etc/ld.so.conf.d/nvidia-wheels.conf \
    && mv /opt/venv /engines/python/opt/venv && mv /opt/chatapi /engines/chatapi

FROM scratch
COPY --from=install /engines /
