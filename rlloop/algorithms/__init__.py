"""Algorithms: what to select and which loss. One small file each; everything else is shared."""
