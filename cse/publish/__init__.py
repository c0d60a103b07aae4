"""Publishing a checkpoint: it is staged in a folder, described by a model card, verified, and uploaded to the Hub."""
