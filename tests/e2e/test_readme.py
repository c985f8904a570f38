"""What the README has for copying works as it stands."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image

from tests.e2e.support import changed, erasing, scene

ROOT = Path(__file__).parents[2]
ADDRESS = "http://127.0.0.1:7860"


def test_the_script_that_draws_heat_maps_over_an_image(webui, tmp_path):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert ADDRESS in script
    made = webui.txt2img(**scene(**erasing("star", mode="constant", maps=True)))
    # The README says where to run it: where the folder eiup lies.
    shutil.copytree(ROOT / "eiup", tmp_path / "eiup")
    (tmp_path / "wizard.png").write_bytes(made.pngs[0])
    subprocess.run(
        [sys.executable, "-c", script.replace(ADDRESS, webui.base_url)], cwd=tmp_path, check=True, timeout=120
    )
    drawn = Image.open(tmp_path / "where.png")
    assert drawn.width >= made.images[0].width
    assert drawn.height > made.images[0].height
    assert changed(drawn.crop((0, 0, *made.images[0].size)), made.images[0])
