"""The method on Ray: gate, pools, pump, buffer, policy store, trainer, evaluator."""
