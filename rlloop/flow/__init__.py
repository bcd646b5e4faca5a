"""The flow-matching mathematics: path, solvers, guidance."""
