// Volumes: unpacked from the page, cut into slices, outlined. Patient axes: 0 to the left, 1 to posterior, 2 to superior [cm].

async function bytesOf(id) {
  const packed = Uint8Array.from(atob(document.getElementById(id).textContent.trim()), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// Differences along x, low bytes first and high bytes after them, become codes again.
function widened(bytes, rowLength) {
  const n = bytes.length / 2;
  const codes = new Uint16Array(n);
  for (let k = 0; k < n; k++) codes[k] = bytes[k] + 256 * bytes[n + k] + (k % rowLength ? codes[k - 1] : 0);
  return codes;
}

class Volume {
  constructor(facts, bytes) {
    const [nz, ny, nx] = facts.shape;
    this.origin = facts.origin;
    this.spacing = facts.spacing;
    this.count = [nx, ny, nz];
    this.stride = [1, nx, nx * ny];
    this.codes = facts.wide ? widened(bytes, nx) : bytes;
    this.levels = facts.wide ? null : Float32Array.from(facts.levels, (level) => level ?? NaN);
    this.step = facts.wide ? facts.levels[0] : 0;
    this.isPatchy = facts.levels.includes(null); // has voxels without a value: never interpolated
  }

  static async unpack(facts) {
    return new Volume(facts, await bytesOf(facts.id));
  }

  value(index) {
    const code = this.codes[index];
    return this.levels ? this.levels[code] : code * this.step;
  }

  // The plane at one height along the third of `axes`: values in rows of the second axis. Null outside.
  slice(axes, at) {
    const [u, v, w] = axes;
    const place = (at - this.origin[w]) / this.spacing[w];
    if (!(place >= -0.5 && place <= this.count[w] - 0.5)) return null;
    const inside = Math.min(Math.max(place, 0), this.count[w] - 1);
    const low = this.isPatchy ? Math.round(inside) : Math.min(Math.floor(inside), Math.max(this.count[w] - 2, 0));
    const part = this.isPatchy ? 0 : inside - low;
    const nu = this.count[u], nv = this.count[v];
    const values = new Float32Array(nu * nv);
    const up = part > 0 ? this.stride[w] : 0;
    for (let j = 0, n = 0; j < nv; j++) {
      let index = low * this.stride[w] + j * this.stride[v];
      for (let i = 0; i < nu; i++, n++, index += this.stride[u]) {
        const value = this.value(index);
        values[n] = up ? value + part * (this.value(index + up) - value) : value;
      }
    }
    return {
      values, nu, nv, isPatchy: this.isPatchy,
      u0: this.origin[u], du: this.spacing[u], v0: this.origin[v], dv: this.spacing[v],
    };
  }

  // Value at one point; NaN outside.
  at(point) {
    const slice = this.slice([0, 1, 2], point[2]);
    if (!slice) return NaN;
    const across = placesOf([point[0]], slice.u0, slice.du, slice.nu);
    const upright = placesOf([point[1]], slice.v0, slice.dv, slice.nv);
    return sampleAt(slice, across, 0, upright, 0);
  }
}

// Where coordinates lie among n samples: lower index (-1 outside) and part of the way to the next.
function placesOf(coordinates, first, step, n) {
  const index = new Int32Array(coordinates.length), part = new Float32Array(coordinates.length);
  coordinates.forEach((coordinate, k) => {
    const place = (coordinate - first) / step;
    const inside = Math.min(Math.max(place, 0), n - 1);
    index[k] = place < -0.5 || place > n - 0.5 ? -1 : Math.min(Math.floor(inside), Math.max(n - 2, 0));
    part[k] = inside - index[k];
  });
  return { index, part };
}

function sampleAt(slice, across, i, upright, j) {
  const u = across.index[i], v = upright.index[j];
  if (u < 0 || v < 0) return NaN;
  const { values, nu, nv } = slice;
  const a = across.part[i], b = upright.part[j];
  if (slice.isPatchy) return values[(v + (b >= 0.5 ? 1 : 0)) * nu + u + (a >= 0.5 ? 1 : 0)];
  const right = u + 1 < nu ? 1 : 0, up = v + 1 < nv ? nu : 0, corner = v * nu + u;
  const low = values[corner] + a * (values[corner + right] - values[corner]);
  const high = values[corner + up] + a * (values[corner + up + right] - values[corner + up]);
  return low + b * (high - low);
}

// Segments of marching squares by which corners are inside (1, 2, 4, 8 around the cell from its first corner), from edge
// to edge (0 low, 1 right, 2 high, 3 left), the inside to the left. The two cases of opposite corners are told apart.
const SEGMENTS = [
  [], [[0, 3]], [[1, 0]], [[1, 3]], [[2, 1]], null, [[2, 0]], [[2, 3]],
  [[3, 2]], [[0, 2]], null, [[1, 2]], [[3, 1]], [[0, 1]], [[3, 0]], [],
];
const OPPOSITE = {
  5: [[[0, 3], [2, 1]], [[0, 1], [2, 3]]],
  10: [[[1, 0], [3, 2]], [[3, 0], [1, 2]]],
};

// Lines of one value in a slice: a list of lists of points [u, v] in cm.
function outlines(slice, level) {
  const { values, nu, nv, u0, du, v0, dv } = slice;
  const next = new Map(), isEntered = new Set();
  for (let j = 0; j + 1 < nv; j++) {
    for (let i = 0; i + 1 < nu; i++) {
      const n = j * nu + i;
      const a = values[n], b = values[n + 1], c = values[n + nu + 1], d = values[n + nu];
      const which = (a >= level) + 2 * (b >= level) + 4 * (c >= level) + 8 * (d >= level);
      if (which === 0 || which === 15) continue;
      const edges = [2 * n, 2 * (n + 1) + 1, 2 * (n + nu), 2 * n + 1];
      for (const [from, to] of SEGMENTS[which] || OPPOSITE[which][a + b + c + d >= 4 * level ? 1 : 0]) {
        next.set(edges[from], edges[to]);
        isEntered.add(edges[to]);
      }
    }
  }
  const point = (edge) => {
    const n = edge >> 1, step = edge & 1 ? nu : 1;
    const part = (level - values[n]) / (values[n + step] - values[n]);
    const i = (n % nu) + (edge & 1 ? 0 : part), j = Math.floor(n / nu) + (edge & 1 ? part : 0);
    return [u0 + i * du, v0 + j * dv];
  };
  const lines = [];
  const follow = (start) => {
    const line = [point(start)];
    for (let edge = start; next.has(edge); ) {
      const after = next.get(edge);
      next.delete(edge);
      line.push(point((edge = after)));
    }
    lines.push(line);
  };
  for (const edge of [...next.keys()]) if (!isEntered.has(edge)) follow(edge); // open lines first
  for (const edge of [...next.keys()]) if (next.has(edge)) follow(edge);
  return lines;
}
