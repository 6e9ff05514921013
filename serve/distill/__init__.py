"""Trains the reference checkpoints that the local profile serves."""
