// CUDA C++ as plain C++: what a kernel file needs to be compiled by g++ and run on the host.
//   g++ -std=c++20 -O2 -fPIC -shared -pthread -include cuda_on_host.h -x c++ kernel.cu
// CUDA threads run one after another, blocks on several OS threads. There are no barriers, shared memory and shuffles:
// no kernel of this project uses them, and one that did would not compile.
#pragma once
#include <math.h>  // sqrtf, fabsf, floorf, ... in the global namespace, as nvcc has them

#include <algorithm>
#include <cstddef>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __launch_bounds__(...)
#define __restrict__ __restrict

struct Index3 { unsigned x = 1, y = 1, z = 1; };
inline thread_local Index3 threadIdx, blockIdx, blockDim, gridDim;

using std::max;
using std::min;

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float sinpif(float x) { return float(sin(3.14159265358979323846 * double(x))); }

namespace host {

template <class... A, std::size_t... I>
void call(void (*kernel)(A...), void** args, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_cv_t<A>*>(args[I])...);
}

inline Index3 at(std::size_t i, const Index3& n) {
    return {unsigned(i % n.x), unsigned(i / n.x % n.y), unsigned(i / n.x / n.y)};
}

// OS threads take blocks in turn; for the thread sanitizer single CUDA threads, so that it sees races within blocks.
template <class... A>
void launch(void (*kernel)(A...), const unsigned* grid, const unsigned* block, void** args) {
    const Index3 blocks{grid[0], grid[1], grid[2]}, threads{block[0], block[1], block[2]};
    const std::size_t a_block = std::size_t(threads.x) * threads.y * threads.z;
    const std::size_t all = std::size_t(blocks.x) * blocks.y * blocks.z * a_block;
#ifdef __SANITIZE_THREAD__
    const std::size_t portion = 1;
#else
    const std::size_t portion = a_block;
#endif
    const std::size_t workers = std::max(2u, std::thread::hardware_concurrency());
    auto work = [&](std::size_t own) {
        gridDim = blocks;
        blockDim = threads;
        for (std::size_t first = own * portion; first < all; first += workers * portion)
            for (std::size_t i = first; i < first + portion; ++i) {
                blockIdx = at(i / a_block, blocks);
                threadIdx = at(i % a_block, threads);
                call(kernel, args, std::index_sequence_for<A...>{});
            }
    };
    std::vector<std::thread> others;
    for (std::size_t own = 1; own < workers && own * portion < all; ++own) others.emplace_back(work, own);
    work(0);
    for (auto& other : others) other.join();
}

}  // namespace host

#define HOST_KERNEL(name) \
    extern "C" void host_launch_##name(const unsigned* g, const unsigned* b, void** a) { host::launch(&name, g, b, a); }
