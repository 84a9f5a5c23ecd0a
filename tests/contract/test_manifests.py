"""Every manifest is what its reader takes, and what is broken is found."""

import copy
import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.checks.__main__ import CUSTOM_KINDS, Checks
from deploy.checks.pods import pods_of
from deploy.checks.rendering import (
    CannotRender,
    kustomizations,
    kustomize,
    name_of,
    pages,
    rendered,
    resources_in,
)

ROOT = Path(__file__).parents[2]
OVERLAYS = ROOT / "deploy/eks/overlays"

needs_kustomize = pytest.mark.skipif(kustomize() is None, reason="neither kubectl nor kustomize")
needs_custom_kinds = pytest.mark.skipif(not CUSTOM_KINDS.is_dir(), reason="no ../shared/crds")
pytestmark = needs_kustomize


@pytest.fixture(scope="module")
def checks():
    return Checks(ROOT, CUSTOM_KINDS)


@pytest.fixture(scope="module")
def rendering():
    """The resources of a kustomization, rendered once."""
    made = {}

    def resources(folder):
        if folder not in made:
            made[folder] = rendered(kustomize(), folder)
        return copy.deepcopy(made[folder])

    return resources


@pytest.mark.parametrize("folder", kustomizations(ROOT / "deploy"), ids=lambda path: path.name)
def test_no_kustomization_has_findings(checks, rendering, folder):
    assert [*checks.of_kustomization(rendering(folder))] == []


def test_the_runbooks_own_overlay_has_all_components(checks, tmp_path):
    """The block of the README, as it stands; kustomize takes no absolute path."""
    readme = (ROOT / "deploy/eks/README.md").read_text()
    (block,) = re.findall(
        r"```yaml\n# deploy/eks/overlays/production.*?\n(.*?)```", readme, re.DOTALL
    )
    way_up = Path(*itertools.repeat("..", len(tmp_path.parts) - 1))
    eks = way_up / ROOT.relative_to("/") / "deploy/eks"
    (tmp_path / "kustomization.yaml").write_text(block.replace("../..", str(eks)))
    resources = rendered(kustomize(), tmp_path)
    made = {name_of(each) for each in resources}
    assert {"RayCluster/trainers", "ScaledObject/environment", "NetworkPolicy/elasticache"} <= made
    assert not {"Deployment/trainer", "ScaledObject/trainer", "StatefulSet/redis"} & made
    found = [*checks.of_kustomization(resources)]
    images = [container["image"] for pod in pods_of(resources) for container in pod.containers]
    assert all(image.startswith("REGISTRY/gameserver-autopilot-") for image in images)
    assert [each for each in found if ": image REGISTRY" not in each] == []


@pytest.mark.parametrize("page", pages(ROOT / "deploy"), ids=lambda path: path.name)
def test_no_page_has_findings(checks, rendering, page):
    base = rendering(ROOT / "deploy/eks/base")
    assert [*checks.of_page(resources_in(page.read_text()), base)] == []


def test_the_cluster_allows_what_the_iam_policies_say(checks, rendering):
    assert [*checks.of_cluster(rendering(ROOT / "deploy/eks/base"))] == []


def without(field):
    return lambda parent: parent.pop(field)


def to(field, value):
    return lambda parent: parent.update({field: value})


