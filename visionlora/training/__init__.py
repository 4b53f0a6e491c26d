"""One run, from the checked config to a finished run folder."""
