// Stage A: fluence maps of segments (docs/theory/fluence.md). What depends on the head alone comes as tables.
#include "common.cuh"

// Leaf pairs low .. low + count - 1 of `pairs` lie on the raster; the tip's table has `rays` x `points` rows; pixels along
// the leaves begin at `edge` [cm].
struct Leaves { double ray_step, edge, pixel; int pairs, low, count, pixels, rays, points; };

// Columns of the tip's table: 1 minus the transmission of the whole height and its integrals, the same for half of the
// height, the transmissions of the upper and the lower half. As in fluence_model.py.
#define COLUMNS 8
#define SOLID 0
#define HALF 3
#define UPPER 6
#define LOWER 7

// What is about the whole and about half of a leaf's height.
struct Heights { double whole, half; };

// One ray of the table, and the distance behind the tip from which on it is constant [cm].
struct Tip { const double* row; double reach; int points; };

// Differences of second integrals over small areas lose four digits, so that this file's leaves are in double precision.
// Nearest tabulated ray at x for bank 1; for bank 2 that of -x.
__device__ Tip tip_at(const double* __restrict__ table, const double* __restrict__ reach, const Leaves& p, double x) {
    const int ray = min(max(int(floor(x / p.ray_step + 0.5)) + p.rays / 2, 0), p.rays - 1);
    return {table + size_t(ray) * p.points * COLUMNS, reach[ray], p.points};
}

__device__ Tip mirrored(const double* __restrict__ table, const double* __restrict__ reach, const Leaves& p, double x) {
    const int ray = p.rays - 1 - min(max(int(floor(x / p.ray_step + 0.5)) + p.rays / 2, 0), p.rays - 1);
    return {table + size_t(ray) * p.points * COLUMNS, reach[ray], p.points};
}

// Where u > 0 lies in the table: the point before it and the next, the distance from the first, and its share of the step.
struct Place { const double *at, *next; double d, part; };

__device__ Place place(const Tip& tip, double u) {
    const int last = tip.points - 1;
    const double* end = tip.row + last * COLUMNS;
    if (u >= tip.reach) return {end, end, u - tip.reach, 0.0};
    const int i = min(int(last * sqrt(u / tip.reach)), last - 1);
    const double step = tip.reach / (double(last) * last), d = u - step * (double(i) * i);
    const double* at = tip.row + i * COLUMNS;
    return {at, at + COLUMNS, d, d / (step * (2 * i + 1))};
}

// First or second running integral of the tip's coverage up to distance u behind the tip, exact between points.
__device__ double integral(const Place& p, int column, int order) {
    const double at = p.at[column], rise = p.part * (p.next[column] - at);
    if (order == 1) return p.at[column + 1] + p.d * (at + rise / 2);
    return p.at[column + 2] + p.d * (p.at[column + 1] + p.d * (at / 2 + rise / 6));
}

__device__ Heights integrals(const Tip& tip, double u, int order) {
    if (u <= 0.0) return {0.0, 0.0};
    const Place p = place(tip, u);
    return {integral(p, SOLID, order), integral(p, HALF, order)};
}

// Coverage by a tip that moves from a0 to a1 and shades x < a, averaged over travel and the pixel x0 to x1 (9).
__device__ Heights covered(const Tip& tip, double x0, double x1, double a0, double a1) {
    const double travel = a1 - a0;
    if (max(a0, a1) <= x0) return {0.0, 0.0};
    if (min(a0, a1) - x1 >= tip.reach) {
        const double* end = tip.row + (tip.points - 1) * COLUMNS;
        return {end[SOLID], end[HALF]};
    }
    if (fabs(travel) < 1e-3) {
        const double a = 0.5 * (a0 + a1), width = x1 - x0;
        const Heights near = integrals(tip, a - x1, 1), far = integrals(tip, a - x0, 1);
        return {(far.whole - near.whole) / width, (far.half - near.half) / width};
    }
    const Heights near = integrals(tip, a1 - x1, 2), far = integrals(tip, a1 - x0, 2);
    const Heights near_0 = integrals(tip, a0 - x1, 2), far_0 = integrals(tip, a0 - x0, 2);
    const double area = travel * (x1 - x0);
    return {(far.whole - near.whole - far_0.whole + near_0.whole) / area,
            (far.half - near.half - far_0.half + near_0.half) / area};
}

// Transmissions of the upper and the lower half of a leaf, or of a pair.
struct Halves { double upper, lower; };