POD = ("spec", "template", "spec")
FIRST = (*POD, "containers", 0)
BROKEN = [
    # Fields, by Kubernetes' own schemas.
    ("Deployment/prediction", (*FIRST,), to("imagePulPolicy", "Always"), "imagePulPolicy"),
    ("Deployment/prediction", ("spec",), to("replicas", "two"), "'two' is not of type"),
    ("PodDisruptionBudget/trainer", (), to("apiVersion", "policy/v1beta9"), "Couldn't find schema"),
    # Pod Security `restricted`, and what we ask for beyond it.
    ("Deployment/trainer", (*POD, "securityContext"), without("runAsNonRoot"), "runAsNonRoot"),
    ("Deployment/trainer", (*POD, "securityContext"), to("runAsUser", 0), "runAsUser above 0"),
    ("Deployment/trainer", (*POD, "securityContext"), without("seccompProfile"), "seccompProfile"),
    ("StatefulSet/redis", (*FIRST, "securityContext"), without("capabilities"), "drop ALL"),
    (
        "Deployment/environment",
        (*POD, "containers", 1, "securityContext"),
        to("allowPrivilegeEscalation", True),
        "environment metrics: securityContext needs allowPrivilegeEscalation false",
    ),
    (
        "Deployment/matchmaking",
        (*FIRST, "securityContext"),
        to("readOnlyRootFilesystem", False),
        "readOnlyRootFilesystem",
    ),
    ("Deployment/matchmaking", POD, to("hostNetwork", True), "hostNetwork"),
    ("Deployment/matchmaking", POD, without("automountServiceAccountToken"), "automount"),
    ("Deployment/trainer", (*POD, "volumes", 1), to("hostPath", {"path": "/"}), "volume tmp"),
    # Labels and ports.
    (
        "Service/prediction",
        ("spec", "selector"),
        to("app.kubernetes.io/name", "x"),
        "selects no pod",
    ),
    ("Service/prediction", ("spec", "ports", 0), to("targetPort", "https"), "the port 'https'"),
    (
        "Deployment/prediction",
        ("spec", "template", "metadata", "labels"),
        to("app.kubernetes.io/name", "predict"),
        "does not take its own pods",
    ),
    (
        "PodDisruptionBudget/prediction",
        ("spec", "selector", "matchLabels"),
        to("app.kubernetes.io/name", "predict"),
        "Deployment/prediction: has no PodDisruptionBudget",
    ),
    ("Deployment/environment", POD, without("topologySpreadConstraints"), "has no topologySpread"),
    (
        "Deployment/environment",
        (*POD, "topologySpreadConstraints", 0, "labelSelector", "matchLabels"),
        to("app.kubernetes.io/name", "trainer"),
        "counts other pods",
    ),
    # Who lets whom in.
    ("NetworkPolicy/deny-all", ("spec",), to("ingress", [{}]), "denies everything"),
    ("NetworkPolicy/redis", ("spec", "ingress", 0), without("from"), "lets everybody through"),
    (
        "NetworkPolicy/redis",
        ("spec", "ingress", 0, "ports", 0),
        to("port", "http"),
        "no pod reached has the port 'http'",
    ),
    (
        "NetworkPolicy/redis-clients",
        ("spec", "egress", 0, "ports", 0),
        to("port", 6380),
        "no pod reached has the port 6380",
    ),
    (
        "NetworkPolicy/redis-clients",
        ("spec", "egress", 0, "to", 0, "podSelector", "matchLabels"),
        to("app.kubernetes.io/name", "cache"),
        "selects no pod",
    ),
    ("NetworkPolicy/dns", ("metadata",), to("namespace", "default"), "is in namespace default"),
    # Names of what is elsewhere.
    ("Deployment/trainer", POD, to("serviceAccountName", "train"), "no ServiceAccount train"),
    (
        "Deployment/trainer",
        (*FIRST, "envFrom", 0, "configMapRef"),
        to("name", "settings"),
        "no ConfigMap settings",
    ),
    (
        "Deployment/prediction",
        (*POD, "volumes", 1, "secret"),
        to("secretName", "token"),
        "no Secret token",
    ),
    # Redis's password.
    (
        "StatefulSet/redis",
        FIRST,
        to("command", ["redis-server", "--appendonly", "yes"]),
        "redis-server takes no password",
    ),
    (
        "StatefulSet/redis",
        FIRST,
        to("command", ["redis-server", "--requirepass", "hush"]),
        "redis-server takes no password",
    ),
    (
        "StatefulSet/redis",
        (*POD, "volumes", 0, "secret"),
        to("optional", True),
        "/etc/secrets/redis/password is not the key password of the Secret redis",
    ),
    (
        "StatefulSet/redis",
        (*FIRST, "readinessProbe", "exec"),
        to("command", ["redis-cli", "ping"]),
        "readinessProbe has no password, or takes NOAUTH for an answer",
    ),
    ("Deployment/trainer", FIRST, without("env"), "trainer trainer: has no password of Redis"),
    (
        "Deployment/environment",
        (*POD, "containers", 1),
        to("env", []),
        "environment metrics: has no password of Redis",
    ),
    (
        "Deployment/matchmaking",
        (*FIRST, "volumeMounts", 0),
        to("mountPath", "/etc/redis"),
        "is not the key password of the Secret redis",
    ),
    (
        "Deployment/matchmaking",
        (*POD, "volumes", 0, "secret"),
        to("items", [{"key": "other", "path": "password"}]),
        "is not the key password of the Secret redis",
    ),
    (
        "Deployment/trainer",
        (*FIRST, "envFrom", 0),
        to("secretRef", {"name": "redis"}),
        "takes the whole Secret redis as variables",
    ),
    # Callers' tokens.
    (
        "Deployment/prediction",
        (*FIRST, "volumeMounts", 1),
        to("mountPath", "/etc/tokens"),
        "prediction prediction: needs the tokens ['read'] of the Secret tokens",
    ),
    (
        "Deployment/matchmaking",
        (*POD, "volumes", 1, "secret"),
        to("items", [{"key": "read", "path": "read"}]),
        "needs the tokens ['read', 'report']",
    ),
    ("Deployment/environment", (*POD, "volumes", 1, "secret"), to("optional", True), "and has []"),
    (
        "Deployment/environment",
        (*POD, "containers", 1, "volumeMounts", 1),
        to("subPath", "read"),
        "environment metrics: needs the tokens ['read']",
    ),
    ("Deployment/prediction", (*POD, "volumes", 1, "secret"), without("items"), "and has []"),
    (
        "Deployment/trainer",
        (*POD, "volumes", 0, "secret"),
        to("secretName", "tokens"),
        "is not the key password of the Secret redis",
    ),
    ("Deployment/trainer", (*FIRST, "volumeMounts", 0), to("name", "temp"), "no volume 'temp'"),
    # What a container is to have.
    ("Deployment/trainer", FIRST, without("livenessProbe"), "needs a livenessProbe"),
    ("Deployment/trainer", (*FIRST, "resources"), without("requests"), "resources.requests"),
    (
        "Deployment/prediction",
        (*FIRST, "readinessProbe", "httpGet"),
        to("port", 8001),
        "asks port 8001",
    ),
    # The code and compose.
    ("Deployment/trainer", FIRST, to("image", "gameserver-autopilot-trainer"), "is none of"),
    ("Deployment/trainer", FIRST, to("command", ["python", "-m", "services.train"]), "no module"),
    (
        "Deployment/trainer",
        FIRST,
        to("env", [{"name": "AUTOPILOT_MIN_SERVER", "value": "1"}]),
        "AUTOPILOT_MIN_SERVER is not a setting",
    ),
    (
        "Deployment/trainer",
        (*FIRST, "resources", "limits"),
        to("memory", "1Gi"),
        "docker-compose.yml to 3G",
    ),
]


