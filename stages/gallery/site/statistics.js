// What a filter's page says of its activation over all images. Each part is left out where there are no statistics.
"use strict";

(() => {
  const { make, makeSvg, makeName, makeHidden, makeTable, formatNumber, formatPercent, formatCount, sum } = topnine;
  const { className, classLink, filterLink, makeStrongestTile } = topnine;

  const BAR_PX = 10; // width of a histogram's bar, its gap included; the drawing is stretched to its place
  const BAR_GAP_PX = 1;
  const HISTOGRAM_PX = 100;
  const QUOTED_LEVELS = [0.5, 0.95, 0.999]; // of the quantiles, which the text names

  function makeSection(heading, ...children) {
    return make("section", { class: "block" }, make("h2", {}, heading), ...children);
  }

  // -- the histogram ------------------------------------------------------------------------------------------------

  function makeDistribution(data, filter) {
    if (!filter.histogram || !filter.maximum) return null;
    return makeSection(
      "Activation over all images",
      make("figure", {}, makeHistogram(filter), makeAxis(filter)),
      make(
        "p",
        { class: "note" },
        `Each bar counts the images in one range of the activation, on a logarithmic scale. ${describeQuantiles(data, filter)}`,
      ),
      make("details", {}, make("summary", {}, "As a table"), makeHistogramTable(filter)),
    );
  }

  function makeHistogram({ histogram, maximum }) {
    const highest = Math.log1p(Math.max(...histogram));
    const bars = histogram.map((images, bin) => {
      const height = images ? Math.max(1, (HISTOGRAM_PX * Math.log1p(images)) / highest) : 0;
      return makeSvg("rect", { x: bin * BAR_PX, y: HISTOGRAM_PX - height, width: BAR_PX - BAR_GAP_PX, height });
    });
    const images = formatCount(sum(histogram), "image");
    const attributes = {
      class: "histogram",
      viewBox: `0 0 ${histogram.length * BAR_PX} ${HISTOGRAM_PX}`,
      preserveAspectRatio: "none",
      role: "img",
      "aria-label": `Histogram of the activation over ${images}, from 0 to ${formatNumber(maximum)}. The table below lists its values.`,
    };
    return makeSvg("svg", attributes, bars);
  }

  function makeAxis({ maximum }) {
    const labels = ["0", "activation", formatNumber(maximum)];
    return make(
      "div",
      { class: "axis faint" },
      labels.map((label) => make("span", {}, label)),
    );
  }

  function describeQuantiles({ levels }, { quantiles }) {
    const clauses = QUOTED_LEVELS.filter((level) => levels.includes(level)).map(
      (level) => `at most ${formatNumber(quantiles[levels.indexOf(level)])} for ${formatPercent(level, 3)}`,
    );
    return clauses.length ? `The activation is ${clauses.join(", ")} of the images.` : "";
  }

  function makeHistogramTable({ histogram, maximum }) {
    const edge = (bin) => formatNumber((maximum * bin) / histogram.length);
    const rows = histogram.map((images, bin) => [`${edge(bin)} to ${edge(bin + 1)}`, images.toLocaleString("en")]);
    return makeTable("Images by activation", ["Activation", "Images"], rows, [1]);
  }

  // -- classes and other filters --------------------------------------------------------------------------------------

  function makeClasses(data, filter) {
    if (!filter.classes?.length) return null;
    const rows = filter.classes.map(([label, images, lift]) => [
      make("a", { href: classLink(label) }, makeName(className(data, label))),
      String(images),
      lift === null ? "–" : `${formatNumber(lift)} ×`,
    ]);
    return makeSection(
      "Classes",
      makeTable(
        `Most frequent classes of the ${data.strongest} images that activate the filter most`,
        ["Class", "Images", "Times as often as in all images"],
        rows,
        [1, 2],
      ),
      make(
        "p",
        { class: "note" },
        `The ${data.strongest} images have a class entropy of ${formatNumber(filter.entropy)} bits. It would be 0 if all were of one class.`,
      ),
    );
  }

  function makeCorrelated(layer, data, filter) {
    if (!filter.together?.length) return null;
    const show = layer.patches ? "patch" : "projection";
    const items = filter.together.map(([number, correlation]) =>
      make(
        "li",
        {},
        make(
          "a",
          { href: filterLink(layer, number) },
          makeStrongestTile(layer, data.filters[number], show),
          make("span", { class: "label" }, `Filter ${number}`),
          make("span", { class: "faint" }, makeHidden("correlation "), formatNumber(correlation)),
        ),
      ),
    );
    return makeSection(
      "Filters with similar activations",
      make("ul", { class: "together" }, items),
      make(
        "p",
        { class: "note" },
        "The filters of this layer whose activations over all images correlate most with those of this filter. The number is the correlation.",
      ),
    );
  }

  Object.assign(topnine, { makeSection, makeDistribution, makeClasses, makeCorrelated });
})();
