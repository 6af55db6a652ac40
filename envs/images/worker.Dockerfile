# The image of workers in containers: Python, torch and this version of fedjob with what plans may import.
#
#   make wheel && podman build --tag fedjob-worker --file envs/images/worker.Dockerfile .
#
# Build it from the same version of fedjob as the node's. A worker in it has no network, sees its dataset and its task's
# inputs read-only, and runs as the node's user. For GPUs take the image that your driver needs as BASE, and a torch
# that fits.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}

COPY envs/locks /locks
COPY dist/*.whl /dist/
RUN pip install --no-cache-dir --require-hashes --no-deps --requirement /locks/cuda.txt \
 && pip install --no-cache-dir --require-hashes --no-deps --requirement /locks/node.txt --requirement /locks/training.txt \
 && pip install --no-cache-dir --no-deps /dist/fedjob-*.whl \
 && rm -rf /locks /dist

# nothing listens, nothing is set up at the start: the node names the command, see docs/sandbox.md
USER 65534:65534
WORKDIR /
CMD ["python3", "-c", "import fedjob.node.execution.process, torch; print('this image holds workers of fedjob')"]
