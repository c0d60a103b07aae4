"""From a run's checkpoint to a model that anyone loads: staged, given its card, verified, uploaded."""
