"""Images that show the same picture, found among all pairs."""
