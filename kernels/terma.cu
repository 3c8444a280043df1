// Stage C: energy released in every voxel by every group of shots, and its angular moments (docs/theory/terma.md).
#include "common.cuh"

// Fluence maps: number of pixels, first pixel over pixel size, and pixels a centimetre.
struct Pixels { int nx, ny; float x, y, per_cm; };

// All numbers of one exposure [cm].
struct Release {
    Shape grid;                               // voxels of the whole grid
    Box box;                                  // voxels in which energy is released
    int groups, parts, has_electrons;         // groups of this launch; parts S of the TERMA table
    float sad, u_low, u_high, v_low, v_high;  // source distance; what the fields reach on the isocentre plane
    Pixels photon, electron;
    int nu, nv, planes;                       // fan of each group
    float fan_u, fan_v, per_pitch, per_step;  // its first ray; rays and planes a centimetre
    int softs, depths, radii;                 // TERMA table and softening
    float per_depth, per_radius, electron_decay;
};

// Fluence of one shot on the ray through a point (x, y) of the collimator system that is a share `shrink` of the source
// distance away from the source; bilinear, 0 outside the map.
__device__ float fluence_at(const float* __restrict__ map, const Pixels& p, const float at[3]) {
    const float shrink = __fdividef(p.per_cm, at[2]);
    const float x = at[0] * shrink - p.x, y = at[1] * shrink - p.y;
    if (!(x >= 0.0f && y >= 0.0f && x < float(p.nx - 1) && y < float(p.ny - 1))) return 0.0f;
    const int i = int(x), j = int(y);
    const float fx = x - float(i), fy = y - float(j);
    const float* m = map + j * p.nx + i;
    return mix(mix(m[0], m[1], fx), mix(m[p.nx], m[p.nx + 1], fx), fy);
}

// Radiological depth at fractional ray (a along u, b along v) and plane c of a fan (planes, nv, nu).
__device__ float along_fan(const float* __restrict__ fan, const Release& p, float a, float b, float c) {
    const int i = int(a), j = int(b), k = min(int(c), p.planes - 2);
    const float fa = a - float(i), fb = b - float(j), fc = c - float(k);
    const size_t plane = size_t(p.nv) * p.nu;
    const float* d = fan + k * plane + j * p.nu + i;
    const float near = mix(mix(d[0], d[1], fa), mix(d[p.nu], d[p.nu + 1], fa), fb);
    d += plane;
    return mix(near, mix(mix(d[0], d[1], fa), mix(d[p.nu], d[p.nu + 1], fa), fb), fc);
}

// Row of the TERMA table (fractional) at an off-axis radius [cm].
__device__ float softening(const float* __restrict__ soft_row, const Release& p, float radius) {
    const float r = fminf(radius * p.per_radius, float(p.radii) - 1.001f);
    const int m = int(r);
    return mix(soft_row[m], soft_row[m + 1], r - float(m));
}

