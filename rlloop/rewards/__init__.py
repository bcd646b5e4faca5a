"""Rewards: what scores a clip, and what refuses to."""
