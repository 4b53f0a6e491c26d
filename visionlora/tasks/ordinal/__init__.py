"""Classes that have an order, such as grades: the only place that knows of ranks."""
