"""The gallery in a browser, from disk: what it shows, every control, every link, and names that would be markup."""

import json
import re
from contextlib import contextmanager

import numpy as np
import pytest

from tests.browser.conftest import CLASSES, DEAD, KEYS

pytestmark = pytest.mark.slow

WALL = "#/layer/conv5"
FILTER = "#/layer/conv5/filter/7"
VIEWS = {
    "tour": "#/",
    "wall": WALL,
    "wall sorted": f"{WALL}?search=e&sort=entropy&show=projection",
    "wall without results": f"{WALL}?search=nothing+is+called+this",
    "filter": FILTER,
    "filter of layer 1": "#/layer/conv1/filter/0",
    "dead filter": f"{WALL}/filter/{DEAD}",
    "image": "#/image/0",
    "class": "#/class/4",
    "about": "#/about",
    "nowhere": "#/layer/conv9",
}
MODES = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": {"color_scheme": "light", "viewport": {"width": 360, "height": 740}},
}


def shown_filters(page):
    return [int(link.split("/")[-1]) for link in page.eval_on_selector_all(".wall a", "all => all.map(a => a.hash)")]


def state(page):
    """What a reader sees, and what the controls say."""
    return page.evaluate("""() => [document.title, document.querySelector("main").innerText,
        [...document.querySelectorAll("input, select")].map(each => [each.value, each.checked]),
        [...document.querySelectorAll("main a")].map(a => a.hash), location.hash]""")


def wait(page, condition, argument=None):
    """Wait until an expression is true: Playwright's own wait evaluates text in the page, which its policy forbids."""
    for _ in range(500):
        if page.evaluate(condition, argument):
            return
        page.wait_for_timeout(20)
    raise AssertionError(condition)


def settled(page, words="h1"):
    page.wait_for_selector(words)
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


# -- what is there ----------------------------------------------------------------------------------------------------


def test_the_tour_shows_every_layer_its_weights_and_a_grid_of_patches(visit, site):
    page = visit()
    assert page.locator("section.chapter").count() == 5
    assert page.locator(".weights a").count() == 64
    chosen = int(page.locator(".pixel-layer h3 a").evaluate("a => a.hash").split("/")[-1])
    active = int((site.store.layer("conv1").read_filter(chosen) > 0).sum())
    assert page.locator(".patch-grid .tile").count() == min(100, active) > 9
    for section in page.locator("section.chapter").all():
        assert 3 <= section.locator(".exhibit").count() <= 9
        assert section.locator(".exhibit").first.locator("[role=img]").count() == 2
        assert len(section.locator(".lead").inner_text()) > 40
    assert len(set(page.locator(".lead").all_inner_texts())) == 6


def test_pictures_of_the_tour_are_read_when_they_come_near(visit):
    page = visit()
    wait(page, "document.querySelector('.first .tile').dataset.shown === ''")
    settled(page)
    before = list(page.seen.requests)
    with page.expect_request(lambda request: "conv3/filter-" in request.url):
        page.locator("section.chapter").nth(2).scroll_into_view_if_needed()
    assert not any("conv3" in url for url in before)
    assert any("conv5/filter-" in url for url in before)
    assert not any(url.endswith("conv5.js") for url in page.seen.requests)


def test_a_layers_data_is_read_once_and_only_when_it_is_opened(visit):
    page = visit()
    page.get_by_role("navigation", name="Layers").get_by_role("link", name="4").click()
    settled(page, ".wall")
    page.evaluate("location.hash = '#/layer/conv4/filter/3'")
    settled(page, ".hits")
    scripts = [url.split("/")[-1] for url in page.seen.requests if "/layers/" in url and url.endswith(".js")]
    assert sorted(scripts) == ["009-conv4.js", "run.js"]


