"""A finished run handed on: plain weights, ONNX, ``torch.export``, with its preprocessing, its classes and a card."""
