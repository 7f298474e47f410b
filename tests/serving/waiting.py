"""Waiting for what another thread or process does."""

import time


def wait_until(is_so):
    for _ in range(2000):
        if is_so():
            return
        time.sleep(0.01)
    raise AssertionError("it never happened")
