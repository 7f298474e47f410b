"""Data sets by name: fetched, read in their own formats, packed into one file."""
