"""Several labels an image, each there or not: the only place that knows of them."""
