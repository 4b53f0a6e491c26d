"""The run folder: its checkpoints, its lock."""
