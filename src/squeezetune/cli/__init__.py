"""The command line: thin doors to the public functions."""
