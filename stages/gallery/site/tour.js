// The tour, the gallery's first page: of each layer the filters whose hits look most alike.
"use strict";

(() => {
  const { make, formatNumber, formatCount, sum } = topnine;
  const { run, layerName, layerTitle, describeLayer, describeLargePatch, layerLink, filterLink } = topnine;
  const { makeTile, makeHitTiles, PROJECTIONS, PATCHES } = topnine;

  const LARGE_TILE_PX = 24; // from this side on, hits are shown larger, as they have details to look at

  // By the depth of a layer in the network. The continuation stands where the layer before is of the same chapter.
  const CHAPTERS = [
    {
      title: "edges and colours",
      introduction:
        "These filters respond to the simplest patterns: an edge at one angle, a line, a spot of one colour. Look for what the patches of a filter have in common, whatever objects they come from.",
      continuation: "These filters also respond to edges and colours, in a somewhat larger part of the image.",
    },
    {
      title: "corners and stripes",
      introduction:
        "These filters combine edges into corners, stripes and curves, or put one colour beside another. Look for the angle at which edges meet. It does not matter yet which object they belong to.",
      continuation: "These filters also respond to corners, stripes and curves, with more of their surroundings.",
    },
    {
      title: "textures",
      introduction:
        "These filters respond to patterns that repeat: meshes, fur, lettering, tiles, rings. The projections show which part of each patch activates the filter. The filter ignores the rest.",
      continuation: "These filters also respond to textures, in a larger part of the image.",
    },
    {
      title: "parts of objects",
      introduction:
        "These filters respond to parts of objects: faces, wheels, legs, roofs. The patches of a filter differ in colour and light. Look for the shape that appears in all of its projections.",
      continuation: "These filters also respond to parts of objects, and to more of what surrounds them.",
    },
    {
      title: "objects",
      introduction:
        "These filters respond to whole objects in different poses. At first the patches of a filter may look unrelated. The projections show what they have in common, and often leave the background grey.",
      continuation:
        "These filters also respond to whole objects. The deeper the layer, the less the pose and the position matter.",
    },
  ];

  function makeTour() {
    return {
      title: `What ${run.network} looks for`,
      nodes: [
        make("h1", { tabindex: "-1" }, `What ${run.network} looks for in `, make("bdi", {}, run.dataset)),
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
      `The gallery covers ${formatCount(run.images, "image")}, ${formatCount(run.layers.length, "layer")} and ${formatCount(filters, "filter")}.`,
    ].join(" ");
  }

  function makeChapter(layer, index) {
    const chapter = CHAPTERS[layer.chapter];
    const continued = run.layers.slice(0, index).some((earlier) => earlier.chapter === layer.chapter);
    const id = `chapter-${index}`;
    return make(
      "section",
      { class: "chapter", "aria-labelledby": id },
      make("h2", { id }, `${layerTitle(layer)}: ${chapter.title}`),
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

  function makeExhibit(layer, { filter, hits, maximum }) {
    return make(
      "a",
      { class: "exhibit", href: filterLink(layer, filter) },
      make(
        "span",
        { class: "pair" },
        makeHitTiles(layer, filter, hits, PROJECTIONS),
        layer.patches ? makeHitTiles(layer, filter, hits, PATCHES) : null,
      ),
      make("span", { class: "label" }, `Filter ${filter}, strongest activation ${formatNumber(maximum)}`),
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
