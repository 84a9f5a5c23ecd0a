"""What kustomize makes of a folder, and what a file of manifests holds."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

Resource = dict[str, Any]

COMMANDS = (("kubectl", "kustomize"), ("kustomize", "build"))
SECONDS = 60


class CannotRender(Exception):
    """Kustomize refuses a folder; the message is what it says."""


def kustomize() -> tuple[str, ...] | None:
    """The command that renders a folder, or None on a machine that has neither."""
    return next((command for command in COMMANDS if shutil.which(command[0])), None)


def rendered(command: tuple[str, ...], folder: Path) -> list[Resource]:
    """The resources of a kustomization; a warning is an error."""
    ended = subprocess.run(  # noqa: S603 - one of `COMMANDS`
        [*command, str(folder)], capture_output=True, text=True, check=False, timeout=SECONDS
    )
    if ended.returncode or ended.stderr:
        raise CannotRender(ended.stderr.strip() or f"exit code {ended.returncode}")
    return resources_in(ended.stdout)


def resources_in(text: str) -> list[Resource]:
    """The documents of a YAML text."""
    return [document for document in yaml.safe_load_all(text) if document]


def name_of(resource: Resource) -> str:
    """How a finding names it: `Deployment/trainer`."""
    return f"{resource.get('kind')}/{resource.get('metadata', {}).get('name')}"


def kustomizations(deploy: Path) -> list[Path]:
    """The folders that are applied: the base and every overlay."""
    return [deploy / "eks/base", *sorted(p.parent for p in deploy.glob("eks/overlays/*/k*.yaml"))]


def pages(deploy: Path) -> list[Path]:
    """The files that are applied as they are."""
    return sorted(
        [
            *deploy.glob("keda/*.yaml"),
            *deploy.glob("agones/*.yaml"),
            deploy / "eks/certificate.yaml",
        ]
    )
