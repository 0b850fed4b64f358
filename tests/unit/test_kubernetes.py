"""The manifests are valid, restricted, and name only what there is."""

import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from dicom_node.settings import Settings
from worker import settings as worker_settings

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "docker" / "k8s"
OVERLAYS = sorted(path.name for path in (K8S / "overlays").iterdir())


def built(name: str) -> list[dict[str, Any]]:
    """Return what an overlay makes, by kubectl's own kustomize."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not here; the files of the base are looked at without it")
    command = [kubectl, "kustomize", str(K8S / "overlays" / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def base() -> list[dict[str, Any]]:
    files = [path for path in (K8S / "base").glob("*.yaml") if path.name != "kustomization.yaml"]
    return [one for path in files for one in yaml.safe_load_all(path.read_text())]


def check(documents: list[dict[str, Any]]) -> None:
    for one in documents:
        if not one["apiVersion"].startswith("keda.sh/"):  # its schema is KEDA's own
            kubernetes_validate.validate(one, "1.31", strict=True)


def pods(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kinds = ("Deployment", "StatefulSet")
    return [one["spec"]["template"] for one in documents if one["kind"] in kinds]


def test_the_base_is_valid() -> None:
    check(base())


@pytest.mark.parametrize("name", OVERLAYS)
def test_each_overlay_is_valid(name: str) -> None:
    check(built(name))


def test_every_pod_is_restricted() -> None:
    """What the namespace's label demands, and a root that cannot be written (Pod Security)."""
    for pod in pods(base()):
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "memory" in container["resources"]["limits"]


def test_no_secret_stands_in_an_argument_or_a_value() -> None:
    for pod in pods(base()):
        for container in pod["spec"]["containers"]:
            assert not any("pass" in word.lower() for word in container.get("args", ()))
            for variable in container.get("env", ()):
                is_secret = variable["name"].endswith(("BROKER", "BROKER__URL", "LEDGER", "SECRET"))
                assert not is_secret or "secretKeyRef" in variable["valueFrom"]


def test_every_app_is_under_a_policy_and_the_rest_is_denied() -> None:
    policies = [one["spec"] for one in base() if one["kind"] == "NetworkPolicy"]
    assert {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} in policies
    selected = {p["podSelector"].get("matchLabels", {}).get("app") for p in policies}
    assert selected - {None} == {pod["metadata"]["labels"]["app"] for pod in pods(base())}


def test_the_configurations_are_ones_that_the_programs_take() -> None:
    node = Settings(**tomllib.loads((K8S / "base" / "node.toml").read_text()))
    worker = worker_settings.Settings(**tomllib.loads((K8S / "base" / "worker.toml").read_text()))
    services = {one["metadata"]["name"] for one in base() if one["kind"] == "Service"}
    assert node.web.url == "https://node:8080"
    assert worker.worker.nodes == (node.web.url,)
    assert "node" in services
    ports = {p["name"]: p["containerPort"] for pod in pods(base()) for c in pod["spec"]["containers"] for p in c.get("ports", ())}  # fmt: skip # noqa: E501
    assert (ports["dicom"], ports["web"]) == (node.node.port, node.web.port)


def test_the_queue_that_scales_workers_is_a_metric_of_the_node() -> None:
    scale = yaml.safe_load((K8S / "overlays" / "gpu-pool" / "scale.yaml").read_text())
    query = scale["spec"]["triggers"][0]["metadata"]["query"]
    health = (ROOT / "dicom_node" / "web" / "health.py").read_text()
    assert "chexfract_queue_depth" in query
    assert '"chexfract_queue_depth"' in health


def test_two_nodes_share_a_spool_and_no_data_dir() -> None:
    """One node locks its data_dir: a second one beside it would not start."""
    (node,) = (one for one in built("postgresql") if one["kind"] == "StatefulSet")
    pod = node["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    data_dir = tomllib.loads((K8S / "base" / "node.toml").read_text())["node"]["data_dir"]
    shared = {one["name"]: one["value"] for one in container["env"] if "value" in one}
    mounts = {one["mountPath"]: one["name"] for one in container["volumeMounts"]}
    own = next(name for path, name in mounts.items() if data_dir.startswith(f"{path}/"))
    assert node["spec"]["replicas"] == 2
    assert own in {one["metadata"]["name"] for one in node["spec"]["volumeClaimTemplates"]}
    ours = mounts[shared["CHEXFRACT_NODE__SHARED_DIR"]]
    assert ours in {one["name"] for one in pod["volumes"] if "persistentVolumeClaim" in one}
