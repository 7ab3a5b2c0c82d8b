// What the window shows: the page of the current link, the history, the focus and the keyboard. Runs last.
"use strict";

(() => {
  const { make, run, loadLayer, loadSubjects, layerLink, wallLink, filterLink, readRoute, listShown } = topnine;
  const { makeTour, makeWallPage, makeFilterPage, makeImagePage, makeClassPage, makeAboutPage } = topnine;
  const main = document.getElementById("main");
  const KEYS = { ArrowLeft: "prev", ArrowRight: "next", Escape: "up", r: "random" }; // to the id of the link they follow
  const KEY_NAMES = [
    ["←", "Previous filter or hit"],
    ["→", "Next filter or hit"],
    ["Esc", "From a filter to all filters of its layer"],
    ["/", "Search the filters of a layer"],
    ["r", "Any filter of the layer that is shown"],
    ["?", "This list"],
  ];

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
        return makeFilterPage(route.layer, data, route.number, linkToWall(route.layer), listOrder(route.layer, data));
      case "image":
        return makeImagePage(await loadSubjects(), route.number) ?? makeUnknown();
      case "class":
        return makeClassPage(await loadSubjects(), route.number) ?? makeUnknown();
      case "about":
        return makeAboutPage();
      default:
        return makeUnknown();
    }
  }

  function makeUnknown() {
    return makeMessage("Page not found", "This link leads to nothing that this gallery has.");
  }

  // List the filters of a layer as its wall was shown last.
  function listOrder(layer, data) {
    return listShown(layer, data, readRoute(linkToWall(layer)).parameters);
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
    keepSearch(route);
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
    for (const [place, link] of document.querySelectorAll("#layers a").entries()) {
      link.toggleAttribute("aria-current", false);
      if (route.layer === run.layers[place]) link.setAttribute("aria-current", "true");
    }
  }

  // Let the links to the layers keep what the wall is searched for.
  function keepSearch(route) {
    const search = route.kind === "wall" ? (route.parameters.get("search") ?? "") : "";
    for (const [place, link] of document.querySelectorAll("#layers a").entries()) {
      link.href = wallLink(run.layers[place], { search });
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
    const modified = event.altKey || event.ctrlKey || event.metaKey || (event.shiftKey && event.key !== "?");
    if (modified || event.target.matches("input, select, .scroll") || document.querySelector("dialog[open]")) return;
    const link = document.getElementById(KEYS[event.key]);
    const search = event.key === "/" && document.getElementById("search");
    if (!link && !search && event.key !== "?") return;
    event.preventDefault();
    if (event.key === "?") {
      showKeys();
    } else if (search) {
      search.focus();
    } else if (["prev", "next"].includes(link.id)) {
      location.replace(link.href); // one step back from any of them leads to where the reader came from
    } else {
      link.click();
    }
  }

  function showKeys() {
    const rows = KEY_NAMES.map(([key, text]) => make("div", {}, make("dt", {}, make("kbd", {}, key)), make("dd", {}, text)));
    const close = make("button", { type: "button", class: "plain" }, "Close");
    const dialog = make(
      "dialog",
      { class: "keys", "aria-labelledby": "keys-title" },
      make("h2", { id: "keys-title" }, "Keys"),
      make("dl", {}, rows),
      close,
    );
    close.addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => dialog.remove());
    main.append(dialog);
    dialog.showModal();
  }

  // Go to one of the live filters that the wall shows.
  function followRandom(event) {
    if (event.target.id !== "random") return;
    const shown = currentWall.cells.filter(({ filter, item }) => filter.hits.length && item.isConnected);
    if (shown.length) location.hash = filterLink(currentWall.layer, shown[Math.floor(Math.random() * shown.length)].filter.number);
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
    const keys = make("button", { type: "button", class: "plain" }, "Keys");
    keys.addEventListener("click", showKeys);
    const more = make("p", { class: "more-links" }, make("a", { href: "#/about" }, "About this run"), keys);
    document.getElementById("about").append(make("p", {}, describeGallery()), more);
    main.addEventListener("click", followRandom);
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
