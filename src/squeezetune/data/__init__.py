"""From photos to pixels: sources, index, split, decoding."""