// Energy released in every voxel by each group, and the dose of contaminating electrons (equations 1, 4 and 6).
//   launch: one thread a voxel of the box, 128 a block
//   density, material: (n0, n1, n2) relative electron density, number of the material
//   first: (groups + 1,) shots of each group; group, shot: (groups,), (shots,) voxel -> gantry system [cm], and
//     voxel -> collimator x, y [cm] and 1 - z/SAD
//   photon, electron: (shots, ny, nx) fluence; depth, top: (groups, planes, nv, nu), (groups,) [cm]
//   terma, soft_row: (materials, softs, depths, parts), (radii,)
//   energy: (groups, parts, voxels), written: energy, then energy times the weights of the other parts
//   electron_dose: (n0, n1, n2), added to
// A thread owns its voxel in both outputs, over all groups.
extern "C" __global__ void __launch_bounds__(128) release(
    const float* __restrict__ density, const unsigned char* __restrict__ material, const int* __restrict__ first,
    const Affine* __restrict__ group, const Affine* __restrict__ shot, const float* __restrict__ photon,
    const float* __restrict__ electron, const float* __restrict__ depth, const float* __restrict__ top,
    const float* __restrict__ terma, const float* __restrict__ soft_row, Release p, float* __restrict__ energy,
    float* __restrict__ electron_dose) {
    unsigned voxel;
    int kz, ky, kx;
    if (!voxel_of_thread(p.box, blockIdx.x, voxel, kz, ky, kx)) return;
    const size_t voxels = size_t(p.box.n0) * p.box.n1 * p.box.n2;
    const size_t here = (size_t(kz) * p.grid.n1 + ky) * p.grid.n2 + kx;
    const float rho = density[here], x = float(kx), y = float(ky), z = float(kz);
    const float* rows = terma + size_t(material[here]) * p.softs * p.depths * p.parts;
    float electrons_here = 0.0f;
    for (int g = 0; g < p.groups; ++g) {
        float* out = energy + size_t(g) * p.parts * voxels + voxel;
        for (int part = 0; part < p.parts; ++part) out[part * voxels] = 0.0f;
        float at[3];
        apply(group[g], x, y, z, at);
        const float magnify = __fdividef(p.sad, p.sad - at[2]), u = at[0] * magnify, v = at[1] * magnify;
        if (!(rho > 0.0f && magnify > 0.0f && u >= p.u_low && u <= p.u_high && v >= p.v_low && v <= p.v_high)) continue;
        float psi = 0.0f, electrons = 0.0f;
        for (int s = first[g]; s < first[g + 1]; ++s) {
            float seen[3];
            apply(shot[s], x, y, z, seen);
            psi += fluence_at(photon + size_t(s) * p.photon.ny * p.photon.nx, p.photon, seen);
            if (p.has_electrons)
                electrons += fluence_at(electron + size_t(s) * p.electron.ny * p.electron.nx, p.electron, seen);
        }
        if (psi == 0.0f && electrons == 0.0f) continue;
        const float square = magnify * magnify;
        const float path = along_fan(depth + size_t(g) * p.planes * p.nv * p.nu, p, (u - p.fan_u) * p.per_pitch,
                                     (v - p.fan_v) * p.per_pitch, (top[g] - at[2]) * p.per_step);
        if (electrons != 0.0f && p.electron_decay * path < 7.0f)
            electrons_here += square * electrons * expf(-p.electron_decay * path);
        if (psi == 0.0f) continue;
        const float soft = softening(soft_row, p, sqrtf(u * u + v * v));
        const int ms = min(int(soft), max(p.softs - 2, 0)), ns = min(ms + 1, p.softs - 1);
        const float node = fminf(path * p.per_depth, float(p.depths) - 1.001f);
        const int md = int(node);
        const float fs = soft - float(ms), fd = node - float(md);
        const float* soft_0 = rows + (size_t(ms) * p.depths + md) * p.parts;
        const float* soft_1 = rows + (size_t(ns) * p.depths + md) * p.parts;
        float released = psi * square * rho;
        for (int part = 0; part < p.parts; ++part) {
            const float above = mix(soft_0[part], soft_1[part], fs);
            const float below = mix(soft_0[p.parts + part], soft_1[p.parts + part], fs);
            const float value = released * mix(above, below, fd);
            if (part == 0) released = value;
            out[part * voxels] = value;
        }
    }
    if (electrons_here != 0.0f) electron_dose[here] += electrons_here;
}

// Highest degree of moments that the accumulators below have room for.
#define MOST_DEGREE 12

// Numbers of the next kernel: order L; parts S of the energies, and of the moments, which may have one more; groups;
// columns of `lost`; voxel size (x, y, z) [cm].
struct Harmonics { Shape grid; Box box; int order, parts, all_parts, groups, degrees; float spacing[3]; };

struct Ray { float x, y, z; };  // a direction

// Direction in which a group's photons travel in a voxel (x, y, z) away from voxel (0, 0, 0) [cm].
__device__ inline Ray ray_of(const float* __restrict__ from_source, int g, float x, float y, float z) {
    x += from_source[3 * g];
    y += from_source[3 * g + 1];
    z += from_source[3 * g + 2];
    const float length = rsqrtf(x * x + y * y + z * z);
    return {x * length, y * length, z * length};
}

