"""What is done with a trained encoder: encode files, export to ONNX, whiten."""
