"""A class for every pixel: the only place that knows of it."""
