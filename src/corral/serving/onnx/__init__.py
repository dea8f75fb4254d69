"""A bundle's models as ONNX files: written, checked against torch, and run by ONNX Runtime."""
