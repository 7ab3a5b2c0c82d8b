// What the window shows: the page of the current link, the history, the focus and the keyboard. Runs last.
"use strict";

(() => {
  const { make, run, loadLayer, layerLink, readRoute, makeTour, makeWallPage, makeFilterPage } = topnine;
  const main = document.getElementById("main");
  const KEYS = { ArrowLeft: "prev", ArrowRight: "next", Escape: "up" }; // to the id of the link that they follow

  let currentWall = null; // the wall that is on the page
  let lastWallLink = ""; // the link of the wall that was shown last
  let lastFilter = null; // the filter that was shown last: {layer, number}

  // -- pages --------------------------------------------------------------------------------------------------------

  // Return the page of a route: {title, nodes, wall, update}.
  async function makePage(route) {
    const data = route.layer ? await loadLayer(route.layer) : null;
    switch (route.kind) {
      case "tour":
        return makeTour();
      case "wall":
        return makeWallPage(route.layer, data, route.parameters);
      case "filter":
        return makeFilterPage(route.layer, data, route.number, linkToWall(route.layer));
      default:
        return makeMessage("Page not found", "This link leads to no layer or filter of this gallery.");
    }
  }

  function makeMessage(title, text) {
    return {
      title,
      nodes: [
        make("h1", { tabindex: "-1" }, title),
        make("p", { class: "lead" }, text),
        make("p", { class: "more" }, make("a", { href: "#/" }, "To the tour")),
      ],
    };
  }

  // Return the link to a layer's wall, searched and sorted as it was shown last.
  function linkToWall(layer) {
    const link = layerLink(layer);
    return lastWallLink === link || lastWallLink.startsWith(`${link}?`) ? lastWallLink : link;
  }

  async function render(first = false) {
    const hash = location.hash;
    const route = readRoute(hash);
    const page = await makePage(route).catch((error) => makeMessage("This layer cannot be shown", error.message));
    if (location.hash !== hash) return; // another link was followed meanwhile
    page.update?.();
    if (route.kind === "wall") lastWallLink = hash;
    if (currentWall === null || page.wall !== currentWall) {
      showPage(page, route);
      if (!first) moveReader(page, route);
    }
    if (route.kind === "filter") lastFilter = { layer: route.layer, number: route.number };
  }

  function showPage(page, route) {
    currentWall = page.wall ?? null;
    document.title = `${page.title} · topnine`;
    main.replaceChildren(...page.nodes.filter(Boolean));
    for (const link of document.querySelectorAll("#layers a")) {
      const current = route.layer && link.getAttribute("href") === layerLink(route.layer);
      link.toggleAttribute("aria-current", false);
      if (current) link.setAttribute("aria-current", "true");
    }
  }

  // Move the focus and the scroll position to the filter the reader comes from, or else to the page's heading and to
  // where the reader left the page.
  function moveReader(page, route) {
    const origin = page.wall && lastFilter?.layer === route.layer ? page.wall.cells[lastFilter.number].link : null;
    if (origin?.isConnected) {
      origin.focus();
      return;
    }
    main.querySelector("h1").focus({ preventScroll: true });
    window.scrollTo(0, scrollPositions.get(history.state?.id) ?? 0);
  }

  // -- history and keyboard -------------------------------------------------------------------------------------------

  const scrollPositions = new Map(); // by the entry of the history
  let entry = 0;

  function enterPage() {
    entry = history.state?.id ?? Date.now();
    history.replaceState({ id: entry }, "");
  }

  function followLink() {
    scrollPositions.set(entry, window.scrollY);
    enterPage();
    render();
  }

  function followKey(event) {
    const modified = event.altKey || event.ctrlKey || event.metaKey || event.shiftKey;
    if (modified || event.target.matches("input, select, .scroll")) return;
    const link = KEYS[event.key] && document.getElementById(KEYS[event.key]);
    if (link) {
      event.preventDefault();
      link.click();
    }
  }

  // -- what stays around the pages ------------------------------------------------------------------------------------

  function makeLayerLinks() {
    const numbered = run.layers.every((layer) => layer.number);
    const items = run.layers.map((layer) =>
      make("li", {}, make("a", { href: layerLink(layer) }, numbered ? String(layer.number) : layer.name)),
    );
    return [make("span", { class: "faint", "aria-hidden": "true" }, "Layer"), make("ul", {}, items)];
  }

  function describeGallery() {
    return `Made by topnine. The projections follow the rule “${run.rule}”, after Zeiler & Fergus, Visualizing and Understanding Convolutional Networks, 2014.`;
  }

  function skipToMain(event) {
    event.preventDefault(); // the link would change the hash
    main.focus();
  }

  function start() {
    document.getElementById("network").textContent = run.network;
    document.getElementById("layers").append(...makeLayerLinks());
    document.getElementById("about").append(make("p", {}, describeGallery()));
    document.documentElement.style.setProperty("--ranks", run.ranks);
    document.querySelector(".skip").addEventListener("click", skipToMain);
    history.scrollRestoration = "manual";
    window.addEventListener("hashchange", followLink);
    document.addEventListener("keydown", followKey);
    enterPage();
    render(true);
  }

  function refuse() {
    const text = "layers/run.js cannot be read. Copy the gallery’s whole folder again, or make the gallery again.";
    main.replaceChildren(...makeMessage("This gallery is incomplete", text).nodes);
  }

  if (run) {
    start();
  } else {
    refuse();
  }
})();
