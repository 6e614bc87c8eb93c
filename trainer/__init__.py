"""Floor 5: the job file, the training loop, checkpoints, stages and the `headrace` command."""
