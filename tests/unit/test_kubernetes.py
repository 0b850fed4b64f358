"""The manifests are valid, restricted, and name only what there is."""

import re
import shlex
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from fastapi import FastAPI
from ledgers import fresh
from peers import need

from dicom_node.settings import Settings
from dicom_node.store.ledger import Ledger, Waiting
from dicom_node.store.spool import Spool
from dicom_node.web import health
from worker import settings as worker_settings

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "docker" / "k8s"
OVERLAYS = sorted(path.name for path in (K8S / "overlays").iterdir())
PAGE = ROOT / "dicom_node" / "manual" / "how-to" / "kubernetes.md"


@cache
def built(name: str) -> list[dict[str, Any]]:
    """Return what an overlay makes, by kubectl's own kustomize."""
    command = [need("kubectl"), "kustomize", str(K8S / "overlays" / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def base() -> list[dict[str, Any]]:
    files = [path for path in (K8S / "base").glob("*.yaml") if path.name != "kustomization.yaml"]
    return [one for path in files for one in yaml.safe_load_all(path.read_text())]


def check(documents: list[dict[str, Any]]) -> None:
    for document in documents:
        if not document["apiVersion"].startswith("keda.sh/"):  # its schema is KEDA's own
            kubernetes_validate.validate(document, "1.31", strict=True)


def pods(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kinds = ("Deployment", "StatefulSet")
    return [document["spec"]["template"] for document in documents if document["kind"] in kinds]


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
    policies = [document["spec"] for document in base() if document["kind"] == "NetworkPolicy"]
    assert {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} in policies
    selected = {p["podSelector"].get("matchLabels", {}).get("app") for p in policies}
    assert selected - {None} == {pod["metadata"]["labels"]["app"] for pod in pods(base())}


def test_the_configurations_are_ones_that_the_programs_take() -> None:
    node = Settings(**tomllib.loads((K8S / "base" / "node.toml").read_text()))
    worker = worker_settings.Settings(**tomllib.loads((K8S / "base" / "worker.toml").read_text()))
    services = {
        document["metadata"]["name"] for document in base() if document["kind"] == "Service"
    }
    assert node.web.url == "https://node:8080"
    assert worker.worker.nodes == (node.web.url,)
    assert "node" in services
    ports = {p["name"]: p["containerPort"] for pod in pods(base()) for c in pod["spec"]["containers"] for p in c.get("ports", ())}  # fmt: skip # noqa: E501
    assert (ports["dicom"], ports["web"]) == (node.node.port, node.web.port)


def test_workers_scale_on_jobs_that_wait_and_not_on_those_in_work(tmp_path: Path) -> None:
    (scale,) = (document for document in built("gpu-pool") if document["kind"] == "ScaledObject")
    targets = {
        document["metadata"]["name"]
        for document in built("gpu-pool")
        if document["kind"] == "Deployment"
    }
    assert scale["spec"]["scaleTargetRef"]["name"] in targets
    query = scale["spec"]["triggers"][0]["metadata"]["query"]
    found = re.search(r'\((\w+)\{(\w+)=~"([\w|]+)"\}\)', query)
    assert found is not None
    metric, label, states = found.groups()
    waiting = {"phantom": Waiting(due=3, queued=4, running=5, oldest=0.0)}
    families = list(health._model_metrics(Ledger.open(fresh(tmp_path)).history.status(), waiting))
    samples = [sample for family in families for sample in family.samples if sample.name == metric]
    counted = [sample.value for sample in samples if sample.labels[label] in states.split("|")]
    assert sorted(counted) == [3, 4]


def named_ports(documents: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Return the ports of each app by their names."""
    return {
        pod["metadata"]["labels"]["app"]: {
            port["name"]: port["containerPort"]
            for container in pod["spec"]["containers"]
            for port in container.get("ports", ())
        }
        for pod in pods(documents)
    }


def arrows(documents: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
    """Return who may begin to speak to whom, and where: apps and names of ports."""
    found = set()
    for policy in (
        document["spec"] for document in documents if document["kind"] == "NetworkPolicy"
    ):
        own = policy["podSelector"].get("matchLabels", {}).get("app", "each")
        for way, side in (("ingress", "from"), ("egress", "to")):
            for rule in policy.get(way, ()):
                others = [
                    one["podSelector"]["matchLabels"]["app"]
                    if "podSelector" in one
                    else "namespace"
                    for one in rule.get(side, ())
                ] or ["anybody"]
                for other in others:
                    pair = (other, own) if way == "ingress" else (own, other)
                    found |= {(*pair, str(port["port"])) for port in rule["ports"]}
    return found


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_network_has_the_design_s_arrows_and_no_others(name: str) -> None:
    documents = built(name)
    ports = named_ports(documents)
    within = {arrow for arrow in arrows(documents) if not {"anybody", "namespace"} & set(arrow)}
    assert within == {
        ("node", "redis", "redis"), ("worker", "redis", "redis"), ("worker", "node", "web"),
    }  # fmt: skip
    for _, target, port in within:
        assert port in ports[target]
    outward = {arrow for arrow in arrows(documents) if arrow[1] in ("anybody", "namespace")}
    assert {(policy[0], policy[2]) for policy in outward if policy[0] != "each"} == {
        ("node", port)
        for port in ("104", "4242", "11112", *(["5432"] if name == "postgresql" else []))
    }
    assert {policy[2] for policy in outward if policy[0] == "each"} == {"53"}
    inward = {arrow for arrow in arrows(documents) if arrow[0] in ("anybody", "namespace")}
    assert inward == {("anybody", "node", "dicom"), ("namespace", "node", "web")}


@pytest.mark.parametrize("name", OVERLAYS)
def test_services_budgets_and_probes_meet_what_there_is(name: str, tmp_path: Path) -> None:
    documents = built(name)
    ports = named_ports(documents)
    for document in documents:
        if document["kind"] == "Service":
            app = document["spec"]["selector"]["app"]
            assert {port["targetPort"] for port in document["spec"]["ports"]} <= {*ports[app]}
        if document["kind"] == "PodDisruptionBudget":
            assert document["spec"]["selector"]["matchLabels"]["app"] in ports
    asked = FastAPI()
    asked.include_router(health.routes(Ledger.open(fresh(tmp_path)), Spool(tmp_path / "spool")))
    paths = {*asked.openapi()["paths"]}
    (node,) = (pod for pod in pods(documents) if pod["metadata"]["labels"]["app"] == "node")
    (container,) = node["spec"]["containers"]
    is_https = bool(tomllib.loads((K8S / "base" / "node.toml").read_text())["web"]["certificate"])
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        http = container[probe]["httpGet"]
        assert http["path"] in paths
        assert (http["port"], http["scheme"]) == ("web", "HTTPS" if is_https else "HTTP")
    notes = node["metadata"]["annotations"]
    assert notes["prometheus.io/path"] in paths
    assert int(notes["prometheus.io/port"]) == ports["node"]["web"]
    assert notes["prometheus.io/scheme"] == ("https" if is_https else "http")


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_secret_that_a_pod_wants_is_made_by_a_command_of_the_manual(name: str) -> None:
    made: dict[str, set[str]] = {"ledger": {"url"}}  # of postgresql, which the page has in words
    for line in re.findall(r"^kubectl .*create secret .*$", PAGE.read_text(), re.MULTILINE):
        words = shlex.split(line)
        given = [word.split("=", 1)[1] for word in words if word.startswith("--from-")]
        made[words[words.index("generic") + 1]] = {
            Path(part.split("=", 1)[0]).name for part in given
        }
    wanted: dict[str, set[str]] = {}
    for pod in pods(built(name)):
        for container in pod["spec"]["containers"]:
            for variable in container.get("env", ()):
                key = variable.get("valueFrom", {}).get("secretKeyRef")
                if key:
                    wanted.setdefault(key["name"], set()).add(key["key"])
        for volume in pod["spec"]["volumes"]:
            if "secret" in volume:
                items = {item["key"] for item in volume["secret"].get("items", ())}
                wanted.setdefault(volume["secret"]["secretName"], set()).update(items)
    assert wanted.keys() <= made.keys()
    assert all(keys <= made[secret] for secret, keys in wanted.items())
    assert "ledger" in wanted if name == "postgresql" else "ledger" not in wanted
    # what the configurations name under the mounts of these secrets
    files = {"/secrets": made["chexfract"], "/tls": made["chexfract-tls"]}
    for file in ("node.toml", "worker.toml"):
        text = (K8S / "base" / file).read_text()
        for folder, key in re.findall(r'"(/secrets|/tls)/([\w.]+)"', text):
            assert key in files[folder]


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_variable_of_a_pod_sets_a_key_that_its_program_has(name: str) -> None:
    for pod in pods(built(name)):
        for container in pod["spec"]["containers"]:
            for variable in (one["name"] for one in container.get("env", ())):
                if variable == "HOME":
                    continue
                is_worker = variable.startswith("CHEXFRACT_WORKER_")
                fields = (worker_settings.Settings if is_worker else Settings).model_fields
                path = variable.removeprefix("CHEXFRACT_WORKER_" if is_worker else "CHEXFRACT_")
                section, key = path.lower().split("__")
                section_type: Any = fields[section].annotation
                assert key in section_type.model_fields, variable


def test_two_nodes_share_a_spool_and_no_data_dir() -> None:
    """One node locks its data_dir: a second one beside it would not start."""
    (node,) = (document for document in built("postgresql") if document["kind"] == "StatefulSet")
    pod = node["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    data_dir = tomllib.loads((K8S / "base" / "node.toml").read_text())["node"]["data_dir"]
    shared = {
        variable["name"]: variable["value"] for variable in container["env"] if "value" in variable
    }
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    own = next(name for path, name in mounts.items() if data_dir.startswith(f"{path}/"))
    assert node["spec"]["replicas"] == 2
    assert own in {claim["metadata"]["name"] for claim in node["spec"]["volumeClaimTemplates"]}
    ours = mounts[shared["CHEXFRACT_NODE__SHARED_DIR"]]
    assert ours in {
        volume["name"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume
    }
