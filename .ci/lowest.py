"""Print every requirement of pyproject.toml, with all extras, at its lower bound: the oldest that
may be installed.

The extras `deep` and `timm` are left out: of torch only one version is a CPU build here.
"""

import re
import tomllib
from pathlib import Path

LEFT_OUT = ("deep", "timm")

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
extras = {
    name: items for name, items in project["optional-dependencies"].items() if name not in LEFT_OUT
}
bounds: dict[str, str] = {}
for item in [*project["dependencies"], *(item for items in extras.values() for item in items)]:
    if item.startswith(
        f"{project['name']}["
    ):  # one extra that takes in others, which are here already
        continue
    bound = re.fullmatch(r"([\w.-]+)>=([\w.]+)(?:;.*)?", item)  # also what only some systems need
    if not bound:
        raise SystemExit(f"{item!r} has no plain lower bound, as in 'name>=1.2'")
    if bounds.setdefault(bound[1].lower(), bound[2]) != bound[2]:
        raise SystemExit(
            f"{bound[1]} has two lower bounds: {bounds[bound[1].lower()]} and {bound[2]}"
        )
print(*(f"{name}=={version}" for name, version in bounds.items()), sep="\n")
