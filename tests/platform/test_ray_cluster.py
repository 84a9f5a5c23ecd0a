"""A Ray cluster of two nodes on this machine, which the trainer joins."""

import json
import os
import pickle
import subprocess
import sys

import pytest
from ray.cluster_utils import Cluster

from shared.messages import RecordedStep
from tests.contract.test_trainer_on_policy import transitions_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

OBJECT_STORE_BYTES = 80_000_000
"""Ray's least is 75 MB a node."""

JOINS = """
import json, pickle, sys
from pathlib import Path
from shared.learning.extras import quiet_libraries
quiet_libraries()
import ray
from shared.learning.budget import Budget, TrainingOptions
from shared.learning.on_policy.training import Job, learn_on_policy
from shared.learning import training as learning
from shared.recorded_demand import recorded_of
from shared.learning.ppo.ray_session import stop_ray, start_ray
from shared.core.parameters import FleetParameters
from shared.policies.store import PolicyStore

transitions, steps = pickle.loads(sys.stdin.buffer.read())
parameters = FleetParameters()
start_ray()
nodes = sum(node["Alive"] for node in ray.nodes())

@ray.remote
def imports_tensorflow():
    import ray.rllib
    return "tensorflow" in sys.modules

imported = ray.get(imports_tensorflow.remote())
budget = Budget(60.0, steps=1, hindsight_updates=learning.UPDATES_PER_ROUND)
options = TrainingOptions(0.9, 0, budget, num_env_runners=1, num_learners=1)
replayed = learning.train(recorded_of(steps, 65.0), parameters, options)
job = Job(
    "default", "v1", parameters, gamma=0.9, batch_size=64, seconds=600, seed=0, num_learners=1
)
followed = learn_on_policy(transitions, job, PolicyStore.at(Path(sys.argv[1])))
stop_ray()
told = {"nodes": nodes, "tensorflow": imported, "replayed": replayed.environment_steps}
print(json.dumps({**told, **followed.scores}))
"""
"""The runner takes one CPU and the learner another: each has to be on its own node."""


@pytest.fixture(scope="module")
def cluster():
    node = {"num_cpus": 1, "object_store_memory": OBJECT_STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args=dict(node))
    cluster.add_node(**node)
    yield cluster
    cluster.shutdown()


def test_the_trainer_joins_the_cluster_and_learns_on_both_nodes(cluster, tmp_path):
    transitions = transitions_of(128)
    steps = [RecordedStep(t.step, t.at.timestamp(), t.demand, True, 0) for t in transitions]
    ended = subprocess.run(
        [sys.executable, "-c", JOINS, str(tmp_path)],
        input=pickle.dumps((transitions, steps)),
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
