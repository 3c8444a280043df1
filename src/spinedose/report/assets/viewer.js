// The viewer: three planes through one point, each a CT with a dose, a difference or gamma over it, and outlines.

const PLANES = {
  axial: { axes: [0, 1, 2], isDown: true, letters: ["R", "L", "P", "A"] },
  sagittal: { axes: [1, 2, 0], isDown: false, letters: ["A", "P", "I", "S"] },
  coronal: { axes: [0, 2, 1], isDown: false, letters: ["R", "L", "I", "S"] },
};
const WINDOWS = { soft: [40, 400], bone: [300, 1500], lung: [-500, 1500], metal: [1500, 3500] };
const MOST_ZOOM = 12;

// 256 colours between stops at even steps.
function tableOf(stops) {
  const table = new Uint8Array(3 * 256);
  const channels = stops.map((stop) => [1, 3, 5].map((k) => parseInt(stop.slice(k, k + 2), 16)));
  for (let n = 0; n < 256; n++) {
    const place = (n / 255) * (stops.length - 1), low = Math.min(Math.floor(place), stops.length - 2);
    for (let c = 0; c < 3; c++) {
      table[3 * n + c] = channels[low][c] + (place - low) * (channels[low + 1][c] - channels[low][c]);
    }
  }
  return table;
}

class Viewer {
  constructor(root, facts, volumes, structures) {
    Object.assign(this, { root, facts, volumes, structures });
    this.tables = Object.fromEntries(Object.entries(facts.maps).map(([name, stops]) => [name, tableOf(stops)]));
    this.at = [...facts.point];
    this.centre = [...facts.point];
    this.zoom = 1.7;
    this.level = WINDOWS.soft[0];
    this.width = WINDOWS.soft[1];
    this.opacity = 0.6;
    this.span = 5; // of the difference, % of the reference dose
    this.layer = facts.layers[0];
    this.hasIsodoses = this.hasCross = true;
    this.isWaiting = false;
    const { origin, spacing, count } = volumes.ct;
    this.low = [0, 1, 2].map((axis) => origin[axis] - spacing[axis] / 2);
    this.high = [0, 1, 2].map((axis) => this.low[axis] + spacing[axis] * count[axis]);
    this.panels = Object.entries(PLANES).map(([name, plane]) => new Panel(this, name, plane));
    this.wire();
    new ResizeObserver(() => this.redraw()).observe(root);
    this.redraw();
  }

  step(axis, steps) {
    this.moveTo(axis, this.at[axis] + steps * this.volumes.ct.spacing[axis]);
  }

  moveTo(axis, value) {
    this.at[axis] = Math.min(Math.max(value, this.low[axis]), this.high[axis]);
    this.redraw();
  }

  goTo(point, zoom) {
    point.forEach((value, axis) => (this.at[axis] = Math.min(Math.max(value, this.low[axis]), this.high[axis])));
    this.zoomTo(zoom || this.zoom);
  }

  zoomTo(zoom) {
    this.zoom = Math.min(Math.max(zoom, 1), MOST_ZOOM);
    this.centre = [...this.at];
    this.redraw();
  }

  redraw() {
    if (this.isWaiting) return;
    this.isWaiting = true;
    requestAnimationFrame(() => {
      this.isWaiting = false;
      for (const panel of this.panels) panel.draw();
      this.tell();
      this.drawScale();
    });
  }

  // What a value of the layer on top looks like: 256 times red, green, blue and opacity from `low` to `high`.
  shades() {
    const { top_gy: top, reference_gy: reference } = this.facts, kind = this.root.dataset.shown;
    const end = (this.span / 100) * reference;
    const [low, high] = kind === "difference" ? [-end, end] : kind === "gamma" ? [0, 2] : [0, top];
    const alpha = {
      difference: (part) => Math.min(Math.abs(part - 0.5) * 5, 1),
      gamma: (part) => (part > 0.5 ? 1 : 0.55),
    }[kind] || ((part) => Math.min(Math.max((part - 0.08) / 0.06, 0), 1));
    const looks = new Float32Array(4 * 256);
    for (let n = 0; n < 256; n++) {
      for (let c = 0; c < 3; c++) looks[4 * n + c] = this.table[3 * n + c];
      looks[4 * n + 3] = this.opacity * alpha(n / 255);
    }
    return { looks, low, gain: 255 / (high - low) };
  }

