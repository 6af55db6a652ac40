"""The bill of materials of fedjob (CycloneDX 1.6, JSON): every locked package with version, hashes, licence and needs.

    python envs/sbom.py [FILE]        or:  make sbom

Its packages are those of `envs/locks/demo.txt`, all roles together; the property `fedjob:extra` says which role
installs which. Licences and what needs what are read from the metadata of the packages as they are installed here, so
that a package whose version here is not the locked one is an error. It has the date of the last commit and a number that
follows from its content: made twice of one checkout, it is the same file twice.
"""

from __future__ import annotations

import importlib.metadata
import sys
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.bom_ref import BomRef
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

sys.path.insert(0, str(Path(__file__).parents[1]))
from envs.build import date_of
from envs.lock import LOCKS, Locked, read_lock

ROOT = Path(__file__).parents[1]
EVERYTHING = "demo"
ROLES = ("hub", "node", "training", "researcher")
LONGEST_NAME_OF_A_LICENCE = 80


def bill(locks: dict[str, list[Locked]], epoch: int) -> Bom:
    """Return the bill of materials of what `EVERYTHING` installs.

    Args:
        locks: the packages by the extra of fedjob that installs them.
        epoch: seconds since 1970 of its date.

    Raises:
        ValueError: a package is not installed here as it is locked.
    """
    made = Bom()
    made.metadata.timestamp = datetime.fromtimestamp(epoch, UTC)
    product = _component("fedjob", importlib.metadata.version("fedjob"), ComponentType.APPLICATION)
    made.metadata.component = product
    here = [each for each in locks[EVERYTHING] if not each.marker or Marker(each.marker).evaluate()]
    components = {each.name: _component(each.name, _version_here(each)) for each in here}
    for each in here:
        component = components[each.name]
        component.hashes.update(HashType(alg=HashAlgorithm.SHA_256, content=sha256) for sha256 in each.hashes)
        component.properties.update(
            Property(name="fedjob:extra", value=role)
            for role in ROLES
            if each.name in {package.name for package in locks[role]}
        )
        made.components.add(component)
    for name, component in {"fedjob": product, **components}.items():
        extras = [EVERYTHING] if name == "fedjob" else [""]
        made.register_dependency(
            component, [components[need] for need in _needs(name, extras) if need in components]
        )
    text = "\n".join(f"{each.name}=={each.version} {each.hashes}" for each in here)
    made.serial_number = uuid.uuid5(uuid.NAMESPACE_URL, f"fedjob {product.version} {epoch}\n{text}")
    return made


def written(bom: Bom) -> str:
    """Return a bill of materials as JSON that its schema allows.

    Raises:
        ValueError: the schema does not allow it.
    """
    text = JsonV1Dot6(bom).output_as_string(indent=2)
    fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if fault is not None:
        raise ValueError(f"the schema of CycloneDX does not allow it: {fault}")
    return text + "\n"


def _component(name: str, version: str, kind: ComponentType = ComponentType.LIBRARY) -> Component:
    made = Component(
        name=name,
        version=version,
        type=kind,
        bom_ref=BomRef(f"{name}=={version}"),
        purl=PackageURL(type="pypi", name=name, version=version),
    )
    made.licenses.update(_licences(importlib.metadata.metadata(name)))
    return made


def _licences(metadata: importlib.metadata.PackageMetadata) -> Iterable[License]:
    """Return the licences that a package's metadata name: an SPDX expression, else its classifiers, else its text."""
    of = LicenseFactory()
    if expression := metadata.get("License-Expression"):
        return [of.make_from_string(expression)]
    classified = [
        line.rpartition(" :: ")[2]
        for line in metadata.get_all("Classifier") or ()
        if line.startswith("License ::") and not line.endswith("OSI Approved")
    ]
    if classified:
        return [of.make_from_string(name) for name in classified]
    first = (metadata.get("License") or "").strip().partition("\n")[0][:LONGEST_NAME_OF_A_LICENCE]
    return [of.make_from_string(first)] if first else []


def _version_here(package: Locked) -> str:
    found = importlib.metadata.version(package.name)
    if found.partition("+")[0] != package.version:
        raise ValueError(f"{package.name} {found} is installed, {package.version} is locked: run `make venv`")
    return package.version


def _needs(name: str, extras: list[str]) -> list[str]:
    found: list[str] = []
    for line in importlib.metadata.requires(name) or ():
        need = Requirement(line)
        if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in extras):
            if name == "fedjob" and canonicalize_name(need.name) == "fedjob":
                found += _needs("fedjob", sorted(need.extras))
            else:
                found.append(canonicalize_name(need.name))
    return list(dict.fromkeys(found))


def main() -> None:
    """Write the bill of materials."""
    locks = {
        name: read_lock((LOCKS / f"{name}.txt").read_text(encoding="utf-8")) for name in (*ROLES, EVERYTHING)
    }
    bom = bill(locks, date_of(ROOT))
    path = Path(
        sys.argv[1] if sys.argv[1:] else ROOT / "dist" / f"fedjob-{bom.metadata.component.version}.cdx.json"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(written(bom), encoding="utf-8")
    nameless = [component.name for component in bom.components if not component.licenses]
    print(f"{path}: {len(bom.components)} packages; licence not named by: {', '.join(nameless) or 'none'}")


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"envs/sbom.py: {error}")