def test_a_filters_page_shows_what_the_store_has(visit, site):
    page = visit(FILTER)
    ranking = site.store.layer("conv5").read_ranking(slice(7, 8))
    (keys,) = site.store.images.columns(["key"], ranking.image[0])
    assert page.locator(".hits li").count() == 9
    assert page.locator(".hits img").evaluate_all("all => all.map(img => img.getAttribute('src'))") == [
        f"images/{image}.webp" for image in ranking.image[0]
    ]
    first = page.locator(".hits li").first
    assert f"{ranking.activation[0, 0]:.3g}" in first.inner_text()
    box = site.store.layer("conv5").read("box", slice(7, 8))[0]
    frames = page.locator(".hits rect.over").evaluate_all(
        "all => all.map(r => ['y', 'x', 'height', 'width'].map(name => Number(r.getAttribute(name))))"
    )
    assert frames == [[top, left, bottom - top, right - left] for top, left, bottom, right in box.tolist()]
    page.locator(".block").first.locator("summary").click()
    assert page.locator(".block").first.locator("tbody tr").count() == 9
    titles = page.locator(".hits .clip.faint").evaluate_all("all => all.map(each => each.title)")
    assert titles == keys.tolist()
    entropy = site.store.layer("conv5").read("class_entropy")[7]
    assert f"{entropy:.3g} bits" in page.locator(".facts").inner_text()


def test_a_filters_statistics_are_those_of_the_store(visit, site):
    page = visit(FILTER)
    histogram = site.store.layer("conv5").read("histogram")[7]
    assert page.locator(".histogram rect").count() == 50
    heights = page.locator(".histogram rect").evaluate_all("all => all.map(r => Number(r.getAttribute('height')) > 0)")
    assert heights == (histogram > 0).tolist()
    assert f"over {histogram.sum()} images" in page.locator(".histogram").get_attribute("aria-label")
    page.locator("details", has_text="Images by activation").locator("summary").click()
    cells = page.get_by_role("table", name="Images by activation").locator("tbody td.number").all_inner_texts()
    assert [int(cell.replace(",", "")) for cell in cells] == histogram.tolist()
    counts = site.store.layer("conv5").read("top_class_count")[7]
    cells = page.get_by_role("table", name=re.compile("Most frequent")).locator("td.number").all_inner_texts()
    lifts = site.store.layer("conv5").read("top_class_lift")[7]
    shown = [f"{float(f'{lift:.3g}'):g} ×" for lift in lifts[counts > 1]]
    assert [int(cell) for cell in cells[::2]] == counts[counts > 1].tolist()
    assert cells[1::2] == shown
    links = page.locator(".together a").evaluate_all("all => all.map(a => a.hash)")
    assert links == [f"{WALL}/filter/{other}" for other in site.store.layer("conv5").read("coactive")[7]]


def test_thumbnails_show_the_image_that_is_named(visit, site):
    """The picture's pixels against the image decoded again."""
    from PIL import Image

    from topnine.stages.work import read_records

    image = int(site.store.layer("conv5").read_ranking().image[7, 0])
    with site.plan.images.open() as reader:
        (pixels,) = reader.read_pixels(read_records(site.store, np.array([image])), threads=1)
    with Image.open(site.folder / "images" / f"{image}.webp") as thumbnail:
        difference = np.abs(np.asarray(thumbnail.convert("RGB")).astype(int) - pixels)
    assert difference.mean() < 8
    page = visit(FILTER)
    page.locator(".hits img").first.scroll_into_view_if_needed()
    wait(page, "document.querySelector('.hits img').naturalWidth === 96")


def test_a_tile_is_the_patch_of_its_filter(visit, site):
    """A screenshot of a wall's tile against the patch in the store."""
    import io

    from PIL import Image

    page = visit("#/layer/conv2?show=patch")
    tile = page.locator(".wall a", has_text="Filter 70").locator(".tile")
    tile.scroll_into_view_if_needed()
    wait(page, "document.querySelectorAll('.wall .tile')[70].dataset.shown === ''")
    page.wait_for_timeout(300)
    seen = np.asarray(Image.open(io.BytesIO(tile.screenshot())).convert("RGB")).astype(int)
    patch = site.store.layer("conv2").read("patch", slice(70, 71))[0, 0]
    zoom, rest = divmod(tile.bounding_box()["width"], 27)
    assert (zoom, rest) == (4, 0)  # enlarged by a whole number
    middle = (np.arange(27) * zoom + zoom / 2).astype(int)
    assert np.abs(seen[np.ix_(middle, middle)] - patch).max() <= 1


def test_only_tiles_that_are_stored_without_loss_are_shown_pixel_by_pixel(visit):
    page = visit()
    chapters = page.locator("section.chapter")
    kinds = [
        set(
            chapters.nth(index)
            .locator(".tile")
            .evaluate_all("all => all.map(tile => getComputedStyle(tile).imageRendering)")
        )
        for index in range(5)
    ]
    assert kinds == [{"pixelated"}, {"pixelated"}, {"auto"}, {"auto"}, {"auto"}]  # 7, 27, 51, 67 and 83 pixels