  get table() {
    return this.tables[this.root.dataset.shown] || this.tables.dose;
  }

  // What lies over the CT in a plane: one slice, or two to take apart.
  overlay(axes, at) {
    const take = (name) => this.volumes[name] && this.volumes[name].slice(axes, at);
    if (this.layer === "ct") return null;
    if (this.layer === "difference") {
      const recalculated = take("recalculated"), planned = take("planned");
      return recalculated && planned ? [recalculated, planned] : null;
    }
    const slice = take(this.layer);
    return slice ? [slice] : null;
  }

  // --- what the reader does ---------------------------------------------------------------------------------------

  wire() {
    const find = (selector) => this.root.querySelector(selector);
    const each = (selector, act) => this.root.querySelectorAll(selector).forEach(act);
    each("[data-layer]", (button) => button.addEventListener("click", () => this.show(button.dataset.layer)));
    each("[data-window]", (button) =>
      button.addEventListener("click", () => this.setWindow(...WINDOWS[button.dataset.window])));
    find("#level").addEventListener("input", (e) => this.setWindow(+e.target.value, this.width));
    find("#width").addEventListener("input", (e) => this.setWindow(this.level, +e.target.value));
    find("#opacity").addEventListener("input", (e) => { this.opacity = e.target.value / 100; this.redraw(); });
    find("#span")?.addEventListener("change", (e) => { this.span = +e.target.value; this.redraw(); });
    find("#gamma-map")?.addEventListener("change", (e) => this.show(e.target.value));
    find("#isodoses").addEventListener("change", (e) => { this.hasIsodoses = e.target.checked; this.redraw(); });
    find("#cross").addEventListener("change", (e) => { this.hasCross = e.target.checked; this.redraw(); });
    each("[data-zoom]", (button) => button.addEventListener("click", () => {
      const kind = button.dataset.zoom;
      this.zoomTo(kind === "whole" ? 1 : this.zoom * (kind === "in" ? 1.5 : 1 / 1.5));
    }));
    this.show(this.layer);
    this.setWindow(this.level, this.width);
  }

  show(layer) {
    const choice = this.root.querySelector("#gamma-map");
    if (layer === "gamma" && choice) layer = choice.value;
    this.layer = layer;
    const kind = layer.startsWith("gamma") ? "gamma" : layer;
    this.root.querySelectorAll("[data-layer]").forEach((button) =>
      button.setAttribute("aria-pressed", button.dataset.layer === kind));
    this.root.dataset.shown = kind;
    this.redraw();
  }

  setWindow(level, width) {
    this.level = Math.min(Math.max(level, -1000), 3000);
    this.width = Math.min(Math.max(width, 20), 4000);
    this.root.querySelector("#level").value = this.level;
    this.root.querySelector("#width").value = this.width;
    this.root.querySelector("#window-text").textContent = `level ${Math.round(this.level)} HU, width ${Math.round(this.width)} HU`;
    this.root.querySelectorAll("[data-window]").forEach((button) => {
      const [l, w] = WINDOWS[button.dataset.window];
      button.setAttribute("aria-pressed", l === this.level && w === this.width);
    });
    this.redraw();
  }

  // --- what is said beside the pictures ---------------------------------------------------------------------------

