// Stages D and E: directional sources, carried along the ray lattice of many directions (docs/theory/transport.md).
#include "common.cuh"

#define MOST_CHAINS 4

// Chains of stages of the cone table: their number, stages of each (1 to 3), rate of each [1/cm], stages K together.
struct Chains { int count, size, stages[MOST_CHAINS]; float rate[MOST_CHAINS]; };

// A direction: lattice slopes and offsets along the other two axes, path in a voxel [cm], dominant axis 0 or 1, and
// whether it marches from the last slab to the first.
struct Way { float slope_row, slope_column, offset_row, offset_column, step; int axis, is_backwards; };

struct Survival { float e, g0, g1, g2; };

// What survives a step of radiological length x (equations 5 and 6). Series below 0.3, where differences would cancel;
// above, exp(-x) as the 64th power of a cubic. Beyond 64 nothing survives.
__device__ Survival survival(float x) {
    const float y = fminf(x * (1.0f / 64.0f), 1.0f);
    float p = 1.0f - y * (1.0f - y * (0.5f - y * (1.0f / 6.0f)));
    p = p * p;
    p = p * p;
    p = p * p;
    p = p * p;
    p = p * p;
    p = p * p;
    if (x < 0.3f) {
        const float s = x * (1.0f / 120.0f - x * (1.0f / 720.0f));
        const float g0 = 1.0f - x * (0.5f - x * (1.0f / 6.0f - x * (1.0f / 24.0f - s)));
        const float g1 = x * (0.5f - x * (1.0f / 3.0f - x * (1.0f / 8.0f - x * (1.0f / 30.0f - x * (1.0f / 144.0f)))));
        const float r = x * (1.0f / 20.0f - x * (1.0f / 72.0f - x * (1.0f / 336.0f)));
        const float g2 = x * x * (1.0f / 6.0f - x * (1.0f / 8.0f - r));
        return {1.0f - x * g0, g0, g1, g2};
    }
    const float g0 = __fdividef(1.0f - p, x), g1 = g0 - p;
    return {p, g0, g1, g1 - 0.5f * x * p};
}

// Zero instead of a number that would soon be subnormal: a tail ends the same on every device.
__device__ inline float flushed(float value) { return fabsf(value) > 1e-25f ? value : 0.0f; }

// Moves a lattice coordinate; one that leaves the grid is the next ray, which enters on the other side. Says whether. A step
// is -1, 0 or 1, give or take a rounding.
__device__ inline bool step_aside(int& at, int by, int n) {
    at += by;
    if (unsigned(at) < unsigned(n)) return false;
    while (at < 0) at += n;
    while (at >= n) at -= n;
    return true;
}

// A thread of `correlate` multiplies SIDE moments with SIDE.
#define SIDE 8

