"""What a run will take, before it is started: an abridged run, and what it has left out."""
