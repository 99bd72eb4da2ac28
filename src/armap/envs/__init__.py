"""Environments: each obeys actions."""
