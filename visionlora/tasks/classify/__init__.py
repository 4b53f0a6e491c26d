"""One class an image: the only place that knows of classes, cross-entropy and top-1 accuracy."""
