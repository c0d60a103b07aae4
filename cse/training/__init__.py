"""The training loop: settings, the trainer, the learner, gradient caching, checkpoints and callbacks."""
