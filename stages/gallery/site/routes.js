// The links of the gallery:
// #/ · #/about · #/layer/NAME?sort=…&show=…&search=… · #/layer/NAME/filter/NUMBER · #/image/ID · #/class/LABEL
"use strict";

(() => {
  const { run } = topnine;

  // Return what a wall shows where its link does not say it. The first of the pictures that there are is shown.
  function wallDefaults(layer) {
    return { search: "", sort: "number", show: wallShows(layer)[0] };
  }

  function wallShows(layer) {
    return layer.patches ? ["patch", "projection"] : ["projection"];
  }

  function layerLink(layer) {
    return `#/layer/${encodeURIComponent(layer.name)}`;
  }

  function filterLink(layer, number) {
    return `${layerLink(layer)}/filter/${number}`;
  }

  function imageLink(image) {
    return `#/image/${image}`;
  }

  function classLink(label) {
    return `#/class/${label}`;
  }

  // Return the link to a layer's wall. A query's default values are left out of it.
  function wallLink(layer, query) {
    const defaults = wallDefaults(layer);
    const parameters = new URLSearchParams();
    for (const [key, value] of Object.entries(query)) {
      if (value && value !== defaults[key]) {
        parameters.set(key, value);
      }
    }
    return `${layerLink(layer)}${parameters.size ? `?${parameters}` : ""}`;
  }

  // Return what a wall's link asks for. An unknown value counts as absent.
  function readWallQuery(layer, parameters, sorts) {
    const defaults = wallDefaults(layer);
    const query = Object.fromEntries(
      Object.entries(defaults).map(([key, value]) => [key, parameters.get(key) ?? value]),
    );
    return {
      search: query.search,
      sort: sorts.includes(query.sort) ? query.sort : defaults.sort,
      show: wallShows(layer).includes(query.show) ? query.show : defaults.show,
    };
  }

  // Return the route of a link: {kind: "tour" | "about" | "wall" | "filter" | "image" | "class" | "unknown",
  // layer, parameters, number}.
  function readRoute(hash) {
    const [path, query = ""] = hash.replace(/^#\/?/, "").split("?");
    const steps = decodeSteps(path);
    const layer = steps?.[0] === "layer" ? run.layers.find(({ name }) => name === steps[1]) : undefined;
    const number = /^\d+$/.test(steps?.[3] ?? "") ? Number(steps[3]) : NaN;
    if (steps?.length === 0) return { kind: "tour" };
    if (steps?.length === 1 && steps[0] === "about") return { kind: "about" };
    if (steps?.length === 2 && ["image", "class"].includes(steps[0]) && /^\d+$/.test(steps[1]))
      return { kind: steps[0], number: Number(steps[1]) };
    if (layer && steps.length === 2) return { kind: "wall", layer, parameters: new URLSearchParams(query) };
    if (layer && steps.length === 4 && steps[2] === "filter" && number < layer.filters)
      return { kind: "filter", layer, number };
    return { kind: "unknown" };
  }

  // Split a path into its steps; undefined where it is not encoded correctly.
  function decodeSteps(path) {
    try {
      return path.split("/").filter(Boolean).map(decodeURIComponent);
    } catch {
      return undefined;
    }
  }

  Object.assign(topnine, {
    layerLink,
    filterLink,
    imageLink,
    classLink,
    wallLink,
    wallShows,
    readWallQuery,
    readRoute,
  });
})();
