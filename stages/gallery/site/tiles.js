// Pictures of filters: tiles of sprite sheets, loaded when they come near the visible part of the page.
"use strict";

(() => {
  const { make, run } = topnine;

  const pictures = new WeakMap(); // the background image of each tile
  const observer = new IntersectionObserver(
    (entries) => {
      for (const { isIntersecting, target } of entries) {
        if (isIntersecting) {
          observer.unobserve(target);
          target.style.backgroundImage = pictures.get(target);
          target.dataset.shown = "";
        }
      }
    },
    { rootMargin: "500px" },
  );

  // Create one tile of a sprite sheet; without a sheet an empty one. The element around a tile holds its label.
  function makeTile(layout, sheet, index) {
    const { height, width, pitch, columns, pixelated } = layout;
    const element = make("span", {
      class: ["tile", pixelated ? "pixelated" : null, sheet === null ? "empty" : null].filter(Boolean).join(" "),
      "aria-hidden": "true",
    });
    const sizes = {
      height,
      width,
      side: Math.max(height, width),
      sheet: columns * pitch[1],
      x: (index % columns) * pitch[1],
      y: Math.floor(index / columns) * pitch[0],
    };
    for (const [name, value] of Object.entries(sizes)) {
      element.style.setProperty(`--${name}`, value);
    }
    return sheet === null ? element : showSheet(element, sheet);
  }

  // Let a tile show its part of a sheet: at once where it was near before, otherwise as soon as it is.
  function showSheet(element, sheet) {
    pictures.set(element, `url("${sheet}")`);
    if ("shown" in element.dataset) {
      element.style.backgroundImage = pictures.get(element);
    } else {
      observer.observe(element);
    }
    return element;
  }

  // Create the tile of one of a filter's hits: its "projection" or its "patch".
  function makeHitTile(layer, number, rank, show) {
    const place = show === "patch" ? run.ranks + rank : rank;
    return makeTile(layer.tiles, `${layer.folder}/filter-${number}.webp`, place);
  }

  // Create the tiles of a filter's hits; they are empty where fewer images activate the filter than there are ranks.
  function makeHitTiles(layer, number, hits, show) {
    const noun = show === "projection" ? "projections" : "patches";
    const tiles = Array.from({ length: run.ranks }, (_, rank) =>
      rank < hits ? makeHitTile(layer, number, rank, show) : makeTile(layer.tiles, null, 0),
    );
    const block = make(
      "div",
      { class: "hit-tiles", role: "img", "aria-label": `The ${hits} strongest ${noun} of filter ${number}` },
      tiles,
    );
    return setColumns(block);
  }

  function setColumns(block) {
    block.style.setProperty("--columns", Math.ceil(Math.sqrt(run.ranks)));
    return block;
  }

  // Create the tile of a filter's strongest projection or patch.
  function makeStrongestTile(layer, filter, show) {
    const sheet = filter.hits.length ? wallSheet(layer, filter.number, show) : null;
    return makeTile(layer.wall, sheet, filter.number % layer.wall.filters);
  }

  function wallSheet(layer, number, show) {
    const kind = show === "patch" ? "patches" : "projections";
    return `${layer.folder}/${kind}-${Math.floor(number / layer.wall.filters)}.webp`;
  }

  Object.assign(topnine, {
    makeTile,
    showSheet,
    setColumns,
    makeHitTile,
    makeHitTiles,
    makeStrongestTile,
    wallSheet,
  });
})();