def test_the_scripts_share_one_global_object(visit, site):
    page = visit()
    list_globals = "() => Object.getOwnPropertyNames(window)"
    names = set(page.evaluate(list_globals))
    page.goto((site.folder / "icon.svg").as_uri())  # a document without scripts
    assert names - set(page.evaluate(list_globals)) == {"topnine"}


# -- damaged galleries ------------------------------------------------------------------------------------------------


@contextmanager
def without(path):
    """Take a file away from the gallery for a while."""
    aside = path.with_suffix(".aside")
    path.rename(aside)
    yield
    aside.rename(path)


def test_a_layer_that_cannot_be_read_says_so_and_is_read_once_it_can(visit, site):
    with without(site.folder / "layers/009-conv4.js"):
        page = visit("#/layer/conv4")
        assert page.locator("h1").inner_text() == "This layer cannot be shown"
        assert "layers/009-conv4.js cannot be read." in page.locator("main").inner_text()
        assert all("ERR_FILE_NOT_FOUND" in complaint for complaint in page.seen.complaints)
        page.seen.complaints.clear()
    page.get_by_role("link", name="To the tour").click()
    settled(page, ".chapter")
    page.go_back()
    settled(page, ".wall")


def test_a_gallery_without_its_data_says_so(visit, site):
    with without(site.folder / "layers/run.js"):
        page = visit()
        assert page.locator("h1").inner_text() == "This gallery is incomplete"
        assert "layers/run.js cannot be read." in page.locator("main").inner_text()
        assert all("ERR_FILE_NOT_FOUND" in complaint for complaint in page.seen.complaints)
        page.seen.complaints.clear()


# -- controls ---------------------------------------------------------------------------------------------------------


def test_every_sort_orders_the_wall(visit, site):
    page = visit(WALL)
    values = {
        "activation": -site.store.layer("conv5").read("max_activation"),
        "active": -site.store.layer("conv5").read("active_fraction"),
        "entropy": site.store.layer("conv5").read("class_entropy"),
    }
    assert page.locator("#sort option").evaluate_all("all => all.map(each => each.value)") == ["number", *values]
    assert shown_filters(page) == list(range(128))
    for key, value in values.items():
        page.select_option("#sort", key)
        wait(page, f"location.hash.includes('sort={key}')")
        settled(page)
        rounded = np.array([float(f"{each:.5g}") for each in value])
        live = [f for f in range(128) if f != DEAD]
        assert shown_filters(page) == [*sorted(live, key=lambda f: (rounded[f], f)), DEAD], key
    page.select_option("#sort", "number")
    wait(page, "!location.hash.includes('sort')")
    assert shown_filters(page) == list(range(128))


def test_the_wall_shows_projections_or_patches(visit):
    page = visit(WALL)
    picture = "document.querySelector('.wall .tile').style.backgroundImage"
    wait(page, f"{picture}.includes('patches-0.webp')")
    page.get_by_role("radio", name="projection").check()
    wait(page, f"{picture}.includes('projections-0.webp')")
    assert page.evaluate("location.hash") == f"{WALL}?show=projection"
    page.get_by_role("radio", name="patch").check()
    wait(page, f"{picture}.includes('patches-0.webp')")
    assert page.evaluate("location.hash") == WALL


def test_search_finds_numbers_classes_and_images(visit, site):
    page = visit(WALL)
    ranking = site.store.layer("conv5").read_ranking().image
    (labels,) = site.store.images.columns(["label"])
    classes, counts = (site.store.layer("conv5").read(name) for name in ("top_class", "top_class_count"))
    named = [
        f
        for f in range(128)
        if 4 in classes[f][counts[f] > 1] or ((ranking[f] >= 0).any() and 4 in labels[ranking[f][ranking[f] >= 0]])
    ]
    image = int(ranking[7, 0])
    (keys,) = site.store.images.columns(["key"])
    searches = {
        "17": [17],
        "TENCH": named,
        "12": [12, *range(120, 128)],  # what begins with it
        "tench 12": [f for f in [12, *range(120, 128)] if f in named],  # both words
        "999": [],
        keys[image]: np.nonzero((ranking == image).any(axis=1))[0].tolist(),
    }
    for text, wanted in searches.items():
        page.get_by_role("searchbox").fill(text)
        wait(page, f"document.querySelectorAll('.wall li').length === {len(wanted)}")
        assert shown_filters(page) == wanted
        assert page.get_by_role("status").inner_text().startswith(f"{len(wanted)} of 128 filters")
        assert page.get_by_role("searchbox").evaluate("each => each === document.activeElement")
        assert (f"“{text}”" in page.get_by_role("status").inner_text()) == bool(text)
    page.get_by_role("link", name="Show all filters").click()
    wait(page, "document.querySelectorAll('.wall li').length === 128")
    assert page.get_by_role("status").get_attribute("aria-live") == "polite"


