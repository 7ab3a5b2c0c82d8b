// The wall of a layer: all of its filters, which can be searched and sorted.
"use strict";

(() => {
  const { make, makeHidden, formatCount } = topnine;
  const { layerTitle, describeLayer, describeLargePatch, filterLink, wallLink, wallShows, readWallQuery } = topnine;
  const { makeStrongestTile, showSheet, wallSheet } = topnine;
  const { SORTS, listSorts, matches, compareBy } = topnine;

  const walls = new Map(); // by the layer's name: its wall, whose elements are created once

  // Return the page of a layer's wall. `update` brings it into the state that its link's parameters ask for.
  function makeWallPage(layer, data, parameters) {
    if (!walls.has(layer.name)) {
      walls.set(layer.name, makeWall(layer, data));
    }
    const wall = walls.get(layer.name);
    return {
      title: `${layerTitle(layer)}: all filters`,
      nodes: wall.nodes,
      wall,
      update: () => updateWall(wall, readWallQuery(layer, parameters, listSorts(data))),
    };
  }

  function makeWall(layer, data) {
    const wall = { layer, shows: wallShows(layer) };
    wall.cells = data.filters.map((filter) => makeCell(layer, filter));
    wall.controls = makeControls(wall, listSorts(data));
    wall.status = make("p", { role: "status", "aria-live": "polite", class: "faint" });
    const random = make("button", { type: "button", id: "random", class: "plain" }, "A filter at random");
    wall.all = make("a", {}, "Show all filters");
    wall.list = make("ul", { class: "wall", "aria-label": "Filters" });
    const omission = `This gallery leaves out the patches of this layer, as each shows ${describeLargePatch()}.`;
    wall.nodes = [
      make("h1", { tabindex: "-1" }, `${layerTitle(layer)}: all filters`),
      make("p", { class: "note" }, describeLayer(layer)),
      wall.controls.form,
      wall.status,
      make("p", { class: "more-links" }, random, wall.all),
      layer.patches ? null : make("p", { class: "note" }, omission),
      wall.list,
    ];
    return wall;
  }

  function makeCell(layer, filter) {
    const tile = makeStrongestTile(layer, filter, wallShows(layer)[0]);
    const value = make("span", { class: "faint" });
    const label = make("span", {}, makeHidden("Filter "), String(filter.number));
    const link = make(
      "a",
      { href: filterLink(layer, filter.number) },
      tile,
      make("span", { class: "label" }, label, value),
    );
    return { filter, tile, value, link, item: make("li", {}, link) };
  }

  // -- the controls -------------------------------------------------------------------------------------------------

  function makeControls(wall, sorts) {
    const controls = {
      search: make("input", { type: "search", id: "search", autocomplete: "off", spellcheck: "false", dir: "auto" }),
      sort: make(
        "select",
        { id: "sort" },
        sorts.map((key) => make("option", { value: key }, SORTS[key].label)),
      ),
      shows: wall.shows.map((value) => make("input", { type: "radio", name: "show", value })),
    };
    controls.form = makeForm(controls);
    controls.form.addEventListener("input", () => location.replace(wallLink(wall.layer, readControls(controls))));
    controls.form.addEventListener("submit", (event) => event.preventDefault());
    return controls;
  }

  function makeForm({ search, sort, shows }) {
    return make(
      "form",
      { class: "controls", role: "search", "aria-label": "Filters of this layer" },
      make(
        "div",
        { class: "search" },
        make("label", { class: "above", for: "search" }, "Search by filter number, class or image name"),
        search,
      ),
      make("div", {}, make("label", { class: "above", for: "sort" }, "Sort by"), sort),
      make(
        "fieldset",
        {},
        make("legend", {}, "Show the strongest"),
        shows.map((show) => make("label", { class: "choice" }, show, show.value)),
      ),
    );
  }

  function readControls({ search, sort, shows }) {
    return { search: search.value, sort: sort.value, show: shows.find((show) => show.checked).value };
  }

  function setControls({ search, sort, shows }, query) {
    if (search.value !== query.search) {
      search.value = query.search; // only where it differs: setting a value moves the cursor
    }
    sort.value = query.sort;
    for (const show of shows) {
      show.checked = show.value === query.show;
    }
  }

  // -- the filters --------------------------------------------------------------------------------------------------

  function updateWall(wall, query) {
    setControls(wall.controls, query);
    const cells = listFilters(wall.cells.map(({ filter }) => filter), query).map(({ number }) => wall.cells[number]);
    for (const cell of cells) {
      updateCell(wall.layer, cell, query);
    }
    wall.list.replaceChildren(...cells.map(({ item }) => item));
    wall.status.textContent = describeCells(cells, wall.cells.length, query.search.trim());
    wall.all.hidden = !query.search.trim();
    wall.all.href = wallLink(wall.layer, { ...query, search: "" });
  }

  // List the filters that a query finds, in its order.
  function listFilters(filters, query) {
    return filters.filter((filter) => matches(filter, query.search)).sort(compareBy(query.sort));
  }

  // List the numbers of the filters that a wall shows, in its order.
  function listShown(layer, data, parameters) {
    return listFilters(data.filters, readWallQuery(layer, parameters, listSorts(data))).map(({ number }) => number);
  }

  function updateCell(layer, { filter, tile, value }, { sort, show }) {
    if (filter.hits.length) {
      showSheet(tile, wallSheet(layer, filter.number, show));
    }
    value.textContent = filter.hits.length ? (SORTS[sort].format?.(filter) ?? "") : "dead";
  }

  function describeCells(cells, total, search) {
    const dead = cells.filter(({ filter }) => !filter.hits.length).length;
    const deadPart = dead ? `, including ${formatCount(dead, "dead filter")} that no image activates` : "";
    const found = search ? ` match “${search}” by number, by an image’s name or by its class` : "";
    return `${cells.length} of ${formatCount(total, "filter")}${found}${deadPart}`;
  }

  Object.assign(topnine, { makeWallPage, listShown });
})();
