"""Actors that replay and learn, and a Ray cluster of two nodes on this machine."""

import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from shared.core.parameters import FleetParameters
from shared.learning.budget import TrainingOptions
from shared.messages import RecordedStep
from shared.policies.store import PolicyStore
from tests.contract.test_trainer_on_policy import transitions_of
from tests.policies import LITTLE

OBJECT_STORE_BYTES = 80_000_000
"""Ray's least is 75 MB a node."""

JOINS = """
import json, pickle, sys
from pathlib import Path
from shared.learning.extras import quiet_libraries
quiet_libraries()
import ray
from shared.core.parameters import FleetParameters
from shared.learning import training as learning
from shared.learning.budget import TrainingOptions
from shared.learning.on_policy.training import Job, learn_on_policy
from shared.learning.ppo.ray_session import ray_session
from shared.policies.store import PolicyStore
from shared.recorded_demand import recorded_of
from tests.policies import LITTLE

@ray.remote
def imports_tensorflow():
    import ray.rllib
    return "tensorflow" in sys.modules

transitions, steps = pickle.loads(sys.stdin.buffer.read())
parameters = FleetParameters()
with ray_session():
    nodes = sum(node["Alive"] for node in ray.nodes())
    imported = ray.get(imports_tensorflow.remote())
    options = TrainingOptions(0.9, 0, LITTLE, num_env_runners=1, num_learners=1)
    replayed = learning.train(recorded_of(steps, 65.0), parameters, options)
    job = Job(
        "default", "v1", parameters, gamma=0.9, batch_size=64, seconds=600, seed=0, num_learners=1
    )
    followed = learn_on_policy(transitions, job, PolicyStore.at(Path(sys.argv[1])))
told = {"nodes": nodes, "tensorflow": imported, "replayed": replayed.environment_steps}
print(json.dumps({**told, **followed.scores}))
"""
"""The runner takes one CPU and the learner another: each has to be on its own node."""


def steps_of(transitions):
    return [RecordedStep(t.step, t.at.timestamp(), t.demand, True, 0) for t in transitions]


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": OBJECT_STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args=dict(node))
    cluster.add_node(**node)
    yield cluster
    cluster.shutdown()


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning:ray.data")
def test_an_actor_replays_and_another_learns(ray_running, tmp_path):
    """One after the other: the Ray of the tests has room for one."""
    from shared.learning.on_policy.training import Job, learn_on_policy
    from shared.learning.training import train
    from shared.recorded_demand import recorded_of

    parameters, transitions = FleetParameters(), transitions_of(64)
    options = TrainingOptions(0.9, 0, LITTLE, num_env_runners=1)
    assert train(recorded_of(steps_of(transitions), 65.0), parameters, options).environment_steps
    job = Job("default", "v1", parameters, gamma=0.9, batch_size=64, seconds=60, seed=0)
    here, there = (
        learn_on_policy(transitions, replace(job, num_learners=count), PolicyStore.at(folder))
        for count, folder in ((0, tmp_path / "here"), (1, tmp_path / "there"))
    )
    assert there.scores["batches"] == 1
    for name, weights in here.module.get_state().items():
        np.testing.assert_allclose(there.module.get_state()[name], weights, atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_trainer_joins_the_cluster_and_learns_on_both_nodes(cluster, tmp_path):
    transitions = transitions_of(128)
    ended = subprocess.run(
        [sys.executable, "-c", JOINS, str(tmp_path)],
        input=pickle.dumps((transitions, steps_of(transitions))),
        env={**os.environ, "RAY_ADDRESS": cluster.address},
        capture_output=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr.decode()
    told = json.loads(ended.stdout.decode().splitlines()[-1])
    assert told["nodes"] == 2
    assert not told["tensorflow"], "RLlib is slower with it"
    assert told["replayed"] > 0
    assert told["batches"] == 2
