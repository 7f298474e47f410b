"""Print the README's n-th shell block, so that what is tested is what a new user copies."""

import re
import sys
from pathlib import Path

blocks = re.findall(
    r"^```sh\n(.*?)^```", Path("README.md").read_text(), flags=re.MULTILINE | re.DOTALL
)
print(blocks[int(sys.argv[1]) - 1])
