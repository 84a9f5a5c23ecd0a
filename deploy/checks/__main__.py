"""Check every manifest; print a line for each kustomization and file, and every finding."""

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from deploy.checks.access import unauthenticated, unprotected
from deploy.checks.pods import insecurities, negligences, pods_of
from deploy.checks.references import mismatches, wrong_address
from deploy.checks.rendering import (
    CannotRender,
    Resource,
    kustomizations,
    kustomize,
    name_of,
    pages,
    rendered,
    resources_in,
)
from deploy.checks.repository import Repository
from deploy.checks.schemas import CustomKinds, built_in_findings, is_built_in

ROOT = Path(__file__).parents[2]
CUSTOM_KINDS = ROOT.parent / "shared/crds"
"""There on some machines only."""
MUST_RUN = "MANIFESTS_MUST_RUN"
"""Set to 1 where a missing kustomize is no excuse."""


class Checks:
    """What is checked against, once for all manifests."""

    def __init__(self, root: Path, custom_kinds: Path) -> None:
        self._cluster = yaml.safe_load((root / "deploy/eks/cluster.yaml").read_text())
        self._version = self._cluster["metadata"]["version"]
        self._repository = Repository(root)
        self._custom_kinds = CustomKinds(custom_kinds)
        self.unchecked: set[str] = set()
        """Kinds that no definition was found for."""

    def of_fields(self, resources: Sequence[Resource]) -> Iterator[str]:
        """What a resource has that its kind has not, or the other way round."""
        for resource in resources:
            if is_built_in(resource):
                yield from built_in_findings(resource, self._version)
            elif resource in self._custom_kinds:
                yield from self._custom_kinds.findings(resource)
            else:
                self.unchecked.add(f"{resource['apiVersion']} {resource['kind']}")

    def of_kustomization(self, resources: Sequence[Resource]) -> Iterator[str]:
        """Everything that is to hold for what is applied together; fields first."""
        wrong_fields = [*self.of_fields(resources)]
        if wrong_fields:
            yield from wrong_fields
            return
        yield from mismatches(resources)
        yield from self._repository.contradictions(resources)
        yield from unprotected(resources)
        for resource in resources:
            yield from unauthenticated(resource)
        for pod in pods_of(resources):
            yield from insecurities(pod)
            yield from negligences(pod)

    def of_page(self, resources: Sequence[Resource], base: Sequence[Resource]) -> Iterator[str]:
        """A file for the user's own namespace: its fields, and the addresses of ours."""
        yield from self.of_fields(resources)
        for resource in resources:
            yield from unauthenticated(resource)
            for trigger in resource["spec"].get("triggers", ()):
                url = trigger["metadata"].get("url", "")
                yield from wrong_address(name_of(resource), url, base)

    def of_cluster(self, base: Sequence[Resource]) -> Iterator[str]:
        yield from self._repository.cluster_contradictions(self._cluster, base)


def main() -> int:
    command = kustomize()
    if command is None:
        print(
            "manifests: NOT CHECKED: neither kubectl nor kustomize is here; install one of them",
            file=sys.stderr,
        )
        return int(os.environ.get(MUST_RUN) == "1")
    checks, deploy, findings = Checks(ROOT, CUSTOM_KINDS), ROOT / "deploy", 0
    base: list[Resource] = []
    for folder in kustomizations(deploy):
        name = folder.relative_to(ROOT)
        try:
            resources = rendered(command, folder)
        except CannotRender as error:
            findings += _tell(name, 0, [str(error)])
            continue
        base = base or resources
        findings += _tell(name, len(resources), [*checks.of_kustomization(resources)])
    for page in pages(deploy):
        resources = resources_in(page.read_text())
        found = [*checks.of_page(resources, base)]
        findings += _tell(page.relative_to(ROOT), len(resources), found)
    findings += _tell(Path("deploy/eks/cluster.yaml"), 1, [*checks.of_cluster(base)])
    for kind in sorted(checks.unchecked):
        print(f"skipped: the fields of {kind}: no definition of it in ../shared/crds")
    return int(findings > 0)


def _tell(name: Path, resources: int, findings: Sequence[str]) -> int:
    print(f"{name}: {resources} resources, {len(findings) or 'no'} findings")
    for finding in findings:
        print(f"  {finding}")
    return len(findings)


if __name__ == "__main__":
    sys.exit(main())
