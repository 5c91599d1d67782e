"""The software bill of materials in CycloneDX 1.6, made with the project's own library."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from cyclonedx.factory.license import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from bundle.wheels import Wheel
from server.weights.builtin import BUILTIN_MODELS


def bill(
    version: str,
    created: str,
    wheels: Mapping[str, Wheel],  # SHA-256 of the file in the bundle -> its wheel
    models: Mapping[str, Mapping[str, str]],  # directory -> SHA-256 by file name
    removed: Mapping[str, Sequence[str]],  # package -> files that were left out of its wheel
) -> str:
    """The JSON. The same content gives the same bytes: the serial number is derived from it."""
    ours = Component(
        name="verbatim", version=version, type=ComponentType.APPLICATION, bom_ref="verbatim",
        licenses=_licenses("Apache-2.0"),
    )  # fmt: skip
    bom = Bom(components=[])
    bom.metadata.component, bom.metadata.timestamp = ours, datetime.fromisoformat(created).astimezone(UTC)
    packages = {
        wheel.name: _package(wheel, sha256, removed.get(wheel.name, ())) for sha256, wheel in wheels.items()
    }
    weights = [_model(directory, files) for directory, files in models.items()]
    for component in (*packages.values(), *weights):
        bom.components.add(component)
    bom.register_dependency(ours, [*packages.values(), *weights])
    for wheel in wheels.values():
        needed = [packages[name] for name in wheel.requires if name in packages and name != wheel.name]
        bom.register_dependency(packages[wheel.name], needed)
    content = "".join(sorted([*wheels, *(digest for files in models.values() for digest in files.values())]))
    bom.serial_number = uuid.uuid5(uuid.NAMESPACE_OID, version + created + content)
    return json.dumps(json.loads(JsonV1Dot6(bom).output_as_string()), indent=1, sort_keys=True) + "\n"


def _package(wheel: Wheel, sha256: str, removed: Sequence[str]) -> Component:
    properties = []
    if removed:  # the published wheel has another digest than the reduced one
        properties = [Property(name="verbatim:published-sha256", value=wheel.sha256)]
        properties += [Property(name="verbatim:left-out", value=path) for path in removed]
    return Component(
        name=wheel.name,
        version=wheel.version,
        type=ComponentType.LIBRARY,
        bom_ref=f"{wheel.name}@{wheel.version}",
        description=wheel.summary or None,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256)],
        licenses=_licenses(wheel.license),
        purl=PackageURL("pypi", None, wheel.name, wheel.version),
        properties=properties,
        modified=bool(removed),
    )


def _model(directory: str, files: Mapping[str, str]) -> Component:
    builtin = next((model for name, model in BUILTIN_MODELS.items() if f"/{name}-" in f"/{directory}"), None)
    return Component(
        name=directory.rpartition("/")[2],
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=directory,
        licenses=_licenses(builtin.license if builtin else ""),
        components=[
            Component(
                name=name,
                type=ComponentType.FILE,
                bom_ref=f"{directory}/{name}",
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
            )
            for name, digest in files.items()
        ],
    )


def _licenses(said: str) -> Iterable[License]:
    return [LicenseFactory().make_from_string(said)] if said else []
