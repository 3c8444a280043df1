// The page: reads its facts, unpacks the volumes, and ties viewer, charts and the list of structures together.

async function openPage() {
  const facts = JSON.parse(document.getElementById("facts").textContent);
  const charts = Object.entries(facts.charts).map(([id, chart]) => new Chart(document.getElementById(id), chart));
  const boxes = [...document.querySelectorAll("[data-structure]")];
  const shown = new Set(facts.structures.filter((structure) => structure.isShown).map((structure) => structure.key));
  let viewer = null;

  const show = (key, isShown) => {
    shown[isShown ? "add" : "delete"](key);
    for (const box of boxes) if (box.dataset.structure === key) box.checked = isShown;
    for (const chart of charts) chart.toggle(key, isShown);
    const structure = viewer && viewer.structures.find((structure) => structure.key === key);
    if (!structure) return;
    structure.isShown = isShown;
    viewer.redraw();
  };
  for (const box of boxes) box.addEventListener("change", () => show(box.dataset.structure, box.checked));
  for (const structure of facts.structures) show(structure.key, structure.isShown);
  const setAll = (isShown) => new Set(boxes.map((box) => box.dataset.structure)).forEach((key) => show(key, isShown));
  document.getElementById("all")?.addEventListener("click", () => setAll(true));
  document.getElementById("none")?.addEventListener("click", () => setAll(false));

  const volumes = Object.fromEntries(await Promise.all(
    Object.entries(facts.volumes).map(async ([name, volume]) => [name, await Volume.unpack(volume)])));
  const structures = await Promise.all(facts.structures.filter((structure) => structure.volume).map(async (structure) =>
    ({ ...structure, isShown: shown.has(structure.key), volume: await Volume.unpack(structure.volume) })));
  viewer = new Viewer(document.getElementById("viewer"), facts, volumes, structures);
  document.querySelectorAll("[data-place]").forEach((button) =>
    button.addEventListener("click", () => viewer.goTo(facts.places[+button.dataset.place], Math.max(viewer.zoom, 2.5))));
  window.addEventListener("beforeprint", () => viewer.panels.forEach((panel) => panel.draw()));
  document.body.dataset.ready = "yes";
  return viewer;
}

const opened = openPage().catch((error) => {
  const note = document.createElement("p");
  note.className = "lead";
  note.textContent = `The pictures cannot be shown in this browser (${error.message}). Tables and charts are complete.`;
  document.getElementById("viewer").replaceChildren(note);
  throw error;
});
