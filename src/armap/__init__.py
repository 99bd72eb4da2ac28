"""Learns a reward model for an agent's environment from the agent's own trajectories, and plans with it."""

from importlib.metadata import version

__version__ = version("armap")
