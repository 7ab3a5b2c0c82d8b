// Which filters a wall shows, and in which order.
"use strict";

(() => {
  const { formatNumber, formatPercent, searchable } = topnine;

  // Each order's value is largest in the filter that comes first; `format` writes it below the filter.
  const SORTS = {
    number: { label: "Filter number", value: (filter) => -filter.number },
    activation: {
      label: "Strongest activation",
      value: (filter) => filter.maximum,
      format: (filter) => formatNumber(filter.maximum),
    },
    active: {
      label: "Share of images that activate the filter",
      value: (filter) => filter.active,
      format: (filter) => formatPercent(filter.active),
    },
    entropy: {
      label: "Class entropy (fewest classes first)",
      value: (filter) => -filter.entropy,
      format: (filter) => `${formatNumber(filter.entropy)} bits`,
      known: (filter) => Number.isFinite(filter.entropy),
    },
  };

  // List the keys of the orders that a layer's data allow.
  function listSorts(data) {
    return Object.keys(SORTS).filter((key) => !SORTS[key].known || data.filters.some(SORTS[key].known));
  }

  // Return whether a search finds a filter: whether it finds every one of its words. A number finds the filters whose
  // number begins with it, and images and classes of exactly that name. Any other word finds the names that contain it.
  function matches(filter, search) {
    const text = searchable(search.trim());
    const words = text.split(/\s+/).filter(Boolean);
    const whole = !isNumber(text) && filter.names.some((name) => name.includes(text));
    return whole || words.every((word) => finds(filter, word));
  }

  function finds(filter, word) {
    return isNumber(word)
      ? String(filter.number).startsWith(String(Number(word))) || filter.names.includes(word)
      : filter.names.some((name) => name.includes(word));
  }

  function isNumber(text) {
    return /^\d+$/.test(text);
  }

  // Return a comparison of filters: the largest value first, filters without one last; ties go to the lower number.
  function compareBy(sort) {
    if (sort === "number") {
      return (first, second) => first.number - second.number;
    }
    const { value } = SORTS[sort];
    const rank = (filter) => (filter.hits.length && Number.isFinite(value(filter)) ? value(filter) : -Infinity);
    return (first, second) => compare(rank(second), rank(first)) || first.number - second.number;
  }

  // Compare two numbers; -Infinity equals itself, where a difference would be NaN.
  function compare(first, second) {
    return first < second ? -1 : Number(first > second);
  }

  Object.assign(topnine, { SORTS, listSorts, matches, compareBy });
})();
