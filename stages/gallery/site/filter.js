// The page of a filter: its hits, the images they come from, and its statistics.
"use strict";

(() => {
  const { make, makeName, makeHidden, makeTable, formatNumber, formatPercent } = topnine;
  const { run, imageKey, imageClass, layerName, layerTitle, filterLink, imageLink, classLink } = topnine;
  const { makeTile, makeHitTile, setColumns } = topnine;
  const { linkHits, openHit, makeWhole } = topnine;
  const { makeSection, makeDistribution, makeClasses, makeCorrelated } = topnine;

  // Return a filter's page. `up` is the link to the wall that it belongs to, `order` the filters that this shows.
  function makeFilterPage(layer, data, number, up, order) {
    const filter = data.filters[number];
    const dead = make("p", { class: "lead" }, "This filter is dead: no image activates it.");
    return {
      title: `Filter ${number}, ${layerName(layer)}`,
      nodes: [
        make("p", { class: "above-heading" }, make("a", { href: up, id: "up" }, `${layerTitle(layer)}: all filters`)),
        make(
          "div",
          { class: "heading" },
          make("h1", { tabindex: "-1" }, `Filter ${number}`),
          makeNeighbours(layer, number, order.includes(number) ? order : data.filters.map((each) => each.number)),
        ),
        makeFacts(filter),
        ...(filter.hits.length ? makeBody(layer, data, filter) : [dead]),
      ],
    };
  }

  function makeNeighbours(layer, number, order) {
    const place = order.indexOf(number);
    const makeLink = (other, text, rel) =>
      other === undefined ? null : make("a", { href: filterLink(layer, other), rel, id: rel }, text);
    return make(
      "nav",
      { class: "steps", "aria-label": "Neighbouring filters" },
      makeLink(order[place - 1], "← Previous", "prev"),
      makeLink(order[place + 1], "Next →", "next"),
    );
  }

  function makeFacts(filter) {
    const facts = [
      ["Strongest activation", formatNumber(filter.maximum)],
      ["Mean activation", formatNumber(filter.mean)],
      ["Images that activate it", formatPercent(filter.active)],
    ];
    if (Number.isFinite(filter.entropy)) {
      facts.push(["Class entropy", `${formatNumber(filter.entropy)} bits`]);
    }
    return make(
      "dl",
      { class: "facts" },
      facts.map(([term, value]) => make("div", {}, make("dt", {}, term), make("dd", {}, value))),
    );
  }

  function makeBody(layer, data, filter) {
    const open = (rank) => openHit(layer, data, filter, rank);
    const linked = make(
      "div",
      {},
      make(
        "div",
        { class: "sides" },
        makeSide("Projections", layer, filter, "projection", open),
        layer.patches ? makeSide("Patches", layer, filter, "patch", open) : null,
      ),
      makeImages(layer, data, filter),
    );
    return [
      linkHits(linked),
      make(
        "div",
        { class: "columns" },
        makeDistribution(data, filter),
        makeClasses(data, filter),
        makeCorrelated(layer, data, filter),
      ),
    ];
  }

  // Show the projections or the patches of a filter's hits, each to be enlarged. The keyboard reaches the last side.
  function makeSide(caption, layer, filter, show, open) {
    const last = show === (layer.patches ? "patch" : "projection");
    const tiles = Array.from({ length: run.ranks }, (_, rank) => {
      if (rank >= filter.hits.length) return makeTile(layer.tiles, null, 0);
      const attributes = { class: "hit", type: "button", "data-rank": rank, tabindex: last ? null : "-1" };
      const label = `Enlarge ${show} ${rank + 1} of filter ${filter.number}`;
      const button = make("button", { ...attributes, "aria-label": label }, makeHitTile(layer, filter.number, rank, show));
      button.addEventListener("click", () => open(rank));
      return button;
    });
    return make(
      "figure",
      {},
      make("figcaption", { class: "faint" }, caption),
      setColumns(make("div", { class: "hit-tiles" }, tiles)),
    );
  }

  // -- the images ---------------------------------------------------------------------------------------------------

  function makeImages(layer, data, filter) {
    return makeSection(
      "Source images",
      run.thumbnails
        ? make(
            "ol",
            { class: "hits" },
            filter.hits.map((hit, rank) => make("li", { "data-rank": rank }, makeImage(layer, data, hit, rank))),
          )
        : make("p", { class: "faint" }, "This gallery contains no whole images."),
      make("details", { open: !run.thumbnails }, make("summary", {}, "As a table"), makeHitTable(data, filter)),
      makeSave(layer, data, filter),
    );
  }

  function makeImage(layer, data, hit, rank) {
    const [image, activation] = hit;
    const alt = `Image ${imageKey(data, image)}, with a frame around the patch`;
    return make(
      "figure",
      {},
      make("a", { href: imageLink(image) }, makeWhole(image, alt, [hit], layer.cropped)),
      make(
        "figcaption",
        {},
        makeHidden(`Rank ${rank + 1}, activation `),
        formatNumber(activation),
        makeImageCaption(data, image),
      ),
    );
  }

  function makeImageCaption(data, image) {
    const name = imageClass(data, image);
    const key = makeName(imageKey(data, image));
    key.classList.add("faint");
    return [name ? make("a", { href: classLink(data.images[image][1]) }, makeName(name)) : null, key];
  }

  function makeSave(layer, data, filter) {
    const button = make("button", { type: "button", class: "plain" }, "Save this table as CSV");
    button.addEventListener("click", () => saveTable(layer, data, filter));
    return make("p", { class: "more-links" }, button);
  }

  // Save a filter's hits: a row for each, with every text in quotation marks.
  function saveTable(layer, data, filter) {
    const columns = ["rank", "activation", "class", "image", "top", "left", "bottom", "right"];
    const rows = filter.hits.map(([image, activation, ...corners], rank) => [
      rank,
      activation,
      imageClass(data, image),
      imageKey(data, image),
      ...corners.slice(0, 4),
    ]);
    const quote = (value) => (typeof value === "string" ? `"${value.replaceAll('"', '""')}"` : value);
    const text = [columns, ...rows].map((row) => `${row.map(quote).join(",")}\r\n`).join("");
    const url = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    make("a", { href: url, download: `layer-${layer.number || layer.name}-filter-${filter.number}.csv` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }

  function makeHitTable(data, filter) {
    const rows = filter.hits.map(([image, activation, top, left, bottom, right]) => [
      formatNumber(activation),
      makeName(imageClass(data, image) || "–"),
      makeName(imageKey(data, image)),
      `${top}, ${left}, ${bottom}, ${right}`,
    ]);
    return makeTable(
      "The images that activate the filter most. A patch is given as top, left, bottom, right in pixels of the network’s input.",
      ["Activation", "Class", "Image", "Patch"],
      rows,
      [0],
    );
  }

  Object.assign(topnine, { makeFilterPage });
})();