  tell() {
    const signed = (value, digits) => (value < 0 ? "\u2212" : "+") + Math.abs(value).toFixed(digits);
    const plain = (value, digits) => (value < 0 ? "\u2212" : "") + Math.abs(value).toFixed(digits);
    const known = (name) => (this.volumes[name] ? this.volumes[name].at(this.at) : NaN);
    const put = (name, text) => {
      const place = this.root.querySelector(`[data-read="${name}"]`);
      if (place) place.textContent = text;
    };
    const [x, y, z] = this.at.map((value) => plain(10 * value, 1));
    put("point", `${x}, ${y}, ${z} mm`);
    const hu = known("ct"), planned = known("planned"), recalculated = known("recalculated");
    put("ct", Number.isNaN(hu) ? "\u2013" : `${plain(Math.round(hu), 0)} HU`);
    put("planned", Number.isNaN(planned) ? "\u2013" : `${planned.toFixed(2)} Gy`);
    put("recalculated", Number.isNaN(recalculated) ? "\u2013" : `${recalculated.toFixed(2)} Gy`);
    const difference = recalculated - planned;
    put("difference", Number.isNaN(difference) ? "\u2013"
      : `${signed(difference, 2)} Gy (${signed((100 * difference) / this.facts.reference_gy, 1)} %)`);
    const choice = this.root.querySelector("#gamma-map");
    const gamma = known(this.layer.startsWith("gamma") ? this.layer : choice ? choice.value : "gamma0");
    put("gamma", Number.isNaN(gamma) ? "\u2013" : gamma.toFixed(2));
  }

  drawScale() {
    const canvas = this.root.querySelector("#scale"), pen = canvas.getContext("2d");
    const labels = this.root.querySelector("#scale-labels");
    const isEmpty = this.layer === "ct";
    canvas.parentElement.hidden = isEmpty;
    if (isEmpty) return;
    for (let i = 0; i < canvas.width; i++) {
      const n = Math.round((i / (canvas.width - 1)) * 255);
      pen.fillStyle = `rgb(${this.table[3 * n]},${this.table[3 * n + 1]},${this.table[3 * n + 2]})`;
      pen.fillRect(i, 0, 1, canvas.height);
    }
    const top = this.facts.top_gy;
    const texts = this.layer === "difference" ? [`\u2212${this.span} %`, "0", `+${this.span} %`]
      : this.layer.startsWith("gamma") ? ["0", "1", "2"] : ["0", (top / 2).toFixed(1), `${top.toFixed(1)} Gy`];
    labels.replaceChildren(...texts.map((text) => Object.assign(document.createElement("span"), { textContent: text })));
  }
}

class Panel {
  constructor(viewer, name, plane) {
    Object.assign(this, { viewer, name, plane });
    this.box = viewer.root.querySelector(`[data-plane="${name}"]`);
    this.canvas = this.box.querySelector("canvas");
    this.aside = document.createElement("canvas");
    this.slider = this.box.querySelector("input");
    const axis = plane.axes[2];
    this.slider.min = viewer.low[axis];
    this.slider.max = viewer.high[axis];
    this.slider.step = viewer.volumes.ct.spacing[axis] / 2;
    this.slider.addEventListener("input", () => viewer.moveTo(axis, +this.slider.value));
    this.wire(axis);
  }

