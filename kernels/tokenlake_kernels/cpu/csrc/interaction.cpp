// Feature interaction over jagged rows: products, softmax, broadcasting, copies, and the gated LayerNorm of HSTU.
#include <cmath>

#include "parallel.h"
#include "simd.h"

namespace {

constexpr int64_t ROWS = 256;  // rows of a unit of work

struct Span {
    int64_t row, start, end;
};

std::vector<Span> spans(const int64_t* offsets, int64_t batch, int64_t step) {
    std::vector<Span> out;
    for (int64_t b = 0; b < batch; ++b)
        for (int64_t i = offsets[b]; i < offsets[b + 1]; i += step) out.push_back({b, i, min64(offsets[b + 1], i + step)});
    return out;
}

void copy_columns(const float* src, int64_t lds, float* dst, int64_t ldd, int64_t rows, int64_t cols) {
    for (int64_t i = 0; i < rows; ++i) std::memcpy(dst + i * ldd, src + i * lds, cols * 4);
}

// C (M, N) = A B with any N: where N is no multiple of a vector, B and C pass through padded copies.
void product(int64_t M, int64_t N, int64_t K, const float* A, int64_t ras, int64_t cas, const float* B, float* C) {
    if (N % W == 0) return matmul(M, N, K, A, ras, cas, B, N, C, N, false);
    const int64_t padded = pad_up(N);
    Buffer b(K * padded), c(M * padded);
    b.zero(K * padded);
    copy_columns(B, N, b, padded, K, N);
    matmul(M, padded, K, A, ras, cas, b, padded, c, padded, false);
    copy_columns(c, padded, C, N, M, N);
}

float row_sum(vf x) {
    float s = 0;
    for (int i = 0; i < W; ++i) s += x[i];
    return s;
}

// f(column, count): whole vectors of columns, then what is left.
template <class F>
INLINE void columns(int64_t n, const F& f) {
    for (int64_t c = 0; c < n; c += W) f(c, min64(W, n - c));
}

INLINE vf load_n(const float* p, int64_t n, float rest = 0) {
    if (n == W) return load(p);
    vf x = splat(rest);
    for (int64_t i = 0; i < n; ++i) x[i] = p[i];
    return x;
}

INLINE void store_n(float* p, vf x, int64_t n) {
    if (n == W) return store(p, x);
    for (int64_t i = 0; i < n; ++i) p[i] = x[i];
}

void softmax_columns(const float* x, float* y, int64_t len, int64_t cols) {
    columns(cols, [&](int64_t c, int64_t n) {
        vf top = splat(NEVER), sum = vf{};
        for (int64_t i = 0; i < len; ++i) top = max(top, load_n(x + i * cols + c, n));
        for (int64_t i = 0; i < len; ++i) {
            vf e = exp2v((load_n(x + i * cols + c, n) - top) * splat(LOG2E));
            sum += e;
            store_n(y + i * cols + c, e, n);
        }
        sum = splat(1.0f) / sum;
        for (int64_t i = 0; i < len; ++i) store_n(y + i * cols + c, load_n(y + i * cols + c, n) * sum, n);
    });
}

void softmax_line(const float* x, float* y, int64_t len) {
    vf top = splat(NEVER), sum = vf{};
    columns(len, [&](int64_t c, int64_t n) { top = max(top, load_n(x + c, n, NEVER)); });
    float t = NEVER;
    for (int i = 0; i < W; ++i) t = top[i] > t ? top[i] : t;
    columns(len, [&](int64_t c, int64_t n) {
        vf e = exp2v((load_n(x + c, n, NEVER) - splat(t)) * splat(LOG2E));
        sum += e;
        store_n(y + c, e, n);
    });
    vf inverse = splat(1 / row_sum(sum));
    columns(len, [&](int64_t c, int64_t n) { store_n(y + c, load_n(y + c, n) * inverse, n); });
}

template <bool MUL>
void broadcast_row(const float* x, const float* d, int64_t dim, bool one, float* y) {
    columns(dim, [&](int64_t c, int64_t n) {
        vf a = load_n(x + c, n), b = one ? splat(d[0]) : load_n(d + c, n);
        store_n(y + c, MUL ? a * b : a + b, n);
    });
}

struct Norm {
    float mean, inverse;
};

Norm row_norm(const float* a, int64_t dim, float eps) {
    vf sum = vf{}, square = vf{};
    columns(dim, [&](int64_t c, int64_t n) { sum += load_n(a + c, n); });
    const float mean = row_sum(sum) / dim;
    columns(dim, [&](int64_t c, int64_t n) {
        vf x = load_n(a + c, n, mean) - splat(mean);
        square += x * x;
    });
    return {mean, 1 / std::sqrt(row_sum(square) / dim + eps)};
}

}  // namespace

