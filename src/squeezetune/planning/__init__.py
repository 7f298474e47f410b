"""What a run does, how long it takes and how much memory it holds, before it starts."""