// Sums over voxels of moment times moment, for the few combinations that matter (equation 9); of every other row, as on a
// chessboard of slices and rows.
//   launch: warps, four a block, each for a tile of SIDE x SIDE pairs and a part of the rows; tiles of the same rows follow
//     each other, and find them in the caches
//   moments: (count, n0, n1, n2); tiles: their number, and their first moments (i, j); parts: into which the rows are cut
//   products: (parts, 32, tiles, SIDE, SIDE), written; what lies beyond the last moment is that of the last
//   a thread owns its tile in its own sums
extern "C" __global__ void __launch_bounds__(128) correlate(
    const float* __restrict__ moments, int count, Shape grid, const int* __restrict__ corners, int tiles, int parts,
    float* __restrict__ products) {
    const int thread = blockIdx.x * blockDim.x + threadIdx.x, lane = thread % 32, tile = thread / 32 % tiles;
    const int part = thread / 32 / tiles, all = grid.n0 * grid.n1;
    if (part >= parts) return;
    const size_t voxels = size_t(all) * grid.n2;
    const float* first = moments + corners[2 * tile] * voxels;
    const float* second = moments + corners[2 * tile + 1] * voxels;
    const int firsts = count - 1 - corners[2 * tile], seconds = count - 1 - corners[2 * tile + 1];
    float sum[SIDE][SIDE];
#pragma unroll
    for (int k = 0; k < SIDE; ++k)
#pragma unroll
        for (int n = 0; n < SIDE; ++n) sum[k][n] = 0.0f;
    const int rows = (all + parts - 1) / parts;
    for (int row = part * rows; row < min((part + 1) * rows, all); ++row) {
        if ((row / grid.n1 + row % grid.n1) % 2 != 0) continue;
#pragma unroll 1
        for (int x = lane; x < grid.n2; x += 32) {
            const float *one = first + size_t(row) * grid.n2 + x, *other = second + size_t(row) * grid.n2 + x;
            float a[SIDE], b[SIDE];
#pragma unroll
            for (int k = 0; k < SIDE; ++k) {
                a[k] = *one;
                b[k] = *other;
                one += k < firsts ? voxels : 0;
                other += k < seconds ? voxels : 0;
            }
#pragma unroll
            for (int k = 0; k < SIDE; ++k)
#pragma unroll
                for (int n = 0; n < SIDE; ++n) sum[k][n] += a[k] * b[n];
        }
    }
    float* out = products + (size_t(32 * part + lane) * tiles + tile) * SIDE * SIDE;
#pragma unroll
    for (int k = 0; k < SIDE; ++k)
#pragma unroll
        for (int n = 0; n < SIDE; ++n) out[SIDE * k + n] = sum[k][n];
}

// A thread of `make_sources` makes sources of VOXELS voxels, 32 apart, for ROWS stages: each number that it reads serves
// 8 or 12 multiplications.
#define VOXELS 8
#define ROWS 12
#define NOWHERE 0xffffffffu

struct alignas(16) Four { float at[4]; };

__device__ inline bool is_in(const Box& box, int a, int b, int i) {
    return unsigned(a - box.low0) < unsigned(box.n0) && unsigned(b - box.low1) < unsigned(box.n1) &&
           unsigned(i - box.low2) < unsigned(box.n2);
}

// Number of a voxel in a box.
__device__ inline unsigned place_in(const Box& box, int a, int b, int i) {
    return (unsigned(a - box.low0) * box.n1 + (b - box.low1)) * box.n2 + (i - box.low2);
}

// Where the sources of a voxel of the box `own` lie among those of `whole`; NOWHERE for voxels in `skipped` or past the end.
__device__ inline unsigned place_of(unsigned voxel, const Box& own, const Box& skipped, const Box& whole) {
    const unsigned n2 = own.n2, n1 = own.n1;
    const int a = own.low0 + voxel / (n1 * n2), b = own.low1 + voxel / n2 % n1, i = own.low2 + voxel % n2;
    return a >= own.low0 + own.n0 || is_in(skipped, a, b, i) ? NOWHERE : place_in(whole, a, b, i);
}

// Whether a voxel of the box `own` and the `more` that follow it lie in `skipped`, where that has rows as long.
__device__ inline bool are_skipped(unsigned voxel, unsigned more, const Box& own, const Box& skipped) {
    const unsigned slice = own.n1 * own.n2, place = voxel % slice, a = own.low0 + voxel / slice - skipped.low0;
    const unsigned low = (skipped.low1 - own.low1) * own.n2, high = low + skipped.n1 * own.n2;
    return skipped.n2 == own.n2 && a < unsigned(skipped.n0) && place >= low && place + more < high;
}

