import sys
from collections.abc import Iterator

import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Compute on one thread: those of torch and BLAS stall when the machine is busy."""
    with threadpool_limits(1):
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(1)
        yield
