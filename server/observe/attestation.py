"""What a server with `attest: true` reports about itself: versions and digests.

It tells an auditor which bytes are served, and shows damage. It is no proof against someone who can change
the server itself, because they could change the report too.
"""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sealed import manifest as manifests
from sealed.failures import BundleError
from sealed.installation import INSTALLED, check_installation
from sealed.signature import read_sealed, signers
from server.config.model import ModelSettings
from server.config.settings import Settings
from server.errors import ConfigurationError, NotFound, ServiceUnavailable
from server.observe.versions import versions
from server.weights.checkpoint import digest_of, expected_checksums

# These files beside the weights affect the text as much as they do.
HELD = ("config.json", "tokenizer.json", "adapter_config.json")
MAX_SHOWN = 20  # damaged files that are shown


class Attestation:
    """The attestation of this process. It is complete when every model and the installation
    have been checked.

    file: the configuration; None: the built-in one. root: of the installation; None: this is a checkout.
    """

    def __init__(self, settings: Settings, file: Path | None, root: Path | None) -> None:
        self._settings, self._root = settings, root
        self._configuration = {
            "file": file.name if file else None,
            "sha256": digest_of(file) if file else None,
            "effective_sha256": hashlib.sha256(settings.model_dump_json().encode()).hexdigest(),
        }
        self._models: dict[str, dict[str, str]] = {}
        self._installation: dict[str, Any] | None = None
        self._waiting = {model.id for model in settings.models} | {"the installation"}
        self._verified_at = ""

    def start(self) -> None:
        """Start to check the installation, in a thread that does not delay the exit."""
        threading.Thread(target=self._verify_installation, name="attestation", daemon=True).start()

    def verify_model(self, model: ModelSettings) -> None:
        """Verify every file that affects the text. Raises ConfigurationError for an altered one."""
        self._models[model.id] = _digests(model.directory, model.sha256)
        for one in model.adapters:
            self._models[one.id] = _digests(one.path, one.sha256)
        self._done(model.id)

    def _verify_installation(self) -> None:
        if self._root:
            try:
                self._installation = _look(self._root)
            except (BundleError, OSError) as error:
                self._installation = {"whole": False, "problems": {str(self._root): str(error)}}
        self._done("the installation")

    def _done(self, what: str) -> None:
        self._verified_at = datetime.now(UTC).isoformat(timespec="seconds")
        self._waiting.discard(what)

    @property
    def is_complete(self) -> bool:
        return not self._waiting

    def document(self) -> dict[str, Any]:
        """The document for GET /attestation. Raises ServiceUnavailable while it is incomplete."""
        if not self.is_complete:
            raise ServiceUnavailable(f"still verifying {', '.join(sorted(self._waiting))}", retry_after_s=5)
        return {
            "object": "attestation",
            "verified_at": self._verified_at,
            "versions": versions(),
            "configuration": self._configuration,
            "models": self._models,
            "installation": self._installation,
        }


class AttestedElsewhere:
    """The attestation in a worker: the process that runs the engines has made it."""

    def __init__(self) -> None:
        self._document: dict[str, Any] | None = None

    def tell(self, document: dict[str, Any]) -> None:
        self._document = document

    def document(self) -> dict[str, Any]:
        """As Attestation.document."""
        if self._document is None:
            raise ServiceUnavailable("still verifying", retry_after_s=5)
        return self._document


def _digests(directory: Path, sha256: Mapping[str, str]) -> dict[str, str]:
    """The digests of every file of a model or adapter that affects the text. Raises ConfigurationError for an
    altered file, and for one whose digest is not known."""
    expected = expected_checksums(directory, sha256)
    files = {path.name for path in directory.glob("*.safetensors")}
    files |= {name for name in HELD if (directory / name).is_file()}
    if unknown := sorted(files - expected.keys()):
        raise ConfigurationError(
            f"attest is on, but no digest is known for {directory / unknown[0]}. Set sha256 in the"
            " configuration, or write a checksums.json beside the weights with `verbatim checksums`."
        )
    found = {name: digest_of(directory / name) for name in sorted(files | expected.keys())}
    for name, digest in found.items():
        if digest != expected[name].lower():
            raise ConfigurationError(
                f"{directory / name} is not the expected file: its SHA-256 is {digest}, not"
                f" {expected[name].lower()}. Copy it again, or correct the digest if the change was"
                " meant."
            )
    return found


def _look(root: Path) -> dict[str, Any]:
    data, text = read_sealed(root)
    manifest = manifests.parse(data)
    problems = check_installation(root, [])
    return {
        "version": root.name,
        "created": manifest.created,
        "device": manifest.target.device,
        "profile": manifest.target.profile,
        "manifest_sha256": manifests.identity(data),
        "installed_sha256": digest_of(root / INSTALLED),
        "signature_keys": signers(text),
        "whole": not problems,
        "problems": dict(list(problems.items())[:MAX_SHOWN]),
    }


def installation_root() -> Path | None:
    """The installed version to which this interpreter belongs; None: a checkout."""
    root = Path(sys.prefix).parent
    return root if (root / INSTALLED).is_file() else None


def document_of(attestation: Attestation | AttestedElsewhere | None) -> dict[str, Any]:
    if attestation is None:
        raise NotFound("attestation is off: set `attest: true` in the server's configuration")
    return attestation.document()
