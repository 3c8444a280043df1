// Gamma: how far each voxel of the reference dose is from the evaluated dose (docs/theory/gamma.md). Its numba twin is
// `_search` in compare/gamma.py. Lengths are in units of the distance criterion and seen from the voxel; doses are less
// the dose of the voxel and in units of its criterion, so that single precision is enough.
#include "common.cuh"

// Where a reference voxel lies along an axis: a cell of the evaluated grid, and the place in it, 0 to 1.
struct Home { int cell; float at; };

// Steps (x, y, z) to a cell from the home cell of a voxel in its lower octant, and the least distance of that cell.
struct Neighbour { int x, y, z; float reach; };

// Voxels of the reference; cells of the evaluated grid, and their edges (x, y, z); points and neighbours; the dose
// criterion is fixed [Gy] + share * reference dose; search cut-off; how much too large gamma may be.
struct Search {
    Shape grid, cells;
    int points, neighbours;
    float side[3], fixed, share, largest, accuracy;
};

// Steps downhill in a box before it is halved; how often a cell may be halved: 21 times along each axis.
#define TRIES 4
#define HALVINGS 63

#define FAR 1e30f

__device__ inline float clip(float value, float low, float high) { return fminf(fmaxf(value, low), high); }

// A trilinear dose: coefficients of 1, x, y, z, xy, xz, yz and xyz, the distances from the cell's first corner (7).
struct Cell { float c, x, y, z, xy, xz, yz, xyz; };

__device__ Cell cell_at(const float* __restrict__ searched, const Search& p, int k, int j, int i, float dose, float scale) {
    const size_t row = p.cells.n2 + 1, slab = row * (p.cells.n1 + 1);
    const float* v = searched + k * slab + j * row + i;
    const float v000 = scale * (v[0] - dose), v001 = scale * (v[1] - dose);
    const float v010 = scale * (v[row] - dose), v011 = scale * (v[row + 1] - dose);
    v += slab;
    const float v100 = scale * (v[0] - dose), v101 = scale * (v[1] - dose);
    const float v110 = scale * (v[row] - dose), v111 = scale * (v[row + 1] - dose);
    const float px = 1.0f / p.side[0], py = 1.0f / p.side[1], pz = 1.0f / p.side[2];
    const float xy = v011 - v010 - (v001 - v000), xy_above = v111 - v110 - (v101 - v100);
    return {v000, px * (v001 - v000), py * (v010 - v000), pz * (v100 - v000), px * py * xy,
            px * pz * (v101 - v100 - (v001 - v000)), py * pz * (v110 - v100 - (v010 - v000)),
            px * py * pz * (xy_above - xy)};
}

// Part of a cell, seen from the voxel.
struct Part { float x0, x1, y0, y1, z0, z1; };

// Keeps one half along the longest edge. Sums and halves only: it gives the same bits wherever it is compiled.
__device__ inline void halve(Part& b, bool is_upper) {
    if (b.x1 - b.x0 >= b.y1 - b.y0 && b.x1 - b.x0 >= b.z1 - b.z0)
        (is_upper ? b.x0 : b.x1) = 0.5f * (b.x0 + b.x1);
    else if (b.y1 - b.y0 >= b.z1 - b.z0)
        (is_upper ? b.y0 : b.y1) = 0.5f * (b.y0 + b.y1);
    else
        (is_upper ? b.z0 : b.z1) = 0.5f * (b.z0 + b.z1);
}

// A point, seen from the voxel, and the dose of the linearised problem there.
struct Nearest { float weight, x, y, z; };

