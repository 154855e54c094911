// Vectors, exp2 and one small matrix product: all that the kernels are made of.
//
// GCC's and Clang's vector extensions, so the same text serves AVX-512, AVX2, NEON and anything else.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>

#if defined(__AVX512F__)
constexpr int W = 16;  // floats in a vector
constexpr int NV_MAX = 4;  // vectors across a register tile; with MR rows it must fit the register file
constexpr int MR = 6;
#elif defined(__AVX2__)
constexpr int W = 8;
constexpr int NV_MAX = 2;
constexpr int MR = 6;
#else
constexpr int W = 4;
constexpr int NV_MAX = 4;
constexpr int MR = 4;
#endif
constexpr int PAD = 16;  // buffers are padded to this many floats, a multiple of every W

typedef float vf __attribute__((vector_size(W * 4)));
typedef int32_t vi __attribute__((vector_size(W * 4)));
typedef float vf_any __attribute__((vector_size(W * 4), aligned(4), may_alias));

#define INLINE inline __attribute__((always_inline))

INLINE vf load(const float* p) { return *reinterpret_cast<const vf_any*>(p); }
INLINE void store(float* p, vf x) { *reinterpret_cast<vf_any*>(p) = x; }
INLINE vf splat(float x) { return vf{} + x; }
INLINE vi splat(int32_t x) { return vi{} + x; }
INLINE vf max(vf a, vf b) { return a > b ? a : b; }
INLINE vf min(vf a, vf b) { return a < b ? a : b; }
INLINE int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }
INLINE int64_t pad_up(int64_t n) { return (n + PAD - 1) / PAD * PAD; }

INLINE vi lanes() {
    vi x;
    for (int i = 0; i < W; ++i) x[i] = i;
    return x;
}

constexpr float LOG2E = 1.4426950408889634f;
constexpr float LN2 = 0.6931471805599453f;
constexpr float NEVER = -__builtin_inff();

// 2^x to about 2e-7 of its value; below 2^-126 exactly zero, which is how masked scores vanish. x must not exceed 127.
INLINE vf exp2v(vf x) {
    const vf magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    vf t = max(x, splat(-126.0f));
    vf n = (t + magic) - magic;
    vf f = t - n;
    vf p = splat(1.535336188319500e-4f);
    p = p * f + splat(1.339887440266574e-3f);
    p = p * f + splat(9.618437357674640e-3f);
    p = p * f + splat(5.550332471162809e-2f);
    p = p * f + splat(2.402264791363012e-1f);
    p = p * f + splat(6.931472028550421e-1f);
    p = p * f + splat(1.0f);
    vi e = (__builtin_convertvector(n, vi) + splat(127)) << 23;
    vf y = p * (vf)e;
    return x < splat(-126.0f) ? vf{} : y;
}

INLINE vf sigmoid(vf x) {
    vf t = min(max(x * splat(-LOG2E), splat(-126.0f)), splat(126.0f));
    return splat(1.0f) / (splat(1.0f) + exp2v(t));
}

// A register tile of C = A B (or C += A B): MR x (NV vectors), A read one scalar at a time at any two strides.
template <int M, int NV>
INLINE void tile(int64_t K, const float* A, int64_t ras, int64_t cas, const float* B, int64_t ldb, float* C, int64_t ldc, bool add) {
    vf c[M][NV];
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i)
#pragma GCC unroll 8
        for (int n = 0; n < NV; ++n) c[i][n] = add ? load(C + i * ldc + n * W) : vf{};
    for (int64_t p = 0; p < K; ++p) {
        vf b[NV];
#pragma GCC unroll 8
        for (int n = 0; n < NV; ++n) b[n] = load(B + p * ldb + n * W);
#pragma GCC unroll 8
        for (int i = 0; i < M; ++i) {
            vf a = splat(A[i * ras + p * cas]);
#pragma GCC unroll 8
            for (int n = 0; n < NV; ++n) c[i][n] += a * b[n];
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i)
#pragma GCC unroll 8
        for (int n = 0; n < NV; ++n) store(C + i * ldc + n * W, c[i][n]);
}

template <int NV, int M>
INLINE void tail(int64_t m, int64_t K, const float* A, int64_t ras, int64_t cas, const float* B, int64_t ldb, float* C, int64_t ldc, bool add) {
    if constexpr (M > 0) {
        if (m == M) tile<M, NV>(K, A, ras, cas, B, ldb, C, ldc, add);
        else tail<NV, M - 1>(m, K, A, ras, cas, B, ldb, C, ldc, add);
    }
}

template <int NV>
__attribute__((noinline)) void panel(int64_t M, int64_t K, const float* A, int64_t ras, int64_t cas, const float* B, int64_t ldb, float* C, int64_t ldc, bool add) {
    constexpr int ROWS = NV <= 2 ? MR + 2 : MR;
    int64_t i = 0;
    for (; i + ROWS <= M; i += ROWS) tile<ROWS, NV>(K, A + i * ras, ras, cas, B, ldb, C + i * ldc, ldc, add);
    tail<NV, ROWS - 1>(M - i, K, A + i * ras, ras, cas, B, ldb, C + i * ldc, ldc, add);
}

// C (M, N) = A (M, K) B (K, N), or += ; N a multiple of W, A at strides (ras, cas), B and C rows at ldb and ldc.
inline void matmul(int64_t M, int64_t N, int64_t K, const float* A, int64_t ras, int64_t cas, const float* B, int64_t ldb, float* C, int64_t ldc, bool add) {
    int64_t n = 0;
    for (; n + NV_MAX * W <= N; n += NV_MAX * W) panel<NV_MAX>(M, K, A, ras, cas, B + n, ldb, C + n, ldc, add);
    switch ((N - n) / W) {
        case 3: panel<3>(M, K, A, ras, cas, B + n, ldb, C + n, ldc, add); break;
        case 2: panel<2>(M, K, A, ras, cas, B + n, ldb, C + n, ldc, add); break;
        case 1: panel<1>(M, K, A, ras, cas, B + n, ldb, C + n, ldc, add); break;
        default: break;
    }
}

// Aligned scratch memory that a thread owns for one call.
class Buffer {
  public:
    explicit Buffer(int64_t floats) : data_(static_cast<float*>(std::aligned_alloc(64, (floats * 4 + 127) / 64 * 64))) {
        if (!data_) std::abort();  // the process is out of memory
    }
    ~Buffer() { std::free(data_); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    operator float*() const { return data_; }
    void zero(int64_t floats) { std::memset(data_, 0, floats * 4); }

  private:
    float* data_;
};
