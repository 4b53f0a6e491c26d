"""What every part uses: errors in one sentence, processes and their ends."""
