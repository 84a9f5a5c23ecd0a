"""What every machine runs stays small, and the example fleet file is one."""

import subprocess
import sys
from pathlib import Path

import pytest

from shared.settings import Settings, load_fleets

HEAVY = ("ray", "torch", "tensorflow", "keras", "boto3", "botocore")
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "module",
    [
        "services.cli.__main__",
        "services.environment.__main__",
        "services.matchmaking.__main__",
        "services.metrics.__main__",
        "services.prediction.__main__",
    ],
)
def test_what_only_some_need_is_not_imported(module):
    code = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert found.stdout.strip() == "[]"


def test_the_example_fleet_file_is_taken():
    fleets = load_fleets(Settings(fleets=ROOT / "deploy" / "fleets.example.toml"))
    assert fleets.names == ("eu-west", "us-east", "events")
    assert fleets["us-east"].over_prov_factor == 8
    assert fleets["events"].gs_inventory_url.endswith("{fleet}")