def test_the_search_stays_in_the_link_whatever_it_is(visit):
    page = visit(WALL)
    for text in ("a&b=c#d?e/f", "100%", "<b>", "שלום", "+ +"):
        page.get_by_role("searchbox").fill(text)
        wait(page, "location.hash.includes('search')")
        page.reload()
        settled(page, "#search")
        assert page.get_by_role("searchbox").input_value() == text


def test_the_keyboard_goes_from_filter_to_filter_and_up_to_the_wall(visit):
    page = visit(f"{WALL}?sort=activation&show=patch")
    order = shown_filters(page)
    following = order[order.index(7) + 1]
    assert following != 8
    page.evaluate(f"location.hash = '{FILTER}'")
    settled(page, ".facts")
    entries = page.evaluate("history.length")
    page.keyboard.press("ArrowRight")
    wait(page, f"location.hash.endsWith('/filter/{following}')")
    settled(page)
    wait(page, f"document.querySelector('h1').textContent === 'Filter {following}'")
    assert page.locator("h1").evaluate("each => each === document.activeElement")
    assert page.evaluate("history.length") == entries
    page.keyboard.press("ArrowLeft")
    wait(page, "location.hash.endsWith('/filter/7')")
    page.keyboard.press("Control+ArrowLeft")
    settled(page)
    assert page.locator("h1").inner_text() == "Filter 7"
    page.keyboard.press("Escape")
    wait(page, f"location.hash === '{WALL}?sort=activation&show=patch'")
    settled(page, ".wall")
    assert page.evaluate("document.activeElement.hash") == FILTER


def test_arrows_in_the_search_box_stay_there(visit):
    page = visit(WALL)
    page.get_by_role("searchbox").fill("tench")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Escape")
    settled(page)
    assert page.locator("h1").inner_text() == "Layer 5: all filters"


def test_the_first_and_last_filter_have_one_neighbour(visit):
    page = visit(f"{WALL}/filter/0")
    assert page.locator(".steps a").all_inner_texts() == ["Next →"]
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("location.hash") == f"{WALL}/filter/0"
    page.evaluate(f"location.hash = '{WALL}/filter/127'")
    settled(page)
    wait(page, "document.querySelector('h1').textContent === 'Filter 127'")
    assert page.locator(".steps a").all_inner_texts() == ["← Previous"]


def test_the_skip_link_leads_to_the_content(visit):
    page = visit(WALL)
    page.keyboard.press("Tab")
    skip = page.locator(".skip")
    assert skip.evaluate("each => each === document.activeElement")
    assert skip.bounding_box()["y"] >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    assert page.evaluate("location.hash") == WALL


def test_every_focusable_thing_shows_its_focus(visit):
    page = visit(FILTER)
    page.locator("h1").wait_for()
    expected = page.evaluate("""() => [...document.querySelectorAll(
        "a[href], button:not([tabindex='-1']), input, select, summary, .scroll"
    )].filter(each => each.checkVisibility()).length""")
    reached = 0
    while page.keyboard.press("Tab") or page.evaluate("document.activeElement !== document.body"):
        reached += 1
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", page.evaluate("document.activeElement.outerHTML")
    assert reached == expected > 40


def test_back_returns_to_the_place_on_the_tour(visit):
    page = visit()
    page.evaluate("window.scrollTo(0, 1500)")
    page.locator("section.chapter").nth(2).locator(".more a").evaluate("each => each.click()")
    settled(page, ".wall")
    assert page.evaluate("window.scrollY") == 0
    page.go_back()
    settled(page, ".chapter")
    assert page.evaluate("window.scrollY") == 1500


