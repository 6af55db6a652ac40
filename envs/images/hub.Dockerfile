# The image of a hub: Python, Mosquitto and the locked packages of envs/locks/hub.txt, each compared with its sha256.
#
#   make wheel && docker build --tag fedjob-hub --file envs/images/hub.Dockerfile .
#
# BASE is pinned by its tag; to pin its bytes too, put the digest that you have checked behind it:
#   --build-arg BASE=python:3.11-slim-bookworm@sha256:...
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE} AS build
COPY envs/locks/hub.txt /locks/hub.txt
COPY dist/*.whl /dist/
RUN python -m venv /opt/fedjob \
 && /opt/fedjob/bin/pip install --no-cache-dir --require-hashes --no-deps --requirement /locks/hub.txt \
 && /opt/fedjob/bin/pip install --no-cache-dir --no-deps /dist/*.whl

FROM ${BASE}
RUN apt-get update \
 && apt-get install --yes --no-install-recommends mosquitto \
 && rm -rf /var/lib/apt/lists/* \
 && install --directory --owner 65532 --group 65532 --mode 0700 /var/lib/fedjob
COPY --from=build /opt/fedjob /opt/fedjob
ENV PATH=/opt/fedjob/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    FEDJOB_HOME=/var/lib/fedjob \
    PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
WORKDIR /var/lib/fedjob
VOLUME /var/lib/fedjob
EXPOSE 8443
STOPSIGNAL SIGTERM
ENTRYPOINT ["fedjob"]
CMD ["hub", "start", "--host", "0.0.0.0", "--port", "8443", "--tls-cert", "/run/secrets/hub_cert", "--tls-key", "/run/secrets/hub_key"]
