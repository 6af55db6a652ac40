"""Run a node's half of one step: the same lines in a worker process and in a local job."""

from __future__ import annotations

from fedjob.common.contribution import Contribution
from fedjob.common.protocols.base import FederatedProtocol, Instruction, Local


def run_step(
    protocol: FederatedProtocol, instruction: Instruction, local: Local, *, first: bool
) -> Contribution:
    """Return the node's answer.

    Args:
        first: this worker has not worked for this job yet; `setup` runs.
    """
    if first:
        protocol.setup(local)
    return protocol.reduce(protocol.contribute(instruction, local), local)
