"""The model that the pages run: the recorded GPT as a script, written anew when its weights or the format change."""

from __future__ import annotations

from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config

RUN = "train_cpu_seed0"
NAME = "shakespeare"


def write(root: Path) -> Path:
    """Write the script beside `live.js`, unless one lies there that is younger than what it is made of."""
    script = root / "_static" / f"model-{NAME}.js"
    sources = [root / "runs" / RUN / "model.safetensors", root / "arbook" / "live.py"]
    if script.exists() and script.stat().st_mtime >= max(s.stat().st_mtime for s in sources):
        return script
    from arbook.checkpoints import recorded_model  # torch takes seconds
    from arbook.live import export

    return export(*recorded_model(RUN), script, name=NAME)


def on_config(app: Sphinx, config: Config) -> None:
    write(Path(app.confdir))


def setup(app: Sphinx) -> dict:
    app.connect("config-inited", on_config)
    return {"version": "0.1", "parallel_read_safe": True, "parallel_write_safe": True}
