"""Use of a trained encoder: encoding files, export to ONNX, whitening."""