// Stage D: directional sources of all stages, from the combinations of moments (equation 9): a matrix product whose result
// goes where the sweep reads it.
//   launch: warps, four a block, for ROWS stages and 32 VOXELS voxels of the box `own` each; those of the same voxels follow
//     each other, and find them in the second-level cache
//   values: (count, voxels of `own`) combinations, and 32 VOXELS numbers more, which are read and not used
//   weights: (count, padded) what each adds to each stage of each direction of a block, `padded` a multiple of ROWS
//   own, skipped, whole: box of these combinations; part of it whose sources others make; box of all sources
//   sources: (stages, stride) for the voxels of `whole`, written in `own` but for `skipped`; a thread owns its voxels and
//     stages
extern "C" __global__ void __launch_bounds__(128, 3) make_sources(
    const float* __restrict__ values, const Four* __restrict__ weights, int count, int stages, int padded, Box own,
    Box skipped, Box whole, unsigned stride, float* __restrict__ sources) {
    const unsigned warp = (blockIdx.x * blockDim.x + threadIdx.x) / 32, rows = padded / ROWS, row = warp % rows * ROWS;
    const unsigned first = warp / rows * 32 * VOXELS + threadIdx.x % 32, voxels = own.n0 * own.n1 * own.n2;
    if (first >= voxels || are_skipped(first, 32 * (VOXELS - 1), own, skipped)) return;
    float sum[ROWS][VOXELS], next[VOXELS], after[VOXELS];  // values of the next combination, and of the one after that
    Four next_weight[ROWS / 4];
#pragma unroll
    for (int k = 0; k < ROWS; ++k)
#pragma unroll
        for (int j = 0; j < VOXELS; ++j) sum[k][j] = 0.0f;
    const float* value = values + first;
    const Four* weight = weights + row / 4;
#pragma unroll
    for (int j = 0; j < VOXELS; ++j) next[j] = value[32 * j];
    if (count > 1) value += voxels;
#pragma unroll
    for (int j = 0; j < VOXELS; ++j) after[j] = value[32 * j];
#pragma unroll
    for (int k = 0; k < ROWS / 4; ++k) next_weight[k] = weight[k];
#pragma unroll 1
    for (int r = 0; r < count; ++r) {
        float v[VOXELS];
        Four w[ROWS / 4];
#pragma unroll
        for (int j = 0; j < VOXELS; ++j) {
            v[j] = next[j];
            next[j] = after[j];
        }
#pragma unroll
        for (int k = 0; k < ROWS / 4; ++k) w[k] = next_weight[k];
        if (r + 1 < count) weight += padded / 4;
        if (r + 2 < count) value += voxels;
#pragma unroll
        for (int j = 0; j < VOXELS; ++j) after[j] = value[32 * j];  // on their way while these are multiplied
#pragma unroll
        for (int k = 0; k < ROWS / 4; ++k) next_weight[k] = weight[k];
#pragma unroll
        for (int k = 0; k < ROWS; ++k)
#pragma unroll
            for (int j = 0; j < VOXELS; ++j) sum[k][j] += w[k / 4].at[k % 4] * v[j];
    }
#pragma unroll
    for (int j = 0; j < VOXELS; ++j) {
        const unsigned to = place_of(first + 32 * j, own, skipped, whole);
        if (to == NOWHERE) continue;
        float* out = sources + size_t(row) * stride + to;
#pragma unroll
        for (int k = 0; k < ROWS; ++k)
            if (row + k < unsigned(stages)) out[size_t(k) * stride] = sum[k][j];
    }
}

// What a ray meets in one slab: its voxel and whether it has just entered there, matter, and what is released with three,
// two and one stage to go in each chain.
struct Place { unsigned here; bool is_new; float density, electron_density, u[MOST_CHAINS], v[MOST_CHAINS], w[MOST_CHAINS]; };

