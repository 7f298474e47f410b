"""What a training leaves, and what it is used for: predictions and explanations."""
