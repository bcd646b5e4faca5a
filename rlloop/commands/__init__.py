"""The `rlloop` command: one file a verb."""
