"""Reward models: each scores finished trajectories."""
