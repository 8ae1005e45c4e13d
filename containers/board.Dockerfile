# The engines of a Jetson, out of what jetson-containers built with its compilers: what containers/Dockerfile takes as
# ENGINES_IMAGE.
ARG BUILD_IMAGE

FROM ${BUILD_IMAGE} AS gather
COPY containers/gather.py /
RUN python3 /gather.py /engines

FROM scratch
COPY --from=gather /engines /