// Adds energy times the harmonics of its direction of travel to the moments (equation 5); in the part after the last one of
// the energies, if there is such, the energy times what other matter than water takes of the electrons' moments.
//   launch: blocks of 128 voxels of the box, each (L + 1) S times in a row: for the azimuthal orders m = 0..L, and the
//     parts of the moments, so that the energies are read once from memory
//   energy: (groups, parts, voxels) from `release`; from_source: (groups, 3) source -> voxel (0, 0, 0) (x, y, z) [cm]
//   recursion: (L + 1, L + 1, 2) for order m and step k: (2 d - 1) / k and (d + m - 1) / k of degree d = m + k
//   norm: ((L + 1)^2,) factors that make the harmonics orthonormal
//   material, lost: (n0, n1, n2), (materials, degrees) share of the moments that each material takes
//   moments: (parts (L + 1)^2, voxels), added to; a thread owns the moments of orders m and -m of its voxel and part
extern "C" __global__ void __launch_bounds__(128) add_moments(
    const float* __restrict__ energy, const float* __restrict__ from_source, const float* __restrict__ recursion,
    const float* __restrict__ norm, const unsigned char* __restrict__ material, const float* __restrict__ lost,
    Harmonics p, float* __restrict__ moments) {
    unsigned voxel;
    int kz, ky, kx;
    const int orders = p.order + 1, m = blockIdx.x % orders, part = blockIdx.x / orders % p.all_parts;
    if (!voxel_of_thread(p.box, blockIdx.x / (orders * p.all_parts), voxel, kz, ky, kx)) return;
    const bool is_lost = part == p.parts;
    const int kind = is_lost ? material[(size_t(kz) * p.grid.n1 + ky) * p.grid.n2 + kx] : 0;
    if (is_lost && kind == 0) return;
    const float* take = lost + kind * p.degrees;
    const size_t voxels = size_t(p.box.n0) * p.box.n1 * p.box.n2;
    const float* recur = recursion + m * orders * 2;
    const float px = float(kx) * p.spacing[0], py = float(ky) * p.spacing[1], pz = float(kz) * p.spacing[2];
    float diagonal = 1.0f;
    for (int k = 1; k <= m; ++k) diagonal *= float(1 - 2 * k);
    float even[MOST_DEGREE + 1], odd[MOST_DEGREE + 1];  // orders m and -m, of degrees m, m + 1, ...
#pragma unroll
    for (int k = 0; k <= MOST_DEGREE; ++k) even[k] = odd[k] = 0.0f;
    for (int g = 0; g < p.groups; ++g) {
        const float share = energy[(size_t(g) * p.parts + (is_lost ? 0 : part)) * voxels + voxel];
        if (share == 0.0f) continue;
        const Ray ray = ray_of(from_source, g, px, py, pz);
        float cosine = share, sine = 0.0f;  // share times (x + i y)^m
        for (int k = 0; k < m; ++k) {
            const float c = ray.x * cosine - ray.y * sine;
            sine = ray.x * sine + ray.y * cosine;
            cosine = c;
        }
        float below = 0.0f, current = diagonal;
#pragma unroll
        for (int k = 0; k <= MOST_DEGREE; ++k) {
            if (k > p.order - m) break;
            if (k > 0) {
                const float next = recur[2 * k] * ray.z * current - recur[2 * k + 1] * below;
                below = current;
                current = next;
            }
            even[k] += current * cosine;
            odd[k] += current * sine;
        }
    }
    float* out = moments + size_t(part) * orders * orders * voxels + voxel;
#pragma unroll
    for (int k = 0; k <= MOST_DEGREE; ++k) {
        if (k > p.order - m) break;
        const int degree = m + k, centre = degree * degree + degree;
        const float factor = is_lost ? norm[centre + m] * take[degree] : norm[centre + m];  // that of -m is the same
        out[(centre + m) * voxels] += factor * even[k];
        if (m > 0) out[(centre - m) * voxels] += factor * odd[k];
    }
}

