"""Arrows point one way: scripts -> eiup.webui -> the core, which runs without the webui."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HOST_MODULES = {"modules", "gradio", "k_diffusion", "ldm", "sgm"}


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield ("." * node.level + (node.module or "")) or "."


def test_only_the_adapter_imports_the_webui():
    core = [p for p in (ROOT / "eiup").rglob("*.py") if "webui" not in p.parts[len(ROOT.parts) :]]
    assert len(core) > 5
    for path in core:
        names = set(imported(path))
        assert not {n.split(".")[0] for n in names} & HOST_MODULES, path
        assert not {n for n in names if n.startswith((".webui", "eiup.webui"))}, path


def test_the_core_imports_without_the_webui():
    names = sorted(p.stem for p in (ROOT / "eiup").glob("*.py") if p.stem != "__init__")
    code = "import sys\n" + "\n".join(f"import eiup.{name}" for name in names)
    code += "\nassert not any(n == 'modules' or n.startswith(('modules.', 'gradio')) for n in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
