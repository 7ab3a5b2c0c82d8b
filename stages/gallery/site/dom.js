// Elements of a page, and numbers as text. Texts become text nodes and attributes, never markup.
"use strict";

window.topnine ??= {};

(() => {
  // Create an HTML element. Attributes and children that are null are left out; children may be nested lists.
  function make(name, attributes = {}, ...children) {
    return fill(document.createElement(name), attributes, children);
  }

  function makeSvg(name, attributes = {}, ...children) {
    return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
  }

  function fill(element, attributes, children) {
    for (const [key, value] of Object.entries(attributes)) {
      if (value !== null && value !== undefined && value !== false) {
        element.setAttribute(key, value === true ? "" : value);
      }
    }
    element.append(...children.flat(2).filter((child) => child !== null && child !== undefined));
    return element;
  }

  // Show a name from the dataset in its own writing direction. A long name is clipped; its title holds all of it.
  function makeName(text) {
    return make("span", { class: "clip", dir: "auto", title: text }, text);
  }

  // Create text that only screen readers read.
  function makeHidden(text) {
    return make("span", { class: "hidden" }, text);
  }

  // Create a table. `numeric` lists the columns that hold numbers.
  function makeTable(caption, headings, rows, numeric = []) {
    const heads = headings.map((heading) => make("th", { scope: "col" }, heading));
    const makeCell = (value, column) => make("td", { class: numeric.includes(column) ? "number" : null }, value);
    return make(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
      make(
        "table",
        {},
        make("caption", {}, caption),
        make("thead", {}, make("tr", {}, heads)),
        make(
          "tbody",
          {},
          rows.map((row) => make("tr", {}, row.map(makeCell))),
        ),
      ),
    );
  }

  // Format a number with three significant digits.
  function formatNumber(value) {
    return value === null || value === undefined ? "–" : Number(value.toPrecision(3)).toLocaleString("en");
  }

  // Format a fraction with as many significant digits as are asked for.
  function formatPercent(fraction, digits = 2) {
    return fraction === null ? "–" : `${Number((100 * fraction).toPrecision(digits))} %`;
  }

  function formatCount(count, noun) {
    return `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
  }

  function sum(numbers) {
    return numbers.reduce((total, number) => total + number, 0);
  }

  Object.assign(topnine, {
    make,
    makeSvg,
    makeName,
    makeHidden,
    makeTable,
    formatNumber,
    formatPercent,
    formatCount,
    sum,
  });
})();
