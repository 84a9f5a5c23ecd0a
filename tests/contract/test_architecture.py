"""The lists in ARCHITECTURE.md, held against what really runs."""

import asyncio
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
import numpy as np
import pytest
from pydantic import BaseModel
from starlette.responses import Response

from services.environment.demand_source import HttpDemand
from services.environment.fleet_loop import FleetLoop
from services.environment.step import Due
from services.matchmaking.app import create_app as create_matchmaking
from services.prediction.app import create_app as create_prediction
from shared.bus import Bus, keys
from shared.messages import RecordedStep, TrainingJob, utc_now
from shared.policies.store import PolicyStore
from shared.settings import Fleets, FleetSettings
from tests.policies import Everyone, TenMore

ROOT = Path(__file__).parents[2]
FOLDERS = ("services/", "shared/")
FLEETS = Fleets({"default": FleetSettings(observation="calendar")})
DEMAND = 57.25
"""Servers; nothing else here is this number."""
NOT_COUNTED = {
    "shared/core/": "formulas",
    "shared/messages/": "the values themselves",
    "shared/http/": "every request and answer goes through it",
    "shared/explanation.py": "for the log",
    "shared/resilience.py": "for the log of an outage",
}
MOST_FILES = 7


def listed(process: str) -> set[str]:
    """The files of a process in ARCHITECTURE.md; a bare name is one of its own folder."""
    table = (ROOT / "ARCHITECTURE.md").read_text()
    (row,) = re.findall(rf"^\| {process} \| (.*) \|$", table, re.MULTILINE)
    names = re.findall(r"`([\w/]+\.py)`", row)
    return {name if "/" in name else f"services/{process}/{name}" for name in names}


def has_demand(value: Any, depth: int = 3) -> bool:
    """Whether the demand is in a value: a number, JSON, an array, or what these are in."""
    if isinstance(value, int | float | np.generic):
        return bool(value == DEMAND)
    if isinstance(value, bytes):
        return str(DEMAND).encode() in value
    if isinstance(value, np.ndarray):
        return bool((value == DEMAND).any())
    if isinstance(value, dict):
        parts = list(value.values())
    elif isinstance(value, list | tuple):
        parts = list(value)
    elif isinstance(value, BaseModel):
        parts = list(vars(value).values())
    elif isinstance(value, Response):
        parts = [value.body]
    else:
        fields = getattr(type(value), "__dataclass_fields__", {})
        parts = [getattr(value, name, None) for name in fields]
    return depth > 0 and any(has_demand(part, depth - 1) for part in parts)


@cache
def file_of(path: str) -> str | None:
    """A file of ours within the repository; None for a library's."""
    within = path.removeprefix(f"{ROOT}/")
    return within if within.startswith(FOLDERS) else None


@contextmanager
def traced(
    look: Callable[[FrameType, str, Any], None], events: tuple[str, ...] = ("call", "return")
) -> Iterator[None]:
    """Shows each call of a function of ours, and each return with what is returned, by file."""

    def profile(frame: FrameType, event: str, returned: Any) -> None:
        if event in events and (file := file_of(frame.f_code.co_filename)) is not None:
            look(frame, file, returned)

    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(None)


@contextmanager
def files_with_the_demand() -> Iterator[set[str]]:
    """The files in which a function has the demand in a variable, or returns it."""
    found: set[str] = set()

    def look(frame: FrameType, file: str, returned: Any) -> None:
        if file not in found and not file.startswith(tuple(NOT_COUNTED)):
            held = [value for name, value in frame.f_locals.items() if name != "self"]
            if has_demand([*held, returned]):
                found.add(file)

    with traced(look):
        yield found


