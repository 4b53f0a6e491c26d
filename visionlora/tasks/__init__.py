"""Kinds of work: each says what its labels are, what is minimised and measured, and how results are told. ``classify`` is the usual one."""
