"""What a person sees: the plan, the live terminal, TensorBoard, the summary. Views read snapshots, decide nothing."""