  wire(axis) {
    const { canvas, viewer } = this;
    canvas.addEventListener("wheel", (e) => {
      e.preventDefault();
      if (e.ctrlKey) viewer.zoomTo(viewer.zoom * (e.deltaY < 0 ? 1.15 : 1 / 1.15));
      else viewer.step(axis, e.deltaY < 0 ? 1 : -1);
    }, { passive: false });
    canvas.addEventListener("contextmenu", (e) => e.preventDefault());
    canvas.addEventListener("pointerdown", (e) => {
      canvas.setPointerCapture(e.pointerId);
      this.drag = { isWindow: e.button === 2 || e.shiftKey, x: e.clientX, y: e.clientY, level: viewer.level, width: viewer.width };
      if (!this.drag.isWindow) this.pick(e);
    });
    canvas.addEventListener("pointermove", (e) => {
      if (!this.drag) return;
      if (this.drag.isWindow) {
        viewer.setWindow(this.drag.level - 2 * (e.clientY - this.drag.y), this.drag.width + 3 * (e.clientX - this.drag.x));
      } else this.pick(e);
    });
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (this.drag = null));
    canvas.addEventListener("keydown", (e) => {
      const [u, v] = this.plane.axes, up = this.plane.isDown ? -1 : 1;
      const moves = { ArrowLeft: [u, -1], ArrowRight: [u, 1], ArrowUp: [v, up], ArrowDown: [v, -up], PageUp: [axis, 1], PageDown: [axis, -1] };
      if (!(e.key in moves)) return;
      e.preventDefault();
      viewer.step(...moves[e.key]);
    });
    this.box.querySelector("[data-enlarge]").addEventListener("click", () => {
      viewer.panels.forEach((panel) => panel.box.classList.toggle("large", panel === this));
      viewer.redraw();
    });
  }

  pick(e) {
    const frame = this.canvas.getBoundingClientRect(), [u, v] = this.plane.axes, view = this.view;
    const px = ((e.clientX - frame.left) / frame.width) * this.canvas.width;
    const py = ((e.clientY - frame.top) / frame.height) * this.canvas.height;
    this.viewer.moveTo(u, view.u(px));
    this.viewer.moveTo(v, view.v(py));
  }

  // How pixels and centimetres belong together.
  look() {
    const { viewer, plane, canvas } = this;
    const [u, v] = plane.axes, { width: w, height: h } = canvas;
    const size = (axis) => viewer.high[axis] - viewer.low[axis];
    const scale = Math.min(w / size(u), h / size(v)) * viewer.zoom; // pixels per cm
    const middle = (axis, pixels) => {
      const half = Math.min(pixels / scale / 2, size(axis) / 2);
      return Math.min(Math.max(viewer.zoom > 1 ? viewer.centre[axis] : 0.5 * (viewer.low[axis] + viewer.high[axis]),
        viewer.low[axis] + half), viewer.high[axis] - half);
    };
    const mu = middle(u, w), mv = middle(v, h), sign = plane.isDown ? 1 : -1;
    return {
      scale,
      u: (px) => mu + (px - w / 2) / scale, v: (py) => mv + (sign * (py - h / 2)) / scale,
      px: (a) => w / 2 + (a - mu) * scale, py: (b) => h / 2 + sign * (b - mv) * scale,
    };
  }

  draw() {
    const { viewer, plane, canvas } = this;
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    const w = Math.round(canvas.clientWidth * ratio), h = Math.round(canvas.clientHeight * ratio);
    if (!w || !h) return;
    if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
    const [u, v, through] = plane.axes, at = viewer.at[through];
    this.view = this.look();
    const pen = canvas.getContext("2d");
    this.paint(pen, w, h, at);
    pen.lineJoin = "round";
    this.drawIsodoses(pen, at, ratio);
    for (const structure of viewer.structures) {
      if (!structure.isShown) continue;
      const slice = structure.volume.slice(plane.axes, at);
      if (slice) this.stroke(pen, outlines(slice, 0.5), structure.color, structure.width * ratio, structure.dash, ratio);
    }
    this.decorate(pen, w, h, ratio);
    const text = `${"xyz"[through]} = ${(10 * at).toFixed(1).replace("-", "\u2212")} mm`;
    this.box.querySelector("[data-height]").textContent = text;
    this.slider.value = at;
    canvas.setAttribute("aria-label", `${this.name} plane, ${text}`);
  }

  paint(pen, w, h, at) {
    const { viewer, plane, view } = this;
    const image = pen.createImageData(w, h), pixels = image.data;
    const ct = viewer.volumes.ct.slice(plane.axes, at), over = viewer.overlay(plane.axes, at);
    const us = Array.from({ length: w }, (_, i) => view.u(i + 0.5)), vs = Array.from({ length: h }, (_, j) => view.v(j + 0.5));
    const places = (slice) => slice && [placesOf(us, slice.u0, slice.du, slice.nu), placesOf(vs, slice.v0, slice.dv, slice.nv)];
    const ctPlaces = places(ct), overPlaces = over && over.map(places);
    const black = viewer.level - viewer.width / 2, gain = 255 / viewer.width, shades = viewer.shades(), { looks } = shades;
    for (let j = 0, n = 0; j < h; j++) {
      for (let i = 0; i < w; i++, n += 4) {
        const hu = ct ? sampleAt(ct, ctPlaces[0], i, ctPlaces[1], j) : NaN;
        const grey = hu === hu ? Math.min(Math.max((hu - black) * gain, 0), 255) : 0;
        let alpha = 0, look = 0;
        if (over) {
          let value = sampleAt(over[0], overPlaces[0][0], i, overPlaces[0][1], j);
          if (over[1]) value -= sampleAt(over[1], overPlaces[1][0], i, overPlaces[1][1], j);
          if (value === value) {
            look = 4 * Math.min(Math.max(Math.round((value - shades.low) * shades.gain), 0), 255);
            alpha = looks[look + 3];
          }
        }
        for (let c = 0; c < 3; c++) pixels[n + c] = grey + alpha * (looks[look + c] - grey);
        pixels[n + 3] = 255;
      }
    }
    // By way of another canvas: pictures that are put are not printed, those that are drawn are.
    [this.aside.width, this.aside.height] = [w, h];
    this.aside.getContext("2d").putImageData(image, 0, 0);
    pen.drawImage(this.aside, 0, 0);
  }

  drawIsodoses(pen, at, ratio) {
    const { viewer, plane } = this;
    if (!viewer.hasIsodoses) return;
    for (const [name, dash] of [["planned", [5, 4]], ["recalculated", []]]) {
      const slice = viewer.volumes[name] && viewer.volumes[name].slice(plane.axes, at);
      if (!slice) continue;
      for (const isodose of viewer.facts.isodoses) {
        this.stroke(pen, outlines(slice, isodose.gy), isodose.color, 1.3 * ratio, dash, ratio);
      }
    }
  }

  // Lines with a dark rim, so that they are seen on any ground.
  stroke(pen, lines, color, width, dash, ratio) {
    if (!lines.length) return;
    const path = new Path2D();
    for (const line of lines) {
      line.forEach(([u, v], k) => path[k ? "lineTo" : "moveTo"](this.view.px(u), this.view.py(v)));
    }
    pen.setLineDash(dash.map((part) => part * ratio));
    pen.strokeStyle = "rgba(20, 20, 20, .65)";
    pen.lineWidth = width + 1.4 * ratio;
    pen.stroke(path);
    pen.strokeStyle = color;
    pen.lineWidth = width;
    pen.stroke(path);
    pen.setLineDash([]);
  }

  decorate(pen, w, h, ratio) {
    const { viewer, plane, view } = this;
    const [u, v] = plane.axes;
    if (viewer.hasCross) {
      const x = view.px(viewer.at[u]), y = view.py(viewer.at[v]), gap = 9 * ratio;
      pen.strokeStyle = "rgba(255, 255, 255, .55)";
      pen.lineWidth = ratio;
      pen.beginPath();
      for (const [x0, y0, x1, y1] of [[0, y, x - gap, y], [x + gap, y, w, y], [x, 0, x, y - gap], [x, y + gap, x, h]]) {
        pen.moveTo(x0, y0);
        pen.lineTo(x1, y1);
      }
      pen.stroke();
    }
    pen.font = `600 ${12 * ratio}px system-ui, sans-serif`;
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    const write = (text, x, y) => {
      pen.lineWidth = 3 * ratio;
      pen.strokeStyle = "rgba(0, 0, 0, .75)";
      pen.strokeText(text, x, y);
      pen.fillStyle = "#fff";
      pen.fillText(text, x, y);
    };
    const [left, right, bottom, top] = plane.letters;
    write(left, 11 * ratio, h / 2);
    write(right, w - 11 * ratio, h / 2);
    write(top, w / 2, 11 * ratio);
    write(bottom, w / 2, h - 11 * ratio);
    const length = [10, 5, 2, 1, 0.5].find((cm) => cm * view.scale < w / 4) || 0.5;
    const x = 12 * ratio, y = h - 12 * ratio;
    pen.fillStyle = "#fff";
    pen.fillRect(x, y, length * view.scale, 2 * ratio);
    pen.textAlign = "left";
    write(`${10 * length} mm`, x, y - 9 * ratio);
  }
}
