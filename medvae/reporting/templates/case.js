// The viewer of a case. Address: #threshold=0.7&at=-12,30,5 opens it at a threshold and a place (mm, RAS).
(async () => {
  const byId = (name) => document.getElementById(name), page = JSON.parse(byId("page").textContent), wait = byId("wait");
  const wanted = () => new URLSearchParams(location.hash.slice(1));
  const fail = (why) => { wait.textContent = why; document.documentElement.classList.add("stuck");
    const told = document.createElement("p"); told.className = "warning"; told.textContent = why;
    document.querySelector("main").prepend(told); };
  if (!window.niivue || !window.medvaeVolumes)
    return fail("The viewer needs the files beside this page: keep the folder of pages together.");
  if (!document.createElement("canvas").getContext("webgl2"))
    return fail("This browser has no WebGL2, which the viewer needs; the picture below shows the largest finding.");

  const { Niivue, NVImage } = window.niivue;
  const nv = new Niivue({
    isRadiologicalConvention: true, backColor: [0, 0, 0, 1], crosshairColor: [0.45, 0.75, 1, 0.8], crosshairWidth: 0.7, crosshairWidthUnit: "mm",
    loadingText: "", logLevel: "error", isOrientationTextVisible: true, dragAndDropEnabled: false,
    multiplanarShowRender: 1, isNearestInterpolation: true, sagittalNoseLeft: true, crosshairGap: 12, fontColor: [0.8, 0.85, 0.9, 1],
  });
  const ramp = (name, colour) => nv.addColormap(name, { R: [0, colour[0]], G: [0, colour[1]], B: [0, colour[2]], A: [0, 255], I: [0, 255] });
  const { colours, window: [black, white] } = page;
  ramp("medvae_mask", colours.mask);
  ramp("medvae_truth", colours.truth);
  await nv.attachToCanvas(byId("canvas"));
  const looks = {
    scan: { colormap: "gray", opacity: 1, cal_min: black, cal_max: white },
    map: { colormap: colours.map, opacity: 0.8, cal_min: 0, cal_max: 1 },
    mask: { colormap: "medvae_mask", opacity: 0, cal_min: 0, cal_max: 1 },
    truth: { colormap: "medvae_truth", opacity: 0.5, cal_min: 0, cal_max: 1 },
    spread: { colormap: colours.spread, opacity: 0, cal_min: 0, cal_max: 0.5 },
  };
  const layers = Object.keys(looks).filter((name) => name in window.medvaeVolumes);
  for (const name of layers) {
    const volume = await NVImage.loadFromBase64({ base64: window.medvaeVolumes[name], name: name + ".nii.gz", ...looks[name] });
    if (name === "map") volume.colormapType = 2; // colours count from 0, and what lies below cal_min is left out
    nv.addVolume(volume);
  }
  delete window.medvaeVolumes;
  const map = nv.volumes[layers.indexOf("map")];

  // Threshold: the colours of the map begin there; volume and Dice were counted on the scan's own grid.
  const slider = byId("threshold"), plot = byId("plot"), inked = (name, more) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(more)) element.setAttribute(key, value);
    return plot.appendChild(element);
  };
  const most = Math.log1p(page.flagged[1] * 10), height = (ml) => 29 - 28 * Math.log1p(ml * 10) / Math.max(most, 1e-6);
  const outline = page.flagged.filter((_, step) => step % 5 === 0).map((ml, i) => (i * 0.5).toFixed(1) + "," + height(ml).toFixed(2));
  inked("polygon", { points: "0,29 " + outline.join(" ") + " 100,29", fill: "var(--tint)", stroke: "var(--third)", "stroke-width": 1, "vector-effect": "non-scaling-stroke" });
  const stroke = { y1: 0, y2: 30, "vector-effect": "non-scaling-stroke" };
  for (const point of page.points) inked("line", { x1: 100 * point.threshold, x2: 100 * point.threshold, stroke: "var(--second)", "stroke-dasharray": "2 2", ...stroke });
  const cursor = inked("line", { x1: 50, x2: 50, stroke: "var(--accent)", "stroke-width": 2, ...stroke });
  let asked = 0;
  function cut(threshold) {
    slider.value = threshold;
    const value = Number(slider.value), step = Math.round(value * page.steps);
    byId("shown").textContent = value.toFixed(3);
    byId("flagged").textContent = page.flagged[step].toFixed(page.flagged[step] < 10 ? 2 : 1) + " ml";
    if (page.dice) byId("dice").textContent = page.dice[step].toFixed(3);
    cursor.setAttribute("x1", 100 * value);
    cursor.setAttribute("x2", 100 * value);
    for (const button of byId("points").children) button.setAttribute("aria-pressed", Math.abs(button.dataset.threshold - value) < 6e-4);
    if (!asked) asked = requestAnimationFrame(() => {
      asked = 0;
      map.cal_min = Math.max(Number(slider.value), 1e-3); // 0 would switch the rule off
      nv.updateGLVolume();
    });
  }
  for (const point of page.points) {
    const button = document.createElement("button");
    button.className = "button";
    button.textContent = point.name;
    button.title = "threshold " + point.threshold.toFixed(3);
    button.dataset.threshold = point.threshold;
    button.addEventListener("click", () => cut(point.threshold));
    byId("points").append(button);
  }
  slider.addEventListener("input", () => cut(slider.value));
  slider.addEventListener("change", () => history.replaceState(null, "", "#threshold=" + slider.value));

  for (const name of layers.slice(1)) byId(name).addEventListener("input", (event) => nv.setOpacity(layers.indexOf(name), Number(event.target.value)));
  function view(type) {
    nv.setSliceType(Number(type));
    for (const button of byId("views").children) button.setAttribute("aria-pressed", button.dataset.view === String(type));
  }
  for (const button of byId("views").children) button.addEventListener("click", () => view(button.dataset.view));
  byId("smooth").addEventListener("change", (event) => nv.setInterpolation(!event.target.checked));

  const values = byId("values"), number = { scan: (value) => value.toPrecision(3), map: (value) => value.toFixed(2), spread: (value) => value.toFixed(2) };
  nv.onLocationChange = (there) => {
    values.replaceChildren();
    const line = (name, text) => {
      const row = values.insertRow(), head = document.createElement("th");
      head.scope = "row";
      head.textContent = name;
      row.append(head);
      row.insertCell().textContent = text;
    };
    const [right, front, up] = Array.from(there.mm), side = (mm, plus, minus) => Math.abs(mm).toFixed(0) + " " + (mm < 0 ? minus : plus);
    line("mm", [side(right, "R", "L"), side(front, "A", "P"), side(up, "S", "I")].join(", "));
    layers.forEach((name, index) => {
      const value = there.values[index].value;
      line(name, name in number ? number[name](value) : value > 0 ? "yes" : "no");
    });
  };
  function place(mm) {
    nv.scene.crosshairPos = nv.mm2frac(mm);
    nv.createOnLocationChange();
    nv.drawScene();
  }
  function go() {
    const parameters = wanted(), threshold = Number(parameters.get("threshold") ?? page.threshold ?? 0.5);
    const at = (parameters.get("at") ?? "").split(",").map(Number);
    if (parameters.has("threshold") || !parameters.has("at")) cut(Math.min(Math.max(threshold || 0, 0), 1));
    if (at.length === 3 && at.every(isFinite)) {
      place(at);
      byId("canvas").scrollIntoView({ block: "nearest" });
    }
  }
  cut(page.threshold ?? 0.5);
  view(3);
  place(page.at ?? [0, 0, 0]);
  go();
  window.addEventListener("hashchange", go);
  wait.remove();
  window.medvaeReady = true;
})().catch((error) => {
  document.getElementById("wait").textContent = "The viewer could not start: " + error.message;
  console.error(error);
});
