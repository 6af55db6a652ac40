# The image of a node: Python and the locked packages of envs/locks, with what plans compute with, each compared with
# its sha256.
#
#   make wheel && docker build --tag fedjob-node --file envs/images/node.Dockerfile .
#
# torch is the package index's, built for CUDA. For the CPU alone, some gigabytes smaller, put the wheel that
# envs/locks/cpu.txt names into a folder `wheels` beside this checkout's `dist`: it is taken where it is there.
# BASE is pinned by its tag; to pin its bytes too, put the digest that you have checked behind it:
#   --build-arg BASE=python:3.11-slim-bookworm@sha256:...
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE} AS build
COPY envs/locks /locks
COPY dist/*.whl wheel[s]/*.whl /dist/
RUN python -m venv /opt/fedjob \
 && if ls /dist/torch-*+cpu-*.whl >/dev/null 2>&1; then \
      /opt/fedjob/bin/pip install --no-cache-dir --require-hashes --no-deps --find-links /dist --requirement /locks/cpu.txt; \
    else \
      /opt/fedjob/bin/pip install --no-cache-dir --require-hashes --no-deps --requirement /locks/cuda.txt; \
    fi \
 && /opt/fedjob/bin/pip install --no-cache-dir --require-hashes --no-deps --requirement /locks/node.txt --requirement /locks/training.txt \
 && /opt/fedjob/bin/pip install --no-cache-dir --no-deps /dist/fedjob-*.whl

FROM ${BASE}
RUN install --directory --owner 65532 --group 65532 --mode 0700 /var/lib/fedjob
COPY --from=build /opt/fedjob /opt/fedjob
ENV PATH=/opt/fedjob/bin:/usr/local/bin:/usr/bin:/bin \
    FEDJOB_HOME=/var/lib/fedjob \
    PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
WORKDIR /var/lib/fedjob
VOLUME /var/lib/fedjob
STOPSIGNAL SIGTERM
ENTRYPOINT ["fedjob"]
CMD ["node", "start"]
