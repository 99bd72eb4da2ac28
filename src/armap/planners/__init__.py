"""Planners: each decides which trajectory to return."""
