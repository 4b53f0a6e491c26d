"""Boxes around objects: the only place that knows of them."""
