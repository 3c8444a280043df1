// Stage B: radiological depth on the diverging fan grid of each group (docs/theory/terma.md, equation 2).
#include "common.cuh"

// Voxel index (x, y, z) of the middle of the first step of ray (iu, iv): first + iu first_u + iv first_v; and what every
// step adds to it.
struct Fan { float first[3], first_u[3], first_v[3], step[3], step_u[3], step_v[3]; };

// Rays (u, v) and planes of all fans; first ray and pitch on the isocentre plane, source distance, plane step [cm].
struct Rays { int nu, nv, planes; float u, v, pitch, sad, step; };

// Trilinear interpolation at voxel indices (x, y, z); 0 outside the outermost voxel centres.
__device__ float sample(const float* __restrict__ volume, const Shape& n, float x, float y, float z) {
    if (x < 0.0f || y < 0.0f || z < 0.0f || x > float(n.n2 - 1) || y > float(n.n1 - 1) || z > float(n.n0 - 1))
        return 0.0f;
    const int i = min(int(x), max(n.n2 - 2, 0)), j = min(int(y), max(n.n1 - 2, 0)), k = min(int(z), max(n.n0 - 2, 0));
    const float fx = x - float(i), fy = y - float(j), fz = z - float(k);
    const int next = n.n2 > 1, row = n.n1 > 1 ? n.n2 : 0, slab = n.n0 > 1 ? n.n1 * n.n2 : 0;  // 0: one voxel thick
    const float* v = volume + (k * n.n1 + j) * n.n2 + i;
    const float near = mix(mix(v[0], v[next], fx), mix(v[row], v[row + next], fx), fy);
    v += slab;
    const float far = mix(mix(v[0], v[next], fx), mix(v[row], v[row + next], fx), fy);
    return mix(near, far, fz);
}

// Cumulates water-equivalent density along every ray of every fan, by the midpoint rule.
//   launch: one thread a ray; x over iu, y over iv, z over fans
//   density: (n0, n1, n2) electron density relative to water, times the path factor of the material
//   depth: (fans, planes, nv, nu) [cm]; a thread owns its ray through all planes, neighbours write side by side
extern "C" __global__ void __launch_bounds__(128) radiological_depth(
    const float* __restrict__ density, Shape grid, const Fan* __restrict__ fans, Rays rays, float* __restrict__ depth) {
    const int iu = blockIdx.x * blockDim.x + threadIdx.x, iv = blockIdx.y * blockDim.y + threadIdx.y;
    if (iu >= rays.nu || iv >= rays.nv) return;
    const Fan& fan = fans[blockIdx.z];
    float at[3], by[3];
    for (int a = 0; a < 3; ++a) {
        at[a] = fan.first[a] + float(iu) * fan.first_u[a] + float(iv) * fan.first_v[a];
        by[a] = fan.step[a] + float(iu) * fan.step_u[a] + float(iv) * fan.step_v[a];
    }
    const float u = (rays.u + float(iu) * rays.pitch) / rays.sad, v = (rays.v + float(iv) * rays.pitch) / rays.sad;
    const float length = rays.step * sqrtf(1.0f + u * u + v * v);
    const size_t plane = size_t(rays.nv) * rays.nu;
    float* out = depth + (size_t(blockIdx.z) * rays.planes * rays.nv + iv) * rays.nu + iu;
    float total = 0.0f;
    out[0] = total;
    for (int k = 1; k < rays.planes; ++k) {
        const float n = float(k - 1);
        total += length * sample(density, grid, at[0] + n * by[0], at[1] + n * by[1], at[2] + n * by[2]);
        out[k * plane] = total;
    }
}
