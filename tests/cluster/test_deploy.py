"""deploy/ray, read by the programs that it is written for. No pod and no SSH connection is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "deploy/ray/kuberay.yaml"


def documents() -> list[dict[str, Any]]:
    return [*yaml.safe_load_all(MANIFEST.read_text("utf-8"))]


def test_ray_takes_the_cluster_file() -> None:
    """As `ray up` does: what is not said is filled in, and Ray's own check finds nothing."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((ROOT / "deploy/ray/cluster.yaml").read_text("utf-8"))
    prepared = prepare_config(config)
    validate_config(prepared)
    assert prepared["provider"]["head_ip"] == config["provider"]["head_ip"]
    assert prepared["max_workers"] == len(config["provider"]["worker_ips"])


def test_kubernetes_takes_the_manifest() -> None:
    """Every object that is Kubernetes' own, and the pods of the RayCluster; its other keys are KubeRay's,
    whose schema is in no registry of packages."""
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    version = validate.latest_version()
    for document in documents():
        if document["kind"] != "RayCluster":
            validate.validate(document, version, strict=True)
            continue
        spec = document["spec"]
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}} | group["template"]
            validate.validate(pod, version, strict=True)


def test_the_manifest_has_the_version_that_is_pinned() -> None:
    """KubeRay and the image have one Ray."""
    pins = (ROOT / "requirements/ray.txt").read_text("utf-8")
    (cluster,) = [one for one in documents() if one["kind"] == "RayCluster"]
    assert f"ray=={cluster['spec']['rayVersion']} " in pins


def test_nothing_is_reported_and_nobody_joins_without_a_token() -> None:
    """On every node of either file: no usage report, no dashboard, and Ray's token."""
    commands = yaml.safe_load((ROOT / "deploy/ray/cluster.yaml").read_text("utf-8"))
    starts = [commands["head_start_ray_commands"][-1], commands["worker_start_ray_commands"][-1]]
    assert all("RAY_AUTH_MODE=token" in one and "--disable-usage-stats" in one for one in starts)
    assert "--include-dashboard=false" in starts[0]
    cluster = documents()[0]["spec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert group["rayStartParams"]["disable-usage-stats"] == "true"
        (container,) = group["template"]["spec"]["containers"]
        assert {"name": "RAY_AUTH_MODE", "value": "token"} in container["env"]
    assert cluster["headGroupSpec"]["rayStartParams"]["include-dashboard"] == "false"
