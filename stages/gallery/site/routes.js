// The links of the gallery: #/ · #/layer/NAME?sort=…&show=…&search=… · #/layer/NAME/filter/NUMBER
"use strict";

(() => {
  const { run } = topnine;
  const WALL_DEFAULTS = { search: "", sort: "number", show: "projection" };

  function layerLink(layer) {
    return `#/layer/${encodeURIComponent(layer.name)}`;
  }

  function filterLink(layer, number) {
    return `${layerLink(layer)}/filter/${number}`;
  }

  // Return the link to a layer's wall. A query's default values are left out of it.
  function wallLink(layer, query) {
    const parameters = new URLSearchParams();
    for (const [key, value] of Object.entries(query)) {
      if (value && value !== WALL_DEFAULTS[key]) {
        parameters.set(key, value);
      }
    }
    return `${layerLink(layer)}${parameters.size ? `?${parameters}` : ""}`;
  }

  // Return what a wall's link asks for. An unknown value counts as absent.
  function readWallQuery(parameters, sorts, shows) {
    const query = Object.fromEntries(
      Object.entries(WALL_DEFAULTS).map(([key, value]) => [key, parameters.get(key) ?? value]),
    );
    return {
      search: query.search,
      sort: sorts.includes(query.sort) ? query.sort : WALL_DEFAULTS.sort,
      show: shows.includes(query.show) ? query.show : WALL_DEFAULTS.show,
    };
  }

  // Return the route of a link: {kind: "tour" | "wall" | "filter" | "unknown", layer, parameters, number}.
  function readRoute(hash) {
    const [path, query = ""] = hash.replace(/^#\/?/, "").split("?");
    const steps = decodeSteps(path);
    const layer = steps?.[0] === "layer" ? run.layers.find(({ name }) => name === steps[1]) : undefined;
    const number = /^\d+$/.test(steps?.[3] ?? "") ? Number(steps[3]) : NaN;
    if (steps?.length === 0) return { kind: "tour" };
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

  Object.assign(topnine, { layerLink, filterLink, wallLink, readWallQuery, readRoute });
})();
