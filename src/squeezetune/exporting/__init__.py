"""A trained classifier in the formats of other runtimes, each measured by its own runtime."""
