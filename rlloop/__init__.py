"""Online reward post-training of text-to-music models: the method. Knows torch, not Ray."""
