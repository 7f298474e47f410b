"""A trained network's parameters in few bits, so that its answers change least."""
