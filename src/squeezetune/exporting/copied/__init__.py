"""Programs that are written beside exports, for people to copy."""
