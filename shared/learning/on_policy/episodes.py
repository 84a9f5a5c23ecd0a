"""Recorded live transitions as RLlib episodes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from shared.core.parameters import EPISODE_STEPS, FleetParameters
from shared.learning.models.network import ResidualModule
from shared.learning.rllib import Columns, SingleAgentEpisode
from shared.messages import Count, Finite, Message, Transition

Run = list[Transition]
"""Transitions that follow one another without a gap, oldest first."""


KEPT_EPISODES = 100
"""Finished episodes that metrics are averaged over: RLlib's default, as in the notebook."""


@dataclass(frozen=True, slots=True)
class EpisodeFigures:
    """The notebook's metrics of episodes; rewards are the fleet's."""

    reward_mean: float
    reward_max: float
    reward_min: float
    len_mean: float
    """Steps."""


class Episode(Message):
    """The part of an episode of the fleet that was used for training."""

    reward: Finite = 0.0
    steps: Count = 0


class Episodes(Message):
    """A fleet's newest episodes, over batches and jobs; batches need not end with an episode."""

    finished: tuple[Episode, ...] = ()
    """Oldest first."""
    running: Episode = Episode()
    last_step: Count = 0
    """Number of the newest step in them."""

    def after(self, transitions: Sequence[Transition]) -> "Episodes":
        """With later transitions; an episode without its last step ends as the next begins."""
        finished, running, last_step = list(self.finished), self.running, self.last_step
        for transition in transitions:
            later = transition.step > last_step
            if running.steps and not (later and _number(transition.step) == _number(last_step)):
                finished.append(running)
                running = Episode()
            running = Episode(reward=running.reward + transition.reward, steps=running.steps + 1)
            last_step = transition.step
            if transition.done:
                finished.append(running)
                running = Episode()
        return Episodes(
            finished=tuple(finished[-KEPT_EPISODES:]), running=running, last_step=last_step
        )

    def figures(self) -> EpisodeFigures:
        """Metrics of the finished episodes; before the first has ended, of the running one."""
        episodes = self.finished or (self.running,)
        rewards = [episode.reward for episode in episodes]
        return EpisodeFigures(
            reward_mean=float(np.mean(rewards)),
            reward_max=max(rewards),
            reward_min=min(rewards),
            len_mean=float(np.mean([episode.steps for episode in episodes])),
        )


def usable(transitions: Sequence[Transition], parameters: FleetParameters) -> list[Transition]:
    """The transitions usable for training: not stale, no gap before, with the fleet's observation.

    Their actions are rescaled to the fleet's present `action_factor`.
    """
    size = len(parameters.observation_fields)
    return [
        _by(parameters.action_factor, transition)
        for transition in transitions
        if not transition.stale
        and transition.gap_steps == 0
        and len(transition.observation) == len(transition.next_observation) == size
    ]


def _by(factor: float, transition: Transition) -> Transition:
    scale = (transition.action_factor or factor) / factor
    if scale == 1:
        return transition
    behaviour = transition.behaviour
    return transition.model_copy(
        update={
            "action": scale * transition.action,
            "behaviour": behaviour and (scale * behaviour[0], scale * behaviour[1]),
            "action_factor": factor,
        }
    )


def runs_of(transitions: Sequence[Transition]) -> list[Run]:
    """Unbroken runs: each ends with an episode, or where the next transition does not follow."""
    runs = [list(transitions[:1])]
    for before, after in pairwise(transitions):
        if (
            before.done
            or after.step != before.step + 1
            or after.observation != before.next_observation
        ):
            runs.append([])
        runs[-1].append(after)
    return [run for run in runs if run]


def episodes_of(
    runs: Sequence[Run], module: ResidualModule, reward_scale: float
) -> list[SingleAgentEpisode]:
    """Each run as an RLlib episode; the value of its last observation bootstraps its return.

    PPO's ratio is that of the policy to the behaviour policy. For a sampled action, the behaviour
    distribution was recorded with it. The actions of a rule, or of a policy without exploration,
    were not sampled: their behaviour policy is taken to be `module` before the update, so their
    ratio starts at 1. An action with a positive advantage moves the mean towards it; one that
    equals the mean does not move it.
    """
    return [_episode(run, module, reward_scale) for run in runs]


def _number(step: int) -> int:
    """The number of the fleet's episode that a step is in."""
    return (step - 1) // EPISODE_STEPS


def _episode(run: Run, module: ResidualModule, reward_scale: float) -> SingleAgentEpisode:
    seen = [transition.observation for transition in run] + [run[-1].next_observation]
    observations = np.array(seen, dtype=np.float32)
    actions = np.array([[transition.action] for transition in run], dtype=np.float32)
    with torch.no_grad():
        outputs = module.forward_train({Columns.OBS: torch.from_numpy(observations[:-1])})
        inputs = outputs[Columns.ACTION_DIST_INPUTS]
        for at, transition in enumerate(run):
            if transition.behaviour is not None:
                mean, deviation = transition.behaviour
                inputs[at] = torch.tensor([mean, math.log(deviation)])
        behaviour = module.get_train_action_dist_cls().from_logits(inputs)
        logp = behaviour.logp(torch.from_numpy(actions))
    episode = SingleAgentEpisode(
        observations=list(observations),
        actions=list(actions),
        rewards=[transition.reward * reward_scale for transition in run],
        truncated=True,
        extra_model_outputs={
            Columns.ACTION_DIST_INPUTS: list(inputs.numpy()),
            Columns.ACTION_LOGP: list(logp.numpy()),
        },
        len_lookback_buffer=0,
    )
    return episode.to_numpy()
