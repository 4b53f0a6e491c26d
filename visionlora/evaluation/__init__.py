"""How good a finished run is, where it fails, and how it compares."""