extern "C" {

// out[rows of b] (.., N) = x[rows of b] (.., K) dense[b] (K, N)
void tl_dense_bmm(const float* x, const float* dense, const int64_t* offsets, int64_t batch, int64_t K, int64_t N, float* out, int threads) {
    auto units = spans(offsets, batch, ROWS);
    parallel(static_cast<int64_t>(units.size()), threads, [&](int64_t u, int) {
        const Span& s = units[u];
        product(s.end - s.start, N, K, x + s.start * K, K, 1, dense + s.row * K * N, out + s.start * N);
    });
}

// out[b] (M, N) = x[rows of b]^T y[rows of b]
void tl_jagged_bmm(const float* x, const float* y, const int64_t* offsets, int64_t batch, int64_t M, int64_t N, float* out, int threads) {
    parallel(batch, threads, [&](int64_t b, int) {
        const int64_t start = offsets[b];
        product(M, N, offsets[b + 1] - start, x + start * M, 1, M, y + start * N, out + b * M * N);
    });
}

void tl_softmax(const float* x, const int64_t* offsets, int64_t batch, int64_t cols, float* out, int threads) {
    parallel(batch, threads, [&](int64_t b, int) {
        const int64_t at = offsets[b] * cols, len = offsets[b + 1] - offsets[b];
        if (len && cols == 1) softmax_line(x + at, out + at, len);
        else softmax_columns(x + at, out + at, len, cols);
    });
}

// dx = y (g - sum over the row of g y)
void tl_softmax_backward(const float* y, const float* g, const int64_t* offsets, int64_t batch, int64_t cols, float* dx, int threads) {
    parallel(batch, threads, [&](int64_t b, int) {
        const int64_t at = offsets[b] * cols, len = offsets[b + 1] - offsets[b];
        const float *yr = y + at, *gr = g + at;
        float* out = dx + at;
        if (cols == 1) {
            vf sum = vf{};
            columns(len, [&](int64_t c, int64_t n) { sum += load_n(yr + c, n) * load_n(gr + c, n); });
            vf total = splat(row_sum(sum));
            columns(len, [&](int64_t c, int64_t n) { store_n(out + c, load_n(yr + c, n) * (load_n(gr + c, n) - total), n); });
            return;
        }
        columns(cols, [&](int64_t c, int64_t n) {
            vf sum = vf{};
            for (int64_t i = 0; i < len; ++i) sum += load_n(yr + i * cols + c, n) * load_n(gr + i * cols + c, n);
            for (int64_t i = 0; i < len; ++i)
                store_n(out + i * cols + c, load_n(yr + i * cols + c, n) * (load_n(gr + i * cols + c, n) - sum), n);
        });
    });
}

// out = x + dense or x * dense; dense (batch, len, cols) with len or cols 1 broadcast.
void tl_broadcast(const float* x, const float* dense, const int64_t* offsets, int64_t batch, int64_t dim, int64_t len, int64_t cols, int64_t mul, float* out, int threads) {
    auto units = spans(offsets, batch, ROWS);
    parallel(static_cast<int64_t>(units.size()), threads, [&](int64_t u, int) {
        const Span& s = units[u];
        for (int64_t i = s.start; i < s.end; ++i) {
            const float* d = dense + (s.row * len + (len == 1 ? 0 : i - offsets[s.row])) * cols;
            if (mul) broadcast_row<true>(x + i * dim, d, dim, cols == 1, out + i * dim);
            else broadcast_row<false>(x + i * dim, d, dim, cols == 1, out + i * dim);
        }
    });
}

// dst[dst_starts[s] + i] = src[src_starts[s] + i] for i < lengths[s]; rows of `bytes` bytes.
void tl_copy_segments(const char* src, const int64_t* src_starts, const int64_t* dst_starts, const int64_t* lengths, int64_t segments, int64_t bytes, char* dst, int threads) {
    constexpr int64_t STEP = 16;
    parallel((segments + STEP - 1) / STEP, threads, [&](int64_t u, int) {
        for (int64_t s = u * STEP; s < min64(segments, (u + 1) * STEP); ++s)
            if (lengths[s] > 0) std::memcpy(dst + dst_starts[s] * bytes, src + src_starts[s] * bytes, lengths[s] * bytes);
    });
}

void tl_time_differences(const int64_t* times, const int64_t* offsets, const int64_t* out_offsets, int64_t batch, int64_t* out, int threads) {
    parallel(batch, threads, [&](int64_t b, int) {
        const int64_t *t = times + offsets[b], len = offsets[b + 1] - offsets[b];
        int64_t* row = out + out_offsets[b];
        for (int64_t i = 0; i < len; ++i)
            for (int64_t j = 0; j < len; ++j) row[i * len + j] = t[i] - t[j];
    });
}

// out = u * layernorm(a), or [u, a, u * layernorm(a)]
void tl_gated_norm(const float* a, const float* u, const float* weight, const float* bias, int64_t total, int64_t dim, float eps, int64_t concat, float* out, int threads) {
    parallel((total + ROWS - 1) / ROWS, threads, [&](int64_t unit, int) {
        for (int64_t i = unit * ROWS; i < min64(total, (unit + 1) * ROWS); ++i) {
            const float *ar = a + i * dim, *ur = u + i * dim;
            float* y = out + i * dim * (concat ? 3 : 1);
            if (concat) {
                std::memcpy(y, ur, dim * 4);
                std::memcpy(y + dim, ar, dim * 4);
                y += 2 * dim;
            }
            const Norm r = row_norm(ar, dim, eps);
            columns(dim, [&](int64_t c, int64_t n) {
                vf x = (load_n(ar + c, n) - splat(r.mean)) * splat(r.inverse);
                store_n(y + c, load_n(ur + c, n) * (x * load_n(weight + c, n) + load_n(bias + c, n)), n);
            });
        }
    });
}

// dweight and dbias hold one row a thread, zero on entry; the caller sums them.
void tl_gated_norm_backward(const float* a, const float* u, const float* weight, const float* bias, const float* g, int64_t total, int64_t dim, float eps, int64_t concat, float* da, float* du, float* dweight, float* dbias, int threads) {
    parallel_fixed((total + ROWS - 1) / ROWS, threads, [&](int64_t unit, int thread) {
        float *dw = dweight + thread * dim, *db = dbias + thread * dim;
        for (int64_t i = unit * ROWS; i < min64(total, (unit + 1) * ROWS); ++i) {
            const float *ar = a + i * dim, *ur = u + i * dim, *gr = g + i * dim * (concat ? 3 : 1), *gy = gr + (concat ? 2 * dim : 0);
            const Norm r = row_norm(ar, dim, eps);
            vf mean = splat(r.mean), inverse = splat(r.inverse), sum = vf{}, dot = vf{};
            columns(dim, [&](int64_t c, int64_t n) {
                vf x = (load_n(ar + c, n, r.mean) - mean) * inverse, w = load_n(weight + c, n), gc = load_n(gy + c, n);
                vf dn = gc * load_n(ur + c, n), dx = dn * w;
                sum += dx;
                dot += dx * x;
                store_n(dw + c, load_n(dw + c, n) + dn * x, n);
                store_n(db + c, load_n(db + c, n) + dn, n);
                vf own = gc * (x * w + load_n(bias + c, n));
                store_n(du + i * dim + c, concat ? own + load_n(gr + c, n) : own, n);
            });
            vf m1 = splat(row_sum(sum) / dim), m2 = splat(row_sum(dot) / dim);
            columns(dim, [&](int64_t c, int64_t n) {
                vf x = (load_n(ar + c, n, r.mean) - mean) * inverse;
                vf d = (load_n(gy + c, n) * load_n(ur + c, n) * load_n(weight + c, n) - m1 - x * m2) * inverse;
                store_n(da + i * dim + c, concat ? d + load_n(gr + dim + c, n) : d, n);
            });
        }
    });
}

}  // extern "C"