__device__ Halves halves(const Tip& tip, double u) {
    if (u <= 0.0) return {1.0, 1.0};
    const Place p = place(tip, u);
    return {p.at[UPPER] + p.part * (p.next[UPPER] - p.at[UPPER]), p.at[LOWER] + p.part * (p.next[LOWER] - p.at[LOWER])};
}

// Moments of a segment at which products are looked at: leaf ends are softer than a pixel.
__device__ int moments_of(double travel, double pixel) { return max(1, int(ceil(travel / pixel))); }

// What both tips of a pair shade and has been subtracted twice, where their shadows overlap (9a).
__device__ Heights covered_twice(const Tip& left, const Tip& right, double x0, double x1, double a0, double a1, double b0,
                                 double b1) {
    const int moments = moments_of(max(fabs(a1 - a0), fabs(b1 - b0)), x1 - x0);
    double whole = 0.0, half = 0.0;
    for (int m = 0; m < moments; ++m) {
        const double t = (m + 0.5) / moments, a = a0 + t * (a1 - a0), b = b0 + t * (b1 - b0);
        const double low = max(b, x0), width = min(a, x1) - low;
        if (width <= 0.0) continue;
        for (int side = -1; side <= 1; side += 2) {
            const double x = low + width * (0.5 + side * 0.28867513459481287);  // Gauss: half over the root of 3
            const Halves one = halves(left, a - x), two = halves(right, x - b);
            whole += width * (1.0 - one.upper * one.lower) * (1.0 - two.upper * two.lower);
            half += width * 0.5 * ((1.0 - one.upper) * (1.0 - two.upper) + (1.0 - one.lower) * (1.0 - two.lower));
        }
    }
    const double share = 1.0 / (2 * moments * (x1 - x0));
    return {share * whole, share * half};
}

// What passes each leaf pair: its whole height, and half of it (9, 9a).
//   launch: 128 x 1 x 1 threads a block; x over pixels along the leaves, y over pairs on the raster, z over segments
//   start, end: (segments, 2, pairs) physical tips at the segment's ends [cm]
//   table, reach: (rays, points, 8), (rays,) [cm]
//   through: (segments, 3, count, pixels), kinds 0 and 1 written; a thread owns both of its pair and pixel
extern "C" __global__ void __launch_bounds__(128, 1) leaf_pairs(
    const double* __restrict__ start, const double* __restrict__ end, const double* __restrict__ table,
    const double* __restrict__ reach, Leaves p, float* __restrict__ through) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x, pair = blockIdx.y;
    if (i >= p.pixels) return;
    const size_t bank_1 = size_t(blockIdx.z) * 2 * p.pairs + p.low + pair, bank_2 = bank_1 + p.pairs;
    const double a0 = start[bank_1], a1 = end[bank_1], b0 = start[bank_2], b1 = end[bank_2];
    const double x0 = p.edge + i * p.pixel, x1 = x0 + p.pixel, middle = x0 + 0.5 * p.pixel;
    const Tip left = tip_at(table, reach, p, middle), right = mirrored(table, reach, p, middle);
    const Heights one = covered(left, x0, x1, a0, a1), two = covered(right, -x1, -x0, -b0, -b1);
    double whole = one.whole + two.whole, half = one.half + two.half;
    if ((a0 > b0 || a1 > b1) && max(a0, a1) > x0 && min(b0, b1) < x1) {
        const Heights twice = covered_twice(left, right, x0, x1, a0, a1, b0, b1);
        whole -= twice.whole;
        half -= twice.half;
    }
    float* out = through + (size_t(blockIdx.z) * 3 * p.count + pair) * p.pixels + i;
    out[0] = float(1.0 - whole);
    out[size_t(p.count) * p.pixels] = float(1.0 - half);
}

// Transmission of both halves of pair j on the ray x at time t (0 to 1) of the segment.
__device__ Halves through_pair(const Tip& left, const Tip& right, const double* start, const double* end, int pairs, int j,
                               double x, double t) {
    const int k = pairs + j;
    const Halves one = halves(left, start[j] + t * (end[j] - start[j]) - x);
    const Halves two = halves(right, x - start[k] - t * (end[k] - start[k]));
    return {one.upper * two.upper, one.lower * two.lower};
}

