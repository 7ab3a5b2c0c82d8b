// The page of an image, with the filters that have it among their hits; of a class, with those that prefer it; of the run.
"use strict";

(() => {
  const { make, makeName, makeTable, formatNumber, formatCount } = topnine;
  const { run, layerTitle, filterLink, imageLink, classLink, makeHitTile, makeStrongestTile } = topnine;
  const { makeSection, makeWhole, linkHits } = topnine;

  // Return the page of an image; null where the gallery does not have it.
  function makeImagePage(subjects, image) {
    if (!Object.hasOwn(subjects.images, image)) return null;
    const [key, label, hits] = subjects.images[image];
    const frames = hits.map(([, , , , ...corners]) => [0, 0, ...corners]);
    const whole = run.thumbnails ? makeWhole(image, `Image ${key}`, frames, false) : null;
    for (const [place, frame] of [...(whole?.querySelectorAll("svg > g") ?? [])].entries()) {
      frame.dataset.rank = place;
    }
    const places = new Map(hits.map((hit, place) => [hit, place]));
    const sections = run.layers.map((layer, number) => {
      const own = hits.filter((hit) => hit[0] === number);
      return own.length ? makeFilters(layer, own.map((hit) => makeHitItem(layer, hit, places.get(hit)))) : null;
    });
    const name = className(subjects, label);
    const nodes = [
      make("h1", { tabindex: "-1", dir: "auto" }, key),
      name ? make("p", { class: "lead" }, "Class: ", make("a", { href: classLink(label) }, makeInline(name))) : null,
      make(
        "p",
        { class: "note" },
        `This image is among the ${run.ranks} strongest of ${formatCount(hits.length, "filter")}.`,
        whole ? " Point at a filter to see where in the image it is activated." : "",
      ),
      linkHits(make("div", { class: "subject" }, whole, make("div", {}, sections.filter(Boolean)))),
    ];
    return { title: `Image ${key}`, nodes };
  }

  function makeHitItem(layer, [, filter, rank, activation], place) {
    const show = layer.patches ? "patch" : "projection";
    const link = make(
      "a",
      { href: filterLink(layer, filter) },
      makeHitTile(layer, filter, rank, show),
      make("span", { class: "label" }, `Filter ${filter}`),
      make("span", { class: "faint" }, `hit ${rank + 1}, ${formatNumber(activation)}`),
    );
    return make("li", { "data-rank": place }, link);
  }

  // Return the page of a class; null where no image has it.
  function makeClassPage(subjects, label) {
    if (!Object.hasOwn(subjects.classes, label)) return null;
    const [, images, preferring] = subjects.classes[label];
    const name = className(subjects, label);
    const shown = Object.entries(subjects.images).filter(([, [, own]]) => own === label);
    const sections = run.layers.map((layer, number) => {
      const own = preferring.filter(([each]) => each === number);
      return own.length ? makeFilters(layer, own.map((each) => makePreferring(layer, each))) : null;
    });
    const nodes = [
      make("h1", { tabindex: "-1", dir: "auto" }, name),
      make("p", { class: "note" }, describeClass(images, preferring.length, shown.length)),
      ...sections,
      shown.length
        ? makeSection("Its images", make("ul", { class: "shown" }, shown.map(([image, [key]]) => makeShown(image, key))))
        : null,
    ];
    return { title: `Class ${name}`, nodes };
  }

  function describeClass(images, preferring, shown) {
    const count = `${formatCount(images, "image")} of this class ${images === 1 ? "was" : "were"} mined. `;
    const found = `${formatCount(shown, "image")} of them ${shown === 1 ? "is" : "are"} among the ${run.ranks} strongest of a filter.`;
    const filters = preferring
      ? " The filters below prefer the class: the number is their mean activation over its images, divided by that over all others."
      : "";
    return count + found + filters;
  }

  function makePreferring(layer, [, filter, times]) {
    const link = make(
      "a",
      { href: filterLink(layer, filter) },
      makeStrongestTile(layer, { number: filter, hits: [0] }, layer.patches ? "patch" : "projection"),
      make("span", { class: "label" }, `Filter ${filter}`),
      make("span", { class: "faint" }, times === null ? "no other image" : `${formatNumber(times)} ×`),
    );
    return make("li", {}, link);
  }

  function makeShown(image, key) {
    const picture = run.thumbnails
      ? make("img", { src: `images/${image}.webp`, width: run.input[1], height: run.input[0], loading: "lazy", alt: "" })
      : null;
    return make("li", {}, make("a", { href: imageLink(image) }, picture, makeName(key)));
  }

  function makeFilters(layer, items) {
    return makeSection(layerTitle(layer), make("ul", { class: "together" }, items));
  }

  function className(subjects, label) {
    return label < 0 ? "" : subjects.classes[label]?.[0] || `class ${label}`;
  }

  function makeInline(text) {
    return make("bdi", {}, text);
  }

  function makeAboutPage() {
    const nodes = [
      make("h1", { tabindex: "-1" }, "About this run"),
      makeSection("Data, network and settings", makeTable("Recorded in the store", ["Name", "Value"], run.about)),
    ];
    return { title: "About this run", nodes };
  }

  Object.assign(topnine, { makeImagePage, makeClassPage, makeAboutPage });
})();
