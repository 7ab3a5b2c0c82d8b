// One hit of a filter: its projection, its patch and its place in the source image, joined and enlarged.
"use strict";

(() => {
  const { make, makeSvg, makeName, formatNumber } = topnine;
  const { run, imageKey, imageClass, imageLink, classLink, makeHitTile } = topnine;

  // Light everything of a hit while the pointer or the focus is on a part of it.
  function linkHits(block) {
    const light = (target, lit) => {
      const rank = target.closest?.("[data-rank]")?.dataset.rank;
      for (const part of rank === undefined ? [] : block.querySelectorAll(`[data-rank="${rank}"]`)) {
        part.classList.toggle("lit", lit);
      }
    };
    for (const [start, end] of [
      ["pointerover", "pointerout"],
      ["focusin", "focusout"],
    ]) {
      block.addEventListener(start, ({ target }) => light(target, true));
      block.addEventListener(end, ({ target }) => light(target, false));
    }
    return block;
  }

  // Show a whole image with a frame for every hit; with `footprints` also where its projection is strong.
  function makeWhole(image, alt, hits, footprints) {
    const size = { width: run.input[1], height: run.input[0] };
    const frames = hits.map(([, , ...corners]) =>
      makeSvg("g", {}, makeFrame(corners.slice(0, 4)), footprints ? makeFrame(corners.slice(4), "footprint") : null),
    );
    return make(
      "span",
      { class: "whole" },
      make("img", { src: `images/${image}.webp`, ...size, loading: "lazy", alt }),
      makeSvg("svg", { viewBox: `0 0 ${size.width} ${size.height}`, "aria-hidden": "true" }, frames),
    );
  }

  function makeFrame([top, left, bottom, right], kind = "window") {
    const rectangle = { x: left, y: top, width: right - left, height: bottom - top };
    const lines = kind === "window" ? ["under", "over"] : ["inner"];
    return makeSvg("g", {}, lines.map((line) => makeSvg("rect", { class: line, ...rectangle })));
  }

  // Open a hit, enlarged. The arrow keys lead to the other hits of the filter.
  function openHit(layer, data, filter, rank) {
    const dialog = make("dialog", { "aria-labelledby": "enlarged" });
    const show = (next) => {
      if (!filter.hits[next]) return;
      dialog.replaceChildren(...makeEnlarged(layer, data, filter, next, show, () => dialog.close()));
      const step = dialog.querySelector(`[data-step="${Math.sign(next - rank)}"]`);
      (step.disabled ? dialog.querySelector('[data-step="0"]') : step).focus(); // a key goes to what has the focus
      rank = next;
    };
    dialog.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step) show(rank + step);
    });
    dialog.addEventListener("click", ({ target }) => target === dialog && dialog.close());
    dialog.addEventListener("close", () => dialog.remove());
    document.getElementById("main").append(dialog);
    show(rank);
    dialog.showModal();
  }

  function makeEnlarged(layer, data, filter, rank, show, close) {
    const hit = filter.hits[rank];
    const [image, activation, top, left, bottom, right] = hit;
    const pictures = (layer.patches ? ["projection", "patch"] : ["projection"]).map((kind) =>
      make(
        "figure",
        {},
        makeHitTile(layer, filter.number, rank, kind),
        make("figcaption", { class: "faint" }, kind === "patch" ? "Patch" : "Projection"),
      ),
    );
    if (run.thumbnails) {
      const alt = `Image ${imageKey(data, image)}, with a frame around the patch`;
      const whole = makeWhole(image, alt, [hit], layer.cropped);
      pictures.push(make("figure", {}, whole, make("figcaption", { class: "faint" }, "Source image")));
    }
    const makeStep = (step, text) => {
      const attributes = { type: "button", class: "plain", "data-step": step, disabled: !filter.hits[rank + step] };
      const button = make("button", attributes, text);
      button.addEventListener("click", () => show(rank + step));
      return button;
    };
    const closing = make("button", { type: "button", class: "plain", "data-step": "0" }, "Close");
    closing.addEventListener("click", close);
    const name = imageClass(data, image);
    const facts = [
      ["Activation", formatNumber(activation)],
      ...(name ? [["Class", makeGo(classLink(data.images[image][1]), name, close)]] : []),
      ["Image", makeGo(imageLink(image), imageKey(data, image), close)],
      ["Patch", `rows ${top} to ${bottom - 1}, columns ${left} to ${right - 1}`],
    ];
    return [
      make("h2", { id: "enlarged" }, `Filter ${filter.number}, hit ${rank + 1} of ${filter.hits.length}`),
      make("div", { class: "parts" }, pictures),
      make(
        "dl",
        { class: "facts" },
        facts.map(([term, value]) => make("div", {}, make("dt", {}, term), make("dd", {}, value))),
      ),
      make("p", { class: "more-links" }, makeStep(-1, "← Stronger"), makeStep(1, "Weaker →"), closing),
    ];
  }

  function makeGo(href, name, close) {
    const link = make("a", { href }, makeName(name));
    link.addEventListener("click", close);
    return link;
  }

  Object.assign(topnine, { linkHits, makeWhole, openHit });
})();
