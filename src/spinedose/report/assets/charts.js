// Charts: lines that come and go with their structure, and values under the pointer.

class Chart {
  constructor(svg, facts) {
    Object.assign(this, { svg, facts });
    const [left, top, right, bottom] = svg.dataset.frame.split(" ").map(Number);
    this.frame = { left, top, right, bottom };
    this.hidden = new Set();
    this.tip = document.createElement("div");
    this.tip.className = "tip";
    this.tip.hidden = true;
    svg.parentElement.append(this.tip);
    this.guide = document.createElementNS("http://www.w3.org/2000/svg", "path");
    this.guide.setAttribute("class", "guide");
    svg.append(this.guide);
    svg.addEventListener("pointermove", (e) => this.point(e));
    svg.addEventListener("pointerleave", () => this.leave());
  }

  toggle(key, isShown) {
    this.hidden[isShown ? "delete" : "add"](key);
    this.svg.querySelectorAll(".line").forEach((line) => {
      if (line.dataset.key === key) line.classList.toggle("off", !isShown);
    });
  }

  light(key) {
    this.svg.querySelectorAll(".line").forEach((line) => {
      line.classList.toggle("dim", key !== null && line.dataset.key !== key);
    });
  }

  leave() {
    this.tip.hidden = true;
    this.guide.removeAttribute("d");
    this.light(null);
  }

  point(e) {
    const { left, top, right, bottom } = this.frame, { x_range: xs, y_range: ys } = this.facts;
    const box = this.svg.getBoundingClientRect(), view = this.svg.viewBox.baseVal;
    const px = ((e.clientX - box.left) / box.width) * view.width, py = ((e.clientY - box.top) / box.height) * view.height;
    if (px < left || px > right || py < top || py > bottom) return this.leave();
    const x = xs[0] + ((px - left) / (right - left)) * (xs[1] - xs[0]);
    const y = ys[0] + ((bottom - py) / (bottom - top)) * (ys[1] - ys[0]);
    const rows = new Map();
    let nearest = null, least = 0.06 * (ys[1] - ys[0]);
    for (const line of this.facts.lines) {
      if (this.hidden.has(line.key)) continue;
      const value = readAt(line, x);
      if (value === null) continue;
      const name = line.key || line.label;
      if (!rows.has(name)) rows.set(name, { color: line.color, name: line.label, values: [] });
      rows.get(name).values.push((line.key ? (line.dashed ? "planned " : "recalculated ") : "") + value.toFixed(value < 10 ? 2 : 1));
      if (Math.abs(value - y) < least) [nearest, least] = [line.key, Math.abs(value - y)];
    }
    this.light(nearest && this.facts.lines.some((line) => line.key) ? nearest : null);
    this.guide.setAttribute("d", `M${px} ${top}V${bottom}`);
    this.say(x, rows, nearest, e, box);
  }

  say(x, rows, nearest, e, box) {
    const unit = (this.facts.x_label.match(/\[(.*)\]/) || ["", ""])[1];
    const unitY = (this.facts.y_label.match(/\[(.*)\]/) || ["", ""])[1];
    const head = document.createElement("b");
    head.textContent = `${x.toFixed(1).replace("-", "\u2212")} ${unit}`;
    const all = [...rows.entries()];
    const chosen = nearest && all.length > 6 ? all.filter(([name]) => name === nearest) : all.slice(0, 10);
    const lines = chosen.map(([name, row]) => {
      const line = document.createElement("div"), swatch = document.createElement("i");
      swatch.style.background = row.color;
      line.append(swatch, `${row.name}: ${row.values.join(", ")} ${unitY}`);
      if (name === nearest) line.className = "near";
      return line;
    });
    this.tip.replaceChildren(head, ...lines);
    this.tip.hidden = false;
    const room = this.svg.parentElement.getBoundingClientRect();
    const wish = e.clientX - room.left + 16, width = this.tip.offsetWidth;
    this.tip.style.left = `${wish + width > room.width ? Math.max(e.clientX - room.left - width - 16, 0) : wish}px`;
    this.tip.style.top = `${Math.max(e.clientY - room.top - this.tip.offsetHeight / 2, 0)}px`;
  }
}

// Value of a line at x, between its points; null where it has none.
function readAt(line, x) {
  const { x: xs, y: ys } = line;
  if (!xs.length || x < xs[0] || x > xs[xs.length - 1]) return null;
  let low = 0, high = xs.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (xs[middle] <= x) low = middle;
    else high = middle;
  }
  if (ys[low] === null || ys[high] === null) return null;
  const part = xs[high] > xs[low] ? (x - xs[low]) / (xs[high] - xs[low]) : 0;
  return ys[low] + part * (ys[high] - ys[low]);
}
