# docker build --tag gpuid:0.1.0 --build-arg VERSION=0.1.0 --build-arg REVISION="$(git rev-parse HEAD)" .
# docker run --read-only --tmpfs /tmp --publish 8080:8080 gpuid:0.1.0 demo --listen 0.0.0.0:8080
# docker run --read-only --tmpfs /tmp --publish 8080:8080 --volume "$PWD/gpuid:/etc/gpuid:ro" gpuid:0.1.0
#
# The same base, sources and SOURCE_DATE_EPOCH give the same image, bit for bit; docs/verify.md says how to compare.
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PYTHONDONTWRITEBYTECODE=1
# The tools that build the wheel stay behind in their own environment.
WORKDIR /src
COPY requirements-build.lock requirements.lock ./
RUN python3 -m venv /opt/build \
    && /opt/build/bin/pip install --require-hashes --requirement requirements-build.lock \
    && python3 -m venv --without-pip /opt/gpuid \
    && /opt/build/bin/pip --python /opt/gpuid install --no-compile --require-hashes --only-binary :all: --requirement requirements.lock
# After the dependencies, so that a change of the code alone does not install them again.
COPY pyproject.toml README.md LICENSE ./
COPY collector ./collector
COPY config ./config
COPY grafana/dashboards ./grafana/dashboards
# Compiled by content: bytecode with the times of its sources would be another one in every build.
RUN /opt/build/bin/pip wheel --no-build-isolation --no-deps --wheel-dir /dist . \
    && /opt/build/bin/pip --python /opt/gpuid install --no-compile --no-index --no-deps /dist/*.whl \
    && /opt/build/bin/pip --python /opt/gpuid check \
    && /opt/gpuid/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/gpuid/lib

FROM ${BASE}
ARG VERSION=
ARG REVISION=
ARG BASE
LABEL org.opencontainers.image.title="gpuid" \
      org.opencontainers.image.description="Knows where every physical NVIDIA GPU of many Kubernetes clusters is, as Prometheus series" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${BASE}"
COPY --from=build /opt/gpuid /opt/gpuid
# Nothing is written but /tmp: programs that a kubeconfig calls for credentials keep their caches in the home directory.
ENV PATH=/opt/gpuid/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /tmp
USER 65532:65532
EXPOSE 8080
# Asks the server that /etc/gpuid/gpuid.toml configures, TLS included.
HEALTHCHECK --interval=15s --timeout=10s --start-period=20s CMD ["gpuid", "health"]
ENTRYPOINT ["gpuid"]
CMD ["run"]
