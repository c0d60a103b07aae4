"""Second opinions on a batch's texts: frozen encoders, and encoders that follow the one in training."""