// Carries one ray through the grid (equation 7), of chains of A, B and C stages, or with A = 0 of any; `sources` and
// `deposit` are those of its direction, all else is as in the kernel.
template <int A, int B, int C>
__device__ void carry_ray(
    const float* __restrict__ density, const float* __restrict__ electron_density,
    const unsigned char* __restrict__ material, const float* __restrict__ returned, int sends_back, const Shape& grid,
    const Way& way, const Chains& chains, const float* __restrict__ sources, unsigned stride, const Box& box,
    float* __restrict__ deposit) {
    constexpr bool is_known = A > 0;
    constexpr int most = is_known ? 3 : MOST_CHAINS;
    const bool is_across_0 = way.axis == 0;
    const int slabs = is_across_0 ? grid.n0 : grid.n1, rows = is_across_0 ? grid.n1 : grid.n0, width = grid.n2;
    const int ray = blockIdx.x * blockDim.x + threadIdx.x;
    if (ray >= rows * width) return;
    int row = ray / width, column = ray % width, row_shift = 0, column_shift = 0;
    auto stages_of = [&](int c) { return !is_known ? chains.stages[c] : c == 0 ? A : c == 1 ? B : C; };
    auto place_at = [&](int t) {
        Place place;
        const int new_row_shift = int(floorf(way.slope_row * float(t) + way.offset_row));
        const int new_column_shift = int(floorf(way.slope_column * float(t) + way.offset_column));
        place.is_new = step_aside(row, new_row_shift - row_shift, rows);
        place.is_new |= step_aside(column, new_column_shift - column_shift, width);
        row_shift = new_row_shift;
        column_shift = new_column_shift;
        const int slab = way.is_backwards ? slabs - 1 - t : t;
        const int a = is_across_0 ? slab : row, b = is_across_0 ? row : slab;
        place.here = (unsigned(a) * grid.n1 + b) * grid.n2 + column;
        place.density = density[place.here];
        place.electron_density = electron_density[place.here];
        const bool is_lit = is_in(box, a, b, column);  // nothing is released outside
        const float* q = sources + (is_lit ? place_in(box, a, b, column) : 0);
#pragma unroll
        for (int c = 0; c < most; ++c) {
            place.u[c] = place.v[c] = place.w[c] = 0.0f;
            if (!is_lit || (!is_known && c >= chains.count)) continue;
            const int stages = stages_of(c);
            if (stages > 2) place.u[c] = *q, q += stride;
            if (stages > 1) place.v[c] = *q, q += stride;
            place.w[c] = *q, q += stride;
        }
        return place;
    };
    float u[MOST_CHAINS], v[MOST_CHAINS], w[MOST_CHAINS];  // energy with three, two, one stage to go
#pragma unroll
    for (int c = 0; c < most; ++c) u[c] = v[c] = w[c] = 0.0f;
    unsigned before = 0;  // the voxel that the ray comes from, what that returns, and how much of it can be held there
    float returned_before = 0.0f;
    float held_before = 0.0f;
    Place next = place_at(0);
    for (int t = 0; t < slabs; ++t) {
        const Place now = next;
        if (t + 1 < slabs) next = place_at(t + 1);  // on its way while this slab is crossed
        const float path = now.density * way.step, electron_path = now.electron_density * way.step;
        float stays = 0.0f;
        if (sends_back) {
            const float own = returned[material[now.here]], share = (own - returned_before) * held_before;
            if (!now.is_new && own != 0.0f && share > 0.0f) {
                float back = 0.0f;
#pragma unroll
                for (int c = 1; c < most; ++c) {
                    back += share * (u[c] + v[c] + w[c]);
                    u[c] -= share * u[c];
                    v[c] -= share * v[c];
                    w[c] -= share * w[c];
                }
                deposit[before] += back;
            }
            before = now.here;
            returned_before = own;
            held_before = fminf(now.density, 1.0f);
        }
#pragma unroll
        for (int c = 0; c < most; ++c) {
            if (!is_known && c >= chains.count) break;
            if (now.is_new) u[c] = v[c] = w[c] = 0.0f;
            const int stages = stages_of(c);
            const float qu = now.u[c], qv = now.v[c], qw = now.w[c];
            const float x = chains.rate[c] * (c == 0 ? path : electron_path);
            const Survival kept = survival(x);
            stays += w[c] * (x * kept.g0) + v[c] * (x * kept.g1) + u[c] * (x * kept.g2);
            stays += qw * (1.0f - kept.g0) + qv * (1.0f - kept.g0 - kept.g1) + qu * (1.0f - kept.g0 - kept.g1 - kept.g2);
            w[c] = flushed(kept.e * (w[c] + x * (v[c] + 0.5f * x * u[c])) + qw * kept.g0 + qv * kept.g1 + qu * kept.g2);
            if (stages > 1) v[c] = flushed(kept.e * (v[c] + x * u[c]) + qv * kept.g0 + qu * kept.g1);
            if (stages > 2) u[c] = flushed(kept.e * u[c] + qu * kept.g0);
        }
        deposit[now.here] = stays;
    }
}

