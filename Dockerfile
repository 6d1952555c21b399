# The image of `driftwall serve`: the interpreter, what driftwall runs on as locked, and nothing else. No shell, no
# package manager, no compiler, nothing that its user could write to. deploy/README.md says how it is built.

# What the interpreter and its libraries are taken from: any image with Python 3.11, pip and glibc. The digest is that of
# the multi-arch index, as published for this tag in September 2026; renew both together.
ARG PYTHON_IMAGE=python:3.11.16-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

FROM ${PYTHON_IMAGE} AS build
WORKDIR /build
ENV PIP_CONFIG_FILE=/run/secrets/pip.conf PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
RUN python3 -m venv --without-pip /opt/driftwall && python3 -m venv --without-pip /opt/tools
COPY requirements.txt requirements-otel.txt requirements-build.txt ./
# requirements-otel.txt: with what sends OpenTelemetry traces.
ARG REQUIREMENTS=requirements.txt
# Wheels alone, each checked against the lock. Whoever has an index or a CA of their own hands in a pip.conf and a ca.pem
# as build secrets: they are in no layer.
RUN --mount=type=secret,id=pip.conf --mount=type=secret,id=ca.pem \
    python3 -m pip --python /opt/driftwall/bin/python3 install --require-hashes --only-binary :all: -r "${REQUIREMENTS}" && \
    python3 -m pip --python /opt/tools/bin/python3 install --require-hashes --only-binary :all: -r requirements-build.txt
COPY pyproject.toml README.md LICENSE ./
COPY webhook webhook
COPY policies policies
RUN python3 -m pip --python /opt/tools/bin/python3 wheel --no-index --no-deps --no-build-isolation -w /wheels . && \
    python3 -m pip --python /opt/driftwall/bin/python3 install --no-index --no-deps --find-links /wheels driftwall
COPY deploy/image/assemble.py ./
RUN python3 assemble.py /opt/driftwall /rootfs

FROM scratch
ARG PYTHON_IMAGE
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="driftwall" \
      org.opencontainers.image.description="A Kubernetes admission webhook that blocks configuration drift at write time" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.vendor="The driftwall authors" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}"
COPY --from=build /rootfs /
ENV PATH=/opt/driftwall/bin LANG=C.UTF-8
# 65532 is in /etc/passwd, but by number Kubernetes can tell that it is not root.
USER 65532:65532
EXPOSE 8443 8080
ENTRYPOINT ["driftwall"]
CMD ["serve"]