// The point of a box with the least |e|^2 + (level + k e)^2, by Newton's rule between what is too low and too high (10).
__device__ Nearest nearest_on_ramp(float level, float kx, float ky, float kz, const Part& b) {
    float low = -FAR, high = FAR;
    Nearest n = {level / (1.0f + kx * kx + ky * ky + kz * kz), 0.0f, 0.0f, 0.0f};
    for (int i = 0; i < 20; ++i) {
        n.x = clip(-n.weight * kx, b.x0, b.x1);
        n.y = clip(-n.weight * ky, b.y0, b.y1);
        n.z = clip(-n.weight * kz, b.z0, b.z1);
        const float miss = n.weight - level - kx * n.x - ky * n.y - kz * n.z;
        if (fabsf(miss) <= 1e-6f * (1.0f + fabsf(level))) break;  // any weight gives a true bound: this is about speed
        (miss > 0.0f ? high : low) = n.weight;
        float rise = 1.0f;
        if (b.x0 < n.x && n.x < b.x1) rise += kx * kx;
        if (b.y0 < n.y && n.y < b.y1) rise += ky * ky;
        if (b.z0 < n.z && n.z < b.z1) rise += kz * kz;
        n.weight -= miss / rise;
        if (!(low < n.weight && n.weight < high)) n.weight = 0.5f * (low + high);
    }
    return n;
}

// Smallest slope t + curvature t^2 for t from low to high.
__device__ inline float least(float slope, float curvature, float low, float high) {
    if (curvature > 0.0f) {
        const float t = clip(-0.5f * slope / curvature, low, high);
        return t * (slope + curvature * t);
    }
    return fminf(low * (slope + curvature * low), high * (slope + curvature * high));
}

// Gamma of a voxel after one more cell, whose first corner (x, y, z) is seen from the voxel. Parts that cannot lower it by
// more than the accuracy are dropped (9). The way to the part at hand is a row of bits behind a leading one, 0 for a lower
// half: what waits needs no memory, and is found again by halving from the whole cell on.
__device__ float search_cell(const Cell& d, float ax, float ay, float az, const Search& p, float best) {
    const Part whole = {ax, ax + p.side[0], ay, ay + p.side[1], az, az + p.side[2]};
    Part b = whole;
    float ex = clip(0.0f, b.x0, b.x1), ey = clip(0.0f, b.y0, b.y1), ez = clip(0.0f, b.z0, b.z1);
    unsigned long long way = 1;
    while (true) {
        // largest mixed derivatives in the part; they are linear, so they are largest at its ends
        const float hxy = fmaxf(fabsf(d.xy + d.xyz * (b.z0 - az)), fabsf(d.xy + d.xyz * (b.z1 - az)));
        const float hxz = fmaxf(fabsf(d.xz + d.xyz * (b.y0 - ay)), fabsf(d.xz + d.xyz * (b.y1 - ay)));
        const float hyz = fmaxf(fabsf(d.yz + d.xyz * (b.x0 - ax)), fabsf(d.yz + d.xyz * (b.x1 - ax)));
        bool is_done = false;
        float last = -FAR;
        for (int i = 0; i < TRIES; ++i) {
            const float x = ex - ax, y = ey - ay, z = ez - az;
            const float kx = d.x + y * (d.xy + z * d.xyz) + z * d.xz;
            const float ky = d.y + x * (d.xy + z * d.xyz) + z * d.yz;
            const float kz = d.z + x * (d.xz + y * d.xyz) + y * d.yz;
            const float dose = d.c + x * kx + y * (d.y + z * d.yz) + z * d.z;
            const float away = ex * ex + ey * ey + ez * ez, squared = away + dose * dose;
            if (squared < best * best) best = sqrtf(squared);
            const float needed = best - p.accuracy;
            const Nearest next = nearest_on_ramp(dose - kx * ex - ky * ey - kz * ez, kx, ky, kz, b);
            const float w = next.weight, bend = fabsf(w);
            float bound = away + w * (2.0f * dose - w);
            bound += least(2.0f * (ex + w * kx), 1.0f - bend * (hxy + hxz), b.x0 - ex, b.x1 - ex);
            bound += least(2.0f * (ey + w * ky), 1.0f - bend * (hxy + hyz), b.y0 - ey, b.y1 - ey);
            bound += least(2.0f * (ez + w * kz), 1.0f - bend * (hxz + hyz), b.z0 - ez, b.z1 - ez);
            if (needed <= 0.0f || bound >= needed * needed) {
                is_done = true;
                break;
            }
            if (bound <= last) break;
            last = bound;
            ex = next.x;
            ey = next.y;
            ez = next.z;
        }
        if (!is_done && way >> HALVINGS == 0) {
            halve(b, false);
            way <<= 1;
        } else {
            while (way & 1 && way > 1) way >>= 1;  // both halves are done
            if (way == 1) return best;
            way |= 1;  // the upper half
            b = whole;
            int bits = 0;
            while (way >> bits > 1) ++bits;
            while (bits > 0) halve(b, way >> --bits & 1);
        }
        ex = 0.5f * (b.x0 + b.x1);
        ey = 0.5f * (b.y0 + b.y1);
        ez = 0.5f * (b.z0 + b.z1);
    }
}

