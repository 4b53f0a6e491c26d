"""How good a finished run is, where it fails, how it compares, and what it looks at."""
