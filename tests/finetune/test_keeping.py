import math
from dataclasses import replace

import pytest

from squeezetune.errors import CheckpointError
from squeezetune.system.checkpoint import CheckpointFolder, CheckpointWriter

torch = pytest.importorskip("torch", reason="torch is an extra")
from tiny_training import make_conditions, make_plan, make_task, run_training  # noqa: E402

from squeezetune.finetune import loop as finetune  # noqa: E402
from squeezetune.finetune.state import Snapshot, SnapshotWriter, State, load_kept  # noqa: E402  # noqa: E402

IDENTITY = {"photos": "bees", "settings": {"seed": 0}}
PLAN = make_plan(3.0)


@pytest.fixture
def folder(tmp_path):
    return CheckpointFolder(tmp_path / ".model.unfinished")


def make_kept(step=7):
    """Make a small state whose tensors are of all shapes, and whose history has what JSON has
    not.
    """
    generator = torch.Generator().manual_seed(step)
    tensors = {
        "kernel": torch.randn(4, 3, 2, 2, generator=generator),
        "bias.average": torch.randn(4, generator=generator),
    }
    state = State(
        tensors, step=step, progress=0.1 + 0.2, epoch=1, epoch_step=3, loss=1 / 3, seconds=2.5
    )
    return Snapshot(state, replace(state.copy(), step=step - 3, loss=math.nan))


def keep(folder, kept, identity=IDENTITY, precision=torch.float32):
    with CheckpointWriter(folder) as writer:
        SnapshotWriter(writer, identity, PLAN, precision).keep(kept)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_what_is_kept_is_loaded(folder, precision):
    kept = make_kept()
    keep(folder, kept, precision=precision)
    found, plan, found_precision = load_kept(folder, IDENTITY)
    assert plan == PLAN
    assert found_precision is precision
    for own, other in ((found.state, kept.state), (found.safe, kept.safe)):
        assert own.tensors.keys() == other.tensors.keys()
        assert all(torch.equal(value, other.tensors[name]) for name, value in own.tensors.items())
        assert repr(replace(own, tensors={})) == repr(replace(other, tensors={}))
    assert not torch.equal(
        found.state.tensors["kernel"].add_(1), found.safe.tensors["kernel"]
    )  # memory of their own


def test_training_may_change_what_it_gave_at_once(folder):
    kept = make_kept()
    expected = kept.state.tensors["kernel"].clone()
    with CheckpointWriter(folder) as writer:
        SnapshotWriter(writer, IDENTITY, PLAN, torch.float32).keep(kept)
        kept.state.tensors["kernel"].zero_()
    assert torch.equal(load_kept(folder, IDENTITY)[0].state.tensors["kernel"], expected)


def test_nothing_is_nothing(folder):
    assert load_kept(folder, IDENTITY) is None


def test_another_run_does_not_go_on_from_it(folder):
    keep(folder, make_kept())
    with pytest.raises(
        CheckpointError, match=r"settings\.seed is 1, the unfinished run had 0"
    ) as caught:
        load_kept(folder, {"photos": "bees", "settings": {"seed": 1}})
    assert "--resume" in caught.value.hint


@pytest.fixture(scope="module")
def whole():
    """Train without a stop."""
    return run_training(make_task(32, 8), PLAN)


@pytest.mark.parametrize("steps", [1, 2, 5])  # two steps are an epoch
def test_a_run_goes_on_from_the_disk_to_the_same_end(folder, whole, steps, monkeypatch):
    monkeypatch.setattr(finetune, "KEPT_EVERY_S", -math.inf)
    left = iter(range(steps, -1, -1))
    conditions = make_conditions(is_stopping=lambda: not next(left))
    with CheckpointWriter(folder) as writer:
        keeper = SnapshotWriter(writer, IDENTITY, PLAN, torch.float32)
        stopped = run_training(make_task(32, 8), PLAN, conditions, keep=keeper.keep)
    assert not stopped.is_finished
    kept, _, _ = load_kept(folder, IDENTITY)
    assert kept.state.step == steps
    with CheckpointWriter(folder) as writer:
        keeper = SnapshotWriter(writer, IDENTITY, PLAN, torch.float32)
        resumed = run_training(make_task(32, 8), PLAN, kept=kept, keep=keeper.keep)
    assert resumed.is_finished
    for name, value in whole.parameters.items():
        assert resumed.parameters[name].tobytes() == value.tobytes(), name
    assert resumed.logits.tobytes() == whole.logits.tobytes()