# -- links ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", VIEWS)
def test_a_link_reloads_to_the_same_view(visit, view):
    page = visit(VIEWS[view])
    settled(page)
    before = state(page)
    page.reload()
    settled(page)
    assert state(page) == before
    page.evaluate("location.hash = '#/layer/conv2'")
    wait(page, "document.querySelector('h1').textContent.startsWith('Layer 2')")
    page.evaluate(f"location.hash = {json.dumps(VIEWS[view])}")
    wait(page, "title => document.title === title", before[0])
    settled(page)
    assert state(page) == before


def test_every_link_of_every_view_leads_somewhere(visit):
    page = visit()
    links = set()
    for view in VIEWS.values():
        page.goto(page.url.split("#")[0] + view)
        settled(page)
        links |= set(page.eval_on_selector_all("a:not(.skip)", "all => all.map(a => a.getAttribute('href'))"))
    assert len(links) > 150
    for link in sorted(links)[::8]:
        page.evaluate(f"location.hash = {json.dumps(link)}")
        settled(page)
        wait(page, f"location.hash === {json.dumps(link)}")
        assert page.locator("h1").inner_text() != "Page not found", link


@pytest.mark.parametrize(
    "link",
    [
        "#/layer",
        "#/x",
        "#/image/99999",
        "#/class/99",
        "#/image/__proto__",
        f"{WALL}/filter/128",
        f"{WALL}/filter/-1",
        f"{WALL}/filter/x",
        "#/layer/%E0%A4%A",
    ],
)
def test_links_to_nothing_say_so(visit, link):
    page = visit(link)
    assert page.locator("h1").inner_text() == "Page not found"


def test_wrong_values_in_a_link_are_as_if_they_were_not_there(visit):
    page = visit(f"{WALL}?sort=__proto__&show=everything&other=1")
    assert shown_filters(page) == list(range(128))
    assert page.locator("#sort").input_value() == "number"
    assert page.get_by_role("radio", name="patch").is_checked()


# -- hits, images and classes -----------------------------------------------------------------------------------------


def test_a_hit_is_lit_in_all_its_places(visit):
    page = visit(FILTER)
    page.locator("button.hit[data-rank='2']").first.hover()
    assert page.locator("[data-rank='2'].lit").count() == page.locator("[data-rank='2']").count() == 3
    assert page.locator(".lit").count() == 3
    page.locator("button.hit[data-rank='4']").last.focus()
    assert page.locator("li[data-rank='4'].lit").count() == 1
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur()")
    assert page.locator(".lit").count() == 0


def test_a_hit_is_enlarged_and_the_arrows_lead_to_the_next(visit, site):
    from axe_playwright_python.sync_playwright import Axe

    page = visit(FILTER)
    ranking = site.store.layer("conv5").read_ranking(slice(7, 8))
    keys, _ = site.store.images.columns(("key", "label"), ranking.image[0])
    page.locator("button.hit[data-rank='1']").last.click()
    dialog = page.get_by_role("dialog")
    assert dialog.locator("h2").inner_text() == "Filter 7, hit 2 of 9"
    for rank in (1, 2):
        assert f"{ranking.activation[0, rank]:.3g}" in dialog.inner_text()
        assert keys[rank] in dialog.locator(".clip").evaluate_all("all => all.map(each => each.title)")
        page.keyboard.press("ArrowRight")
    assert dialog.locator("h2").inner_text() == "Filter 7, hit 4 of 9"
    assert Axe().run(page, options={"preload": False}).response["violations"] == []
    for _ in range(7):
        page.keyboard.press("ArrowRight")  # beyond the last
    assert dialog.locator("h2").inner_text() == "Filter 7, hit 9 of 9"
    page.keyboard.press("ArrowLeft")
    assert dialog.locator("h2").inner_text() == "Filter 7, hit 8 of 9"
    page.keyboard.press("Escape")
    wait(page, "document.querySelector('dialog') === null")
    assert page.evaluate("location.hash") == FILTER
    assert page.evaluate("document.activeElement.dataset.rank") == "1"


