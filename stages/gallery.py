"""Stage gallery: a static page with the sheets of every layer of a run, to be opened from disk."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.cluster import Pool
from pipeline.plan import Plan
from pipeline.store import Store

from .progress import Progress

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
  body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #202020 }}
  img {{ max-width: 100%; height: auto }}
</style>
<h1>{title}</h1>
<p>{facts}</p>
{sections}
</html>
"""
SECTION = """<h2>{heading}</h2>
<p>{facts}</p>
{pictures}"""
PICTURE = '<p><a href="../figures/{file}"><img src="../figures/{file}" alt="{alt}" loading="lazy"></a></p>'


def gallery(plan: Plan, pool: Pool) -> Iterator[Progress]:
    """Write ``gallery/index.html`` over the layers that have sheets; always done again."""
    store = Store.open(plan.config.store)
    figures = plan.folder / "figures"
    sections = []
    yield Progress("gallery", 0, len(store.layers), "layers")
    for done, name in enumerate(store.layers, 1):
        attributes = store.layer_attributes(name)
        number = attributes["number"]
        files = _sheets(figures, f"layer{number or name}", store.fingerprint("deconvolve", name) or {})
        if files:
            sections.append(_section(name, number, attributes, files))
        yield Progress("gallery", done, len(store.layers), "layers")
    folder = plan.folder / "gallery"
    folder.mkdir(parents=True, exist_ok=True)
    root = store.attributes
    title = escape(f"{root['network']['name']} on {root['dataset']['name']}")
    page = PAGE.format(title=title, facts=f"{store.images:,} images", sections="\n".join(sections))
    (folder / "index.html").write_text(page, encoding="utf-8")


def _sheets(folder: Path, stem: str, fingerprint: dict[str, Any]) -> list[str]:
    """Give the files of a layer's sheets, the main one first, without those drawn by a rule that has changed since."""
    found = []
    for path in folder.glob(f"{stem}[.-]*png"):
        with Image.open(path) as picture:
            if picture.info.get("rule") == fingerprint.get("deconvolve.rule"):
                found.append(path.name)
    return sorted(found, key=lambda name: (len(name), name))


def _section(name: str, number: int | None, attributes: dict, files: list[str]) -> str:
    heading = f"Layer {number}: {name}" if number else f"Layer {name}"
    field = attributes["receptive_field"]
    facts = f"Receptive field {field['size']} pixels, stride {field['stride']}; tapped after {attributes['tap']}."
    pictures = [
        PICTURE.format(file=escape(file, quote=True), alt=escape(f"{heading}, {file}", quote=True)) for file in files
    ]
    return SECTION.format(heading=escape(heading), facts=escape(facts), pictures="\n".join(pictures))
