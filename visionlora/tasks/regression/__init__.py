"""Numbers in place of classes: the only place that knows of them."""
