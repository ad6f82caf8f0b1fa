"""Checkpoints as objects and tasks: load, sample, evaluate, export."""
