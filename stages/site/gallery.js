// The gallery's views. What a dataset calls things is set as text and attributes only, never as markup.
// Routes: #/ · #/layer/NAME?sort=…&show=…&search=… · #/layer/NAME/filter/NUMBER
"use strict";

(() => {
  const run = window.topnine?.get("");
  const main = document.getElementById("main");

  const CHAPTERS = [
    {
      title: "Edges and colours",
      look: "The first filters answer to the simplest things: an edge at one angle, a line, a spot of one colour. Look for what the nine patches share, whatever they were cut from.",
      again: "Still edges and colours, seen through a somewhat wider field.",
    },
    {
      title: "Corners and stripes",
      look: "Edges put together: corners, stripes, curves, one colour beside another. Look for the angle at which things meet. What the thing is does not matter yet.",
      again: "Corners, stripes and curves again, with more of their surroundings.",
    },
    {
      title: "Textures",
      look: "Patterns that go on: meshes, fur, lettering, tiles, rings. Look at the projections for the part of each patch that counts. The rest of it the filter ignores.",
      again: "More patterns, over a wider part of the image.",
    },
    {
      title: "Parts",
      look: "Parts of things: faces, wheels, legs, roofs. The patches differ in colour and light. Look for the shape that keeps its place in all nine projections.",
      again: "More parts of things, and more of what is around them.",
    },
    {
      title: "Objects",
      look: "Whole things, in several poses. The nine patches may look unlike at first. The projections show what in them counted, and often leave the background grey.",
      again: "Whole things again; the deeper the layer, the freer they are in pose and place.",
    },
  ];

  const SORTS = {
    number: { label: "Number", value: (filter) => -filter.number },
    activation: {
      label: "Strongest activation",
      value: (filter) => filter.maximum,
      shown: (filter) => short(filter.maximum),
    },
    active: {
      label: "Share of images that activate it",
      value: (filter) => filter.active,
      shown: (filter) => percent(filter.active),
    },
    entropy: {
      label: "Class entropy, fewest classes first",
      value: (filter) => -filter.entropy,
      shown: (filter) => `${short(filter.entropy)} bits`,
    },
  };

  // -- elements -----------------------------------------------------------------------------------------------------

  function make(name, attributes = {}, ...children) {
    return fill(document.createElement(name), attributes, children);
  }

  function makeSvg(name, attributes = {}, ...children) {
    return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
  }

  function fill(element, attributes, children) {
    for (const [key, value] of Object.entries(attributes)) {
      if (value !== null && value !== undefined && value !== false) {
        element.setAttribute(key, value === true ? "" : value);
      }
    }
    element.append(...children.flat(2).filter((child) => child !== null && child !== undefined));
    return element;
  }

  // A name from the dataset: in its own direction, clipped where it is long, whole in its title.
  function named(text) {
    return make("span", { class: "clip", dir: "auto", title: text }, text);
  }

  function short(value) {
    return value === null || value === undefined ? "–" : Number(value.toPrecision(3)).toLocaleString("en");
  }

  function percent(fraction) {
    return fraction === null ? "–" : `${Number((100 * fraction).toPrecision(2))} %`;
  }

  function count(number, word) {
    return `${number.toLocaleString("en")} ${word}${number === 1 ? "" : "s"}`;
  }

  // -- pictures -----------------------------------------------------------------------------------------------------

  const pictures = new WeakMap(); // what a tile shows once it is near
  const near = new IntersectionObserver(
    (entries) => {
      for (const { isIntersecting, target } of entries) {
        if (isIntersecting) {
          near.unobserve(target);
          target.style.backgroundImage = pictures.get(target);
          target.dataset.shown = "";
        }
      }
    },
    { rootMargin: "500px" },
  );

  // One tile of a sprite sheet; it has no name of its own, what holds it has.
  function tile(layout, sheet, place) {
    const { height, width, pitch, columns } = layout;
    const side = Math.max(height, width);
    const element = make("span", { class: `tile${side <= 40 ? " pixels" : ""}`, "aria-hidden": "true" });
    const sizes = {
      height,
      width,
      side,
      sheet: columns * pitch[1],
      x: (place % columns) * pitch[1],
      y: Math.floor(place / columns) * pitch[0],
    };
    for (const [name, value] of Object.entries(sizes)) {
      element.style.setProperty(`--${name}`, value);
    }
    return sheet === null ? emptied(element) : showing(element, sheet);
  }

  function emptied(element) {
    element.classList.add("empty");
    return element;
  }

  function showing(element, sheet) {
    pictures.set(element, `url("${sheet}")`);
    if ("shown" in element.dataset) {
      element.style.backgroundImage = pictures.get(element);
    } else {
      near.observe(element);
    }
    return element;
  }

  // The nine projections (row 0) or patches (row 1) of a filter; empty where fewer images activate it.
  function nine(layer, number, hits, row) {
    const what = row === 0 ? "projections" : "patches";
    const tiles = Array.from({ length: 9 }, (_, rank) =>
      tile(layer.tiles, rank < hits ? filterSheet(layer, number) : null, row * 9 + rank),
    );
    return make(
      "div",
      { class: "nine", role: "img", "aria-label": `The ${hits} strongest ${what} of filter ${number}` },
      tiles,
    );
  }

  function filterSheet(layer, number) {
    return `${layer.folder}/filter-${number}.webp`;
  }

  // A filter's strongest projection or patch.
  function strongest(layer, filter, show) {
    const sheet = filter.hits.length ? wallSheet(layer, filter.number, show) : null;
    return tile(layer.wall, sheet, filter.number % layer.wall.filters);
  }

  function wallSheet(layer, number, show) {
    return `${layer.folder}/${show === "patch" ? "patches" : "projections"}-${Math.floor(number / layer.wall.filters)}.webp`;
  }

  // -- links and data -----------------------------------------------------------------------------------------------

  function layerLink(layer) {
    return `#/layer/${encodeURIComponent(layer.name)}`;
  }

  function filterLink(layer, number) {
    return `${layerLink(layer)}/filter/${number}`;
  }

  function title(layer) {
    return layer.number ? `Layer ${layer.number}` : `Layer ${layer.name}`;
  }

  const loading = new Map(); // a layer's data, asked for when it is first shown

  function load(layer) {
    if (!loading.has(layer.name)) {
      loading.set(
        layer.name,
        new Promise((resolve, reject) => {
          const script = make("script", { src: `${layer.folder}.js` });
          script.addEventListener("load", () => resolve(prepared(window.topnine.get(layer.name))));
          script.addEventListener("error", () => reject(new Error(`${layer.folder}.js cannot be read.`)));
          document.head.append(script);
        }),
      );
    }
    return loading.get(layer.name);
  }

  // Number the filters, and note what a search finds them by.
  function prepared(data) {
    for (const [number, filter] of data.filters.entries()) {
      filter.number = number;
      filter.names = filter.hits.flatMap(([image]) => [keyOf(data, image), className(data, labelOf(data, image))]);
      filter.names.push(...(filter.classes ?? []).map(([label]) => className(data, label)));
      filter.names = filter.names.filter(Boolean).map(searchable);
    }
    return data;
  }

  function keyOf(data, image) {
    return data.images[image][0];
  }

  function labelOf(data, image) {
    return data.images[image][1];
  }

  function className(data, label) {
    return label < 0 ? "" : (data.classes[label] ?? `class ${label}`);
  }

  function searchable(text) {
    return text.normalize("NFKC").toLowerCase();
  }

  // -- the tour -----------------------------------------------------------------------------------------------------

  function tour() {
    const filters = sum(run.layers.map((layer) => layer.filters));
    const counts = [count(run.images, "image"), count(run.layers.length, "layer"), count(filters, "filter")].join(", ");
    const heading = make("h1", { tabindex: "-1" }, `What ${run.network} looks for in `, make("bdi", {}, run.dataset));
    const lead = make(
      "p",
      { class: "lead" },
      `Every filter of a convolutional network answers to something. Here are, for each, the nine images that excite it most: beside the patch that the filter saw, its projection back to pixels, which shows what in the patch did so. ${counts}.`,
    );
    return { title: `What ${run.network} looks for`, nodes: [heading, lead, ...run.layers.map(stop), missing()] };
  }

  function sum(numbers) {
    return numbers.reduce((total, number) => total + number, 0);
  }

  function stop(layer, place) {
    const chapter = CHAPTERS[layer.chapter];
    const again = run.layers.slice(0, place).some((before) => before.chapter === layer.chapter);
    const id = `stop-${place}`;
    return make(
      "section",
      { class: "chapter", "aria-labelledby": id },
      make("h2", { id }, `${title(layer)}: ${chapter.title.toLowerCase()}`),
      make("p", { class: "faint" }, facts(layer)),
      make("p", { class: "lead" }, again ? chapter.again : chapter.look),
      layer.pixels ? pixels(layer) : null,
      make(
        "ul",
        { class: `clearest${Math.max(...layer.field) > 24 ? " large" : ""}` },
        layer.clearest.map((filter) => make("li", {}, exhibit(layer, filter))),
      ),
      make(
        "p",
        { class: "more" },
        make("a", { href: layerLink(layer) }, `All ${count(layer.filters, "filter")} of ${title(layer).toLowerCase()}`),
      ),
    );
  }

  function facts(layer) {
    const [height, width] = layer.field;
    const field = height === width ? `${height} pixels` : `${height} × ${width} pixels`;
    const sees = Math.min(height, width) < run.input ? `${field} of the image’s ${run.input}` : "the whole image";
    const dead = layer.dead ? `; ${layer.dead} of them see nothing here that excites them` : "";
    return `${layer.name}: ${count(layer.filters, "filter")}, each sees ${sees}${dead}.`;
  }

  function exhibit(layer, { filter, hits, maximum }) {
    return make(
      "a",
      { class: "exhibit", href: filterLink(layer, filter) },
      make(
        "span",
        { class: "pair" },
        nine(layer, filter, hits, 0),
        layer.patches ? nine(layer, filter, hits, 1) : null,
      ),
      make("span", { class: "label" }, `Filter ${filter}, up to ${short(maximum)}`),
    );
  }

  // Of a layer that works on pixels: its weights, and the patches that excite one of its filters.
  function pixels(layer) {
    const weights = Array.from({ length: layer.filters }, (_, number) =>
      make(
        "a",
        { href: filterLink(layer, number), "aria-label": `Filter ${number}` },
        tile(layer.pixels.weights, `${layer.folder}/weights.webp`, number),
      ),
    );
    return make(
      "div",
      { class: "part pixelpair" },
      make(
        "div",
        {},
        make("h3", {}, `Its ${layer.filters} filters themselves`),
        make("div", { class: "weights" }, weights),
        make("p", { class: "note" }, "This layer works on the image itself, so its weights can be drawn as pixels."),
      ),
      layer.patches ? hundred(layer) : null,
    );
  }

  function hundred(layer) {
    const [{ filter }] = layer.clearest;
    const patches = layer.pixels.patches;
    const tiles = Array.from({ length: patches }, (_, rank) =>
      tile(layer.pixels.grid, `${layer.folder}/grid.webp`, rank),
    );
    return make(
      "div",
      {},
      make("h3", {}, "What excites ", make("a", { href: filterLink(layer, filter) }, `filter ${filter}`)),
      make(
        "div",
        { class: "hundred", role: "img", "aria-label": `The ${patches} patches that excite filter ${filter} most` },
        tiles,
      ),
      make(
        "p",
        { class: "note" },
        `One filter, ${patches} images: the patch of each that excites it most, strongest first.`,
      ),
    );
  }

  function missing() {
    const notes = [];
    if (!run.thumbnails) {
      notes.push("Whole images are left out of this gallery, and so are patches that show more than half of one.");
    }
    if (run.leftOut.length) {
      notes.push(`Not shown, as they are not deconvolved with these settings: ${run.leftOut.join(", ")}.`);
    }
    return notes.length ? make("p", { class: "note chapter" }, notes.join(" ")) : null;
  }

  // -- the wall -----------------------------------------------------------------------------------------------------

  const walls = new Map(); // by layer: its elements, made once

  function wallOf(layer, data) {
    if (!walls.has(layer.name)) {
      walls.set(layer.name, makeWall(layer, data));
    }
    return walls.get(layer.name);
  }

  function makeWall(layer, data) {
    const wall = { layer, data, cells: data.filters.map((filter) => cell(layer, filter)) };
    wall.controls = controls(wall);
    wall.status = make("p", { role: "status", "aria-live": "polite", class: "faint" });
    wall.list = make("ul", { class: "wall", "aria-label": "Filters" });
    wall.nodes = [
      make("h1", { tabindex: "-1" }, `${title(layer)}: all filters`),
      make("p", { class: "note" }, facts(layer)),
      wall.controls.form,
      wall.status,
      layer.patches
        ? null
        : make(
            "p",
            { class: "note" },
            "The patches of this layer show more than half of an image each, and are left out of this gallery.",
          ),
      wall.list,
    ];
    return wall;
  }

  function cell(layer, filter) {
    const picture = strongest(layer, filter, "projection");
    const value = make("span", { class: "faint" });
    const link = make(
      "a",
      { href: filterLink(layer, filter.number) },
      picture,
      make(
        "span",
        { class: "label" },
        make("span", {}, make("span", { class: "hidden" }, "Filter "), String(filter.number)),
        value,
      ),
    );
    return { filter, picture, value, link, item: make("li", {}, link) };
  }

  function controls(wall) {
    const search = make("input", {
      type: "search",
      id: "search",
      autocomplete: "off",
      spellcheck: "false",
      dir: "auto",
    });
    const sort = make(
      "select",
      { id: "sort" },
      sortsOf(wall.data).map((key) => make("option", { value: key }, SORTS[key].label)),
    );
    const shows = (wall.layer.patches ? ["projection", "patch"] : ["projection"]).map((value) =>
      make("input", { type: "radio", name: "show", value }),
    );
    const form = make(
      "form",
      { class: "controls", role: "search", "aria-label": "Filters of this layer" },
      make(
        "div",
        { class: "search" },
        make("label", { class: "above", for: "search" }, "Search by number, class or image"),
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
    const ask = () =>
      location.replace(
        wallLink(wall.layer, {
          search: search.value,
          sort: sort.value,
          show: shows.find((show) => show.checked).value,
        }),
      );
    form.addEventListener("input", ask);
    form.addEventListener("submit", (event) => event.preventDefault());
    return { form, search, sort, shows };
  }

  function sortsOf(data) {
    return Object.keys(SORTS).filter(
      (key) => key !== "entropy" || data.filters.some((filter) => Number.isFinite(filter.entropy)),
    );
  }

  function wallLink(layer, query) {
    const given = new URLSearchParams();
    for (const [key, value] of Object.entries(query)) {
      if (value && value !== DEFAULTS[key]) {
        given.set(key, value);
      }
    }
    return `${layerLink(layer)}${given.size ? `?${given}` : ""}`;
  }

  const DEFAULTS = { search: "", sort: "number", show: "projection" };

  // What a wall's link asks for; what it asks wrongly is as if it were not there.
  function wallQuery(wall, parameters) {
    const asked = Object.fromEntries(
      Object.entries(DEFAULTS).map(([key, value]) => [key, parameters.get(key) ?? value]),
    );
    return {
      search: asked.search,
      sort: sortsOf(wall.data).includes(asked.sort) ? asked.sort : DEFAULTS.sort,
      show: wall.layer.patches && asked.show === "patch" ? "patch" : DEFAULTS.show,
    };
  }

  function updateWall(wall, query) {
    setControls(wall.controls, query);
    const found = wall.cells.filter(({ filter }) => matches(filter, query.search)).sort(inOrder(SORTS[query.sort]));
    for (const one of found) {
      updateCell(wall.layer, one, query);
    }
    wall.list.replaceChildren(...found.map(({ item }) => item));
    const dead = found.filter(({ filter }) => !filter.hits.length).length;
    wall.status.textContent = `${found.length} of ${count(wall.cells.length, "filter")}${dead ? `, ${dead} dead: no image activates them` : ""}`;
  }

  function setControls({ search, sort, shows }, query) {
    if (search.value !== query.search) {
      search.value = query.search;
    }
    sort.value = query.sort;
    for (const show of shows) {
      show.checked = show.value === query.show;
    }
  }

  function updateCell(layer, { filter, picture, value }, { sort, show }) {
    if (filter.hits.length) {
      showing(picture, wallSheet(layer, filter.number, show));
    }
    value.textContent = filter.hits.length ? (SORTS[sort].shown?.(filter) ?? "") : "dead";
  }

  // A number finds that filter, and an image of that very name; any other text finds it within names.
  function matches(filter, search) {
    const text = searchable(search.trim());
    if (/^\d+$/.test(text)) {
      return filter.number === Number(text) || filter.names.includes(text);
    }
    return text === "" || filter.names.some((name) => name.includes(text));
  }

  // Largest value first, filters without one last, and the lower number first among equals.
  function inOrder({ value }) {
    const known = ({ filter }) => (filter.hits.length && Number.isFinite(value(filter)) ? value(filter) : -Infinity);
    const byNumber = value === SORTS.number.value;
    return (first, second) =>
      (byNumber ? 0 : compare(known(second), known(first))) || first.filter.number - second.filter.number;
  }

  function compare(first, second) {
    return first < second ? -1 : Number(first > second);
  }

  // -- a filter -----------------------------------------------------------------------------------------------------

  function filterView(layer, data, number) {
    const filter = data.filters[number];
    return {
      title: `Filter ${number}, ${title(layer).toLowerCase()}`,
      nodes: [
        make(
          "p",
          { class: "above-heading" },
          make("a", { href: lastWall(layer), id: "up" }, `${title(layer)}: all filters`),
        ),
        make(
          "div",
          { class: "heading" },
          make("h1", { tabindex: "-1" }, `Filter ${number}`),
          steps(layer, data, number),
        ),
        filterFacts(filter),
        ...(filter.hits.length
          ? filterBody(layer, data, filter)
          : [make("p", { class: "lead" }, "This filter is dead: no image activates it.")]),
      ],
    };
  }

  function steps(layer, data, number) {
    const step = (to, words, rel) =>
      data.filters[to] ? make("a", { href: filterLink(layer, to), rel, id: rel }, words) : null;
    return make(
      "nav",
      { class: "steps", "aria-label": "Filters beside this one" },
      step(number - 1, "← Previous", "prev"),
      step(number + 1, "Next →", "next"),
    );
  }

  function filterFacts(filter) {
    const listed = [
      ["Strongest activation", short(filter.maximum)],
      ["Mean over the images", short(filter.mean)],
      ["Images that activate it", percent(filter.active)],
      Number.isFinite(filter.entropy) ? ["Class entropy", `${short(filter.entropy)} bits`] : null,
    ].filter(Boolean);
    return make(
      "dl",
      { class: "facts" },
      listed.map(([term, value]) => make("div", {}, make("dt", {}, term), make("dd", {}, value))),
    );
  }

  function filterBody(layer, data, filter) {
    return [
      make(
        "div",
        { class: "sides" },
        side("Projections", layer, filter, 0),
        layer.patches ? side("Patches", layer, filter, 1) : null,
      ),
      images(layer, data, filter),
      make(
        "div",
        { class: "columns" },
        distribution(data, filter),
        classes(data, filter),
        together(layer, data, filter),
      ),
    ];
  }

  function side(caption, layer, filter, row) {
    return make(
      "figure",
      {},
      make("figcaption", { class: "faint" }, caption),
      nine(layer, filter.number, filter.hits.length, row),
    );
  }

  function block(heading, ...children) {
    return make("section", { class: "block" }, make("h2", {}, heading), ...children);
  }

  function images(layer, data, filter) {
    const note = "Whole images are left out of this gallery.";
    return block(
      "Where they come from",
      run.thumbnails
        ? make(
            "ol",
            { class: "hits" },
            filter.hits.map((hit, rank) => make("li", {}, whole(data, hit, rank))),
          )
        : make("p", { class: "faint" }, note),
      make("details", { open: !run.thumbnails }, make("summary", {}, "As a table"), hitTable(data, filter)),
    );
  }

  function whole(data, hit, rank) {
    const [image, activation] = hit;
    const picture = make("img", {
      src: `images/${image}.webp`,
      width: run.input,
      height: run.input,
      loading: "lazy",
      alt: `Image ${keyOf(data, image)}, with a frame around the patch`,
    });
    return make(
      "figure",
      {},
      make("span", { class: "whole" }, picture, frame(hit)),
      make(
        "figcaption",
        {},
        make("span", { class: "hidden" }, `Rank ${rank + 1}, activation `),
        short(activation),
        caption(data, image),
      ),
    );
  }

  function caption(data, image) {
    const label = className(data, labelOf(data, image));
    const key = named(keyOf(data, image));
    key.classList.add("faint");
    return [label ? named(label) : null, key];
  }

  function frame([, , top, left, bottom, right]) {
    const place = { x: left, y: top, width: right - left, height: bottom - top };
    return makeSvg(
      "svg",
      { viewBox: `0 0 ${run.input} ${run.input}`, "aria-hidden": "true" },
      makeSvg("rect", { class: "under", ...place }),
      makeSvg("rect", { class: "over", ...place }),
    );
  }

  function hitTable(data, filter) {
    const rows = filter.hits.map(([image, activation, top, left, bottom, right]) => [
      short(activation),
      named(className(data, labelOf(data, image)) || "–"),
      named(keyOf(data, image)),
      `${top}, ${left}, ${bottom}, ${right}`,
    ]);
    return table(
      "The strongest images; patches as top, left, bottom, right in pixels of the network's input",
      ["Activation", "Class", "Image", "Patch"],
      rows,
      [0],
    );
  }

  function table(caption, heads, rows, numbers = []) {
    const data = (value, column) => make("td", { class: numbers.includes(column) ? "number" : null }, value);
    return make(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
      make(
        "table",
        {},
        make("caption", {}, caption),
        make(
          "thead",
          {},
          make(
            "tr",
            {},
            heads.map((head) => make("th", { scope: "col" }, head)),
          ),
        ),
        make(
          "tbody",
          {},
          rows.map((row) => make("tr", {}, row.map(data))),
        ),
      ),
    );
  }

  function distribution(data, filter) {
    if (!filter.histogram || !filter.maximum) return null;
    const edge = (bin) => short((filter.maximum * bin) / filter.histogram.length);
    const rows = filter.histogram.map((images, bin) => [
      `${edge(bin)} to ${edge(bin + 1)}`,
      images.toLocaleString("en"),
    ]);
    return block(
      "Over all images",
      make(
        "figure",
        {},
        bars(data, filter),
        make(
          "div",
          { class: "axis faint" },
          make("span", {}, "0"),
          make("span", {}, "activation"),
          make("span", {}, short(filter.maximum)),
        ),
      ),
      make(
        "p",
        { class: "note" },
        `How many images activate it so much, on a logarithmic scale. ${spread(data, filter)}`,
      ),
      make(
        "details",
        {},
        make("summary", {}, "As a table"),
        table("Images by their activation", ["Activation", "Images"], rows, [1]),
      ),
    );
  }

  function spread(data, filter) {
    const at = (level) => short(filter.quantiles[data.levels.indexOf(level)]);
    return `Half of the images stay below ${at(0.5)}, 95 % below ${at(0.95)}, 99.9 % below ${at(0.999)}.`;
  }

  function bars(data, { histogram, maximum }) {
    const full = Math.log1p(Math.max(...histogram));
    const drawn = histogram.map((images, bin) => {
      const height = images ? Math.max(1, (100 * Math.log1p(images)) / full) : 0;
      return makeSvg("rect", { x: bin * 10, y: 100 - height, width: 9, height });
    });
    const words = `Histogram of the activations over ${count(sum(histogram), "image")}, from 0 to ${short(maximum)}; the table below has its numbers.`;
    return makeSvg(
      "svg",
      {
        class: "histogram",
        viewBox: `0 0 ${histogram.length * 10} 100`,
        preserveAspectRatio: "none",
        role: "img",
        "aria-label": words,
      },
      drawn,
    );
  }

  function classes(data, filter) {
    if (!filter.classes?.length) return null;
    const rows = filter.classes.map(([label, images]) => [named(className(data, label)), String(images)]);
    const strongest = `Most frequent among its ${data.strongest} strongest images`;
    return block(
      "Classes",
      table(strongest, ["Class", "Images"], rows, [1]),
      make(
        "p",
        { class: "note" },
        `Entropy of the classes of these images: ${short(filter.entropy)} bits; 0 would be a single class.`,
      ),
    );
  }

  function together(layer, data, filter) {
    if (!filter.together?.length) return null;
    const others = filter.together.map(([number, correlation]) =>
      make(
        "li",
        {},
        make(
          "a",
          { href: filterLink(layer, number) },
          strongest(layer, data.filters[number], layer.patches ? "patch" : "projection"),
          make("span", { class: "label" }, `Filter ${number}`),
          make("span", { class: "faint" }, make("span", { class: "hidden" }, "correlation "), short(correlation)),
        ),
      ),
    );
    return block(
      "Filters that fire together with it",
      make("ul", { class: "together" }, others),
      make("p", { class: "note" }, "By the correlation of their activations over all images."),
    );
  }

  // -- routes -------------------------------------------------------------------------------------------------------

  let showingWall = null; // the wall on the page
  let wallBefore = ""; // the link of the last wall
  let filterBefore = null; // the last filter shown: [layer's name, number]

  function lastWall(layer) {
    const here = layerLink(layer);
    return wallBefore === here || wallBefore.startsWith(`${here}?`) ? wallBefore : here;
  }

  function route(hash) {
    const [path, query = ""] = hash.replace(/^#\/?/, "").split("?");
    let parts;
    try {
      parts = path.split("/").filter(Boolean).map(decodeURIComponent);
    } catch {
      return { kind: "nowhere" };
    }
    const layer = parts[0] === "layer" ? run.layers.find(({ name }) => name === parts[1]) : null;
    const number = /^\d+$/.test(parts[3] ?? "") ? Number(parts[3]) : NaN;
    if (parts.length === 0) return { kind: "tour" };
    if (layer && parts.length === 2) return { kind: "wall", layer, parameters: new URLSearchParams(query) };
    if (layer && parts.length === 4 && parts[2] === "filter" && number < layer.filters)
      return { kind: "filter", layer, number };
    return { kind: "nowhere" };
  }

  async function view(where) {
    switch (where.kind) {
      case "tour":
        return tour();
      case "wall":
        return wallView(wallOf(where.layer, await load(where.layer)), where.parameters);
      case "filter":
        return filterView(where.layer, await load(where.layer), where.number);
      default:
        return plain("There is nothing here", "This link leads to no layer or filter of this gallery.");
    }
  }

  function wallView(wall, parameters) {
    return {
      title: `${title(wall.layer)}: all filters`,
      nodes: wall.nodes,
      wall,
      update: () => updateWall(wall, wallQuery(wall, parameters)),
    };
  }

  function plain(heading, text) {
    return {
      title: heading,
      nodes: [
        make("h1", { tabindex: "-1" }, heading),
        make("p", { class: "lead" }, text),
        make("p", { class: "more" }, make("a", { href: "#/" }, "To the tour")),
      ],
    };
  }

  async function render(first = false) {
    const hash = location.hash;
    const where = route(hash);
    const shown = await view(where).catch((error) => plain("This layer cannot be shown", error.message));
    if (location.hash !== hash) return; // another link was followed meanwhile
    shown.update?.();
    if (where.kind === "wall") wallBefore = hash;
    if (showingWall === null || shown.wall !== showingWall) {
      put(shown, where);
      if (!first) settle(shown, where);
    }
    if (where.kind === "filter") filterBefore = [where.layer.name, where.number];
  }

  function put(shown, where) {
    showingWall = shown.wall ?? null;
    document.title = `${shown.title} · topnine`;
    main.replaceChildren(...shown.nodes.filter(Boolean));
    for (const link of document.querySelectorAll("#layers a")) {
      link.toggleAttribute("aria-current", false);
      if (link.getAttribute("href") === (where.layer ? layerLink(where.layer) : ""))
        link.setAttribute("aria-current", "true");
    }
  }

  // Bring the reader to the new view: to the filter they come from, where they left a page, or its heading.
  function settle(shown, where) {
    const from = shown.wall && filterBefore?.[0] === where.layer.name ? shown.wall.cells[filterBefore[1]].link : null;
    if (from?.isConnected) {
      from.focus();
      return;
    }
    main.querySelector("h1").focus({ preventScroll: true });
    window.scrollTo(0, places.get(history.state?.id) ?? 0);
  }

  // Where the reader was on each page of the history.
  const places = new Map();
  let page = 0;

  function enter() {
    page = history.state?.id ?? Date.now();
    history.replaceState({ id: page }, "");
  }

  function move() {
    places.set(page, window.scrollY);
    enter();
    render();
  }

  function onKey(event) {
    if (
      event.altKey ||
      event.ctrlKey ||
      event.metaKey ||
      event.shiftKey ||
      event.target.matches("input, select, .scroll")
    )
      return;
    const id = { ArrowLeft: "prev", ArrowRight: "next", Escape: "up" }[event.key];
    const link = id && document.getElementById(id);
    if (link) {
      event.preventDefault();
      link.click();
    }
  }

  function start() {
    if (!run) {
      main.replaceChildren(
        ...plain(
          "This gallery is not complete",
          "layers/run.js cannot be read: copy the whole folder, or make the gallery again.",
        ).nodes,
      );
      return;
    }
    const numbered = run.layers.every((layer) => layer.number);
    document.getElementById("network").textContent = run.network;
    document.getElementById("layers").append(
      make("span", { class: "faint", "aria-hidden": "true" }, "Layer"),
      make(
        "ul",
        {},
        run.layers.map((layer) =>
          make("li", {}, make("a", { href: layerLink(layer) }, numbered ? String(layer.number) : layer.name)),
        ),
      ),
    );
    document
      .getElementById("about")
      .append(
        make(
          "p",
          {},
          `Made by topnine. Projections by the rule “${run.rule}”, after Zeiler & Fergus, Visualizing and Understanding Convolutional Networks, 2014.`,
        ),
      );
    document.querySelector(".skip").addEventListener("click", (event) => {
      event.preventDefault();
      main.focus();
    });
    history.scrollRestoration = "manual";
    window.addEventListener("hashchange", move);
    document.addEventListener("keydown", onKey);
    enter();
    render(true);
  }

  start();
})();
