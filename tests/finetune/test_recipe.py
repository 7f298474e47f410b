import pytest

from squeezetune.finetune.recipe import FROM_IMAGES, Phase, Recipe, StagePlan, choose_recipe

PHASES = (Phase(64, 1), Phase(96, 1), Phase(128, 2))


def make_plan(phases=PHASES):
    return StagePlan("all layers", FROM_IMAGES, phases, 4.0, Recipe())


@pytest.mark.parametrize(
    ("progress", "side"),
    [
        (0.0, 64),
        (0.2499, 64),
        (0.25, 96),
        (0.4999, 96),
        (0.5, 128),
        (0.99, 128),
        (1.0, 128),
        (1.1, 128),
    ],
)
def test_sizes_follow_each_other_by_their_shares(progress, side):
    assert make_plan().find_side(progress) == side


def test_the_network_is_made_for_the_last_size():
    assert make_plan().side == 128
    assert make_plan((Phase(224, 0.5), Phase(160, 0.5))).side == 160


@pytest.mark.parametrize("progress", [0.0, 0.1, 0.25, 0.3, 0.5, 0.77, 0.999])
def test_what_is_left_sums_to_the_rest(progress):
    rest = make_plan().list_rest(progress)
    assert sum(phase.share for phase in rest) == pytest.approx(1 - progress)
    assert all(phase.share > 0 for phase in rest)
    assert rest[0].side == make_plan().find_side(progress)
    assert [phase.side for phase in rest] == [64, 96, 128][-len(rest) :]


def test_nothing_is_left_at_the_end():
    assert make_plan().list_rest(1.0) == []


@pytest.mark.parametrize(
    ("images", "batch"), [(1, 8), (100, 8), (320, 20), (2048, 128), (50_000, 128)]
)
def test_batches_leave_enough_steps_an_epoch(images, batch):
    assert choose_recipe(images, 8.0).batch == batch


@pytest.mark.parametrize(
    ("images", "epochs", "mixing"),
    [
        (1000, 60.0, 0.0),
        (30_000, 10.0, 0.0),
        (30_000, 20.0, 0.25),
        (30_000, 40.0, 0.5),
        (1_000_000, 9.0, 0.5),
    ],
)
def test_images_are_mixed_where_a_run_is_long(images, epochs, mixing):
    assert choose_recipe(images, epochs).mixing == mixing


@pytest.mark.parametrize(
    ("images", "share"), [(400, 0.4), (10_000, 0.4), (10_001, 0.2), (30_000, 0.2)]
)
def test_few_images_are_shown_in_more_kinds_of_light(images, share):
    augmentation = choose_recipe(images, 8.0).augmentation
    assert augmentation.light == augmentation.colour == share
    assert (augmentation.zoom, augmentation.mirror) == (0.85, True)
