from collections.abc import Iterator

import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(autouse=True)
def one_blas_thread() -> Iterator[None]:
    """Leave the threads to our own code, as `learning` does; those of BLAS stall when the machine is busy."""
    with threadpool_limits(1):
        yield
