"""Kinds of work. Classification so far: its metrics, the baseline, the probe."""