def test_an_image_has_a_page_with_every_filter_that_it_excites(visit, site):
    image = int(site.store.layer("conv5").read_ranking().image[7, 0])
    page = visit(FILTER)
    page.locator(".hits a").first.click()
    wait(page, f"location.hash === '#/image/{image}'")
    settled(page, ".subject")
    wanted = []
    for layer in site.store.layers:
        filters, _ = np.nonzero(site.store.layer(layer).read_ranking().image == image)
        wanted += [f"#/layer/{layer}/filter/{f}" for f in filters]
    links = page.locator(".together a")
    assert links.evaluate_all("all => all.map(a => a.hash)") == wanted
    links.last.hover()
    lit = page.locator(".whole g.lit rect.over")
    assert lit.count() == 1
    layer, number = wanted[-1].split("/")[2], int(wanted[-1].split("/")[-1])
    arrays = site.store.layer(layer)
    (rank,) = np.nonzero(arrays.read_ranking().image[number] == image)[0]
    top, left, bottom, right = arrays.read("footprint")[number, rank]
    assert lit.evaluate("r => ['y', 'x', 'height', 'width'].map(name => Number(r.getAttribute(name)))") == [
        top, left, bottom - top, right - left,
    ]  # fmt: skip


def test_a_class_has_a_page_with_the_filters_that_prefer_it(visit, site):
    page = visit("#/class/4")
    assert page.locator("h1").inner_text() == "tench"
    status, label = site.store.images.columns(("status", "label"))
    activation = site.store.layer("conv5").read_activation(slice(None)).astype(float)
    of_class = label == 4
    rest = activation[~of_class & (status == 1)].mean(axis=0)
    times = np.divide(activation[of_class].mean(axis=0), rest, out=np.zeros(128), where=rest > 0)
    items = page.locator(".block").filter(has=page.get_by_role("heading", name="Layer 5")).locator("li")
    shown = [int(link.split("/")[-1]) for link in items.locator("a").evaluate_all("all => all.map(a => a.hash)")]
    assert shown == np.argsort(-times, kind="stable")[:6].tolist()
    assert items.first.inner_text().endswith(f"{float(f'{times[shown[0]]:.3g}'):g} ×")
    assert f"{of_class.sum()} images of this class were mined." in page.locator("main").inner_text()
    page.locator(".shown a").first.click()
    settled(page, ".subject")
    assert page.get_by_role("link", name="tench").count() == 1


def test_a_filters_hits_are_saved_as_a_table(visit, site):
    import csv

    page = visit(FILTER)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save this table as CSV").click()
    page.seen.requests[:] = [url for url in page.seen.requests if not url.startswith("blob:")]
    assert download.value.suggested_filename == "layer-5-filter-7.csv"
    with open(download.value.path(), newline="", encoding="utf-8", errors="surrogatepass") as file:
        rows = list(csv.DictReader(file))
    ranking, box = (site.store.layer("conv5").read(name)[7] for name in ("top_activation", "box"))
    assert [float(row["activation"]) for row in rows] == [float(f"{each:.5g}") for each in ranking]
    assert [[int(row[name]) for name in ("top", "left", "bottom", "right")] for row in rows] == box.tolist()


def test_the_search_is_kept_from_layer_to_layer(visit):
    page = visit(f"{WALL}?search=tench")
    page.get_by_role("navigation", name="Layers").get_by_role("link", name="4").click()
    wait(page, "location.hash === '#/layer/conv4?search=tench'")
    settled(page, ".wall")
    assert page.get_by_role("searchbox").input_value() == "tench"


def test_keys_are_listed_and_do_what_they_say(visit):
    page = visit(WALL)
    page.keyboard.press("?")
    assert "Previous filter or hit" in page.get_by_role("dialog").inner_text()
    page.keyboard.press("Escape")
    wait(page, "document.querySelector('dialog') === null")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    assert page.get_by_role("searchbox").input_value() == ""
    page.get_by_role("searchbox").fill("12")
    wait(page, "document.querySelectorAll('.wall li').length === 9")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("r")
    wait(page, "/filter.(12|12[0-7])$/.test(location.hash)")


def test_the_page_about_the_run_names_its_data_and_settings(visit, site):
    page = visit("#/about")
    rows = page.get_by_role("table").locator("tbody tr").all_inner_texts()
    facts = dict(row.split("\t") for row in rows)
    assert facts["Weights"] == "weights.safetensors"  # and not whose folder it is in
    assert facts["Network"] == site.plan.config.network.name
    assert facts["Images"] == str(len(site.store.images))
    assert facts["Rule of the deconvnet"] == "deconvnet"
    assert any(name.startswith("Version of ") for name in facts)


