"""What makes training faster or leaner and changes no figure: folding, checkpointing, int8, attention, the frozen prefix."""
