"""What a run takes of the computer: threads, disk, memory, signals, network."""
