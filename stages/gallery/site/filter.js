// The page of a filter: its hits, the images they come from, and its statistics.
"use strict";

(() => {
  const { make, makeSvg, makeName, makeHidden, makeTable, formatNumber, formatPercent } = topnine;
  const { run, imageKey, imageClass, layerName, layerTitle, filterLink } = topnine;
  const { makeHitTiles, PROJECTIONS, PATCHES } = topnine;
  const { makeSection, makeDistribution, makeClasses, makeCorrelated } = topnine;

  // Return a filter's page. `up` is the link to the wall that it belongs to.
  function makeFilterPage(layer, data, number, up) {
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
          makeNeighbours(layer, data, number),
        ),
        makeFacts(filter),
        ...(filter.hits.length ? makeBody(layer, data, filter) : [dead]),
      ],
    };
  }

  function makeNeighbours(layer, data, number) {
    const makeLink = (other, text, rel) =>
      data.filters[other] ? make("a", { href: filterLink(layer, other), rel, id: rel }, text) : null;
    return make(
      "nav",
      { class: "steps", "aria-label": "Neighbouring filters" },
      makeLink(number - 1, "← Previous", "prev"),
      makeLink(number + 1, "Next →", "next"),
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
    return [
      make(
        "div",
        { class: "sides" },
        makeSide("Projections", layer, filter, PROJECTIONS),
        layer.patches ? makeSide("Patches", layer, filter, PATCHES) : null,
      ),
      makeImages(data, filter),
      make(
        "div",
        { class: "columns" },
        makeDistribution(data, filter),
        makeClasses(data, filter),
        makeCorrelated(layer, data, filter),
      ),
    ];
  }

  function makeSide(caption, layer, filter, row) {
    return make(
      "figure",
      {},
      make("figcaption", { class: "faint" }, caption),
      makeHitTiles(layer, filter.number, filter.hits.length, row),
    );
  }

  // -- the images ---------------------------------------------------------------------------------------------------

  function makeImages(data, filter) {
    return makeSection(
      "Source images",
      run.thumbnails
        ? make(
            "ol",
            { class: "hits" },
            filter.hits.map((hit, rank) => make("li", {}, makeImage(data, hit, rank))),
          )
        : make("p", { class: "faint" }, "This gallery contains no whole images."),
      make("details", { open: !run.thumbnails }, make("summary", {}, "As a table"), makeHitTable(data, filter)),
    );
  }

  function makeImage(data, hit, rank) {
    const [image, activation] = hit;
    const picture = make("img", {
      src: `images/${image}.webp`,
      width: run.input[1],
      height: run.input[0],
      loading: "lazy",
      alt: `Image ${imageKey(data, image)}, with a frame around the patch`,
    });
    return make(
      "figure",
      {},
      make("span", { class: "whole" }, picture, makeFrame(hit)),
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
    const label = imageClass(data, image);
    const key = makeName(imageKey(data, image));
    key.classList.add("faint");
    return [label ? makeName(label) : null, key];
  }

  function makeFrame([, , top, left, bottom, right]) {
    const rectangle = { x: left, y: top, width: right - left, height: bottom - top };
    return makeSvg(
      "svg",
      { viewBox: `0 0 ${run.input[1]} ${run.input[0]}`, "aria-hidden": "true" },
      makeSvg("rect", { class: "under", ...rectangle }),
      makeSvg("rect", { class: "over", ...rectangle }),
    );
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
