# The engines of a Jetson, from the image that jetson-containers built: the ENGINES_IMAGE of containers/Dockerfile.
ARG BUILD_IMAGE

FROM ${BUILD_IMAGE} AS gather
COPY containers/gather.py /
RUN python3 /gather.py /engines

FROM scratch
COPY --from=gather /engines /