// Distance along an axis from a voxel at `at` of its home cell to a cell `step` further on.
__device__ inline float apart(int step, float at, float side) {
    const float first = float(step) - at;
    return side * fmaxf(fmaxf(first, -1.0f - first), 0.0f);
}

// Gamma of every voxel that is asked for (5), by cells of rising distance (6).
//   launch: one thread a voxel that is asked for, 128 a block
//   voxels, planned: (points,) numbers of these voxels in the reference, x fastest, and their doses [Gy]
//   home_x, home_y, home_z: (n2,), (n1,), (n0,) for the voxels of the reference along each axis
//   searched, lowest, highest: (cells + 1 along each axis), (cells), (cells) evaluated dose, and its range in a cell [Gy]
//   neighbours: (neighbours,) by rising reach
//   gamma: (points,), written; a thread owns that of its voxel
extern "C" __global__ void __launch_bounds__(128, 5) find_gamma(
    const int* __restrict__ voxels, const float* __restrict__ planned, const Home* __restrict__ home_x,
    const Home* __restrict__ home_y, const Home* __restrict__ home_z, const float* __restrict__ searched,
    const float* __restrict__ lowest, const float* __restrict__ highest, const Neighbour* __restrict__ neighbours,
    Search p, float* __restrict__ gamma) {
    const int point = blockIdx.x * blockDim.x + threadIdx.x;
    if (point >= p.points) return;
    const int voxel = voxels[point], row = voxel / p.grid.n2;
    const Home hx = home_x[voxel % p.grid.n2], hy = home_y[row % p.grid.n1], hz = home_z[row / p.grid.n1];
    const float dose = planned[point], scale = 1.0f / (p.fixed + p.share * dose);
    // the list is made for the lower octant of the home cell: it is mirrored for the others
    const int mx = hx.at <= 0.5f ? 1 : -1, my = hy.at <= 0.5f ? 1 : -1, mz = hz.at <= 0.5f ? 1 : -1;
    const float x = hx.at * p.side[0], y = hy.at * p.side[1], z = hz.at * p.side[2];
    const Cell home = cell_at(searched, p, hz.cell, hy.cell, hx.cell, dose, scale);
    const float here = home.c + x * (home.x + y * (home.xy + z * home.xyz) + z * home.xz) + y * (home.y + z * home.yz)
                       + z * home.z;
    float best = fminf(fabsf(here), p.largest);
    for (int n = 0; n < p.neighbours; ++n) {
        const Neighbour to = neighbours[n];
        const float needed = best - p.accuracy;
        if (to.reach >= needed) break;
        const int ox = mx * to.x, oy = my * to.y, oz = mz * to.z;
        const int i = hx.cell + ox, j = hy.cell + oy, k = hz.cell + oz;
        if (i < 0 || j < 0 || k < 0 || i >= p.cells.n2 || j >= p.cells.n1 || k >= p.cells.n0) continue;
        const float ex = apart(ox, hx.at, p.side[0]), ey = apart(oy, hy.at, p.side[1]), ez = apart(oz, hz.at, p.side[2]);
        const size_t cell = (size_t(k) * p.cells.n1 + j) * p.cells.n2 + i;
        const float gap = scale * fmaxf(fmaxf(lowest[cell] - dose, dose - highest[cell]), 0.0f);
        if (ex * ex + ey * ey + ez * ez + gap * gap >= needed * needed) continue;
        best = search_cell(cell_at(searched, p, k, j, i, dose, scale), (float(ox) - hx.at) * p.side[0],
                           (float(oy) - hy.at) * p.side[1], (float(oz) - hz.at) * p.side[2], p, best);
    }
    gamma[point] = best;
}
