// Types that several kernels share. Their numpy twins are in src/spinedose/backends/layout.py.
// The loader pastes this text in place of the #include line: NVRTC and CuPy's cache then see one text.

struct Shape { int n0, n1, n2; };                   // number of voxels or elements, slowest axis first
struct Box { int low0, low1, low2, n0, n1, n2; };   // first voxel and number of voxels along each axis

// A linear map from voxel numbers (x, y, z) to three coordinates.
struct Affine { float at0[3], per_x[3], per_y[3], per_z[3]; };

__device__ inline void apply(const Affine& map, float x, float y, float z, float result[3]) {
    for (int a = 0; a < 3; ++a)
        result[a] = map.at0[a] + x * map.per_x[a] + y * map.per_y[a] + z * map.per_z[a];
}

__device__ inline float mix(float from, float to, float share) { return from + share * (to - from); }

// Voxel of a box for this thread of a row of blocks, by the number of the block: x runs fastest.
__device__ inline bool voxel_of_thread(const Box& box, unsigned block, unsigned& voxel, int& z, int& y, int& x) {
    voxel = block * blockDim.x + threadIdx.x;
    const unsigned n2 = box.n2, n1 = box.n1, n0 = box.n0;
    if (voxel >= n0 * n1 * n2) return false;
    x = box.low2 + int(voxel % n2);
    y = box.low1 + int(voxel / n2 % n1);
    z = box.low0 + int(voxel / (n1 * n2));
    return true;
}
