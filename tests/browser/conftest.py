"""A small gallery of all five layers, with hostile names and a dead filter, and a browser to look at it."""

from __future__ import annotations

import io
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
from PIL import Image, ImageOps

from tests.conftest import REPOSITORY, encode, plan_run, run_stages, write_tar
from topnine.pipeline.plan import Plan
from topnine.pipeline.ranking.statistics import STRONGEST_IMAGES
from topnine.pipeline.store.store import Store

DEAD = 3  # a filter of conv5
CLASSES = (
    "</script><script>window.hacked = 'class'</script>",
    "<img src=x onerror=\"window.hacked = 'class'\">",
    "\"quotes\" & 'apostrophes' &amp; `ticks`",
    "שלום عالم",
    "tench",
    "very long " * 30,
)
KEYS = (
    "<img src=x onerror=window.hacked='key'>",
    "line\u2028separator\u2029s",
    "\u202eright to left override",
    "مرحبا بالعالم",
    "'\" onmouseover=\"window.hacked='key'",
    "k" * 300,
    "not utf-8 \udcff\udcfe",
    "__proto__",
    "javascript:window.hacked='key'",
)
ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


@dataclass
class Site:
    """A gallery on disk, the plan it was made by, and its store."""

    plan: Plan
    folder: Path
    store: Store

    def url(self, link: str = "#/") -> str:
        return f"{(self.folder / 'index.html').as_uri()}{link}"


@dataclass
class Seen:
    """What a page asked for and complained of."""

    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


def mirror(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as picture:
        return encode(np.asarray(ImageOps.mirror(picture.convert("RGB"))))


@pytest.fixture(scope="session")
def site(tmp_path_factory, some_photos) -> Site:
    folder = tmp_path_factory.mktemp("gallery")
    members = []
    photos = [*some_photos, *((f"mirrored-{name}", mirror(data)) for name, data in some_photos)]
    assert len(photos) > STRONGEST_IMAGES  # so that the classes of a filter's strongest say something
    for i, (name, data) in enumerate(photos):
        key = KEYS[i] if i < len(KEYS) else name.removesuffix(".png")
        members += [(f"{key}.png", data), (f"{key}.cls", str(i % len(CLASSES)).encode())]
    data = write_tar(folder / "data" / "a.tar", members)
    (folder / "classes.tsv").write_text("".join(f"{i}\tn{i}\t{name}\n" for i, name in enumerate(CLASSES)))
    weights = safetensors.torch.load_file(REPOSITORY / "pipeline/network/architectures/tiny_zfnet.safetensors")
    weights["conv5.bias"][DEAD] = -1e4
    safetensors.torch.save_file(weights, folder / "weights.safetensors")
    plan = plan_run(
        folder, mine__layers="all", data__path=data, data__classes=folder / "classes.tsv",
        network__weights=folder / "weights.safetensors",
    )  # fmt: skip
    run_stages(plan, "index", "mine", "rank", "statistics", "deconvolve", "gallery")
    return Site(plan, plan.folder / "gallery", Store.open(plan.config.store))


@pytest.fixture(scope="session")
def site_without_images(site) -> Site:
    """The same, with ``gallery.thumbnails = false``."""
    store = Path(site.plan.config.store)
    other = store.parent / "other"
    other.mkdir()
    (other / "run.zarr").symlink_to(store)
    config = site.plan.config
    plan = plan_run(
        other, mine__layers="all", data__path=config.data.path, data__classes=config.data.classes,
        network__weights=config.network.weights, gallery__thumbnails=False,
    )  # fmt: skip
    run_stages(plan, "gallery")
    return Site(plan, plan.folder / "gallery", site.store)


@pytest.fixture(scope="module")
def browser(site, site_without_images):
    """Chromium; the galleries are made before, as Playwright keeps an event loop in this thread."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        arguments = ARGUMENTS.split() if os.name == "posix" else []
        running = started.chromium.launch(executable_path=program, args=arguments)
        yield running
        running.close()


@pytest.fixture
def open_page(browser, site, site_without_images):
    """Open pages; at the end of the test none may have complained, or asked for anything outside its gallery."""
    contexts = []

    def open_(url: str, **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        page, seen = context.new_page(), Seen()
        page.on("request", lambda request: seen.requests.append(request.url))
        page.on("console", lambda message: seen.complaints.append(message.text))
        page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        page.on("dialog", lambda dialog: seen.complaints.append(dialog.message))
        contexts.append((context, page, seen))
        page.goto(url)
        page.wait_for_selector("h1")
        page.seen = seen
        return page

    yield open_
    inside = tuple(f"{each.folder.as_uri()}/" for each in (site, site_without_images))
    for context, page, seen in contexts:
        assert page.evaluate("window.hacked") is None
        assert seen.complaints == []
        assert [url for url in seen.requests if not url.startswith(inside)] == []
        context.close()


@pytest.fixture
def visit(open_page, site):
    """Open a link of the gallery."""
    return lambda link="#/", **options: open_page(site.url(link), **options)
