// The data of the run and of its layers. layers/run.js has put the run's into topnine.data under the empty name; each
// layer's script puts the layer's there under its name.
"use strict";

(() => {
  const { make, formatCount, formatPercent } = topnine;
  const run = topnine.data?.get("");
  let subjects = null; // the promise of the data of images and classes
  const loading = new Map(); // by the layer's name: the promise of its data

  // Load a layer's data once, when one of its pages is first opened.
  function loadLayer(layer) {
    if (!loading.has(layer.name)) {
      loading.set(layer.name, readScript(`${layer.folder}.js`).then(() => prepare(topnine.data.get(layer.name))));
      loading.get(layer.name).catch(() => loading.delete(layer.name)); // the next visit tries again
    }
    return loading.get(layer.name);
  }

  // Load which filters have each image among their hits, and which prefer each class.
  function loadSubjects() {
    subjects ??= readScript("layers/subjects.js").then(() => topnine.data.get("/subjects"));
    subjects.catch(() => (subjects = null));
    return subjects;
  }

  function readScript(path) {
    return new Promise((resolve, reject) => {
      const script = make("script", { src: path });
      script.addEventListener("load", resolve);
      script.addEventListener("error", () =>
        reject(new Error(`${path} cannot be read. Copy the gallery’s whole folder again, or make the gallery again.`)),
      );
      document.head.append(script);
    });
  }

  // Number the filters, and collect the names by which a search finds each.
  function prepare(data) {
    for (const [number, filter] of data.filters.entries()) {
      filter.number = number;
      filter.names = filter.hits.flatMap(([image]) => [imageKey(data, image), imageClass(data, image)]);
      filter.names.push(...(filter.classes ?? []).map(([label]) => className(data, label)));
      filter.names = filter.names.filter(Boolean).map(searchable);
    }
    return data;
  }

  // Return a text in the form in which texts are compared.
  function searchable(text) {
    return text.normalize("NFKC").toLowerCase();
  }

  function imageKey(data, image) {
    return data.images[image][0];
  }

  // Return the class of an image; the empty text where the dataset has none for it.
  function imageClass(data, image) {
    return className(data, data.images[image][1]);
  }

  function className(data, label) {
    return label < 0 ? "" : (data.classes[label] ?? `class ${label}`);
  }

  // Name a layer within a sentence: by its number, where it has one.
  function layerName(layer) {
    return `layer ${layer.number || layer.name}`;
  }

  // Name a layer at the beginning of a title.
  function layerTitle(layer) {
    return `Layer ${layer.number || layer.name}`;
  }

  function describeLayer(layer) {
    const [height, width] = layer.field;
    const [inputHeight, inputWidth] = run.input;
    const field =
      height < inputHeight || width < inputWidth
        ? `${Math.min(height, inputHeight)} × ${Math.min(width, inputWidth)} of the image’s ${inputHeight} × ${inputWidth} pixels`
        : "the whole image";
    const dead = layer.dead ? ` Dead filters, which no image activates: ${layer.dead}.` : "";
    return `${layer.name} has ${formatCount(layer.filters, "filter")}. Each sees ${field}.${dead}`;
  }

  // Say which patches are left out of a gallery without thumbnails.
  function describeLargePatch() {
    return `more than ${formatPercent(run.largestPatch)} of an image`;
  }

  Object.assign(topnine, {
    run,
    loadLayer,
    loadSubjects,
    searchable,
    imageKey,
    imageClass,
    className,
    layerName,
    layerTitle,
    describeLayer,
    describeLargePatch,
  });
})();
