// Stage E: directional sources carried along the ray lattice of many directions (docs/theory/transport.md, 3 and 4).
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
    const float g0 = (1.0f - p) / x, g1 = g0 - p;
    return {p, g0, g1, g1 - 0.5f * x * p};
}

// Zero instead of a number that would soon be subnormal: a tail ends the same on every device.
__device__ inline float flushed(float value) { return fabsf(value) > 1e-25f ? value : 0.0f; }

// Moves a lattice coordinate; one that leaves the grid is the next ray, which enters on the other side. Says whether.
__device__ inline bool step_aside(int& at, int by, int n) {
    at += by;
    if (at >= 0 && at < n) return false;
    at = ((at % n) + n) % n;
    return true;
}

// Where the sources of a voxel (a, b, i) begin, and how far apart its stages are; null where nothing is released.
__device__ const float* source_of(const float* sources, const Box& box, int size, int direction, int a, int b, int i,
                                  size_t& stride) {
    const int x = a - box.low0, y = b - box.low1, z = i - box.low2;
    if (x < 0 || x >= box.n0 || y < 0 || y >= box.n1 || z < 0 || z >= box.n2) return nullptr;
    stride = size_t(box.n0) * box.n1 * box.n2;
    return sources + size_t(direction) * size * stride + (size_t(x) * box.n1 + y) * box.n2 + z;
}

// Carries the sources of a block of directions through the grid; slabs one after another (equation 7).
//   launch: one thread a ray, 128 a block; y over directions. Rays run in circles: one that leaves a side of the grid
//     becomes the one that enters on the other, so that all threads have work in every slab.
//   density, electron_density: (n0, n1, n2) electron density relative to water, in which the first chain (scattered
//     photons) is carried, and that in which all others are; threads side by side read voxels side by side along axis 2
//   material, returned: (n0, n1, n2), (materials,) share of the energy of electrons coming from water that each material
//     sends back into the voxel before (heterogeneity.md, 4); sends_back: whether any does
//   ways: (directions,)
//   field, halo: (directions, K, voxels of the box); the field's counts where both have one
//   deposit: (directions, n0, n1, n2), written: a ray of each direction meets every voxel once and owns it
extern "C" __global__ void __launch_bounds__(128) sweep(
    const float* __restrict__ density, const float* __restrict__ electron_density,
    const unsigned char* __restrict__ material, const float* __restrict__ returned, int sends_back, Shape grid,
    const Way* __restrict__ ways, Chains chains,
    const float* __restrict__ field, Box field_box, const float* __restrict__ halo, Box halo_box,
    float* __restrict__ deposit) {
    const int direction = blockIdx.y;
    const Way way = ways[direction];
    const int slabs = way.axis == 0 ? grid.n0 : grid.n1, rows = way.axis == 0 ? grid.n1 : grid.n0, width = grid.n2;
    const int ray = blockIdx.x * blockDim.x + threadIdx.x;
    if (ray >= rows * width) return;
    int row = ray / width, column = ray % width, row_shift = 0, column_shift = 0;
    float* left = deposit + size_t(direction) * grid.n0 * grid.n1 * grid.n2;
    float u[MOST_CHAINS], v[MOST_CHAINS], w[MOST_CHAINS];  // energy with three, two, one stage to go
#pragma unroll
    for (int c = 0; c < MOST_CHAINS; ++c) u[c] = v[c] = w[c] = 0.0f;
    size_t before = 0;  // the voxel that the ray comes from, what that returns, and how much of it can be held there
    float returned_before = 0.0f;
    float held_before = 0.0f;
    for (int t = 0; t < slabs; ++t) {
        const int new_row_shift = int(floorf(way.slope_row * float(t) + way.offset_row));
        const int new_column_shift = int(floorf(way.slope_column * float(t) + way.offset_column));
        bool is_new = step_aside(row, new_row_shift - row_shift, rows);
        is_new |= step_aside(column, new_column_shift - column_shift, width);
        row_shift = new_row_shift;
        column_shift = new_column_shift;
        const int slab = way.is_backwards ? slabs - 1 - t : t;
        const int a = way.axis == 0 ? slab : row, b = way.axis == 0 ? row : slab;
        const size_t here = (size_t(a) * grid.n1 + b) * grid.n2 + column;
        size_t stride = 0;
        const float* q = source_of(field, field_box, chains.size, direction, a, b, column, stride);
        if (!q) q = source_of(halo, halo_box, chains.size, direction, a, b, column, stride);
        const float path = density[here] * way.step, electron_path = electron_density[here] * way.step;
        float stays = 0.0f;
        if (sends_back) {
            const float own = returned[material[here]], share = (own - returned_before) * held_before;
            if (!is_new && own != 0.0f && share > 0.0f) {
                float back = 0.0f;
#pragma unroll
                for (int c = 1; c < MOST_CHAINS; ++c) {
                    back += share * (u[c] + v[c] + w[c]);
                    u[c] -= share * u[c];
                    v[c] -= share * v[c];
                    w[c] -= share * w[c];
                }
                left[before] += back;
            }
            before = here;
            returned_before = own;
            held_before = fminf(density[here], 1.0f);
        }
#pragma unroll
        for (int c = 0; c < MOST_CHAINS; ++c) {
            if (c >= chains.count) break;
            if (is_new) u[c] = v[c] = w[c] = 0.0f;
            const int stages = chains.stages[c];
            float qu = 0.0f, qv = 0.0f, qw = 0.0f;
            if (q) {
                if (stages > 2) { qu = *q; q += stride; }
                if (stages > 1) { qv = *q; q += stride; }
                qw = *q;
                q += stride;
            }
            const float x = chains.rate[c] * (c == 0 ? path : electron_path);
            const Survival s = survival(x);
            stays += w[c] * (x * s.g0) + v[c] * (x * s.g1) + u[c] * (x * s.g2);
            stays += qw * (1.0f - s.g0) + qv * (1.0f - s.g0 - s.g1) + qu * (1.0f - s.g0 - s.g1 - s.g2);
            w[c] = flushed(s.e * (w[c] + x * (v[c] + 0.5f * x * u[c])) + qw * s.g0 + qv * s.g1 + qu * s.g2);
            v[c] = flushed(s.e * (v[c] + x * u[c]) + qv * s.g0 + qu * s.g1);
            u[c] = flushed(s.e * u[c] + qu * s.g0);
        }
        left[here] = stays;
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