// What the crossing of pairs j (upper half) and j + 1 (lower half) passes beyond the mean of both pairs (10); nothing where
// both stand and move together.
__device__ double crossing(const Tip& left, const Tip& right, const double* start, const double* end, int pairs, int j,
                           double x, double pixel) {
    double travel = 0.0;
    bool is_alike = true;
    for (int bank = 0; bank < 2; ++bank)
        for (int k = bank * pairs + j; k <= bank * pairs + j + 1; ++k) {
            travel = max(travel, fabs(end[k] - start[k]));
            is_alike = is_alike && start[k] == start[bank * pairs + j] && end[k] == end[bank * pairs + j];
        }
    if (is_alike) return 0.0;
    const int moments = moments_of(travel, pixel);
    double total = 0.0;
    for (int m = 0; m < moments; ++m)
        for (int side = -1; side <= 1; side += 2) {
            const double t = (m + 0.5) / moments, at = x + side * 0.25 * pixel;
            const Halves one = through_pair(left, right, start, end, pairs, j, at, t);
            const Halves two = through_pair(left, right, start, end, pairs, j + 1, at, t);
            total += one.upper * two.lower - 0.5 * (one.upper * one.lower + two.upper * two.lower);
        }
    return total / (2 * moments);
}

// Whether a pair was wide open or wholly closed all the time and all over the pixel.
__device__ inline bool is_constant(double through, double closed) {
    return through > 1.0 - 1e-6 || through < closed + 1e-6;
}

// What passes the crossing of each pair's tongue with the next pair's (10); after `leaf_pairs`, with its launch and arrays.
//   launch: as `leaf_pairs`
//   through: kind 2 written; a thread owns that of its pair and pixel
extern "C" __global__ void __launch_bounds__(128, 1) leaf_crossings(
    const double* __restrict__ start, const double* __restrict__ end, const double* __restrict__ table,
    const double* __restrict__ reach, Leaves p, float* __restrict__ through) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x, pair = blockIdx.y;
    if (i >= p.pixels) return;
    const size_t kind = size_t(p.count) * p.pixels;
    float* here = through + (size_t(blockIdx.z) * 3 * p.count + pair) * p.pixels + i;
    if (pair == p.count - 1) {
        here[2 * kind] = 1.0f;
        return;
    }
    const float t0 = here[0], t1 = here[p.pixels];
    const double closed = 1.0 - table[(p.points - 1) * COLUMNS + SOLID];
    if (is_constant(t0, closed) && is_constant(t1, closed)) {
        here[2 * kind] = sqrtf(t0 * t1);
        return;
    }
    const double x = p.edge + (i + 0.5) * p.pixel;
    const size_t first = size_t(blockIdx.z) * 2 * p.pairs;
    const double beyond = crossing(tip_at(table, reach, p, x), mirrored(table, reach, p, x), start + first, end + first,
                                   p.pairs, p.low + pair, x, p.pixel);
    here[2 * kind] = float(0.5 * (double(t0) + double(t1)) + beyond);
}

// A map's size; leaves run along x (is_across_y) or along y; pairs as in `Leaves`; cells of the next kernel.
struct Map { int ny, nx, is_across_y, pairs, low, count, cells_y, cells_x, nodes_y, nodes_x; float step, x0, y0, pixel; };

// Puts the leaves together line by line across them.
//   launch: 128 x 1 x 1 threads a block; x over nx, y over ny, z over segments
//   first, last, row, weight: (lines,), (lines,), (entries,), (entries,) entries of each line: row = pair j; pairs + j for
//     half of its height; 2 pairs + j for the crossing with the next; -1 for no leaf. weight = share of the line
//   through: (segments, 3, count, pixels along); maps: (segments, ny, nx), written; a thread owns its pixel
extern "C" __global__ void __launch_bounds__(128) draw_leaves(
    const int* __restrict__ first, const int* __restrict__ last, const int* __restrict__ row,
    const float* __restrict__ weight, const float* __restrict__ through, Map p, float* __restrict__ maps) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y;
    if (x >= p.nx) return;
    const int line = p.is_across_y ? y : x, i = p.is_across_y ? x : y, pixels = p.is_across_y ? p.nx : p.ny;
    const float* passed = through + size_t(blockIdx.z) * 3 * p.count * pixels + i;
    float sum = 0.0f;
    for (int k = first[line]; k < last[line]; ++k) {
        const int kind = row[k] / p.pairs, j = row[k] % p.pairs - p.low;
        sum += row[k] < 0 ? weight[k] : weight[k] * passed[(size_t(kind) * p.count + j) * pixels];
    }
    maps[(size_t(blockIdx.z) * p.ny + y) * p.nx + x] = sum;
}

// Pixels along the side of a cell; as in the CPU's stage.
#define CELL 5