def broken(resources, name, path, breaking):
    """The resources with one of them changed at a path."""
    (parent,) = (each for each in resources if name_of(each) == name)
    for step in path:
        parent = parent[step]
    breaking(parent)
    return resources


@pytest.mark.parametrize(("name", "path", "breaking", "finding"), BROKEN)
def test_what_is_broken_is_found(checks, rendering, name, path, breaking, finding):
    resources = broken(rendering(ROOT / "deploy/eks/base"), name, path, breaking)
    found = [*checks.of_kustomization(resources)]
    assert any(finding in each for each in found), found


@pytest.mark.parametrize(
    ("settings", "finding"),
    [
        ({"AUTOPILOT_REDIS": "x"}, "AUTOPILOT_REDIS is not a setting"),
        ({"fleets.toml": "[eu]\nmin_server = 1\n"}, "fleet eu: Extra inputs"),
        ({"fleets.toml": "[eu]\nmin_servers = 200\n"}, "fleet eu: "),
    ],
)
def test_a_wrong_setting_is_found(checks, rendering, settings, finding):
    resources = rendering(ROOT / "deploy/eks/base")
    next(each for each in resources if each["kind"] == "ConfigMap")["data"] = settings
    assert any(finding in each for each in checks.of_kustomization(resources))


def test_a_trainer_is_given_no_token(checks, rendering):
    resources = rendering(ROOT / "deploy/eks/base")
    (trainer,) = (each for each in resources if name_of(each) == "Deployment/trainer")
    (environment,) = (each for each in resources if name_of(each) == "Deployment/environment")
    pod, other = (each["spec"]["template"]["spec"] for each in (trainer, environment))
    pod["volumes"].append(other["volumes"][1])
    pod["containers"][0]["volumeMounts"].append(other["containers"][0]["volumeMounts"][1])
    assert "Deployment/trainer trainer: needs no token, and mounts ['read']" in [
        *checks.of_kustomization(resources)
    ]


@pytest.mark.parametrize("overlay", ["elasticache", "kuberay"])
def test_another_redis_and_other_trainers_have_their_address_from_a_secret(
    checks, rendering, overlay
):
    resources = rendering(OVERLAYS / overlay)
    clients = [c for pod in pods_of(resources) for c in pod.containers if c["name"] == "trainer"]
    (trainer,) = clients
    (of_redis,) = (each for each in trainer["env"] if "REDIS" in each["name"])
    assert ("valueFrom" in of_redis) == (overlay == "elasticache")
    of_redis["name"] = "AUTOPILOT_SEED"
    assert any("has no password of Redis" in each for each in checks.of_kustomization(resources))