async def test_demand_goes_from_post_to_get_through_the_files_that_are_listed(
    redis_url, bus, queue, tmp_path, client_of
):
    """Each process by itself, with what the one before it has left."""

    async def demand_is_told(lobby: httpx.AsyncClient) -> httpx.Response:
        while True:
            answer = await lobby.get("/prediction")
            if answer.is_success and answer.json()["policy_version"] == TenMore.version:
                return answer
            await asyncio.sleep(0.01)

    matchmaking = create_matchmaking(bus=Bus.connect(redis_url), fleets=FLEETS, clock=utc_now)
    async with client_of(matchmaking) as matchmaker:
        with files_with_the_demand() as in_matchmaking:
            posted = await matchmaker.post("/demand", json={"num_of_gameservers": DEMAND})
            newest = await matchmaker.get("/demand")
    assert posted.status_code == 202
    assert newest.json()["Prediction"]["num_of_gameservers"] == DEMAND

    answers = httpx.MockTransport(lambda _: httpx.Response(200, content=newest.content))
    champions: Any = Everyone(TenMore())  # no target is the demand
    async with httpx.AsyncClient(transport=answers) as client:
        source = HttpDemand(client, asyncio.Semaphore(1), "http://demand", "default", 65.0)
        loop = FleetLoop("default", FLEETS["default"], 0.0, source, champions, bus, queue, utc_now)
        with files_with_the_demand() as in_environment:
            for _ in range(2):  # the first step is decided before any demand is known
                await loop._step(Due(utc_now(), 0))

    store = PolicyStore.at(tmp_path)
    prediction = create_prediction(
        bus=Bus.connect(redis_url), fleets=FLEETS, store=store, clock=utc_now
    )
    with files_with_the_demand() as in_prediction:
        async with client_of(prediction) as lobby, asyncio.timeout(20):
            told = await demand_is_told(lobby)
    assert told.json()["Prediction"]["curr_demand"] == DEMAND

    found = {
        "matchmaking": in_matchmaking,
        "environment": in_environment,
        "prediction": in_prediction,
    }
    assert found == {process: listed(process) for process in found}
    assert max(map(len, found.values())) <= MOST_FILES


JOB_FOLDERS_NOT_COUNTED = {
    "shared": "recorded demand, the tree of errors",
    "shared/bus": "where the job comes from",
    "shared/core": "formulas",
    "shared/learning/models": "what the others hand around",
    "shared/messages": "the values themselves",
    "shared/policies": "where the champion goes",
    "shared/settings": "the fleet's numbers",
}
MOST_FOLDERS = 6


def listed_folders() -> list[str]:
    """The folders of a training job in ARCHITECTURE.md, in their order."""
    rows = (ROOT / "ARCHITECTURE.md").read_text().partition("| folder | what happens there |")[2]
    return re.findall(r"^\| `([\w/]+)`", rows.partition("\n\n")[0], re.MULTILINE)


@contextmanager
def folders_entered() -> Iterator[list[str]]:
    """The folder of each call, in order, once where several in succession are in one."""
    entered: list[str] = []

    def look(_frame: FrameType, file: str, _returned: Any) -> None:
        folder = file.rpartition("/")[0]
        if folder not in JOB_FOLDERS_NOT_COUNTED and entered[-1:] != [folder]:
            entered.append(folder)

    with traced(look, events=("call",)):
        yield entered


@pytest.mark.slow
def test_a_training_job_goes_through_the_folders_that_are_listed(trainer_context, raw, ray_running):
    """Each is left for good when the next begins, but for hindsight, which refits within PPO."""
    from services.trainer.jobs import train

    rows = [RecordedStep(step, 65.0 * step, 10.0 + step % 7, True, 0) for step in range(1, 101)]
    raw.rpush(keys.RECORDED.format(fleet="default"), *map(json.dumps, rows))
    job = TrainingJob(fleet="default", queued_at=utc_now(), up_to_step=100)
    with folders_entered() as entered:
        version = train(trainer_context, job.model_dump_json())
    champion = trainer_context.store.champion("default")
    assert champion is not None
    assert champion.version == version
    listed = listed_folders()
    assert list(dict.fromkeys(entered)) == listed
    assert len(listed) <= MOST_FOLDERS
    _caller, _library, hindsight, ppo, selection, export = listed
    stages = [folder for folder in entered if folder in (hindsight, ppo, selection, export)]
    assert [folder for folder, _ in itertools.groupby(stages)] == [
        hindsight,
        ppo,
        hindsight,
        ppo,
        selection,
        export,
    ]
