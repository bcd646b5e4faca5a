"""Rooms put together: what a command, an actor or a training run does."""