SCALED = [
    (("spec",), to("pollinterval", 5), "pollinterval"),
    (("spec", "triggers", 0, "metadata"), to("targetValue", 1), "1 is not of type 'string'"),
    (("spec", "fallback"), to("behavior", "guess"), "'guess' is not one of"),
    (("spec", "triggers", 0), without("type"), "'type' is a required property"),
]
UNAUTHENTICATED = [
    (("spec", "triggers", 0, "metadata"), without("authMode")),
    (("spec", "triggers", 0), without("authenticationRef")),
]


@pytest.mark.parametrize(("path", "breaking"), UNAUTHENTICATED)
def test_a_trigger_without_a_token_is_found(checks, rendering, path, breaking):
    page = resources_in((ROOT / "deploy/keda/metrics-api.yaml").read_text())
    broken(page, "ScaledObject/game-servers", path, breaking)
    assert any("without a bearer token" in each for each in checks.of_page(page, []))
    resources = broken(rendering(OVERLAYS / "keda"), "ScaledObject/trainer", path, breaking)
    found = [*checks.of_kustomization(resources)]
    assert any("ScaledObject/trainer: asks http://metrics" in each for each in found)


@needs_custom_kinds
@pytest.mark.parametrize(("path", "breaking", "finding"), SCALED)
def test_a_broken_page_is_found(checks, path, breaking, finding):
    page = resources_in((ROOT / "deploy/keda/metrics-api.yaml").read_text())
    resources = broken(page, "ScaledObject/game-servers", path, breaking)
    assert any(finding in each for each in checks.of_page(resources, []))


@needs_custom_kinds
@pytest.mark.parametrize(
    "policy",
    [
        {"type": "Chained"},
        {"type": "Chain", "chain": [{"id": "autopilot", "webhook": {}}]},
        {"type": "Chain", "chain": [{"type": "Webhook", "webhok": {}}]},
    ],
)
def test_a_broken_fleet_autoscaler_is_found(checks, policy):
    page = resources_in((ROOT / "deploy/agones/fleetautoscaler.yaml").read_text())
    broken(page, "FleetAutoscaler/game-servers", ("spec",), to("policy", policy))
    assert [*checks.of_page(page, [])]


@needs_custom_kinds
def test_a_broken_pod_of_a_ray_cluster_is_found(checks, rendering):
    group = ("spec", "workerGroupSpecs", 1, "template", "spec")
    for path, breaking, finding in (
        (group, to("nodeSelectr", {}), "nodeSelectr"),
        ((*group, "securityContext"), without("runAsNonRoot"), "trainers trainer: securityContext"),
    ):
        resources = rendering(OVERLAYS / "kuberay")
        broken(resources, "RayCluster/trainers", path, breaking)
        assert any(finding in each for each in checks.of_kustomization(resources))


def test_a_scaled_object_that_scales_nothing_is_found(checks, rendering):
    target = ("spec", "scaleTargetRef")
    url = to("url", "http://metrics.gameserver-autopilot:8004/metrics")
    for path, breaking, finding in (
        (target, to("name", "train"), "there is no Deployment/train to scale"),
        (target, to("name", "prediction"), "takes KEDA's number back"),
        (("spec", "triggers", 0, "metadata"), url, "the service metrics has the ports [8003]"),
        (
            ("spec", "triggers", 0, "authenticationRef"),
            to("name", "metric"),
            "there is no TriggerAuthentication metric",
        ),
    ):
        resources = broken(rendering(OVERLAYS / "keda"), "ScaledObject/trainer", path, breaking)
        assert any(finding in each for each in checks.of_kustomization(resources))


def test_more_rights_than_the_iam_policies_give_are_found(checks, rendering, monkeypatch):
    base, cluster = rendering(ROOT / "deploy/eks/base"), copy.deepcopy(checks._cluster)
    monkeypatch.setattr(checks, "_cluster", cluster)
    cluster["iam"]["podIdentityAssociations"][1]["permissionPolicy"]["Statement"][0]["Action"] = (
        "s3:*"
    )
    assert [*checks.of_cluster(base)] == [
        "cluster.yaml: prediction is not allowed exactly what deploy/aws/iam says"
    ]


def test_a_folder_that_kustomize_refuses_is_an_error(tmp_path):
    (tmp_path / "kustomization.yaml").write_text("resources: [gone.yaml]\n")
    with pytest.raises(CannotRender, match=r"gone\.yaml"):
        rendered(kustomize(), tmp_path)


@pytest.mark.parametrize(("must_run", "code"), [("", 0), ("1", 1)])
def test_without_kustomize_it_says_so_and_fails_where_it_has_to_run(tmp_path, must_run, code):
    environment = {"PATH": str(tmp_path), "MANIFESTS_MUST_RUN": must_run}
    command = [sys.executable, "-m", "deploy.checks"]
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == code
    assert "NOT CHECKED: neither kubectl nor kustomize" in ended.stderr
