# docker build -t ollama-exporter .
#
# Behind a TLS-inspecting proxy, lend the build its CA bundle (it stays out of the image):
#   docker build --secret id=ca,src=/etc/ssl/certs/ca-certificates.crt -t ollama-exporter .
# Without a network, bring the wheels along:
#   pip wheel -c constraints.txt -w wheels '.[docker,gpu,kubernetes,load]' 'hatchling<2' && docker build --network none -t ollama-exporter .
#
# Needs BuildKit. Any base with Python 3.11+, venv and pip will do: --build-arg BASE=...

ARG BASE=python:3.13-slim-bookworm

FROM ${BASE} AS build
# The Kubernetes client takes 100 MB; who does not discover there leaves it out: --build-arg EXTRAS=docker,gpu,load
ARG EXTRAS=docker,gpu,kubernetes,load
# The virtual environment gets no pip of its own: the image needs none, and it would be one more thing to patch.
RUN python3 -m venv --without-pip /opt/ollama-exporter
RUN --mount=type=bind,target=/src \
    --mount=type=secret,id=ca,target=/run/ca.crt \
    set -eu; \
    if [ -s /run/ca.crt ]; then export PIP_CERT=/run/ca.crt; fi; \
    if [ -d /src/wheels ]; then export PIP_NO_INDEX=1 PIP_FIND_LINKS=/src/wheels; fi; \
    python3 -m pip --python /opt/ollama-exporter/bin/python install \
        --no-cache-dir --disable-pip-version-check --constraint /src/constraints.txt "/src[${EXTRAS}]"
COPY packaging/healthcheck.py /opt/ollama-exporter/healthcheck.py

FROM ${BASE}
ARG VERSION=
ARG REVISION=
ARG SOURCE=
LABEL org.opencontainers.image.title="ollama-exporter" \
      org.opencontainers.image.description="Prometheus exporter for fleets of Ollama servers" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.vendor="The ollama-exporter authors" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"
COPY --from=build /opt/ollama-exporter /opt/ollama-exporter
ENV PATH=/opt/ollama-exporter/bin:${PATH} \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# A number, so that Kubernetes can see that it is not root. Nothing is written: run it with --read-only --cap-drop ALL.
USER 65532:65532
WORKDIR /
EXPOSE 8082
HEALTHCHECK --interval=15s --timeout=5s --start-period=10s --retries=3 \
    CMD ["python", "-I", "/opt/ollama-exporter/healthcheck.py"]
ENTRYPOINT ["ollama-exporter"]
