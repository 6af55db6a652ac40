"""All probes."""

from __future__ import annotations

from tests.sandbox.probe import Probe
from tests.sandbox.probes.files import FILES
from tests.sandbox.probes.kernel import KERNEL
from tests.sandbox.probes.misbehaviour import MISBEHAVIOUR
from tests.sandbox.probes.outputs import OUTPUTS
from tests.sandbox.probes.persistence import PERSISTENCE
from tests.sandbox.probes.processes import PROCESSES
from tests.sandbox.probes.resources import RESOURCES
from tests.sandbox.probes.sockets import SOCKETS
from tests.sandbox.probes.survival import SURVIVAL

CHAPTERS = (FILES, SOCKETS, KERNEL, PROCESSES, RESOURCES, SURVIVAL, PERSISTENCE, OUTPUTS, MISBEHAVIOUR)

PROBES: tuple[Probe, ...] = tuple(probe for chapter in CHAPTERS for probe in chapter.probes)