// The same for all orders at once, of a degree L that the compiler knows: energies are read, and directions worked out, once
// for each part and not for each order besides.
template <int L>
__device__ void add_all_orders(
    const float* __restrict__ energy, const float* __restrict__ from_source, const float* __restrict__ norm,
    const unsigned char* __restrict__ material, const float* __restrict__ lost, const Harmonics& p,
    float* __restrict__ moments) {
    unsigned voxel;
    int kz, ky, kx;
    const int part = blockIdx.x % p.all_parts;
    if (!voxel_of_thread(p.box, blockIdx.x / p.all_parts, voxel, kz, ky, kx)) return;
    const bool is_lost = part == p.parts;
    const int kind = is_lost ? material[(size_t(kz) * p.grid.n1 + ky) * p.grid.n2 + kx] : 0;
    if (is_lost && kind == 0) return;
    const float* take = lost + kind * p.degrees;
    const size_t voxels = size_t(p.box.n0) * p.box.n1 * p.box.n2;
    const float px = float(kx) * p.spacing[0], py = float(ky) * p.spacing[1], pz = float(kz) * p.spacing[2];
    float sum[(L + 1) * (L + 1)];
#pragma unroll
    for (int i = 0; i < (L + 1) * (L + 1); ++i) sum[i] = 0.0f;
    const float* source = energy + (is_lost ? 0 : part) * voxels + voxel;
    const size_t stride = p.parts * voxels;
    float next = source[0];
    for (int g = 0; g < p.groups; ++g) {
        const float share = next;
        if (g + 1 < p.groups) next = source[(g + 1) * stride];  // on its way while this group is summed up
        if (share == 0.0f) continue;
        const Ray ray = ray_of(from_source, g, px, py, pz);
        float cosine = share, sine = 0.0f, diagonal = 1.0f;  // share times (x + i y)^m
#pragma unroll
        for (int m = 0; m <= L; ++m) {
            if (m > 0) {
                const float c = ray.x * cosine - ray.y * sine;
                sine = ray.x * sine + ray.y * cosine;
                cosine = c;
                diagonal *= float(1 - 2 * m);
            }
            float below = 0.0f, current = diagonal;
#pragma unroll
            for (int k = 0; k <= L - m; ++k) {
                const int degree = m + k, centre = degree * degree + degree;
                if (k > 0) {
                    const float by_z = float(2 * degree - 1) / float(k), by_below = float(degree + m - 1) / float(k);
                    const float above = by_z * ray.z * current - by_below * below;
                    below = current;
                    current = above;
                }
                sum[centre + m] += current * cosine;
                if (m > 0) sum[centre - m] += current * sine;
            }
        }
    }
    float* out = moments + size_t(part) * (L + 1) * (L + 1) * voxels + voxel;
#pragma unroll
    for (int degree = 0; degree <= L; ++degree) {
        const float kept = is_lost ? take[degree] : 1.0f;
#pragma unroll
        for (int m = -L; m <= L; ++m) {
            const int i = degree * degree + degree + m;
            if (m >= -degree && m <= degree) out[i * voxels] += norm[i] * kept * sum[i];
        }
    }
}

// The same for degree 3, of the halo.
//   launch: blocks of 128 voxels of the box, each S times in a row for the parts of the moments
//   a thread owns all moments of its voxel and part
extern "C" __global__ void __launch_bounds__(128) add_moments_3(
    const float* __restrict__ energy, const float* __restrict__ from_source, const float* __restrict__ recursion,
    const float* __restrict__ norm, const unsigned char* __restrict__ material, const float* __restrict__ lost,
    Harmonics p, float* __restrict__ moments) {
    (void)recursion;
    add_all_orders<3>(energy, from_source, norm, material, lost, p, moments);
}

// The same for degree 6, of the field.
//   launch: blocks of 128 voxels of the box, each S times in a row for the parts of the moments
//   a thread owns all moments of its voxel and part
extern "C" __global__ void __launch_bounds__(128) add_moments_6(
    const float* __restrict__ energy, const float* __restrict__ from_source, const float* __restrict__ recursion,
    const float* __restrict__ norm, const unsigned char* __restrict__ material, const float* __restrict__ lost,
    Harmonics p, float* __restrict__ moments) {
    (void)recursion;
    add_all_orders<6>(energy, from_source, norm, material, lost, p, moments);
}
