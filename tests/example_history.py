"""The history of a run in three stages, as `report.json` holds it, and what the stages reached."""


def make_epochs(stage, count, best):
    """Make a stage's epochs: they come closer and closer to the best accuracy."""
    return [
        {
            "stage": stage,
            "epoch": epoch,
            "of": count,
            "train_loss": 2 * (1 - best) + 0.4 / epoch,
            "train_accuracy": best + 0.06 - 0.2 / epoch,
            "validation_loss": None if stage == "last blocks" else 2.5 * (1 - best) + 0.3 / epoch,
            "validation_accuracy": best - 0.08 / epoch,
            "images_per_s": 437.5,
            "seconds": 68.6 * epoch,
        }
        for epoch in range(1, count + 1)
    ]


THREE_STAGES = [
    *make_epochs("head", 10, 0.845),
    *make_epochs("last blocks", 5, 0.862),
    *make_epochs("all layers", 4, 0.884),
]
ONE_EPOCH = THREE_STAGES[:1]


def make_share(accuracy, low, high, images):
    return {"accuracy": accuracy, "low": low, "high": high, "images": images}


STAGES = [
    {"name": "frozen head", "validation": make_share(0.845, 0.821, 0.866, 1000),
     "test": make_share(0.841, 0.817, 0.862, 1000), "seconds": 21.4, "chosen": False, "note": ""},
    {"name": "last 4 blocks", "validation": make_share(0.862, 0.839, 0.882, 1000), "test": None,
     "seconds": 80.2, "chosen": False, "note": "all layers are better by 22 of 1,000 images"},
    {"name": "all layers at 128 px", "validation": make_share(0.884, 0.863, 0.902, 1000),
     "test": make_share(0.879, 0.857, 0.898, 1000), "seconds": 540.0, "chosen": True, "note": ""},
]  # fmt: skip
