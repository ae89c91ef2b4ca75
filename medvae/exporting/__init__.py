"""A detector for other programs: its networks as ONNX or TorchScript, or all of it as a bundle of MONAI."""