// Stage E: carries the sources of a block of directions through the grid; slabs one after another.
//   launch: one thread a ray, 128 a block; y over directions. Rays run in circles: one that leaves a side of the grid
//     becomes the one that enters on the other, so that all threads have work in every slab.
//   density, electron_density: (n0, n1, n2) electron density relative to water, in which the first chain (scattered
//     photons) is carried, and that in which all others are; threads side by side read voxels side by side along axis 2
//   material, returned: (n0, n1, n2), (materials,) share of the energy of electrons coming from water that each material
//     sends back into the voxel before (heterogeneity.md, 4); sends_back: whether any does
//   ways: (directions,)
//   sources: (directions, K, stride) for the voxels of the box, from `make_sources`; nothing is released outside it
//   deposit: (directions, n0, n1, n2), written: a ray of each direction meets every voxel once and owns it
extern "C" __global__ void __launch_bounds__(128) sweep(
    const float* __restrict__ density, const float* __restrict__ electron_density,
    const unsigned char* __restrict__ material, const float* __restrict__ returned, int sends_back, Shape grid,
    const Way* __restrict__ ways, Chains chains, const float* __restrict__ sources, unsigned stride, Box box,
    float* __restrict__ deposit) {
    const Way way = ways[blockIdx.y];
    const float* own = sources + size_t(blockIdx.y) * chains.size * stride;
    float* left = deposit + size_t(blockIdx.y) * grid.n0 * grid.n1 * grid.n2;
    const int stages = chains.count == 3 ? 100 * chains.stages[0] + 10 * chains.stages[1] + chains.stages[2] : 0;
    if (stages == 322)
        carry_ray<3, 2, 2>(
            density, electron_density, material, returned, sends_back, grid, way, chains, own, stride, box, left);
    else if (stages == 331)
        carry_ray<3, 3, 1>(
            density, electron_density, material, returned, sends_back, grid, way, chains, own, stride, box, left);
    else
        carry_ray<0, 0, 0>(
            density, electron_density, material, returned, sends_back, grid, way, chains, own, stride, box, left);
}

// Columns that a thread of `exchange` takes: 32 bytes, which come from memory together.
#define STRIP 8

// Exchanges rows and columns of many slices.
//   launch: one thread a strip of a row, 128 a block, rows side by side: what they write lies side by side, and what the
//     first column brings from memory serves the others of the strip
//   from: (slices, rows, columns); to: (slices, columns, rows), written; a thread owns its strip
extern "C" __global__ void __launch_bounds__(128) exchange(
    const float* __restrict__ from, int slices, int rows, int columns, float* __restrict__ to) {
    const unsigned thread = blockIdx.x * blockDim.x + threadIdx.x, strips = (columns + STRIP - 1) / STRIP;
    const unsigned row = thread % rows, strip = thread / rows % strips, slice = thread / rows / strips;
    if (slice >= unsigned(slices)) return;
    const size_t start = size_t(slice) * rows * columns;
    const float* in = from + start + size_t(row) * columns;
    float* out = to + start + row;
#pragma unroll
    for (int k = 0; k < STRIP; ++k) {
        const int column = strip * STRIP + k;
        if (column < columns) out[size_t(column) * rows] = in[column];
    }
}

// Adds up what the directions of a block have left.
//   launch: one thread a voxel, 128 a block; it owns the voxel
//   deposit: (directions, voxels); total: (voxels,), added to, in the order of directions
extern "C" __global__ void __launch_bounds__(128) add_up(
    const float* __restrict__ deposit, int directions, int voxels, float* __restrict__ total) {
    const int voxel = blockIdx.x * blockDim.x + threadIdx.x;
    if (voxel >= voxels) return;
    float sum = 0.0f;
    for (int m = 0; m < directions; ++m) sum += deposit[size_t(m) * voxels + voxel];
    total[voxel] += sum;
}