# -- names ------------------------------------------------------------------------------------------------------------


def test_hostile_names_are_text(visit, site):
    page = visit()
    keys, labels = site.store.images.columns(("key", "label"))
    seen = set()
    ranking = site.store.layer("conv5").read_ranking().image
    for image in range(min(len(KEYS), len(site.store.images))):
        filters = np.nonzero((ranking == np.nonzero(keys == keys[image])[0][0]).any(axis=1))[0]
        if not len(filters):
            continue
        page.evaluate(f"location.hash = '{WALL}/filter/{filters[0]}'")
        wait(page, f"document.querySelector('h1').textContent === 'Filter {filters[0]}'")
        names = page.locator(".hits .clip").evaluate_all(
            "all => all.map(each => [each.textContent, each.title, each.dir])"
        )
        assert [keys[image], keys[image], "auto"] in names
        assert [CLASSES[labels[image]].strip(), CLASSES[labels[image]].strip(), "auto"] in [
            [text.strip(), title.strip(), way] for text, title, way in names
        ]
        seen.add(keys[image])
    assert len(seen) >= 5
    assert page.locator("main script, main img:not([loading])").count() == 0


def test_data_scripts_hold_no_markup_and_only_ascii(site):
    scripts = list((site.folder / "layers").glob("*.js"))
    assert len(scripts) == 7
    for script in scripts:
        text = script.read_bytes().decode("ascii")
        assert "<" not in text


def test_the_policy_holds_from_disk(visit):
    page = visit()
    page.evaluate("""() => {
        const bad = document.createElement("script");
        bad.textContent = "window.hacked = 1";
        document.body.append(bad);
        document.body.insertAdjacentHTML("beforeend", "<p onclick='window.hacked = 1' id=bad>x");
        document.getElementById("bad").click();
    }""")
    assert page.evaluate("window.hacked") is None
    assert page.seen.complaints
    assert all("Content Security Policy" in complaint for complaint in page.seen.complaints)
    page.seen.complaints.clear()


# -- for everyone -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_nothing_and_nothing_is_wider_than_the_page(visit, view, mode):
    from axe_playwright_python.sync_playwright import Axe

    page = visit(VIEWS[view], **MODES[mode])
    settled(page)
    for details in page.locator("summary").all():
        details.click()
    found = Axe().run(page, options={"preload": False}).response["violations"]  # no request of axe's own
    assert [(each["id"], [node["html"] for node in each["nodes"]][:3]) for each in found] == []
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_dead_filters_are_marked(visit):
    page = visit(WALL)
    cell = page.locator(".wall li").nth(DEAD)
    assert "dead" in cell.inner_text()
    assert cell.locator(".tile.empty").count() == 1
    assert page.locator(".tile.empty").count() == 1
    assert "including 1 dead filter that no image activates" in page.get_by_role("status").inner_text()
    cell.locator("a").click()
    settled(page, ".facts")
    assert "This filter is dead: no image activates it." in page.locator("main").inner_text()


# -- without images ---------------------------------------------------------------------------------------------------


def test_without_thumbnails_no_whole_image_is_left(open_page, site, site_without_images):
    folder = site_without_images.folder
    assert (site.folder / "images").is_dir()
    assert not (folder / "images").exists()
    kinds = {path.parent.name for path in folder.rglob("patches-*.webp")}
    assert kinds == {"001-conv1", "004-conv2", "007-conv3", "009-conv4"}  # conv5 sees 83 of 96 pixels
    page = open_page(site_without_images.url(WALL))
    assert page.get_by_role("radio").count() == 1
    assert "leaves out the patches of this layer, as each shows more than 50 %" in page.locator("main").inner_text()
    page.goto(site_without_images.url(FILTER))
    settled(page, ".facts")
    assert page.locator(".hit-tiles").count() == 1
    assert page.locator("img").count() == 0
    assert "This gallery contains no whole images." in page.locator("main").inner_text()
    page.goto(site_without_images.url("#/"))
    settled(page)
    assert "no whole images, and no patches that show more than 50 % of an image" in page.locator("main").inner_text()
    page.goto(site_without_images.url("#/layer/conv4/filter/7"))
    wait(page, "document.querySelectorAll('.hit-tiles').length === 2")
