# The engines of a Jetson, copied out of the image that jetson-containers built with its compilers. containers/Dockerfile
# uses this image as ENGINES_IMAGE.
ARG BUILD_IMAGE

FROM ${BUILD_IMAGE} AS gather
COPY containers/gather.py /
RUN python3 /gather.py /engines

FROM scratch
COPY --from=gather /engines /
