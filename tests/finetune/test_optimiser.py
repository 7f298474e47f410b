from concurrent.futures import ThreadPoolExecutor

import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")
from squeezetune.finetune.optimiser import Group, Optimiser, orthogonalise  # noqa: E402

KERNELS = Group(("kernel",), 0.01, 0.0, is_kernel=True)
OTHERS = Group(("weight", "bias"), 0.003, 0.1, is_kernel=False)
SHAPES = {"kernel": (32, 8, 3, 3), "weight": (5, 20), "bias": (5,)}


@pytest.fixture(scope="module")
def pool():
    with ThreadPoolExecutor(2) as pool:
        yield pool


def draw(seed):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def make(pool, groups=(KERNELS, OTHERS), momentum=0.95):
    parameters = draw(0)
    return parameters, Optimiser(parameters, groups, momentum, pool)


# ---- Muon


@pytest.mark.parametrize("shape", [(16, 64), (64, 144), (144, 64), (48, 1000), (1, 9)])
def test_singular_values_come_near_to_one_and_singular_vectors_stay(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    found = left.T @ orthogonalise(matrix) @ right.T
    values = found.diagonal()
    assert 0.6 < values.min() <= values.max() < 1.3
    assert (found - torch.diag(values)).abs().max() < 1e-3


def test_scale_does_not_matter():
    matrix = torch.randn((16, 64), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        orthogonalise(1e-4 * matrix), orthogonalise(1e4 * matrix), rtol=1e-3, atol=1e-5
    )
    assert not orthogonalise(torch.zeros(4, 9)).any()


def test_bfloat16_is_near_to_float32():
    matrix = torch.randn((64, 144), generator=torch.Generator().manual_seed(0))
    rounded, exact = orthogonalise(matrix.bfloat16()).float(), orthogonalise(matrix)
    assert (rounded - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_a_step_changes_a_kernel_by_its_rate_times_its_norm(pool, share):
    parameters, optimiser = make(pool)
    for seed in (1, 2, 3):
        before = parameters["kernel"].clone()
        optimiser.step(draw(seed), share, torch.float32)
        change = (parameters["kernel"] - before).norm() / before.norm()
        assert float(change) == pytest.approx(share * KERNELS.rate, rel=1e-4)


def test_a_kernel_goes_against_its_gradient(pool):
    parameters, optimiser = make(pool)
    before, gradients = parameters["kernel"].clone(), draw(1)
    optimiser.step(gradients, 1.0, torch.float32)
    assert ((parameters["kernel"] - before) * gradients["kernel"]).sum() < 0


def test_momentum_remembers_earlier_gradients(pool):
    changes = []
    for momentum in (0.0, 0.9):
        parameters, optimiser = make(pool, momentum=momentum)
        optimiser.step(draw(1), 1.0, torch.float32)
        before = parameters["kernel"].clone()
        optimiser.step(draw(2), 1.0, torch.float32)
        changes.append(parameters["kernel"] - before)
    alone, remembering = (
        torch.nn.functional.cosine_similarity(change.ravel(), changes[0].ravel(), 0)
        for change in changes
    )
    assert alone > 0.999 > 0.9 > remembering


def test_weight_decay_shrinks_a_kernel(pool):
    parameters, optimiser = make(pool, (Group(("kernel",), 0.01, 5.0, is_kernel=True), OTHERS))
    before = parameters["kernel"].norm()
    zero = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    optimiser.step(zero, 1.0, torch.float32)
    assert float(parameters["kernel"].norm() / before) == pytest.approx(1 - 0.01 * 5.0, rel=1e-5)


# ---- AdamW


def test_everything_else_is_stepped_as_torch_does_it(pool):
    parameters, optimiser = make(pool)
    twins = {name: parameters[name].clone().requires_grad_() for name in OTHERS.names}
    slow = torch.optim.AdamW(
        twins.values(), lr=OTHERS.rate, betas=(0.9, 0.99), weight_decay=OTHERS.weight_decay
    )
    for seed in range(1, 9):
        gradients, share = draw(seed), 1 / seed
        optimiser.step(gradients, share, torch.float32)
        slow.param_groups[0]["lr"] = share * OTHERS.rate
        for name, twin in twins.items():
            twin.grad = gradients[name]
        slow.step()
        for name, twin in twins.items():
            torch.testing.assert_close(parameters[name], twin.detach(), rtol=1e-5, atol=1e-6)


# ---- its state


def test_it_goes_on_from_its_state_as_if_it_had_never_stopped(pool):
    parameters, optimiser = make(pool)
    kept = {}
    for seed in range(1, 7):
        if seed == 4:
            kept = {
                name: value.clone() for name, value in {**parameters, **optimiser.state}.items()
            }
        optimiser.step(draw(seed), 0.5, torch.float32)
    again = {name: kept[name] for name in SHAPES}
    resumed = Optimiser(again, (KERNELS, OTHERS), 0.95, pool)
    for name, value in resumed.state.items():
        value.copy_(kept[name])
    resumed.steps = 3
    for seed in range(4, 7):
        resumed.step(draw(seed), 0.5, torch.float32)
    assert resumed.state.keys() == {f"{name}.momentum" for name in SHAPES} | {
        "weight.square",
        "bias.square",
    }
    for name, value in {**parameters, **optimiser.state}.items():
        assert torch.equal({**again, **resumed.state}[name], value), name


def test_an_error_in_a_thread_is_raised(pool):
    _, optimiser = make(pool)
    gradients = draw(1) | {"kernel": torch.zeros(7)}
    with pytest.raises(RuntimeError):
        optimiser.step(gradients, 1.0, torch.float32)
