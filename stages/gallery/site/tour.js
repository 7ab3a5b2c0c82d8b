// The tour, the gallery's first page: of each layer the filters whose hits look most alike.
"use strict";

(() => {
  const { make, formatNumber, formatCount, sum } = topnine;
  const { run, layerName, layerTitle, describeLayer, describeLargePatch, layerLink, filterLink } = topnine;
  const { makeTile, makeHitTiles } = topnine;

  const FIRST_FILTERS = 3; // of the deepest layer, at the top of the page

  const LARGE_TILE_PX = 24; // from this side on, hits are shown larger, as they have details to look at

  // By the depth of a layer in the network: what filters often respond to there, and where to look. The continuation
  // stands where the layer before is of the same chapter. The texts claim nothing of the filters that are shown.
  const CHAPTERS = [
    {
      introduction:
        "The first filters of a network respond to simple patterns: an edge at one angle, a line, one colour. Look for what the patches of a filter have in common, whatever objects they come from.",
      continuation: "These filters see a somewhat larger part of the image than those before.",
    },
    {
      introduction:
        "At this depth many filters respond to two or more edges or colours at once: to corners, stripes, curves, or one colour beside another. It does not matter yet which object they belong to.",
      continuation: "These filters combine patterns of the layer before, with more of their surroundings.",
    },
    {
      introduction:
        "At this depth many filters respond to textures: to meshes, fur, lettering or rings. The projections show which part of each patch activates the filter. The filter ignores the rest.",
      continuation: "These filters see a larger part of the image. Compare where the projections are strong.",
    },
    {
      introduction:
        "At this depth many filters respond to parts of objects, such as faces, wheels or legs. The patches of such a filter differ in colour and light. Look for the shape that all of its projections have.",
      continuation: "Look for what stays the same in a filter’s projections while its patches change.",
    },
    {
      introduction:
        "The deepest filters often respond to whole objects or large parts of them. At first the patches of a filter may look unrelated. The projections show what they have in common.",
      continuation: "The deeper the layer, the less the pose and the position of an object matter.",
    },
  ];

  function makeTour() {
    return {
      title: `What ${run.network} looks for`,
      nodes: [
        make("h1", { tabindex: "-1" }, `What ${run.network} looks for in `, make("bdi", {}, run.dataset)),
        makeFirst(run.layers.at(-1)),
        make("p", { class: "lead" }, introduceGallery()),
        ...run.layers.map(makeChapter),
        makeOmissions(),
      ],
    };
  }

  function introduceGallery() {
    const filters = sum(run.layers.map((layer) => layer.filters));
    return [
      "Each filter of a convolutional network responds to one kind of pattern.",
      `For every filter, this gallery shows the ${run.ranks} images that activate it most.`,
      "A patch is the part of such an image that the filter sees.",
      "The projection beside it maps the activation back to pixels: it shows what in the patch caused the activation.",
      run.layers.some((layer) => layer.cropped && layer.patches)
        ? "Both are cropped to where the projection is strong, and the rest of the patch is faded."
        : "",
      `The gallery covers ${formatCount(run.images, "image")}, ${formatCount(run.layers.length, "layer")} and ${formatCount(filters, "filter")}.`,
    ]
      .filter(Boolean)
      .join(" ");
  }

  // Show the clearest filters of the deepest layer, large.
  function makeFirst(layer) {
    const show = layer.patches ? "patch" : "projection";
    const noun = layer.patches ? "patches" : "projections";
    const shown = layer.clearest.slice(0, FIRST_FILTERS);
    if (!shown.length) return null;
    return make(
      "figure",
      { class: "first" },
      make(
        "ul",
        {},
        shown.map(({ filter, hits, classes }) =>
          make(
            "li",
            {},
            make(
              "a",
              { class: "exhibit", href: filterLink(layer, filter) },
              makeHitTiles(layer, filter, hits, show),
              make("span", { class: "label", dir: "auto" }, nameFilter(filter, classes)),
            ),
          ),
        ),
      ),
      make("figcaption", { class: "faint" }, `The ${run.ranks} strongest ${noun} of ${formatCount(shown.length, "filter")} of ${layerName(layer)}.`),
    );
  }

  function nameFilter(filter, classes) {
    return `Filter ${filter}${classes.length ? `: ${classes.slice(0, 2).join(", ")}` : ""}`;
  }

  function makeChapter(layer, index) {
    const chapter = CHAPTERS[layer.chapter];
    const continued = run.layers.slice(0, index).some((earlier) => earlier.chapter === layer.chapter);
    const id = `chapter-${index}`;
    return make(
      "section",
      { class: "chapter", "aria-labelledby": id },
      make("h2", { id }, layerTitle(layer)),
      make("p", { class: "faint" }, describeLayer(layer)),
      make("p", { class: "lead" }, continued ? chapter.continuation : chapter.introduction),
      layer.pixels ? makePixelLayer(layer) : null,
      makeClearest(layer),
      make(
        "p",
        { class: "more" },
        make("a", { href: layerLink(layer) }, `All ${formatCount(layer.filters, "filter")} of ${layerName(layer)}`),
      ),
    );
  }

  function makeClearest(layer) {
    const large = Math.max(layer.tiles.height, layer.tiles.width) > LARGE_TILE_PX;
    return make(
      "ul",
      { class: `clearest${large ? " large" : ""}` },
      layer.clearest.map((filter) => make("li", {}, makeExhibit(layer, filter))),
    );
  }

  function makeExhibit(layer, { filter, hits, maximum, classes }) {
    return make(
      "a",
      { class: "exhibit", href: filterLink(layer, filter) },
      make(
        "span",
        { class: "pair" },
        makeHitTiles(layer, filter, hits, "projection"),
        layer.patches ? makeHitTiles(layer, filter, hits, "patch") : null,
      ),
      make("span", { class: "label", dir: "auto" }, nameFilter(filter, classes)),
      make("span", { class: "label" }, `strongest activation ${formatNumber(maximum)}`),
    );
  }

  // Show what only a layer has that works on pixels: its weights as pictures, and many patches of one filter.
  function makePixelLayer(layer) {
    return make(
      "div",
      { class: "part pixel-layer" },
      makeWeights(layer),
      layer.patches ? makePatchGrid(layer) : null,
    );
  }

  function makeWeights(layer) {
    const sheet = `${layer.folder}/weights.webp`;
    const weights = Array.from({ length: layer.filters }, (_, number) =>
      make(
        "a",
        { href: filterLink(layer, number), "aria-label": `Filter ${number}` },
        makeTile(layer.pixels.weights, sheet, number),
      ),
    );
    return make(
      "div",
      {},
      make("h3", {}, `The weights of the ${formatCount(layer.filters, "filter")}`),
      make("div", { class: "weights" }, weights),
      make("p", { class: "note" }, "The input of this layer is the image, so its weights can be drawn as pixels."),
    );
  }

  function makePatchGrid(layer) {
    const [{ filter }] = layer.clearest;
    const { patches, grid } = layer.pixels;
    const sheet = `${layer.folder}/grid.webp`;
    const label = `The ${patches} patches that activate filter ${filter} most`;
    return make(
      "div",
      {},
      make("h3", {}, "What activates ", make("a", { href: filterLink(layer, filter) }, `filter ${filter}`)),
      make(
        "div",
        { class: "patch-grid", role: "img", "aria-label": label },
        Array.from({ length: patches }, (_, rank) => makeTile(grid, sheet, rank)),
      ),
      make(
        "p",
        { class: "note" },
        `The ${patches} images that activate this filter most, strongest first. Each tile is the patch that causes the image’s strongest activation.`,
      ),
    );
  }

  function makeOmissions() {
    const notes = [];
    if (!run.thumbnails) {
      notes.push(`This gallery contains no whole images, and no patches that show ${describeLargePatch()}.`);
    }
    if (run.leftOut.length) {
      const names = run.leftOut.join(", ");
      notes.push(`These layers are not shown because they are not deconvolved with the current settings: ${names}.`);
    }
    return notes.length ? make("p", { class: "note chapter" }, notes.join(" ")) : null;
  }

  Object.assign(topnine, { makeTour });
})();