// Multiplies maps by the jaws and the radial fluence, and sums cells for the electrons (1, 17).
//   launch: 32 x 4 x 1 threads a block; x over cells_x, y over cells_y, z over segments
//   across_x, across_y, profile: (segments, nx), (segments, ny), (ny, nx)
//   maps: (segments, ny, nx), multiplied; sums: (segments, cells_y, cells_x), written; a thread owns its cell and all pixels
//     of it
extern "C" __global__ void __launch_bounds__(128) shade(
    const float* __restrict__ across_x, const float* __restrict__ across_y, const float* __restrict__ profile, Map p,
    float* __restrict__ maps, float* __restrict__ sums) {
    const int cx = blockIdx.x * blockDim.x + threadIdx.x, cy = blockIdx.y * blockDim.y + threadIdx.y;
    if (cx >= p.cells_x || cy >= p.cells_y) return;
    const size_t s = blockIdx.z;
    float sum = 0.0f;
    for (int y = cy * CELL; y < min((cy + 1) * CELL, p.ny); ++y)
        for (int x = cx * CELL; x < min((cx + 1) * CELL, p.nx); ++x) {
            float* here = maps + (s * p.ny + y) * p.nx + x;
            *here *= across_x[s * p.nx + x] * across_y[s * p.ny + y] * profile[y * p.nx + x];
            sum += *here;
        }
    sums[(s * p.cells_y + cy) * p.cells_x + cx] = sum;
}

// Multiplies half spectra by the transform of the voxel's projection, and takes the blur of pixels out (15, 16).
//   launch: 128 x 1 x 1 threads a block; x over nx / 2 + 1 wave numbers, y over ny, z over segments
//   axes: (segments, 3, 2) edges of a voxel, projected [cm]; sharpen_x, sharpen_y: (nx / 2 + 1,), (ny,)
//   spectra: (segments, ny, nx / 2 + 1) complex, multiplied; a thread owns its wave number
extern "C" __global__ void __launch_bounds__(128) multiply_by_voxel(
    const float* __restrict__ axes, const float* __restrict__ sharpen_x, const float* __restrict__ sharpen_y, Map p,
    float* __restrict__ spectra) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x, j = blockIdx.y, half = p.nx / 2 + 1;
    if (i >= half) return;
    const float wave_x = float(i) / (float(p.nx) * p.pixel);  // [1/cm]
    const float wave_y = float(2 * j <= p.ny ? j : j - p.ny) / (float(p.ny) * p.pixel);
    float factor = sharpen_x[i] * sharpen_y[j];
    for (int e = 0; e < 3; ++e) {
        const float* edge = axes + (size_t(blockIdx.z) * 3 + e) * 2;
        const float half_turns = wave_x * edge[0] + wave_y * edge[1], a = 3.14159265f * half_turns;
        factor *= fabsf(a) < 0.05f ? 1.0f - a * a * (1.0f / 6.0f) : sinpif(half_turns) / a;
    }
    float* here = spectra + ((size_t(blockIdx.z) * p.ny + j) * half + i) * 2;
    here[0] *= factor;
    here[1] *= factor;
}

// Adds the extra-focal fluence, bilinear between nodes, and multiplies by each segment's scale (1).
//   launch: 128 x 1 x 1 threads a block; x over nx, y over ny, z over segments
//   nodes, scale: (segments, nodes_y, nodes_x), (segments,); pixel (y, x) lies at node (y0 + y step, x0 + x step)
//   maps: (segments, ny, nx), changed; a thread owns its pixel
extern "C" __global__ void __launch_bounds__(128) add_scattered(
    const float* __restrict__ nodes, const float* __restrict__ scale, Map p, float* __restrict__ maps) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y;
    if (x >= p.nx) return;
    const float fx = p.x0 + float(x) * p.step, fy = p.y0 + float(y) * p.step;
    const int i = min(int(fx), p.nodes_x - 2), j = min(int(fy), p.nodes_y - 2);
    const float* n = nodes + (size_t(blockIdx.z) * p.nodes_y + j) * p.nodes_x + i;
    const float near = mix(n[0], n[1], fx - float(i)), far = mix(n[p.nodes_x], n[p.nodes_x + 1], fx - float(i));
    float* here = maps + (size_t(blockIdx.z) * p.ny + y) * p.nx + x;
    // sharpening leaves traces of either sign beside edges where there is no light
    *here = (fmaxf(*here, 0.0f) + mix(near, far, fy - float(j))) * scale[blockIdx.z];
}
