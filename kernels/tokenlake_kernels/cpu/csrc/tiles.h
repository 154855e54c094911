// Softmax and SiLU attention over jagged rows, forward and backward.
//
// Scores are held transposed, keys down and queries across the vector lanes: K, V are then read where they lie, one
// scalar at a time, softmax is vertical (no reduction across lanes), and only a tile of queries is ever packed.
//
//   S^T = K Q^T     O^T += V^T P^T     dP^T = V dO^T     dQ^T += K^T dS^T     dV += P^T dO     dK += dS^T Q
#pragma once
#include <algorithm>

#include "parallel.h"
#include "simd.h"

namespace {

constexpr int BQ = 64;  // queries of a tile
constexpr int BK = 64;  // keys of a tile
constexpr int QT = 4;  // tiles of queries that share a pass over the keys, so that long rows stream from memory less

// (tokens, heads, dim) at strides; the last dimension is dense.
struct Jagged {
    const float* data;
    int64_t token, head;
    const float* at(int64_t t, int64_t h) const { return data + t * token + h * head; }
};

struct Shape {
    int64_t batch, heads, kv_heads, dim;
    const int64_t *q_offsets, *k_offsets;
    float scale;
    int64_t q_len(int64_t b) const { return q_offsets[b + 1] - q_offsets[b]; }
    int64_t k_len(int64_t b) const { return k_offsets[b + 1] - k_offsets[b]; }
    int64_t group() const { return heads / kv_heads; }
    int64_t q_total() const { return q_offsets[batch]; }
};

enum class Seen { none, some, all };

// ---- what is seen: a band around the diagonal -------------------------------------------------------------------

struct Band {
    int64_t left, right;  // query i sees key j when -left <= j - i <= right
    void row(int64_t, int64_t) {}
    Seen tile(int64_t i0, int64_t i1, int64_t j0, int64_t j1) const {
        if (j0 - (i1 - 1) > right || i0 - (j1 - 1) > left) return Seen::none;
        return (j1 - 1) - i0 > right || (i1 - 1) - j0 > left ? Seen::some : Seen::all;
    }
    int64_t first(int64_t i) const { return max64(0, i - left); }
    int64_t last(int64_t i1, int64_t keys) const { return right >= keys ? keys : min64(keys, i1 + right); }
    // Whether all queries of a vector that starts at i see key j.
    bool whole(int64_t i, int64_t j) const { return i >= j - right && i + W - 1 <= j + left; }
    // Which of the queries i0.. (across lanes) see key j.
    vi lanes_seen(vi i, int64_t j) const {
        int32_t lo = static_cast<int32_t>(max64(j - right, INT32_MIN)), hi = static_cast<int32_t>(min64(j + left, INT32_MAX));
        return (i >= splat(lo)) & (i <= splat(hi));
    }
};

// ---- tiles ------------------------------------------------------------------------------------------------------

typedef float v4 __attribute__((vector_size(16)));
typedef float v4_any __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t i4 __attribute__((vector_size(16)));

INLINE v4 pick(v4 a, v4 b, i4 which) {
#ifdef __clang__
    v4 x;
    for (int i = 0; i < 4; ++i) x[i] = which[i] < 4 ? a[which[i]] : b[which[i] - 4];
    return x;
#else
    return __builtin_shuffle(a, b, which);
#endif
}

// dst[d][i] = src[i][d] * factor, in blocks of four by four.
void transpose(const float* src, int64_t lds, int64_t rows, int64_t cols, float factor, float* dst, int64_t ldd) {
    int64_t i = 0;
    for (; i + 4 <= rows; i += 4) {
        int64_t d = 0;
        for (; d + 4 <= cols; d += 4) {
            v4 r[4];
            for (int k = 0; k < 4; ++k) r[k] = *reinterpret_cast<const v4_any*>(src + (i + k) * lds + d) * factor;
            v4 a = pick(r[0], r[1], i4{0, 4, 1, 5}), b = pick(r[2], r[3], i4{0, 4, 1, 5});
            v4 c = pick(r[0], r[1], i4{2, 6, 3, 7}), e = pick(r[2], r[3], i4{2, 6, 3, 7});
            *reinterpret_cast<v4_any*>(dst + d * ldd + i) = pick(a, b, i4{0, 1, 4, 5});
            *reinterpret_cast<v4_any*>(dst + (d + 1) * ldd + i) = pick(a, b, i4{2, 3, 6, 7});
            *reinterpret_cast<v4_any*>(dst + (d + 2) * ldd + i) = pick(c, e, i4{0, 1, 4, 5});
            *reinterpret_cast<v4_any*>(dst + (d + 3) * ldd + i) = pick(c, e, i4{2, 3, 6, 7});
        }
        for (; d < cols; ++d)
            for (int k = 0; k < 4; ++k) dst[d * ldd + i + k] = src[(i + k) * lds + d] * factor;
    }
    for (; i < rows; ++i)
        for (int64_t d = 0; d < cols; ++d) dst[d * ldd + i] = src[i * lds + d] * factor;
}

// dst[d][lane] = src[lane][d] * factor, lanes beyond n are zero.
void pack_transposed(const float* src, int64_t stride, int64_t n, int64_t dim, int64_t width, float factor, float* dst) {
    transpose(src, stride, n, dim, factor, dst, width);
    if (n < width)
        for (int64_t d = 0; d < dim; ++d)
            for (int64_t i = n; i < width; ++i) dst[d * width + i] = 0;
}

void pack_rows(const float* src, int64_t stride, int64_t n, int64_t dim, int64_t padded, float* dst) {
    for (int64_t i = 0; i < n; ++i) {
        std::memcpy(dst + i * padded, src + i * stride, dim * 4);
        for (int64_t d = dim; d < padded; ++d) dst[i * padded + d] = 0;
    }
}

// out[lane][d] = src[d][lane] * factor[lane]; src is scaled where it lies.
void unpack_transposed(float* src, int64_t width, int64_t n, int64_t dim, const float* factor, float* out, int64_t stride) {
    for (int64_t d = 0; d < dim; ++d)
        for (int64_t i = 0; i < width; i += W) store(src + d * width + i, load(src + d * width + i) * load(factor + i));
    transpose(src, width, dim, n, 1, out, stride);
}

template <class Mask>
void fill_unseen(const Mask& mask, float* s, int64_t width, int64_t i0, int64_t j0, int64_t keys, float value) {
    for (int64_t n = 0; n < width; n += W) {
        vi i = lanes() + splat(static_cast<int32_t>(i0 + n));
        for (int64_t j = 0; j < keys; ++j) {
            if (mask.whole(i0 + n, j0 + j)) continue;
            float* at = s + j * width + n;
            store(at, mask.lanes_seen(i, j0 + j) ? load(at) : splat(value));
        }
    }
}

// ---- units of work --------------------------------------------------------------------------------------------------

struct Unit {
    int64_t row, head, start, cost;
};

// The last queries of a row first: under causal and tail masks they see the most, and the threads should end together.
std::vector<Unit> query_tiles(const Shape& shape) {
    std::vector<Unit> units;
    for (int64_t b = 0; b < shape.batch; ++b)
        for (int64_t i = (shape.q_len(b) - 1) / (BQ * QT) * (BQ * QT); i >= 0 && i < shape.q_len(b); i -= BQ * QT)
            for (int64_t h = 0; h < shape.heads; ++h) units.push_back({b, h, i, shape.k_len(b)});
    return units;
}

// (row, key-value head) pairs, the longest first so that the threads end together.
std::vector<Unit> row_heads(const Shape& shape, bool whole_rows) {
    std::vector<Unit> units;
    for (int64_t b = 0; b < shape.batch; ++b)
        for (int64_t h = 0; h < (whole_rows ? 1 : shape.kv_heads); ++h)
            units.push_back({b, h, 0, shape.q_len(b) * shape.k_len(b)});
    std::stable_sort(units.begin(), units.end(), [](const Unit& a, const Unit& b) { return a.cost > b.cost; });
    return units;
}

// The queries that one unit of work packs: QT tiles, each with its own transposed q and o.
struct Queries {
    int64_t start, count, dim;
    Buffer q, o;
    Queries(int64_t start_, int64_t count_, int64_t dim_) : start(start_), count(count_), dim(dim_), q(dim_ * BQ * QT), o(dim_ * BQ * QT) { o.zero(dim_ * BQ * QT); }
    int64_t tiles() const { return (count + BQ - 1) / BQ; }
    int64_t first(int64_t t) const { return start + t * BQ; }
    int64_t size(int64_t t) const { return min64(BQ, count - t * BQ); }
    int64_t width(int64_t t) const { return pad_up(size(t)); }
    float* qt(int64_t t) const { return q + t * dim * BQ; }
    float* ot(int64_t t) const { return o + t * dim * BQ; }
    void pack(const float* src, int64_t stride, float factor) const {
        for (int64_t t = 0; t < tiles(); ++t) pack_transposed(src + t * BQ * stride, stride, size(t), dim, width(t), factor, qt(t));
    }
};

// ---- backward, shared: tiles of one (row, key-value head) -------------------------------------------------------

struct Grads {
    float *dq, *dk, *dv;  // dense (total, heads, dim), zeroed by the caller where rows may be skipped
};

// `fill(s, dp, ...)` turns scores into probabilities (in s) and dP into dS (in dp) for one tile.
template <class Mask, class Fill>
void backward_row(const Shape& shape, Mask mask, const Jagged& Q, const Jagged& K, const Jagged& V, const Jagged& G, int64_t row, int64_t kv, float q_factor, float ds_factor, const Grads& out, const Fill& fill) {
    const int64_t dim = shape.dim, padded = pad_up(dim), queries = shape.q_len(row), keys = shape.k_len(row);
    const int64_t q0 = shape.q_offsets[row], k0 = shape.k_offsets[row];
    if (keys == 0 || queries == 0) return;
    Buffer dk(keys * padded), dv(keys * padded), qt(dim * BQ), gt(dim * BQ), qr(BQ * padded), gr(BQ * padded), dqt(dim * BQ);
    alignas(64) float s[BK * BQ], dp[BK * BQ], factor[BQ];
    dk.zero(keys * padded);
    dv.zero(keys * padded);
    std::fill(factor, factor + BQ, ds_factor);
    mask.row(row, keys);
    for (int64_t h = kv * shape.group(); h < (kv + 1) * shape.group(); ++h)
        for (int64_t i = 0; i < queries; i += BQ) {
            const int64_t n = min64(BQ, queries - i), width = pad_up(n);
            const float *q = Q.at(q0 + i, h), *g = G.at(q0 + i, h);
            pack_transposed(q, Q.token, n, dim, width, q_factor, qt);
            pack_transposed(g, G.token, n, dim, width, 1, gt);
            pack_rows(q, Q.token, n, dim, padded, qr);
            pack_rows(g, G.token, n, dim, padded, gr);
            dqt.zero(dim * width);
            for (int64_t j = 0; j < keys; j += BK) {
                const int64_t w = min64(BK, keys - j);
                Seen seen = mask.tile(i, i + n, j, j + w);
                if (seen == Seen::none) continue;
                const float *k = K.at(k0 + j, kv), *v = V.at(k0 + j, kv);
                matmul(w, width, dim, k, K.token, 1, qt, width, s, width, false);
                matmul(w, width, dim, v, V.token, 1, gt, width, dp, width, false);
                fill(mask, seen, h, i, n, width, j, w, s, dp);
                matmul(w, padded, n, s, width, 1, gr, padded, dv + j * padded, padded, true);
                matmul(w, padded, n, dp, width, 1, qr, padded, dk + j * padded, padded, true);
                matmul(dim, width, w, k, 1, K.token, dp, width, dqt, width, true);
            }
            unpack_transposed(dqt, width, n, dim, factor, out.dq + ((q0 + i) * shape.heads + h) * dim, shape.heads * dim);
        }
    for (int64_t j = 0; j < keys; ++j)
        for (int64_t d = 0; d < dim; ++d) {
            const int64_t at = ((k0 + j) * shape.kv_heads + kv) * dim + d;
            out.dk[at] = dk[j * padded + d] * ds_factor;
            out.dv[at] = dv[j * padded + d];
        }
}

}  // namespace
