"""How many threads torch takes in a process that learns."""

import torch

TORCH_THREADS = 1
"""Nets this small are not faster with more, and the services need the other core."""


def use_one_thread() -> None:
    """Before the first net is trained in this process."""
    torch.set_num_threads(TORCH_THREADS)
