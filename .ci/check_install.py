"""Check what a plain installation has brought: no torch, no GPU package, and at most 430 MB."""

import json
import subprocess
import sys
from pathlib import Path

LIMIT_MB = 430
FORBIDDEN = ("torch", "nvidia", "cuda", "triton", "tensorflow", "jax", "onnxruntime-gpu")

venv = Path(sys.argv[1])
listing = subprocess.run(
    [venv / "bin/python", "-m", "pip", "list", "--format=json"], check=True, capture_output=True
)
names = sorted(item["name"].lower() for item in json.loads(listing.stdout))
found = [name for name in names if any(word in name for word in FORBIDDEN)]
# as `du` counts: blocks on disk
size_mb = sum(path.lstat().st_blocks * 512 for path in venv.rglob("*")) / 2**20
print(f"{len(names)} packages, {size_mb:.0f} MB: {', '.join(names)}")
if found:
    sys.exit(
        f"found {', '.join(found)}: the plain installation must bring no torch and no GPU package"
    )
if size_mb > LIMIT_MB:
    sys.exit(f"the plain installation takes {size_mb:.0f} MB; the limit is {LIMIT_MB} MB")
